// One call of a recurrence: its sequences and units are shared out over threads.
#pragma once

#include "slice.h"

namespace tt {

// The first of a team, or who works alone. All hear of it if there is no memory.
template <class Cell, class T>
bool lead(Slice<Cell, T>& slice, Call<Cell, T>& call, int64_t number, int64_t room) {
  const bool open = slice.open(room);
  if (call.team > 1) {
    slice.team = call.teams + number;
    slice.team->leader = open ? &slice : nullptr;
    slice.team->close(call.team, call.work / call.groups / 100);
    slice.members = slice.team->members;
  }
  if (slice.members > 1) slice.team->meet();  // every member has what it needs, or has said that it has not
  if (!open || (slice.members > 1 && slice.team->unable)) return false;
  slice.loop(typename Cell::Phases{});
  if (slice.members > 1) slice.team->meet();  // the rows' memory is freed when all are done with it
  slice.store_states();
  return true;
}

template <class Cell, class T>
bool work_for(Slice<Cell, T>& slice, Team& team, int64_t room) {
  slice.member = team.join();
  if (!slice.member) return true;
  slice.team = &team, slice.members = team.members;
  const auto* leader = (const Slice<Cell, T>*)team.leader;
  const bool able = leader && slice.borrow(*leader, room);
  if (!able) __atomic_store_n(&team.unable, true, __ATOMIC_RELAXED);
  team.meet();
  if (team.unable) return able;
  slice.loop(typename Cell::Phases{});
  if (!slice.left) team.meet();
  return true;
}

// ---- sequences of unlike lengths --------------------------------------------------------------

struct Sized {
  int64_t length, number;
};

// Deals a group's sequences out to the slices, the longest first, so that all have as many steps to make. False without
// memory.
template <class Cell, class T>
bool deal(const Call<Cell, T>& call, Group<Cell, T>& group) {
  auto* sized = (Sized*)malloc(size_t(call.rows) * sizeof(Sized));
  group.order = (int64_t*)malloc(size_t(call.rows) * sizeof(int64_t));
  if (sized && group.order) {
    for (int64_t b = 0; b < call.rows; ++b) sized[b] = {group.lengths[b], b};
    qsort(sized, size_t(call.rows), sizeof(Sized), [](const void* a, const void* b) {
      const Sized &x = *(const Sized*)a, &y = *(const Sized*)b;
      return x.length != y.length ? (x.length < y.length ? 1 : -1) : (x.number < y.number ? -1 : 1);
    });
    for (int64_t k = 0, round = 0; k < call.rows; ++round)
      for (int64_t i = 0; i < call.slices; ++i) {
        const int64_t s = round % 2 ? call.slices - 1 - i : i;
        if (round < call.first_of(s + 1) - call.first_of(s)) group.order[call.first_of(s) + round] = sized[k++].number;
      }
  }
  free(sized);
  return sized && group.order;
}

// ---- one call ---------------------------------------------------------------------------------

// Smaller slices than of so many sequences are cut only of matrices that a thread's own caches hold, see nn/teams.py.
inline constexpr int64_t near = 4;

// The sequences are shared out over slices. Threads that are left become teams, as large as is worth it. nn/teams.py says
// why, and how many.
template <class Cell, class T>
void share_out(Call<Cell, T>& call) {
  const int64_t share = (call.threads + call.groups - 1) / call.groups;
  call.slices = call.rows / call.smallest < share ? call.rows / call.smallest : share;
  if (call.slices < 1) call.slices = 1;
  if (call.smallest > near) call.slices = share / ((share + call.slices - 1) / call.slices);
  call.team = call.threads / (call.groups * call.slices);
  if (call.team > call.most_members) call.team = call.most_members;
  if (call.team < 1) call.team = 1;
}

// Numbers for the net results of a slice of so many rows.
template <class Cell, class T, class... Phases>
int64_t net_room(const Call<Cell, T>& call, int64_t rows, Sequence<Phases...>) {
  int64_t most = 0;
  const auto see = [&](int64_t nets, int64_t units) {
    const int64_t one = rows * nets * panel<T>, all = rows * nets * units;
    const int64_t some = one > Slice<Cell, T>::net_room ? one : Slice<Cell, T>::net_room;
    const int64_t room = all < some ? all : some;
    most = room > most ? room : most;
  };
  (see(Phases::nets, call.padded(Phases::width)), ...);
  return most;
}

inline Team* allocate_teams(int64_t count) {
  void* memory = nullptr;
  if (posix_memalign(&memory, alignof(Team), size_t(count) * sizeof(Team))) return nullptr;
  const Team fresh;
  for (int64_t k = 0; k < count; ++k) memcpy((char*)memory + k * int64_t(sizeof(Team)), &fresh, sizeof(Team));
  return (Team*)memory;
}

// Sequences and steps for whose sake matrices are cut into three pieces: with fewer, it takes longer than it saves.
inline constexpr int64_t fewest_rows_in_pieces = 16, fewest_steps_in_pieces = 8;

// Bytes of matrices that a thread's own cache still holds while tiles pass through it.
inline constexpr int64_t near_in_pieces = 1 << 20;

template <class Cell, class T>
int many_pieces(const Call<Cell, T>& call) {
  return call.rows >= fewest_rows_in_pieces ? most_pieces : 0;
}

// Into how many pieces matrices are cut. If one number of each needs but one, as all of bfloat16 do, it may be that all need
// no more.
template <class Cell, class T>
int pieces_of(const Call<Cell, T>& call) {
  if (!call.routines->units || call.steps < fewest_steps_in_pieces) return 0;
  bool exact = true;
  const auto see = [&](Matrix<T> matrix) {
    T piece[tile_depth / 2 * panel<T>];
    exact = exact && !call.routines->units->pack(piece, matrix, false, 0, 1, 1, 1);
  };
  for (int k = 0; k < Cell::matrices; ++k) see(call.group[0].matrices[k]);
  for (int64_t k = 0; k < call.net_count; ++k) see(input_matrix(call.group[0].reads[call.net_reads[k]]));
  return exact ? 1 : many_pieces(call);
}

// Multiply-adds in a call for which threads are woken to make small slices: many times those done while one wakes up.
inline constexpr int64_t work_worth_waking = 2000000;

template <class Cell, class T>
int run_call(const int64_t* numbers, int pieces = -1) {
  const int64_t* a = numbers;
  Call<Cell, T> call = {};
  call.steps = a[0], call.rows = a[1], call.groups = a[2], call.threads = a[3];
  call.origin = a[4], call.parallel = (Parallel)a[5], call.routines = (const Routines<T>*)a[6], call.smallest = a[7], call.most_members = a[8];
  a += 9;
  for (int k = 0; k < Cell::widths; ++k) call.width[k] = *a++;
  call.group = (Group<Cell, T>*)calloc(size_t(call.groups), sizeof(Group<Cell, T>));
  call.packed = (T**)calloc(size_t(call.groups), sizeof(T*));
  call.failed = !call.group || !call.packed;
  if (call.failed) {
    free(call.group);
    free(call.packed);
    return 1;
  }
  for (int64_t g = 0; g < call.groups; ++g) a = call.group[g].parse(a);
  call.parse_input(a);
  call.team = 1;
  call.is_one_step = call.steps == 1;
  const int64_t size = pack_phases(call, call.group[0], (T*)nullptr, typename Cell::Phases{}) +
                       pack_input(call, call.group[0], (T*)nullptr);
  // To pack a number takes as long as some multiply-adds.
  call.work = call.groups * (call.steps * call.rows + 8) * size;
  // A thread that is awake begins within a microsecond, and for little work none is woken (pool.cpp): each must have some
  // ten times as many multiply-adds as are done in that time.
  const int64_t useful = 1 + call.work / 500000;
  if (call.threads > useful) call.threads = useful;
  if (call.work < work_worth_waking && call.smallest < near) call.smallest = near;
  share_out(call);
  if (!Team::allowed()) call.team = 1;
  // One step reads its matrices once: they are packed piece by piece where they are needed, in a nearer cache. Matrices
  // that outgrow the caches are better read some times as they lie.
  const bool large = call.groups * size * int64_t(sizeof(T)) >= 8 << 20;
  const int64_t few = large && call.steps * call.rows <= direct_rows ? direct_rows : 1;
  const bool packs = call.steps > few || call.slices > 2;  // each slice would pack them
  call.pieces = pieces < 0 ? pieces_of(call) : pieces;
  int64_t apart = pack_phases(call, call.group[0], (T*)nullptr, typename Cell::Phases{});
  const int64_t own = (apart + pack_input(call, call.group[0], (T*)nullptr)) / call.team * int64_t(sizeof(T));
  call.far_in_pieces = call.pieces && own > near_in_pieces;
  call.packed_input = -1;  // W that is read once is packed where it is read
  if (call.net_count && (call.pieces || call.slices > 1 || Input<Cell, T>::steps_of(call, call.rows) < call.steps))
    apart = (call.packed_input = apart) + pack_input(call, call.group[0], (T*)nullptr);
  apart = (apart + 15) / 16 * 16;  // each group's begin at a cache line
  Packing packing;
  T* const packed = packs ? packing.open<T>(call.groups * apart) : nullptr;
  call.failed = packs && !packed;
  for (int64_t g = 0; g < call.groups && packed; ++g) call.packed[g] = packed + g * apart;
  for (int64_t g = 0; g < call.groups && call.slices > 1 && !call.failed; ++g)
    if (call.group[g].lengths) call.failed = !deal(call, call.group[g]);
  if (call.team > 1) call.failed |= !(call.teams = allocate_teams(call.groups * call.slices));
  // The members of a team wait for one another, and small slices gain nothing one after the other: so each is woken.
  const bool small = call.slices > 1 && call.rows / call.slices < near;
  const int64_t alone = call.team > 1 || small ? INT64_MAX : call.work / 100;
  if (!call.failed && call.rows > 0) {
    if (packs)
      call.parallel(
          call.groups * call.slices * call.team, call.threads, alone,
          [](void* context, int64_t task) {
            auto& c = *(Call<Cell, T>*)context;
            const int64_t parts = c.slices * c.team, g = task / parts;
            pack_phases(c, c.group[g], c.packed[g], typename Cell::Phases{}, Share{task % parts, parts});
            if (c.packed_input >= 0)
              pack_input(c, c.group[g], c.packed[g] + c.packed_input, Share{task % parts, parts});
          },
          &call);
    // If the matrices were cut in vain, everything begins anew.
    const int64_t tasks = call.is_refused() ? 0 : call.groups * call.slices * call.team;
    call.parallel(
        tasks, call.threads, alone,
        [](void* context, int64_t task) {
          auto& c = *(Call<Cell, T>*)context;
          const int64_t member = task % c.team, s = task / c.team % c.slices, g = task / c.team / c.slices;
          const int64_t first = c.first_of(s), last = c.first_of(s + 1);
          Slice<Cell, T> slice(c, c.group[g], c.packed[g], first, last - first);
          slice.packed_input = c.packed[g] && c.packed_input >= 0 ? c.packed[g] + c.packed_input : nullptr;
          const int64_t room = net_room(c, last - first, typename Cell::Phases{});
          if (!(member ? work_for(slice, c.teams[task / c.team], room) : lead(slice, c, task / c.team, room)))
            __atomic_store_n(&c.failed, 1, __ATOMIC_RELAXED);
          slice.release();
        },
        &call);
  }
  for (int64_t g = 0; g < call.groups; ++g) free(call.group[g].order);
  if (packs) packing.close();
  free(call.packed);
  free(call.group);
  free(call.teams);
  if (call.is_refused()) return run_call<Cell, T>(numbers, call.found & unfit ? 0 : many_pieces(call));
  return call.failed;
}

}  // namespace tt

// 0: done; 1: out of memory.
#define TT_ENTRY(Cell, T) \
  extern "C" __attribute__((visibility("default"))) int tt_run(const int64_t* call) { return tt::run_call<Cell<T>, T>(call); }
