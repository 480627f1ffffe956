// Products of a small depth, as of one step's errors and inputs: what they take is the writing of the result, so every row
// is written through once. Not past the caches: the optimizer that reads a gradient next would wait longer than was saved.
#pragma once

#include "matrix_product.h"

namespace tt {

inline constexpr int outer_depth = 8;

template <class T>
bool is_outer(const MatrixProduct<T>& product) {
  return product.depth > 0 && product.depth <= outer_depth && product.right.column_step == 1;
}

// One row: sums of `Depth` numbers times rows of the right matrix. As chains go, what stands there is added last.
template <class T, int Depth, bool add>
__attribute__((noinline)) void outer_row(T* to, const T* const* right, const T* left, int64_t columns) {
  Vec<T> value[Depth];
#pragma GCC unroll 8
  for (int k = 0; k < Depth; ++k) value[k] = splat(left[k]);
  int64_t j = 0;
  for (; j + lanes<T> <= columns; j += lanes<T>) {
    Vec<T> sum = {};
#pragma GCC unroll 8
    for (int k = 0; k < Depth; ++k) sum = fma(value[k], load(right[k] + j), sum);
    store(to + j, add ? load(to + j) + sum : sum);
  }
  const int n = int(columns - j);
  if (n == 0) return;
  Vec<T> sum = {};
  for (int k = 0; k < Depth; ++k) sum = fma(value[k], load(right[k] + j, n), sum);
  store(to + j, add ? load(to + j, n) + sum : sum, n);
}

template <class T, int Depth, bool add>
void outer(const MatrixProduct<T>& p, int64_t row0, int64_t row1, int64_t column0, int64_t column1) {
  if constexpr (Depth > 1) {
    if (p.depth < Depth) return outer<T, Depth - 1, add>(p, row0, row1, column0, column1);
  }
  const T* right[Depth];
  for (int k = 0; k < Depth; ++k) right[k] = p.right.data + p.step(k) * p.right.row_step + column0;
  for (int64_t i = row0; i < row1; ++i) {
    T left[Depth];
    for (int k = 0; k < Depth; ++k) left[k] = p.left.data[p.row(i) * p.left.row_step + p.step(k) * p.left.column_step];
    outer_row<T, Depth, add>(p.out + p.row(i) * p.out_step + column0, right, left, column1 - column0);
  }
}

template <class T>
void outer(const MatrixProduct<T>& p, int64_t row0, int64_t row1, int64_t column0, int64_t column1) {
  p.add ? outer<T, outer_depth, true>(p, row0, row1, column0, column1)
        : outer<T, outer_depth, false>(p, row0, row1, column0, column1);
}

}  // namespace tt
