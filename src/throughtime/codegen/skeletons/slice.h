// The loop over time for some sequences. `Cell` says what one step does; this file says when.
// There is no barrier in the loop, unless sequences are fewer than threads: then a team of these shares the units.
#pragma once

#include "ahead.h"
#include "at.h"
#include "input.h"
#include "nets.h"
#include "team.h"
#include "totals.h"

namespace tt {

template <class Cell, class T>
struct Slice : Nets<Cell, T> {
  using Base = Nets<Cell, T>;
  using typename Base::Part;
  using Base::active, Base::back, Base::count, Base::cut, Base::packed, Base::packed_here, Base::shaped;
  using Base::unpacked;
  using Base::buffer, Base::call, Base::group, Base::nets, Base::next, Base::partial, Base::per_row, Base::rows;
  using Base::sequence;

  // Net results of as many units as fit the second-level cache are made at once: to go from one sequence to the next
  // takes as long as some units.
  static constexpr int64_t net_room = (128 << 10) / int64_t(sizeof(T));

  Totals<Cell, T> totals;
  Team* team = nullptr;
  int64_t member = 0, members = 1;
  bool left = false;  // this member has left its team
  const T* packed_input = nullptr;
  Input<Cell, T> input;
  int64_t now = 0;        // which step is being made
  int64_t exchanged = 0;  // how many have been
  T spare[lanes<T>];      // what a leader writes is written here by the others

  using Base::Base;

  static void* operator new(size_t bytes) noexcept { return malloc(bytes); }
  static void operator delete(void* slice) { free(slice); }

  int64_t time_of(int64_t k) const { return group.reverse ? call.steps - 1 - k : k; }
  bool is_active(int64_t r, int64_t t) const { return !group.lengths || call.origin + t < group.lengths[sequence(r)]; }

  // False if there is no memory.
  bool open(int64_t net_count) { return Base::open(net_count) && open_own(nullptr); }

  bool borrow(const Slice& leader, int64_t net_count) {
    if (!Base::borrow(leader, net_count + rows * Cell::buffers) || !open_own(&leader.totals)) return false;
    for (int64_t r = 0; r < rows; ++r)
      point_own<Cell>(buffer + r * per_row, nets + net_count + r * Cell::buffers, typename Cell::Phases{});
    return true;
  }

  // What every member of a team has for itself.
  bool open_own(const Totals<Cell, T>* leader) {
    active = (int64_t*)malloc(size_t(rows) * sizeof(int64_t));
    if (!packed || call.pieces) unpacked = allocate<T>(tile_width(1) * largest_net_of(call, typename Cell::Phases{}));
    if (call.pieces) cut = allocate<T>(this->most_pieces_of(rows, typename Cell::Phases{}));
    const bool has_room = active && (packed || unpacked) && (!call.pieces || (unpacked && cut));
    return has_room && totals.open(call, rows, leader) && input.open(call, rows, packed_input);
  }

  // Which parts of `parts` are this member's.
  int64_t first_part(int64_t parts) const { return parts * member / members; }
  int64_t end_part(int64_t parts) const { return parts * (member + 1) / members; }

  void release() {
    Base::release();
    free(active);
    free(unpacked);
    free(cut);
    totals.release();
    input.release();
  }

  // A sequence that has ended keeps its state; what would be written for it is zero.
  void select_active(int64_t t) {
    count = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t b = sequence(r);
      if (is_active(r, t)) {
        active[count++] = r;
        continue;
      }
      if (member) continue;
      for (int k = 0; k < Cell::writes; ++k)
        memset(group.writes[k].at(t, b), 0, size_t(call.width_of(Cell::write_width[k])) * sizeof(T));
    }
  }

  // Sums are added up in two steps, so that they round less than one chain over all time steps would.
  static constexpr int64_t flush_steps = 8;

  void flush() {
    for (int64_t r = 0; r < rows; ++r)
      for (int k = 0; k < Cell::sums; ++k) {
        T* to = group.sums[k].data + sequence(r) * group.sums[k].row;
        T* from = partial[r * Cell::sums + k];
        const Units<T> units = {call.width_of(Cell::sum_width[k]), call.team};
        const int64_t end = units.begin(end_part(call.team));
        for (int64_t j = units.begin(first_part(call.team)); j < end && j < units.width; ++j) {
          to[j] += from[j];
          from[j] = T(0);
        }
      }
  }

  template <class Phase>
  void run(int64_t t) {
    constexpr bool each_ones = is_each_ones<Phase>(typename Cell::Phases{});
    const Units<T> units = {call.width_of(Phase::width), call.team};
    const int64_t width = units.width;
    if (Phase::totals) memset((void*)totals.own, 0, size_t(count) * Phase::totals * sizeof(Vec<T>));
    const T* packed_phase = packed_here;
    this->split_all(typename Phase::Products{});
    bool made = false;
    // Every other step goes through the units backwards: what a cache still holds of the matrices is used first.
    back = (call.origin + now) % 2;
    const int64_t last = each_ones ? units.parts : end_part(units.parts);
    for (int64_t p = each_ones ? 0 : first_part(units.parts); p < last; ++p) {
      const Part part = {units.begin(p), units.end(p), p * units.panels(), units.all_panels()};
      if (part.begin >= part.end) continue;
      packed_here = packed_phase;
      run_part<Phase>(part, t);
      made = true;
    }
    if (packed && !made) packed_here += this->packed_of_phase(width, typename Phase::Products{});
    const bool shared = members > 1 && !each_ones;
    if (shared) {
      team->meet();
      if (team->given_up) give_up();
    }
    if (left) return;
    for (int64_t i = 0; i < count; ++i)
      for (int k = 0; k < Phase::totals; ++k)
        *buffer[active[i] * per_row + Phase::total_buffer[k]] = totals.template sum<Phase>(i, k, width, shared);
    if (Phase::totals) totals.second = !totals.second;
  }

