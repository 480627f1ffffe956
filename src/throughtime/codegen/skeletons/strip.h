// A strip of a matrix product: some rows x one panel, in registers while it runs through the depth.
#pragma once

#include "product.h"

namespace tt {

// The chains of W x and its gradients; nn/matmul.py says the same.
inline constexpr int64_t piece = 64;

enum class Start { zero, go_on, add };  // what a chain begins with: 0; what stands in `out`; 0, and `out` is added last

// Rows x one panel of the result. `left` and `out` hold the rows' addresses, `step` the distance of left's elements. If
// `Packed`, left's rows lie side by side from left[0] on, so that one register holds the address of them all.
template <class T, int Rows, bool Packed = false>
void strip(const T* const* left, int64_t step, const T* packed, int64_t depth, T* const* out, int64_t columns,
           Start start) {
  Vec<T> sum[Rows][2] = {};
  const bool whole = columns >= panel<T>;
  const int here[2] = {int(columns < lanes<T> ? columns : lanes<T>),
                       int(columns < lanes<T> ? 0 : whole ? lanes<T> : columns - lanes<T>)};
  // Loops over sums are unrolled, or the sums would lie in memory.
  if (start == Start::go_on)
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const T* at = out[r] + half * lanes<T>;
        sum[r][half] = whole ? load(at) : load(at, here[half]);
      }
  const T* vector[Rows];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    vector[r] = left[r];
    __builtin_prefetch(out[r], 1);
  }
  int64_t at = 0;
#pragma GCC unroll 2
  for (int64_t k = 0; k < depth; ++k, at += step, packed += panel<T>) {
    const Vec<T> first = load(packed), second = load(packed + lanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec<T> value = splat(Packed ? vector[0][at + r] : vector[r][at]);
      sum[r][0] = fma(value, first, sum[r][0]);
      sum[r][1] = fma(value, second, sum[r][1]);
    }
  }
  if (start == Start::add)
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const T* at = out[r] + half * lanes<T>;
        sum[r][half] = (whole ? load(at) : load(at, here[half])) + sum[r][half];
      }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      T* to = out[r] + half * lanes<T>;
      whole ? store(to, sum[r][half]) : store(to, sum[r][half], here[half]);
    }
}

template <class T, int Rows, bool Packed = false>
TT_INLINE void strip_rows(int rows, const T* const* left, int64_t step, const T* packed, int64_t depth, T* const* out,
                          int64_t columns, Start start) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return strip_rows<T, Rows - 1, Packed>(rows, left, step, packed, depth, out, columns, start);
  }
  strip<T, Rows, Packed>(left, step, packed, depth, out, columns, start);
}

}  // namespace tt
