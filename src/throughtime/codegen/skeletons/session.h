// A session: one layer whose packed weights and states stay between calls, for input that comes step by step.
// It allocates nothing after it has been opened.
#pragma once

#include "recurrence.h"

namespace tt {

template <class Cell, class T>
struct Session {
  // Nanoseconds. A thread of the pool still spins so long after its last task, and is woken for a step that takes so much
  // (pool.cpp); one that does not sleep is worth sharing less with.
  static constexpr int64_t awake = 250000, worth_waking = 100000, worth_sharing = 20000;

  Call<Cell, T> call = {};
  Group<Cell, T> group;
  T* packed = nullptr;
  int64_t size = 0;  // numbers in the packed matrices
  Array<const T> weight;  // W's parts that are reads: where they would stand in its rows
  bool many;
  int64_t x_read, net_count = 0, net_offsets[Cell::reads + 1];
  Slice<Cell, T>** slices = nullptr;  // [slice][member]; a slice's leader first
  int64_t opened = 0;
  int64_t made = 0;      // steps, since it has been opened
  int64_t last_end = 0;  // when the last call ended
  int64_t expected = 0;  // nanoseconds that this one takes a single thread, roughly

  static void* operator new(size_t bytes) noexcept { return malloc(bytes); }
  static void operator delete(void* session) { free(session); }

  // Whether a step by itself is worth sharing with other threads: if not, it takes less time undivided.
  bool is_large() const { return expected_of(1) > worth_sharing; }

  // Whether what single steps are made with is as good for many at a time.
  bool suits_many() const { return (call.threads == 1 || is_large()) && !most_in_pieces(); }

  int most_in_pieces() const { return call.routines->units ? many_pieces(call) : 0; }

  // Nanoseconds that a thread takes alone, roughly. One row's multiply-adds wait for the weights, which takes as long as
  // those of some rows.
  int64_t expected_of(int64_t steps) const { return steps * (call.rows < 4 ? 4 : call.rows) * size / 60; }

  // The numbers of a call, then: W's address and strides and its depth; the number of the read that is x itself, or -1; how
  // many reads are parts of W x, and of each its number and its first row of W; whether it is for many steps at a time.
  explicit Session(const int64_t* a) {
    call.rows = a[1], call.groups = 1, call.threads = a[3], call.parallel = (Parallel)a[5];
    call.routines = (const Routines<T>*)a[6], call.smallest = a[7], call.most_members = a[8];
    a += 9;
    for (int k = 0; k < Cell::widths; ++k) call.width[k] = *a++;
    a = group.parse(a);
    call.group = &group;
    for (int k = 0; k < Cell::reads; ++k) call.net_column[k] = -1, group.reads[k].step = 0;
    weight = {(const T*)a[0], a[1], a[2]};
    call.depth = a[3], x_read = a[4], call.net_count = net_count = a[5];
    a += 6;
    for (int64_t k = 0; k < net_count; ++k, a += 2) call.net_reads[k] = a[0], net_offsets[k] = a[1];
    many = *a != 0;
    call.place_nets();
  }

  int64_t tasks() const { return call.slices * call.team; }

  bool open() {
    point_at_weight();
    call.slices = call.team = 1;
    call.pieces = many ? most_in_pieces() : 0;
    size = pack_phases(call, group, (T*)nullptr, typename Cell::Phases{}) + pack_input(call, group, (T*)nullptr);
    if (is_large() || many) share_out(call);
    call.packed_input = pack_phases(call, group, (T*)nullptr, typename Cell::Phases{});
    size = call.packed_input + pack_input(call, group, (T*)nullptr);
    call.far_in_pieces = call.pieces && size / call.team * int64_t(sizeof(T)) > near_in_pieces;
    packed = allocate<T>(size);
    slices = (Slice<Cell, T>**)malloc(size_t(tasks()) * sizeof(*slices));
    if (call.team > 1) call.teams = allocate_teams(call.slices);
    if (!packed || !slices || (call.team > 1 && !call.teams)) return false;
    call.steps = int64_t(1) << 30;  // room for W x of as many steps at once as a call of many makes
    for (int64_t task = 0; task < tasks(); ++task) {
      const int64_t s = task / call.team, first = call.first_of(s), rows = call.first_of(s + 1) - first;
      auto* slice = slices[task] = new Slice<Cell, T>(call, group, packed, first, rows);
      if (!slice) return false;
      ++opened;
      slice->packed_input = packed + call.packed_input;
      slice->member = task % call.team;
      if (call.team > 1) slice->team = call.teams + s;
      const int64_t room = net_room(call, rows, typename Cell::Phases{});
      if (!(task % call.team ? slice->borrow(*slices[s * call.team], room) : slice->open(room))) return false;
    }
    pack();
    return true;
  }

  void point_at_weight() {
    for (int64_t k = 0; k < net_count; ++k)
      group.reads[call.net_reads[k]] = {weight.data + net_offsets[k] * weight.step, weight.step, weight.row};
  }

  void pack() {
    call.found = 0;
    pack_phases(call, group, packed, typename Cell::Phases{});
    pack_input(call, group, packed + call.packed_input);
  }

