// Products of whole matrices, several in one call: what surrounds a recurrence (W x for all time steps, its gradients,
// the gradients of the recurrent matrices).
//
// Every element of a result is one chain of fused multiply-adds in ascending order of depth, or, where `chain` is given,
// a sum of such chains of that length, added up in ascending order; large products of float32 are made by matrix units,
// where there are some, in blocks of the depth that are added up in ascending order: the same bits for any number of
// threads.
// Where rows are listed, only those take part, in the order of the list: the real steps of sequences of unlike lengths.
// A task makes a rectangle of one result. It packs what it needs of the right matrix, block by block, so that a panel
// lies in the first-level cache while rows of the left matrix pass by.
#pragma once

#include "blocks.h"
#include "call.h"
#include "matrix_product.h"
#include "outer.h"
#include "words.h"

namespace tt {

inline constexpr int64_t block_columns = 16;           // panels in a block of the right matrix: 256 KiB
inline constexpr int64_t block_rows = 16 * tile_rows;  // of the left matrix, which stay in the second-level cache

// One rectangle of one result.
template <class T>
struct Rectangle {
  const MatrixProduct<T>& product;
  int64_t row0, row1, column0, column1;
  T *right, *left;  // packed blocks
  T* pieces;        // the same for matrix units; null: they are not used

  // The rows of `out` between those of the list, which ascends.
  void clear() {
    const int64_t from = row0 ? product.row(row0 - 1) + 1 : 0;
    for (int64_t i = row0, gap = from; i <= row1; ++i) {
      const int64_t row = i < product.rows ? product.row(i) : product.cleared;
      if (i == row1 && row1 < product.rows) break;  // that gap is the next rectangle's
      for (; gap < row; ++gap) memset(product.out + gap * product.out_step + column0, 0, size_t(column1 - column0) * sizeof(T));
      gap = row + 1;
    }
  }

  void run() {
    if (product.is_by_word()) return add_by_word(product, column0, column1);
    if (product.cleared) clear();
    if (is_outer(product)) return outer(product, row0, row1, column0, column1);
    for (int64_t c = column0; c < column1; c += block_columns * panel<T>) {
      const int64_t end = c + block_columns * panel<T> < column1 ? c + block_columns * panel<T> : column1;
      pieces ? run_pieces(c, end) : run_columns(c, end);
    }
  }

  void run_pieces([[maybe_unused]] int64_t c, [[maybe_unused]] int64_t c_end) const {
#if defined(TT_MATRIX_UNITS)
    if constexpr (sizeof(T) == sizeof(float)) InPieces<Rectangle>{*this, c, c_end, pieces}.run();
#endif
  }

  // Numbers that pieces take.
  static constexpr int64_t room_for_pieces() {
#if defined(TT_MATRIX_UNITS)
    if constexpr (sizeof(T) == sizeof(float)) return InPieces<Rectangle>::room;
#endif
    return 0;
  }

  // Blocks begin where a chain begins or go on with one that is longer than a block.
  void run_columns(int64_t c, int64_t c_end) const {
    const int64_t chain = longest_chain(), longest = chain < block_depth<T> ? block_depth<T> / chain * chain : block_depth<T>;
    for (int64_t k = 0, next; k < product.depth || k == 0; k = next) {
      next = k + longest < product.depth ? k + longest : product.depth;
      if (chain > longest && next > (k / chain + 1) * chain) next = (k / chain + 1) * chain;
      rows_as_ever(row0, row1, c, c_end, k, next - k);
      if (next == k) break;
    }
  }

  int64_t longest_chain() const { return product.chain ? product.chain : product.depth; }

  // Some rows of a block by multiply-adds.
  void rows_as_ever(int64_t r, int64_t r_end, int64_t c, int64_t c_end, int64_t k, int64_t depth) const {
    const int64_t chain = longest_chain();
    const bool begins = k == 0 || k % chain == 0;
    const Start start = !begins ? Start::go_on : (k > 0 || product.add) ? Start::add : Start::zero;
    const int64_t some = depth < block_depth<T> ? depth : block_depth<T>;
    pack_right(c, c_end, k, some);
    rows_of_block(r, r_end, c, c_end, k, some, chain, start);
    if (some < depth) rows_as_ever(r, r_end, c, c_end, k + some, depth - some);
  }

