// Packs every matrix that a step multiplies with, in the order in which the step reads them.
#pragma once

#include "call.h"

namespace tt {

// Which of some panels a thread packs.
struct Share {
  int64_t part = 0, parts = 1;

  bool has(int64_t number, int64_t count) const {
    return number >= count * part / parts && number < count * (part + 1) / parts;
  }
};

// The panel of one net, units [unit, end) at most: of every source it has, one after the other. Returns the elements.
template <class Cell, class T, class Product>
int64_t pack_net(const Call<Cell, T>& call, const Group<Cell, T>& group, int64_t end, int64_t unit, int net, T* to,
                 int pieces) {
  int64_t passed = 0;
  for (int s = 0; s < Product::sources; ++s) {
    const Factor factor = Product::factor[net * Product::sources + s];
    const int64_t depth = call.width_of(Product::source_width[s]);
    if (to) call.pack_panel(to + passed, group.matrices[factor.matrix], factor.transposed, unit, end, depth, pieces);
    passed += panel_size<T>(depth, pieces);
  }
  return passed;
}

// Visits every panel of every product in the order in which multiply() reads them; returns the elements passed.
template <class Cell, class T, class Product>
int64_t pack_product(const Call<Cell, T>& call, const Group<Cell, T>& group, int64_t width, T* to,
                     Share share = {}) {
  const Units<T> units = {width, call.team};
  int64_t passed = 0;
  for (int64_t p = 0; p < units.all_panels(); ++p) {
    const int64_t unit = units.first_of(p), end = units.last_of(p);
    const bool mine = to && unit < end && share.has(p, units.all_panels());
    for (int net = 0; net < Product::nets; ++net)
      passed += pack_net<Cell, T, Product>(call, group, end, unit, net, mine ? to + passed : nullptr, call.pieces);
  }
  return passed;
}

template <class Cell, class T, class... Products>
int64_t pack_products([[maybe_unused]] const Call<Cell, T>& call, [[maybe_unused]] const Group<Cell, T>& group,
                      [[maybe_unused]] int64_t width, [[maybe_unused]] T* to, [[maybe_unused]] Share share,
                      Sequence<Products...>) {
  int64_t passed = 0;
  ((passed += pack_product<Cell, T, Products>(call, group, width, to ? to + passed : nullptr, share)), ...);
  return passed;
}

template <class Cell, class T, class... Phases>
int64_t pack_phases(const Call<Cell, T>& call, const Group<Cell, T>& group, T* to, Sequence<Phases...>,
                    Share share = {}) {
  int64_t passed = 0;
  ((passed += pack_products(call, group, call.width_of(Phases::width), to ? to + passed : nullptr, share,
                            typename Phases::Products{})),
   ...);
  return passed;
}

// W of a read that is W x.
template <class T>
Matrix<T> input_matrix(const Array<const T>& w) {
  return {w.data, w.step, w.row};
}

// Every member of a team needs a read of a single number.
template <class Cell, class T>
Units<T> units_of_read(const Call<Cell, T>& call, int64_t read) {
  const int64_t width = call.width_of(Cell::read_width[read]);
  return {width, width > 1 ? call.team : 1};
}

// W, read by read; returns the elements.
template <class Cell, class T>
int64_t pack_input(const Call<Cell, T>& call, const Group<Cell, T>& group, T* to, Share share = {}) {
  int64_t passed = 0;
  for (int64_t k = 0; k < call.net_count; ++k) {
    const Matrix<T> w = input_matrix(group.reads[call.net_reads[k]]);
    const Units<T> units = units_of_read(call, call.net_reads[k]);
    for (int64_t p = 0; p < units.all_panels(); ++p, passed += panel_size<T>(call.depth, call.pieces)) {
      const int64_t unit = units.first_of(p), end = units.last_of(p);
      if (to && unit < end && share.has(p, units.all_panels()))
        call.pack_panel(to + passed, w, false, unit, end, call.depth, call.pieces);
    }
  }
  return passed;
}

// The most numbers that a net's panel takes, of whole numbers.
template <class Cell, class T, class... Products>
int64_t largest_net([[maybe_unused]] const Call<Cell, T>& call, Sequence<Products...>) {
  int64_t most = 0;
  [[maybe_unused]] const auto see = [&](int64_t size) { most = size > most ? size : most; };
  (see(pack_net<Cell, T, Products>(call, call.group[0], 0, 0, 0, nullptr, 0)), ...);
  return most;
}

template <class Cell, class T, class... Phases>
int64_t largest_net_of(const Call<Cell, T>& call, Sequence<Phases...>) {
  int64_t most = 0;
  const auto see = [&](int64_t size) { most = size > most ? size : most; };
  (see(largest_net(call, typename Phases::Products{})), ...);
  return most;
}

template <class... Phases>
constexpr bool any_totals(Sequence<Phases...>) {
  return ((Phases::totals > 0) || ...);
}

// The most sums over units that one phase makes.
template <class... Phases>
constexpr int totals_of(Sequence<Phases...>) {
  int most = 1;
  ((most = Phases::totals > most ? Phases::totals : most), ...);
  return most;
}

}  // namespace tt
