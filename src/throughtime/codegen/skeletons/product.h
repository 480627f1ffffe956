// Products of the recurrent matrices with a few vectors at a time: packing and the register tile.
//
// A matrix is packed once per call into panels of `panel` columns (two native vectors), all rows of the
// product's depth one after the other. A tile holds up to tile_rows sequences x some panels in registers
// and runs through the depth once. Every output is one chain of fused multiply-adds in ascending order
// of depth, whatever the tile: the same bits for any batch, any thread and any chunk.
#pragma once

#include "transpose.h"

namespace tt {

template <class T>
inline constexpr int panel = 2 * lanes<T>;

// Registers for accumulators: 24 of 32 with AVX-512 and NEON, 12 of 16 otherwise.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int tile_accumulators = 24;
#else
inline constexpr int tile_accumulators = 12;
#endif
inline constexpr int tile_rows = tile_accumulators / 2;

// A matrix of the call: element (i, j) at data[i * row_step + j * column_step].
template <class T>
struct Matrix {
  const T* data;
  int64_t row_step, column_step;
};

// Which matrix a net multiplies a vector with, and whether its transpose.
struct Factor {
  int matrix;
  bool transposed;
};

// One panel of one factor: to[k * panel + j] = element (first + j, k), zero beyond `width` outputs.
template <class T>
void pack_panel(T* to, Matrix<T> matrix, bool transposed, int64_t first, int64_t width, int64_t depth) {
  const int64_t out_step = transposed ? matrix.column_step : matrix.row_step;
  const int64_t in_step = transposed ? matrix.row_step : matrix.column_step;
  const int64_t count = width - first < panel<T> ? width - first : panel<T>;
  const T* from = matrix.data + first * out_step;
  if (count < panel<T>) memset(to, 0, size_t(depth) * panel<T> * sizeof(T));
  if (out_step == 1) {
    if (count == panel<T>)  // a size that the compiler knows
      for (int64_t k = 0; k < depth; ++k) memcpy(to + k * panel<T>, from + k * in_step, panel<T> * sizeof(T));
    else
      for (int64_t k = 0; k < depth; ++k) memcpy(to + k * panel<T>, from + k * in_step, size_t(count) * sizeof(T));
    return;
  }
  int64_t k = 0;
  if (in_step == 1 && count == panel<T>)
    for (; k + lanes<T> <= depth; k += lanes<T>)
      for (int half = 0; half < 2; ++half) {
        Vec<T> square[lanes<T>];
        load_transposed(from + half * lanes<T> * out_step + k, out_step, square);
        for (int j = 0; j < lanes<T>; ++j) store(to + (k + j) * panel<T> + half * lanes<T>, square[j]);
      }
  for (int64_t j = 0; j < count; ++j)
    for (int64_t i = k; i < depth; ++i) to[i * panel<T> + j] = from[j * out_step + i * in_step];
}

// What a tile needs to know: `vectors` holds sources x rows addresses, source by source.
template <class T>
struct TileCall {
  const T* const* vectors;
  const int64_t* depth;  // of each source
  int sources;
  const T* packed;     // first panel
  int64_t panel_step;  // elements from one panel to the next
  T* const* out;       // address of each panel's results for row 0 of the tile
  int64_t out_step;    // elements from one row's results to the next
};

// Steps of the depth that a panel is fetched ahead from an outer cache. The processor itself follows a few panels at once
// too slowly: an LSTM of 1024 units with 4 sequences takes twice as long without.
inline constexpr int64_t far_ahead = 32;

template <class T, int Rows, int Panels>
void tile(const TileCall<T>& call) {
  Vec<T> sum[Rows][2 * Panels] = {};
  const T* packed = call.packed;
  for (int s = 0; s < call.sources; ++s) {
    const T* vector[Rows];
    for (int r = 0; r < Rows; ++r) vector[r] = call.vectors[s * Rows + r];
    const int64_t depth = call.depth[s];
    for (int64_t k = 0; k < depth; ++k) {
      Vec<T> column[2 * Panels];
#pragma GCC unroll 16
      for (int p = 0; p < Panels; ++p) {
        const T* here = packed + p * call.panel_step;
        __builtin_prefetch(here + far_ahead * panel<T>, 0, 2);
        __builtin_prefetch(here + far_ahead * panel<T> + lanes<T>, 0, 2);
        column[2 * p] = load(here);
        column[2 * p + 1] = load(here + lanes<T>);
      }
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const Vec<T> value = splat(vector[r][k]);
#pragma GCC unroll 16
        for (int p = 0; p < 2 * Panels; ++p) sum[r][p] = fma(value, column[p], sum[r][p]);
      }
      packed += panel<T>;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)  // unrolled, or the sums would lie in memory
#pragma GCC unroll 16
    for (int p = 0; p < Panels; ++p) {
      store(call.out[p] + r * call.out_step, sum[r][2 * p]);
      store(call.out[p] + r * call.out_step + lanes<T>, sum[r][2 * p + 1]);
    }
}

// Panels of a tile: enough sums to hide the time that one takes, and few enough that turning back after each step finds
// some of the matrix still in the first-level cache.
inline constexpr int tile_width(int rows) {
  const int most = tile_accumulators / (2 * rows);
  return most > 4 ? 4 : most;
}

// The tile for this many rows that takes as many of the `left` panels at once as registers allow.
template <class T, int Rows, int Panels>
TT_INLINE int tile_step(const TileCall<T>& call, int64_t left) {
  if constexpr (Panels > 1) {
    if (left < Panels) return tile_step<T, Rows, Panels / 2>(call, left);
  }
  tile<T, Rows, Panels>(call);
  return Panels;
}

template <class T, int Rows>
TT_INLINE int tile_panels(int rows, const TileCall<T>& call, int64_t left) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return tile_panels<T, Rows - 1>(rows, call, left);
  }
  return tile_step<T, Rows, tile_width(Rows)>(call, left);
}

}  // namespace tt