  // Rows [first, last), whose columns have been packed.
  void rows_of_block(int64_t first, int64_t last, int64_t c, int64_t c_end, int64_t k, int64_t depth, int64_t chain,
                     Start start) const {
    const int64_t k_end = k + depth;
    for (int64_t r = first; r < last; r += block_rows) {
      const int64_t r_end = r + block_rows < last ? r + block_rows : last;
      beside() ? copy_left(r, r_end, k, depth) : pack_left(r, r_end, k, depth);
      const int64_t strips = (c_end - c + panel<T> - 1) / panel<T> * ((r_end - r + tile_rows - 1) / tile_rows);
      Later later = r_end < last ? Later(*this, r_end, k, strips) : Later(*this, first, k_end, strips);
      for (int64_t j = c; j < c_end; j += panel<T>)
        for (int64_t i = r; i < r_end; i += tile_rows) {
          const int tall = int(r_end - i < tile_rows ? r_end - i : tile_rows);
          const T* panels = right + (j - c) * depth;
          T* to[tile_rows];
          for (int v = 0; v < tall; ++v) to[v] = product.out + product.row(i + v) * product.out_step + j;
          later.fetch(*this);
          if (beside())
            strip_rows<T, Beside<T>, tile_rows, 1>(tall, left + (i - r) * Beside<T>::row, panels, 0, depth, chain, to, c_end - j,
                                                   start);
          else
            strip_rows<T, Across<T>, tile_rows, 1>(tall, left + (i - r) * depth, panels, 0, depth, chain, to, c_end - j, start);
        }
    }
  }

  // The next block of the left matrix comes from an outer cache, some lines of it with every strip of this one. The
  // processor does not foresee them, as rows of a larger matrix lie apart.
  struct Later {
    static constexpr int64_t line = 64 / int64_t(sizeof(T));
    int64_t r, k, length, at = 0, left = 0, each = 0;  // numbers of one row (of one step of depth, if these lie together)

    Later(const Rectangle& of, int64_t first_row, int64_t first, int64_t strips) : r(first_row), k(first) {
      const int64_t rows = of.row1 - r < block_rows ? of.row1 - r : block_rows;
      const int64_t depth = of.product.depth - k < block_depth<T> ? of.product.depth - k : block_depth<T>;
      length = of.beside() ? depth : rows;
      left = (of.beside() ? rows : depth) * ((length + line - 1) / line);
      each = (left + strips - 1) / strips;
    }

    void fetch(const Rectangle& of) {
      for (int64_t n = each < left ? each : left; n > 0; --n, --left) {
        __builtin_prefetch(of.beside() ? of.left_row(r) + k + at : of.left_step(k) + r + at, 0, 2);
        if ((at += line) < length) continue;
        at = 0, ++(of.beside() ? r : k);
      }
    }
  };

  bool beside() const { return product.is_beside(); }
  const T* left_row(int64_t i) const { return product.left.data + product.row(i) * product.left.row_step; }
  const T* left_step(int64_t k) const { return product.left.data + product.step(k) * product.left.column_step; }

  void copy_left(int64_t r, int64_t r_end, int64_t k, int64_t depth) const {
    for (int64_t i = r; i < r_end; ++i)
      memcpy(left + (i - r) * Beside<T>::row, left_row(i) + k, size_t(depth) * sizeof(T));
  }

  // What packing reads a few steps of depth later: `count` elements from `first` on. The processor does not foresee them,
  // as rows of a larger matrix lie apart.
  void prefetch_step(const T* data, int64_t step_size, int64_t k, int64_t first, int64_t count) const {
    const int64_t later = k + 8 < product.depth ? k + 8 : k;
    const T* from = data + product.step(later) * step_size + first;
    for (int64_t j = 0; j < count; j += 64 / int64_t(sizeof(T))) __builtin_prefetch(from + j);
  }

  // Panels one after the other. Memory is read in the order in which it lies.
  void pack_right(int64_t c, int64_t c_end, int64_t k, int64_t depth) const {
    const Matrix<T>& m = product.right;
    if (m.column_step != 1 && !product.depth_list) {
      for (int64_t j = c; j < c_end; j += panel<T>)
        pack_panel(right + (j - c) * depth, Matrix<T>{m.data + k * m.row_step, m.row_step, m.column_step}, true, j, c_end,
                   depth);
      return;
    }
    const int64_t whole = m.column_step == 1 ? c + (c_end - c) / panel<T> * panel<T> : c;
    for (int64_t d = 0; d < depth; ++d) {
      const T* from = m.data + product.step(k + d) * m.row_step;
      T* to = right + d * panel<T>;
      if (m.column_step == 1) prefetch_step(m.data, m.row_step, k + d, c, c_end - c);
      for (int64_t j = c; j < whole; j += panel<T>) memcpy(to + (j - c) * depth, from + j, panel<T> * sizeof(T));
      for (int64_t j = whole; j < c_end; j += panel<T>) {
        T some[panel<T>] = {};
        const int64_t count = c_end - j < panel<T> ? c_end - j : panel<T>;
        for (int64_t v = 0; v < count; ++v) some[v] = from[(j + v) * m.column_step];
        memcpy(to + (j - c) * depth, some, sizeof some);
      }
    }
  }

