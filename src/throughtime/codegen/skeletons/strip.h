// A strip of a matrix product: some rows x some panels, in registers while it runs through the depth.
#pragma once

#include "product.h"

namespace tt {

// Of a tile of rows the numbers of one step side by side.
template <class T>
struct Across {
  static constexpr int64_t row = 1, step = tile_rows;
};

// Rows x `vectors` (two a panel) of the result: `out` holds the rows' addresses. `columns`: how many there are; fewer than
// all only with one panel. Every `chain` numbers of the depth are summed by themselves and added up in `out`; `start` is
// for the first.
template <class T, class Left, int Rows, int vectors>
__attribute__((noinline)) void strip(const T* left, const T* packed, int64_t panel_step, int64_t depth, int64_t chain,
                                     T* const* out, int64_t columns, Start start) {
  const bool whole = columns >= vectors * lanes<T>;
  const int here[2] = {int(columns < lanes<T> ? columns : lanes<T>),
                       int(columns < lanes<T> ? 0 : whole ? lanes<T> : columns - lanes<T>)};
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) __builtin_prefetch(out[r], 1);
  const auto standing = [&](int r, int v) {
    const T* at = out[r] + v * lanes<T>;
    return whole ? load(at) : load(at, here[v % 2]);
  };
  int64_t from = 0;
  do {
    const int64_t end = from + chain < depth ? from + chain : depth;
    // Loops over sums are unrolled, or the sums would lie in memory.
    Vec<T> sum[Rows][vectors] = {};
    if (start == Start::go_on)
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) sum[r][v] = standing(r, v);
#pragma GCC unroll 2
    for (int64_t k = from; k < end; ++k, left += Left::step, packed += panel<T>) {
      Vec<T> column[vectors];
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) column[v] = load(packed + v / 2 * panel_step + v % 2 * lanes<T>);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const Vec<T> value = splat(left[r * Left::row]);
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) sum[r][v] = fma(value, column[v], sum[r][v]);
      }
    }
    if (start == Start::add)
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) sum[r][v] = standing(r, v) + sum[r][v];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        T* to = out[r] + v * lanes<T>;
        whole ? store(to, sum[r][v]) : store(to, sum[r][v], here[v % 2]);
      }
    start = Start::add;
    from = end;
  } while (from < depth);
}

// One panel, or with few rows up to `Most` at once, so that there are sums enough to hide the time that one takes: how
// many.
template <class T, class Left, int Rows, int Most = 4>
TT_INLINE int strip_rows(int rows, const T* left, const T* packed, int64_t panel_step, int64_t depth, int64_t chain,
                         T* const* out, int64_t columns, Start start) {
  if constexpr (Rows > 1) {
    if (rows < Rows)
      return strip_rows<T, Left, Rows - 1, Most>(rows, left, packed, panel_step, depth, chain, out, columns, start);
  }
  constexpr int panels = Rows < Most ? Most / Rows : 1;
  if constexpr (panels > 1)
    if (columns >= panels * panel<T>) {
      strip<T, Left, Rows, 2 * panels>(left, packed, panel_step, depth, chain, out, columns, start);
      return panels;
    }
  if (columns <= lanes<T>)
    strip<T, Left, Rows, 1>(left, packed, panel_step, depth, chain, out, columns, start);
  else
    strip<T, Left, Rows, 2>(left, packed, panel_step, depth, chain, out, columns, start);
  return 1;
}

}  // namespace tt
