// The gradient of a matrix that word numbers stood before: the errors of each word are added up in a row of its own.
#pragma once

#include "matrix_product.h"

namespace tt {

// Columns [column0, column1) of the sums, word after word in the order of the list.
template <class T>
void add_by_word(const MatrixProduct<T>& p, int64_t column0, int64_t column1) {
  const auto* words = (const int64_t*)p.left.data;
  for (int64_t i = 0; i < p.rows; ++i) memset(p.out + i * p.out_step + column0, 0, size_t(column1 - column0) * sizeof(T));
  for (int64_t k = 0; k < p.depth; ++k) {
    T* const to = p.out + words[k * p.left.column_step] * p.out_step;
    const T* const from = p.right.data + k * p.right.row_step;
    int64_t j = column0;
    for (; j + lanes<T> <= column1; j += lanes<T>) store(to + j, load(to + j) + load(from + j));
    const int n = int(column1 - j);
    if (n) store(to + j, load(to + j, n) + load(from + j, n), n);
  }
}

}  // namespace tt
