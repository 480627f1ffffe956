// A session: one layer whose packed weights and states stay between calls, for input that comes step by step.
// It works on the calling thread and allocates nothing after it has been opened.
#pragma once

#include "matmul.h"
#include "recurrence.h"

namespace tt {

// W, packed once, and where W x goes.
template <class T>
struct InputMap {
  Matrix<T> weight;  // [rows, depth]
  int64_t rows, depth;
  T* packed = nullptr;

  int64_t panels() const { return (rows + panel<T> - 1) / panel<T>; }

  bool open() {
    packed = allocate<T>(pack_phases(call, group, (T*)nullptr, typename Cell::Phases{}));
    if (!input.open() || !packed) return false;
    slice.packed = packed, slice.rows = call.rows;
    const int64_t least = call.rows * most_nets<Cell, T>(typename Cell::Phases{}) * panel<T>;
    if (!slice.open(least > slice.net_room ? least : slice.net_room)) return false;
    pack();
    return true;
  }

  void pack() {
    pack_phases(call, group, packed, typename Cell::Phases{});
    input.pack();
  }

  // `x`: [B, I], or, where W x is given, that: [B, rows].
  void step(const T* x) {
    const T* from = x;
    if (input.rows) {
      input.apply(x, net, call.rows);
      from = net;
    }
    for (int64_t k = 0; k < net_count; ++k) group.reads[net_reads[k]].data = from + net_offsets[k];
    if (x_read >= 0) group.reads[x_read].data = x;
    slice.loop(typename Cell::Phases{});
    ++call.origin;
  }

  void close() {
    slice.release();
    free(packed);
    free(input.packed);
  }
};

}  // namespace tt

// tt_open returns an address, 0 if there is no memory; tt_step runs layers that feed one another.
#define TT_EXPORT extern "C" __attribute__((visibility("default")))
#define TT_SESSION(Cell, T)                                                      \
  using TtSession = tt::Session<Cell<T>, T>;                                     \
  TT_EXPORT void* tt_open(const int64_t* call) {                                 \
    TtSession* session = new TtSession(call);                                    \
    if (!session || session->open()) return session;                             \
    session->close();                                                            \
    delete session;                                                              \
    return nullptr;                                                              \
  }                                                                              \
  TT_EXPORT void tt_step(TtSession* const* layers, int64_t count, const T* x) {  \
    for (int64_t k = 0; k < count; ++k) {                                        \
      layers[k]->step(x);                                                        \
      x = layers[k]->group.writes[0].data;                                       \
    }                                                                            \
  }                                                                              \
  TT_EXPORT void tt_pack(TtSession* session) { session->pack(); }                \
  TT_EXPORT void tt_load(TtSession* session, int64_t origin) {                   \
    session->slice.load_states();                                                \
    session->call.origin = origin;                                               \
  }                                                                              \
  TT_EXPORT void tt_store(TtSession* session) { session->slice.store_states(); } \
  TT_EXPORT void tt_close(TtSession* session) {                                  \
    session->close();                                                            \
    delete session;                                                              \
  }