  // Tiles of rows one after the other; in each, `tile_rows` numbers for every step of depth. Of rows that lie side by side
  // some steps at once go to all tiles: a cache line has numbers of several tiles, and lines of many steps would push one
  // another out of the first-level cache.
  void pack_left(int64_t r, int64_t r_end, int64_t k, int64_t depth) const {
    const Matrix<T>& m = product.left;
    const int64_t whole = m.row_step == 1 && !product.row_list ? (r_end - r) / tile_rows * tile_rows : 0;
    constexpr int64_t at_once = 8;
    for (int64_t d = 0; d < depth; d += at_once) {
      const int64_t some = depth - d < at_once ? depth - d : at_once;
      const T* from[at_once];
      for (int64_t n = 0; n < some; ++n) from[n] = left_step(k + d + n);
      for (int64_t i = 0; i < whole; i += tile_rows)
        for (int64_t n = 0; n < some; ++n)
          memcpy(left + i * depth + (d + n) * tile_rows, from[n] + r + i, tile_rows * sizeof(T));
      for (int64_t i = whole; i < r_end - r; i += tile_rows)
        for (int64_t n = 0; n < some; ++n)
          for (int64_t v = i; v < i + tile_rows && v < r_end - r; ++v)
            left[i * depth + (d + n) * tile_rows + v - i] = from[n][product.row(r + v) * m.row_step];
    }
  }
};

template <class T>
struct Products {
  int64_t count;
  MatrixProduct<T>* all;
  int failed;

  // How one product is cut into tasks: as many as are worth a thread's waking, long before square, so that little is
  // packed twice.
  static void cut(MatrixProduct<T>& p, int64_t threads) {
    int64_t tasks = threads > 1 ? 1 + p.work() / 2000000 : 1;
    if (tasks > threads) tasks = threads;
    p.row_tasks = p.column_tasks = 1;
    while (p.row_tasks * p.column_tasks * 2 <= tasks) {
      const int64_t tall = p.rows / p.row_tasks, wide = p.columns / p.column_tasks;
      if (tall >= wide && tall >= 2 * tile_rows && !p.is_by_word())
        p.row_tasks *= 2;
      else if (wide >= 2 * panel<T>)
        p.column_tasks *= 2;
      else
        break;
    }
  }

  static int64_t edge(int64_t size, int64_t tasks, int64_t task, int64_t unit) {
    const int64_t units = (size + unit - 1) / unit, at = units * task / tasks * unit;
    return at < size ? at : size;
  }

  void run(int64_t task) {
    const MatrixProduct<T>* p = all;
    for (; task >= p->row_tasks * p->column_tasks; ++p) task -= p->row_tasks * p->column_tasks;
    const int64_t r = task % p->row_tasks, c = task / p->row_tasks;
    // The right block, of which matrix units take a little more.
    const int64_t columns = block_columns * panel<T>, right = columns * (block_depth<T> + tile_depth);
    const int64_t whole = right + block_rows * Beside<T>::row;
    const bool in_pieces = routines<T>.units && !p->is_by_word() && is_worth_cutting(p->rows, p->columns, p->depth);
    const int64_t high = in_pieces ? tile_edge : tile_rows;
    T* memory = allocate<T>(whole + (in_pieces ? Rectangle<T>::room_for_pieces() : 0));
    if (!memory) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    Rectangle<T>{*p,
                 edge(p->rows, p->row_tasks, r, high),
                 edge(p->rows, p->row_tasks, r + 1, high),
                 edge(p->columns, p->column_tasks, c, panel<T>),
                 edge(p->columns, p->column_tasks, c + 1, panel<T>),
                 memory,
                 memory + right,
                 in_pieces ? memory + whole : nullptr}
        .run();
    free(memory);
  }
};

// Fewer multiply-adds than these are not worth telling a thread of, even one that is awake.
inline constexpr int64_t alone = 500000;

template <class T>
int run_products(const int64_t* a) {
  const int64_t count = a[0];
  int64_t threads = a[1];
  const Parallel parallel = (Parallel)a[2];
  a += 3;
  Products<T> products = {count, (MatrixProduct<T>*)malloc(size_t(count) * sizeof(MatrixProduct<T>)), 0};
  if (!products.all) return 1;
  int64_t tasks = 0, work = 0;
  for (int64_t k = 0; k < count; ++k) {
    a = products.all[k].parse(a);
    work += products.all[k].work();
  }
  if (work < alone) threads = 1;
  for (int64_t k = 0; k < count; ++k) {
    Products<T>::cut(products.all[k], threads);
    tasks += products.all[k].row_tasks * products.all[k].column_tasks;
  }
  parallel(tasks, threads, work / 100, [](void* context, int64_t task) { ((Products<T>*)context)->run(task); }, &products);
  free(products.all);
  return products.failed;
}

}  // namespace tt

// tt_run gives 0: done; 1: out of memory. tt_routines: what kernels are told in each call. tt_matrix_units: whether these
// are used.
#define TT_EXPORT extern "C" __attribute__((visibility("default")))
#define TT_PRODUCTS(T)                                                          \
  TT_EXPORT int tt_run(const int64_t* call) { return tt::run_products<T>(call); } \
  TT_EXPORT const void* tt_routines() { return &tt::routines<T>; }              \
  TT_EXPORT int tt_matrix_units() { return tt::routines<T>.units != nullptr; }
