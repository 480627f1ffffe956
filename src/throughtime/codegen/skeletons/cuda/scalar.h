// Products by plain multiply-adds. With one slice every net is one chain of fused multiply-adds in ascending order of
// depth, as on the CPU.
#pragma once

#include "call.h"

namespace tt {

struct Scalar {
  static constexpr int tile_rows = 4;  // sequences that one thread multiplies a weight with

  // The own rows of the matrices, [source][depth][net][unit], to where they stay for all steps.
  template <class P, class Cell, class T>
  static void hold(const Block<Cell, T>& block, int phase_width, int product) {
    const int count = block.count(phase_width), share = block.share(phase_width);
    T* to = block.at(block.word[block.weight_words + product]);
    TT_UNROLL
    for (int s = 0; s < P::sources; ++s) {
      const int depth = block.width(P::source_width[s]);
      TT_UNROLL
      for (int net = 0; net < P::nets; ++net) {
        const Rows<T> rows = rows_of<P>(block, phase_width, net, s);
        for (int i = thread(); i < count * depth; i += threads()) {
          const int k = i % depth, unit = i / depth;
          to[(k * P::nets + net) * share + unit] = rows.data[unit * rows.out_step + k * rows.in_step];
        }
      }
      to += depth * P::nets * share;
    }
  }

  template <class P, class Phase, class Cell, class T>
  static void multiply(const Block<Cell, T>& block, int product) {
    const int count = block.count(Phase::width), share = block.share(Phase::width), parts_of = block.of(slices);
    const int high = (block.rows + tile_rows - 1) / tile_rows;
    int deep = 0;
    TT_UNROLL
    for (int s = 0; s < P::sources; ++s) deep += block.width(P::source_width[s]);
    for (int i = thread(); i < count * P::nets * high * parts_of; i += threads()) {
      const int unit = i % count, net = i / count % P::nets, row0 = i / count / P::nets % high * tile_rows;
      const int slice = i / count / P::nets / high;
      int from = deep * slice / parts_of, to = deep * (slice + 1) / parts_of;  // within this source and those to come
      T sum[tile_rows] = {};
      const T* kept = block.at(block.word[block.weight_words + product]) + net * share + unit;
      TT_UNROLL
      for (int s = 0; s < P::sources; ++s) {
        const int depth = block.width(P::source_width[s]);
        Rows<T> rows = rows_of<P>(block, Phase::width, net, s);
        rows.data += unit * rows.out_step;
        if (block.word[held]) rows = {kept, 0, P::nets * share};
        const T* vector[tile_rows];
        TT_UNROLL
        for (int r = 0; r < tile_rows; ++r) {
          const int row = row0 + r < block.rows ? row0 + r : block.rows - 1;
          vector[r] = source<P>(block, s, row);
        }
        for (int k = from > 0 ? from : 0; k < to && k < depth; ++k) {
          const T weight = rows.data[k * rows.in_step];
          TT_UNROLL
          for (int r = 0; r < tile_rows; ++r) sum[r] = fma(vector[r][k], weight, sum[r]);
        }
        from -= depth, to -= depth, kept += depth * P::nets * share;
      }
      T* out = block.numbers(nets) + ((slice * block.of(tile) + row0) * Phase::nets + P::first + net) * share + unit;
      TT_UNROLL
      for (int r = 0; r < tile_rows; ++r)
        if (row0 + r < block.rows) out[r * Phase::nets * share] = sum[r];
    }
  }

  // The rows of a matrix that make the own units of a net.
  template <class T>
  struct Rows {
    const T* data;
    Int out_step, in_step;
  };

  template <class P, class Cell, class T>
  static Rows<T> rows_of(const Block<Cell, T>& block, int phase_width, int net, int s) {
    const Factor factor = P::factor[net * P::sources + s];
    const Matrix<T> matrix = block.group.matrix(factor.matrix);
    const Int out_step = factor.transposed ? matrix.column_step : matrix.row_step;
    const Int in_step = factor.transposed ? matrix.row_step : matrix.column_step;
    return {matrix.data + block.begin(phase_width) * out_step, out_step, in_step};
  }

  // The vector that a product reads, of one sequence.
  template <class P, class Cell, class T>
  static const T* source(const Block<Cell, T>& block, int s, int row) {
    const int number = P::source[s];
    if (number < Cell::carries) return block.carry(number, block.k) + row * block.carry_stride(number);
    return block.buffer(number - Cell::carries) + row * block.buffer_stride(number - Cell::carries);
  }
};

}  // namespace tt