  // Steps of all sequences, of x [steps, B, I], or of W x [steps, B, rows of W] if that is `given`.
  void run(int64_t steps, Array<const T> x, bool given) {
    call.steps = steps, call.x = x, call.net_count = given ? 0 : net_count;
    for (int64_t k = 0; k < net_count && given; ++k)
      group.reads[call.net_reads[k]] = {x.data + net_offsets[k], x.step, x.row};
    if (x_read >= 0) group.reads[x_read] = x;
    if (tasks() == 1)
      alone(0);
    else
      share(steps);
    made += steps;
    call.origin += steps;
    if (given) point_at_weight();
  }

  void share(int64_t steps) {
    expected = expected_of(steps);
    const bool is_awake = nanoseconds() - last_end < awake;
    if (expected > (is_awake ? worth_sharing : worth_waking)) {
      const Team fresh;
      for (int64_t s = 0; s < call.slices && call.team > 1; ++s) memcpy((void*)(call.teams + s), (const void*)&fresh, sizeof fresh);
      const bool teams = call.team > 1 && Team::allowed();
      call.parallel(
          teams ? tasks() : call.slices, call.threads, teams ? INT64_MAX : expected,
          teams ? [](void* session, int64_t task) { ((Session*)session)->join(task); }
                : [](void* session, int64_t s) { ((Session*)session)->alone(s); },
          this);
    } else {
      for (int64_t s = 0; s < call.slices; ++s) alone(s);
    }
    last_end = nanoseconds();
  }

  // In a task of its own: as the leader of a slice's team, or a member.
  void join(int64_t task) {
    const int64_t s = task / call.team;
    Team& team = call.teams[s];
    int64_t member = 0;
    if (task % call.team)
      member = team.join();
    else
      team.close(call.team, expected / call.slices / 2);
    if (task % call.team && !member) return;  // too late
    work(*slices[s * call.team + member], team.members);
  }

  void alone(int64_t s) { work(*slices[s * call.team], 1); }

  void work(Slice<Cell, T>& slice, int64_t members) {
    slice.members = members, slice.left = false, slice.input.end = 0, slice.totals.second = false;
    // It may have missed some steps.
    for (int64_t r = 0; r < slice.rows && (made - slice.exchanged) % 2; ++r) slice.exchange(r);
    slice.exchanged = made;
    slice.loop(typename Cell::Phases{});
  }

  void load(int64_t origin) {
    for (int64_t s = 0; s < call.slices; ++s) slices[s * call.team]->load_states();
    call.origin = origin;
  }

  void store() const {
    for (int64_t s = 0; s < call.slices; ++s) slices[s * call.team]->store_states();
  }

  void close() {
    for (int64_t task = opened; task-- > 0;) {
      slices[task]->release();
      delete slices[task];
    }
    free(slices);
    free(call.teams);
    free(packed);
  }
};

}  // namespace tt

// tt_open returns an address, 0 if there is no memory; tt_step runs one step of layers that feed one another; tt_run some
// steps of one layer, which writes its output at distances of its own.
#define TT_EXPORT extern "C" __attribute__((visibility("default")))
#define TT_SESSION(Cell, T)                                                                                          \
  using TtSession = tt::Session<Cell<T>, T>;                                                                         \
  TT_EXPORT void* tt_open(const int64_t* call) {                                                                     \
    TtSession* session = new TtSession(call);                                                                        \
    if (!session || session->open()) return session;                                                                 \
    session->close();                                                                                                \
    delete session;                                                                                                  \
    return nullptr;                                                                                                  \
  }                                                                                                                  \
  TT_EXPORT void tt_step(TtSession* const* layers, int64_t count, const T* x, int64_t row, int given) {              \
    for (int64_t k = 0; k < count; ++k) {                                                                            \
      layers[k]->run(1, {x, 0, row}, given && k == 0);                                                               \
      x = layers[k]->group.writes[0].data, row = layers[k]->group.writes[0].row;                                     \
    }                                                                                                                \
  }                                                                                                                  \
  TT_EXPORT void tt_run(TtSession* session, int64_t steps, const T* x, int64_t step, int64_t row, T* out,            \
                        int64_t out_step, int64_t out_row, int given) {                                              \
    const tt::Array<T> kept = session->group.writes[0];                                                              \
    session->group.writes[0] = {out, out_step, out_row};                                                             \
    session->run(steps, {x, step, row}, given);                                                                      \
    session->group.writes[0] = kept;                                                                                 \
  }                                                                                                                  \
  TT_EXPORT int tt_suits_many(const TtSession* session) { return session->suits_many(); }                            \
  TT_EXPORT void tt_pack(TtSession* session) { session->pack(); }                                                    \
  TT_EXPORT void tt_load(TtSession* session, int64_t origin) { session->load(origin); }                              \
  TT_EXPORT int64_t tt_store(TtSession* session) {                                                                   \
    session->store();                                                                                                \
    return session->call.origin;                                                                                     \
  }                                                                                                                  \
  TT_EXPORT void tt_close(TtSession* session) {                                                                      \
    session->close();                                                                                                \
    delete session;                                                                                                  \
  }
