// A session: one layer whose packed weights and states stay between calls, for input that comes step by step.
// It works on the calling thread and allocates nothing after it has been opened.
#pragma once

#include "recurrence.h"

namespace tt {

// W, packed once, and where W x goes.
template <class T>
struct InputMap {
  Matrix<T> weight;  // [rows, depth]
  int64_t rows, depth;
  T* packed = nullptr;
  Vectors<T> vectors;

  int64_t panels() const { return (rows + panel<T> - 1) / panel<T>; }

  bool open(int64_t batch) {
    if (!rows) return true;
    packed = allocate<T>(panels() * panel<T> * depth);
    return vectors.open(batch, depth) && packed;
  }

  void close() {
    free(packed);
    free(vectors.data);
  }

  void pack(const Routines<T>& routines) {
    for (int64_t p = 0; p < (rows ? panels() : 0); ++p)
      routines.pack_panel(packed + p * panel<T> * depth, weight, false, p * panel<T>, rows, depth);
  }

  // x [count, depth] -> net [count, rows]
  void apply(const Routines<T>& routines, const T* x, T* net, int64_t count) {
    for (int64_t r = 0; r < count; ++r) vectors.put(r, x + r * depth);
    for (int64_t p = 0; p < panels();)
      p += vectors.times(routines, packed + p * panel<T> * depth, count, net + p * panel<T>, rows,
                         rows - p * panel<T>);
  }
};

template <class Cell, class T>
struct Session {
  Call<Cell, T> call = {};
  Group<Cell, T> group;
  InputMap<T> input = {};
  T *net, *packed = nullptr;  // net: [rows, nets], what the step reads of x
  int64_t x_read, net_reads[Cell::reads + 1], net_offsets[Cell::reads + 1], net_count;
  Slice<Cell, T> slice{call, group, nullptr, 0, 0};

  static void* operator new(size_t bytes) noexcept { return malloc(bytes); }
  static void operator delete(void* session) { free(session); }

  // The numbers of a call, then: W's address and strides, its rows (0: there is none) and depth; net's address; the
  // number of the read that is x itself, or -1; how many reads are parts of net, and of each its number and its first
  // column.
  explicit Session(const int64_t* a) {
    call.steps = a[0], call.rows = a[1], call.groups = 1, call.threads = 1, call.team = 1, call.origin = a[4];
    call.routines = (const Routines<T>*)a[6];
    a += 7;
    for (int k = 0; k < Cell::widths; ++k) call.width[k] = *a++;
    a = group.parse(a);
    input.weight = {(const T*)a[0], a[1], a[2]};
    input.rows = a[3], input.depth = a[4], net = (T*)a[5], x_read = a[6], net_count = a[7];
    a += 8;
    for (int64_t k = 0; k < net_count; ++k, a += 2) net_reads[k] = a[0], net_offsets[k] = a[1];
  }

  bool open() {
    packed = allocate<T>(pack_phases(call, group, (T*)nullptr, typename Cell::Phases{}));
    if (!input.open(call.rows) || !packed) return false;
    slice.packed = packed, slice.rows = call.rows;
    const int64_t least = call.rows * most_nets<Cell, T>(typename Cell::Phases{}) * panel<T>;
    if (!slice.open(least > slice.net_room ? least : slice.net_room)) return false;
    pack();
    return true;
  }

  void pack() {
    pack_phases(call, group, packed, typename Cell::Phases{});
    input.pack(*call.routines);
  }

  // `x`: [B, I]; or W x [B, rows], if that is `given`.
  void step(const T* x, bool given) {
    const T* from = x;
    if (input.rows && !given) {
      input.apply(*call.routines, x, net, call.rows);
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
    input.close();
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
  TT_EXPORT void tt_step(TtSession* const* layers, int64_t count, const T* x, \
                         int given) {                                            \
    for (int64_t k = 0; k < count; ++k) {                                        \
      layers[k]->step(x, given && k == 0);                                       \
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
