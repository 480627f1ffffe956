// Sums over the units of a sequence: what one phase of a step adds up for a later one.
//
// They are sums of vectors in ascending order of units, then of a vector's lanes. The members of a team leave the terms
// of their units to one another, and each adds up all of them in that order: the same bits for any number of threads.
#pragma once

#include "pack.h"

namespace tt {

template <class Cell, class T>
struct Totals {
  static constexpr int most = totals_of(typename Cell::Phases{});  // of one phase
  static constexpr bool any = any_totals(typename Cell::Phases{});

  Vec<T>* own = nullptr;    // [row][total]
  Vec<T>* terms = nullptr;  // a team's, its leader's memory: [first or second][row][total][vector]
  int64_t room = 0;         // of one of the two
  bool lent = false;
  bool second = false;  // which: a member may still add up the last phase's when another makes the next

  // False if there is no memory.
  bool open(const Call<Cell, T>& call, int64_t rows, const Totals* leader) {
    own = (Vec<T>*)allocate<T>(rows * most * lanes<T>);
    int64_t widest = 1;
    for (int64_t width : call.width) widest = width > widest ? width : widest;
    room = rows * most * vectors_of(widest);
    lent = leader;
    if (leader)
      terms = leader->terms;
    else if (any && call.team > 1)
      terms = (Vec<T>*)allocate<T>(2 * room * lanes<T>);
    return own && (terms || !any || call.team < 2);
  }

  void release() {
    free(own);
    if (!lent) free(terms);
  }

  static int64_t vectors_of(int64_t width) { return (width + lanes<T> - 1) / lanes<T>; }

  // The terms of a phase's total number `k` of row `i`.
  template <class Phase>
  Vec<T>* terms_of(int64_t i, int k, int64_t width) const {
    return terms + (second ? room : 0) + (i * Phase::totals + k) * vectors_of(width);
  }

  template <class Phase>
  T sum(int64_t i, int k, int64_t width, bool shared) const {
    Vec<T> total = own[i * Phase::totals + k];
    for (int64_t v = 0; shared && v < vectors_of(width); ++v) total += terms_of<Phase>(i, k, width)[v];
    return sum_lanes(total);
  }
};

// Whether a phase is of single numbers, which each member of a team makes for itself, as all that it needs are totals and
// other such numbers; and they need not meet after it. Not in a cell where one has a product or totals of its own.
template <class Phase, class... Phases>
constexpr bool is_each_ones(Sequence<Phases...>) {
  return Phase::width == 0 && ((Phases::width != 0 || (Phases::nets == 0 && Phases::totals == 0)) && ...);
}

// Members of a team have totals and single numbers of their own: `buffers`, a row's addresses, are made to point to `to`.
template <class Cell, class T, class... Phases>
void point_own(T** buffers, [[maybe_unused]] T* to, Sequence<Phases...> phases) {
  for (int k = 0; k < Cell::buffers && (is_each_ones<Phases>(phases) || ...); ++k)
    if (Cell::buffer_width[k] == 0) buffers[Cell::carries + k] = to + k;
  const auto point = [&](const int* numbers, int count) {
    for (int k = 0; k < count; ++k) buffers[numbers[k]] = to + numbers[k] - Cell::carries;
  };
  (point(Phases::total_buffer, Phases::totals), ...);
}

}  // namespace tt
