// A block of a product of whole matrices by matrix units: see product.h. `Of` is the rectangle that it is a part of.
#pragma once

#include "matrix_product.h"

namespace tt {

template <class T, class Of>
struct BlockInPieces {
  const Of& of;
  const MatrixUnits<T>& units;
  int64_t c, c_end, k, depth;  // columns, and steps of the depth
  T *right, *left;             // [panel], [tile]
  int pieces = 1;              // of the right block

  // Whether a product is so large that cutting its matrices, the left one for every block of columns, is little of the
  // work. `beside`: the numbers of a left row lie together.
  static bool is_worth(int64_t rows, int64_t columns, int64_t depth, bool beside) {
    return rows >= 256 && columns >= (beside ? 128 : 192) && depth >= tile_depth;
  }

  // Numbers that blocks take.
  static int64_t right_room(int64_t columns, int64_t deep) { return columns / panel<T> * panel_size<T>(deep, most_pieces); }
  static int64_t left_room(int64_t rows, int64_t deep) { return (rows + tile_edge - 1) / tile_edge * tile_size(deep); }
  static int64_t tile_size(int64_t deep) { return tile_blocks(deep) * most_pieces * tile_numbers; }

  // From panels as strips want them. False if a number is unfit.
  bool take_right(const T* panels) {
    const int found = pack(panels);
    if (!found || found & unfit) return !found;
    pieces = most_pieces;
    return !(pack(panels) & unfit);
  }

  int pack(const T* panels) {
    int found = 0;
    for (int64_t j = c; j < c_end && !(pieces == 1 && found); j += panel<T>) {
      const Matrix<T> lying = {panels + (j - c) * depth, 1, panel<T>};
      T* const to = right + (j - c) / panel<T> * panel_size<T>(depth, pieces);
      found |= units.pack(to, lying, false, 0, panel<T>, depth, pieces);
    }
    return found;
  }

  // Tiles of rows [r, r_end) as pieces; says what was found in them.
  int take_left(int64_t r, int64_t r_end) {
    int found = 0;
    const int64_t rows = r_end - r, size = tile_size(depth);
    if (rows % tile_edge) memset(left + rows / tile_edge * size, 0, size_t(size) * sizeof(T));
    for (int64_t v = 0; v < rows && of.beside(); ++v)
      found |= units.split(left + v / tile_edge * size, tile_edge, v % tile_edge, of.left_row(r + v) + k, depth);
    for (int64_t d = 0; d < depth && !of.beside(); d += tile_depth) {
      // Some steps of all rows: what lies together is read together.
      T steps[tile_depth * Of::rows_at_once];
      for (int64_t s = 0; s < tile_depth; ++s) take_step(steps + s * Of::rows_at_once, r, rows, d + s);
      T* to = left + d / tile_depth * most_pieces * tile_numbers;
      for (int64_t v = 0; v < rows; v += tile_edge, to += size) found |= units.split_block(to, steps + v, Of::rows_at_once);
    }
    return found;
  }

  void take_step(T* to, int64_t r, int64_t rows, int64_t d) const {
    const int64_t padded = (rows + tile_edge - 1) / tile_edge * tile_edge;
    if (d >= depth || rows < padded) memset(to, 0, size_t(padded) * sizeof(T));
    if (d >= depth) return;
    const T* from = of.left_step(k + d);
    const int64_t step = of.product.left.row_step;
    if (step == 1 && !of.product.row_list) {
      of.prefetch_step(of.product.left.data, of.product.left.column_step, k + d, r, rows);
      memcpy(to, from + r, size_t(rows) * sizeof(T));
    } else {
      for (int64_t v = 0; v < rows; ++v) to[v] = from[of.product.row(r + v) * step];
    }
  }

  // Rows [r, r_end), which have been taken.
  template <class Later>
  void multiply(int64_t r, int64_t r_end, int left_found, bool add, Later& later) const {
    TilesCall<T> call = {};
    call.left_block = most_pieces * tile_numbers, call.left_piece = tile_numbers;
    call.left_pieces = left_found ? most_pieces : 1, call.pieces = pieces;
    call.out_step = panel<T>, call.blocks = tile_blocks(depth);
    alignas(64) T made[2][tile_edge * panel<T>];
    Waiting waiting = {};
    for (int64_t j = c; j < c_end; j += panel<T>)
      for (int64_t i = r; i < r_end; i += tile_edge) {
        call.packed = right + (j - c) / panel<T> * panel_size<T>(depth, pieces);
        call.left = left + (i - r) / tile_edge * tile_size(depth);
        call.out = waiting.tile == made[0] ? made[1] : made[0];
        later.fetch(of);
        units.multiply(call, c_end - j <= lanes<T>);
        put(waiting, add);
        waiting = {call.out, i, r_end - i < tile_edge ? r_end : i + tile_edge, j};
        for (int64_t v = waiting.i; v < waiting.end && add; ++v) {
          __builtin_prefetch(place(v, j), 1);
          __builtin_prefetch(place(v, j) + lanes<T>, 1);
        }
      }
    put(waiting, add);
  }

  // A tile of the result: rows [i, end), columns from j on. It takes a while until it can be read, in which the next
  // one is begun.
  struct Waiting {
    const T* tile;
    int64_t i, end, j;
  };

  T* place(int64_t i, int64_t j) const { return of.product.out + of.product.row(i) * of.product.out_step + j; }

  template <bool add>
  void put_whole(const Waiting& made) const {
    const T* from = made.tile;
    for (int64_t i = made.i; i < made.end; ++i, from += panel<T>) {
      T* const to = place(i, made.j);
      const Vec<T> low = load(from), high = load(from + lanes<T>);
      store(to, add ? load(to) + low : low);
      store(to + lanes<T>, add ? load(to + lanes<T>) + high : high);
    }
  }

  void put(const Waiting& made, bool add) const {
    const int64_t columns = c_end - made.j < panel<T> ? c_end - made.j : panel<T>;
    const T* from = made.tile;
    if (columns == panel<T>) return add ? put_whole<true>(made) : put_whole<false>(made);
    for (int64_t i = made.i; i < made.end; ++i, from += panel<T>) {
      T* const to = place(i, made.j);
      for (int64_t v = 0; v < columns; v += lanes<T>) {
        const int some = int(columns - v < lanes<T> ? columns - v : lanes<T>);
        const Vec<T> sum = load(from + v);
        store(to + v, add ? load(to + v, some) + sum : sum, some);
      }
    }
  }
};

}  // namespace tt