  // The full panels, as many at once as there is room for, and the narrow one.
  template <class Phase>
  void run_part(const Part& part, int64_t t) {
    const T* packed_phase = packed_here;
    const int64_t blocks = part.blocks(), full = blocks - part.is_narrow(blocks - 1);
    int64_t together = Phase::nets ? net_room / (count * Phase::nets * panel<T>) : full;
    together = together < 1 ? 1 : together;
    const int64_t turns = (full + together - 1) / together + blocks - full;
    for (int64_t turn = 0; turn < turns; ++turn) {
      const int64_t from = (back && !Phase::totals ? turns - 1 - turn : turn) * together;
      const int64_t block0 = from < full ? from : full, next = from + together < full ? from + together : full;
      const int64_t block1 = block0 < full ? next : blocks;
      packed_here = packed_phase;
      this->multiply_all(typename Phase::Products{}, part, Phase::nets, block0, block1);
      for (int64_t i = 0; i < count; ++i) pointwise<Phase>(part, t, i, block0, block1);
    }
  }

  // At a meeting: the leader goes on alone, with all units, the others have nothing more to do.
  void give_up() {
    left = member > 0;
    if (!left) members = 1;
    if (!left && call.net_count) input.make(*this, now);
  }

  template <class Phase>
  TT_INLINE void pointwise(const Part& part, int64_t t, int64_t i, int64_t block0, int64_t block1) {
    const int64_t r = active[i], b = sequence(r);
    const T* reads[Cell::reads + 1];
    T* writes[Cell::writes + 1];
    for (int n = 0; n < Phase::reads; ++n) {
      const int k = Phase::read[n];
      reads[k] = call.is_mapped(k) ? input.of(call, now, i, k) : call.read_of(group, k, t, b);
    }
    const bool again = is_each_ones<Phase>(typename Cell::Phases{}) && member;  // what the leader makes too
    T* spares[Cell::sums + 1];
    for (int n = 0; n < Phase::writes; ++n)
      writes[Phase::write[n]] = again ? spare : group.writes[Phase::write[n]].at(t, b);
    for (int k = 0; k < Cell::sums && again; ++k) spares[k] = spare;
    T* const* sums = again ? spares : partial + r * Cell::sums;
    Ahead<Cell, T, Phase> ahead;
    if (now + 1 < call.steps) ahead.begin(call, group, reads, writes);
    const int64_t net_step = Phase::nets * panel<T>;
    const T* net = nets + i * (block1 - block0) * net_step;
    const bool apart = Phase::totals && members > 1;  // the terms of a sum
    for (int64_t block = block0; block < block1; ++block, net += net_step) {
      const int64_t unit = part.begin + block * panel<T>, n = part.end - unit;
      ahead.fetch(unit * int64_t(sizeof(T)));
      if (vector_bytes == 64 && n > lanes<T>) ahead.fetch((unit + lanes<T>) * int64_t(sizeof(T)));
      Vec<T> own[2][Phase::totals + 1] = {};
      const auto at = [&](auto whole, int half, int64_t units) {
        return At<Cell, T, decltype(whole)::value>{
            call, group.seed, reads, writes, sums, buffer + r * per_row, next + r * Cell::carries, net + half * lanes<T>,
            apart ? own[half] : totals.own + i * Phase::totals, t, b, unit + half * lanes<T>, int(units)};
      };
      if (Phase::width != 0 && n >= panel<T>) {
        AtBoth<Cell, T> halves{at(Fact<true>(), 0, lanes<T>), at(Fact<true>(), 1, lanes<T>)};
        Phase::pointwise(halves);
      } else if (n >= lanes<T>) {
        auto half = at(Fact<true>(), 0, lanes<T>);
        Phase::pointwise(half);
      }
      if (n < panel<T> && n % lanes<T>) {
        auto some = at(Fact<false>(), n > lanes<T>, n % lanes<T>);
        Phase::pointwise(some);
      }
      for (int half = 0; half < 2 && half * lanes<T> < n && apart; ++half)
        for (int k = 0; k < Phase::totals; ++k)
          totals.template terms_of<Phase>(i, k, call.width_of(Phase::width))[unit / lanes<T> + half] = own[half][k];
    }
  }

  // All of the call's steps.
  template <class... Phases>
  void loop(Sequence<Phases...> phases) {
    make_steps(phases);
    if (shaped) call.routines->units->shape(int(shaped = 0));
  }

  template <class... Phases>
  void make_steps(Sequence<Phases...>) {
    for (int64_t k = 0; k < call.steps; ++k) {
      const int64_t t = time_of(now = k);
      if (k == 0 || group.lengths) select_active(t);
      if (count == 0) continue;
      if (call.net_count && k >= input.end) input.make(*this, k);
      packed_here = packed;
      ((left ? void() : run<Phases>(t)), ...);
      if (left) return;
      for (int64_t i = 0; i < count; ++i) exchange(active[i]);
      ++exchanged;
      if (Cell::sums && (k + 1) % flush_steps == 0) flush();
    }
    if (Cell::sums) flush();
  }

  // What a step has made is what the next one sees.
  void exchange(int64_t r) {
    for (int c = 0; c < Cell::carries; ++c) {
      T*& seen = buffer[r * per_row + c];
      T*& made = next[r * Cell::carries + c];
      T* swapped = seen;
      seen = made;
      made = swapped;
    }
  }
};

}  // namespace tt
