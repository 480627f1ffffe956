// One product of whole matrices, as it crosses the C interface.
#pragma once

#include "routines.h"

namespace tt {

inline constexpr int64_t by_word = -1;

template <class T>
struct MatrixProduct {
  int64_t rows, columns, depth;
  Matrix<T> left, right;  // [rows, depth], [depth, columns]
  T* out;                 // element (i, j) at out[i * out_step + j]
  int64_t out_step;
  int64_t chain;  // depth of one chain; 0: all of it; by_word: the left matrix is a list, of each step's row that is 1
  bool add;       // to what stands in `out`
  const int64_t *row_list, *depth_list;  // which rows of left and out, which of the depth's; null: all of them
  int64_t cleared;  // rows of `out` of which those that are not in row_list become 0; 0: they stay as they are
  int64_t row_tasks, column_tasks;

  // In multiply-adds, of which a thread does some thirty while it writes a number of a result that no cache holds.
  int64_t work() const { return is_by_word() ? columns * (depth + rows) * 32 : rows * columns * (depth + 32); }
  bool is_by_word() const { return chain == by_word; }
  bool is_beside() const { return left.column_step == 1 && !depth_list; }
  int64_t row(int64_t i) const { return row_list ? row_list[i] : i; }
  int64_t step(int64_t k) const { return depth_list ? depth_list[k] : k; }

  const int64_t* parse(const int64_t* a) {
    rows = a[0], columns = a[1], depth = a[2];
    left = {(const T*)a[3], a[4], a[5]};
    right = {(const T*)a[6], a[7], a[8]};
    out = (T*)a[9], out_step = a[10];
    chain = a[11], add = a[12] != 0;
    row_list = (const int64_t*)a[13], depth_list = (const int64_t*)a[14];
    cleared = a[15];
    return a + 16;
  }
};

}  // namespace tt
