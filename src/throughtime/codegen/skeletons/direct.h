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
  Vec<T> total[Count][2] = {};
  for (int64_t k = 0, end; k < depth; k = end) {
    end = k + chain < depth ? k + chain : depth;
    Vec<T> sum[Count][2] = {};
    int64_t at = k;
    for (; at + lanes<T> <= end; at += lanes<T>)
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        Vec<T> column[lanes<T>];
        const T* square = from + half * lanes<T> * row_step + at;
#pragma GCC unroll 16
        for (int j = 0; j < lanes<T> && !reads_ahead; ++j)
          __builtin_prefetch(square + j * row_step + 4 * lanes<T>, 0, 2);
        load_transposed(square, row_step, column);
#pragma GCC unroll 16
        for (int j = 0; j < lanes<T>; ++j)
#pragma GCC unroll 8
          for (int v = 0; v < Count; ++v) sum[v][half] = fma(splat(vectors[v][at + j]), column[j], sum[v][half]);
      }
    for (int half = 0; half < 2 && at < end; ++half) {
      Vec<T> column[lanes<T>];
      load_transposed(from + half * lanes<T> * row_step + at, row_step, column, lanes<T>, int(end - at));
      for (int j = 0; j < int(end - at); ++j)
        for (int v = 0; v < Count; ++v) sum[v][half] = fma(splat(vectors[v][at + j]), column[j], sum[v][half]);
    }
#pragma GCC unroll 8
    for (int v = 0; v < Count; ++v)
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) total[v][half] = k ? total[v][half] + sum[v][half] : sum[v][half];
  }
#pragma GCC unroll 8
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
