// Products of a matrix that is read only once, as it lies: squares of it are transposed in registers and multiplied.
#pragma once

#include "product.h"
#include "transpose.h"

namespace tt {

// One panel of rows x vectors: out[v][j] = row j times vectors[v]; every `chain` numbers of the depth are summed by
// themselves and added up, as in a strip.
template <class T, int Count>
__attribute__((noinline)) void direct(const T* from, int64_t row_step, int64_t depth, int64_t chain,
                                      const T* const* vectors, T* const* out) {
  Vec<T> sum[Count][2] = {}, total[Count][2] = {};
  for (int64_t k = 0; k < depth; k += lanes<T>) {
    const int n = int(depth - k < lanes<T> ? depth - k : lanes<T>);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Vec<T> column[lanes<T>];
      const T* square = from + half * lanes<T> * row_step + k;
      // So many rows at once are more than the processor foresees.
#pragma GCC unroll 16
      for (int j = 0; j < lanes<T>; ++j) __builtin_prefetch(square + j * row_step + 4 * lanes<T>, 0, 2);
      if (n == lanes<T>) {
        load_transposed(square, row_step, column);
#pragma GCC unroll 16
        for (int j = 0; j < lanes<T>; ++j)
#pragma GCC unroll 4
          for (int v = 0; v < Count; ++v) sum[v][half] = fma(splat(vectors[v][k + j]), column[j], sum[v][half]);
      } else {
        load_transposed(square, row_step, column, lanes<T>, n);
        for (int j = 0; j < n; ++j)
          for (int v = 0; v < Count; ++v) sum[v][half] = fma(splat(vectors[v][k + j]), column[j], sum[v][half]);
      }
    }
    if ((k + lanes<T>) % chain && k + lanes<T> < depth) continue;
#pragma GCC unroll 4
    for (int v = 0; v < Count; ++v)
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        total[v][half] = k < chain ? sum[v][half] : total[v][half] + sum[v][half];
        sum[v][half] = Vec<T>{};
      }
  }
#pragma GCC unroll 4
  for (int v = 0; v < Count; ++v)
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) store(out[v] + half * lanes<T>, total[v][half]);
}

template <class T, int Most = direct_rows>
void direct_panel(int count, const T* from, int64_t row_step, int64_t depth, int64_t chain, const T* const* vectors,
                  T* const* out) {
  if constexpr (Most > 1) {
    if (count < Most) return direct_panel<T, Most - 1>(count, from, row_step, depth, chain, vectors, out);
  }
  direct<T, Most>(from, row_step, depth, chain, vectors, out);
}

}  // namespace tt
