// Products by plain multiply-adds: every net is one chain of fused multiply-adds in ascending order of depth, as on the
// CPU.
#pragma once

#include "call.h"

namespace tt {

// Vectors in a row: number i of vector j at data[j * out_step + i * in_step].
template <class T>
struct Rows {
  const T* data;
  Int out_step, in_step;
};

struct Scalar {
  static constexpr int tile_rows = 4;  // sequences that one thread multiplies a weight with

  // The own rows of the matrices, [source][depth][net][unit], to where they stay for all steps.
  template <class P, int product, class Cell, class T>
  static void hold(const Block<Cell, T>& block, int phase_width) {
    const int count = block.count(phase_width), share = block.share(phase_width);
    T* to = block.at(block.weights(product).place);
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

  template <class P, class Phase, int product, class Cell, class T>
  static void multiply(const Block<Cell, T>& block) {
    const int count = block.count(Phase::width), share = block.share(Phase::width);
    const int high = (block.rows + tile_rows - 1) / tile_rows;
    for (int i = thread(); i < count * P::nets * high; i += threads()) {
      const int unit = i % count, net = i / count % P::nets, row0 = i / count / P::nets * tile_rows;
      T sum[tile_rows] = {};
      const T* kept = block.at(block.weights(product).place) + net * share + unit;
      TT_UNROLL
      for (int s = 0; s < P::sources; ++s) {
        const int depth = block.width(P::source_width[s]);
        Rows<T> rows = rows_of<P>(block, Phase::width, net, s);
        rows.data += unit * rows.out_step;
        if (block.word[held]) rows = {kept, 0, P::nets * share};
        const Rows<T> vectors = source<P>(block, s);
        const T* vector[tile_rows];
        TT_UNROLL
        for (int r = 0; r < tile_rows; ++r)
          vector[r] = vectors.data + (row0 + r < block.rows ? row0 + r : block.rows - 1) * vectors.out_step;
        for (int k = 0; k < depth; ++k) {
          const T weight = rows.data[k * rows.in_step];
          TT_UNROLL
          for (int r = 0; r < tile_rows; ++r) sum[r] = fma(vector[r][k], weight, sum[r]);
        }
        kept += depth * P::nets * share;
      }
      T* out = block.numbers(nets) + (row0 * Phase::nets + P::first + net) * share + unit;
      TT_UNROLL
      for (int r = 0; r < tile_rows; ++r)
        if (row0 + r < block.rows) out[r * Phase::nets * share] = sum[r];
    }
  }

  // The rows of a matrix that make the own units of a net.
  template <class P, class Cell, class T>
  static Rows<T> rows_of(const Block<Cell, T>& block, int phase_width, int net, int s) {
    const Factor factor = P::factor[net * P::sources + s];
    const Matrix<T> matrix = block.group.matrix(factor.matrix);
    const Int out_step = factor.transposed ? matrix.column_step : matrix.row_step;
    const Int in_step = factor.transposed ? matrix.row_step : matrix.column_step;
    return {matrix.data + block.begin(phase_width) * out_step, out_step, in_step};
  }

  // The vectors that a product reads, one of each sequence.
  template <class P, class Cell, class T>
  static TT_INLINE Rows<T> source(const Block<Cell, T>& block, int s) {
    const int number = P::source[s];
    if (number < Cell::carries) return {block.carry(number, block.k), block.carry_stride(number), 1};
    return {block.buffer(number - Cell::carries), block.buffer_stride(number - Cell::carries), 1};
  }
};

}  // namespace tt
