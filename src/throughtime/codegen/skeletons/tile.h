// Packed panels and the register tile.
#pragma once

#include "product.h"
#include "transpose.h"

namespace tt {

// One panel of one factor: to[k * panel + j] = element (first + j, k), zero beyond `width` outputs.
template <class T>
void pack_panel(T* to, Matrix<T> matrix, bool transposed, int64_t first, int64_t width, int64_t depth) {
  const int64_t out_step = transposed ? matrix.column_step : matrix.row_step;
  const int64_t in_step = transposed ? matrix.row_step : matrix.column_step;
  const int64_t count = width - first < panel<T> ? width - first : panel<T>;
  const T* from = matrix.data + first * out_step;
  const bool across = in_step == 1 && out_step != 1;
  if (count <= lanes<T> || (count < panel<T> && !across)) memset(to, 0, size_t(depth) * panel<T> * sizeof(T));
  if (out_step == 1) {
    if (count == panel<T>)  // a size that the compiler knows
      for (int64_t k = 0; k < depth; ++k) memcpy(to + k * panel<T>, from + k * in_step, panel<T> * sizeof(T));
    else
      for (int64_t k = 0; k < depth; ++k) memcpy(to + k * panel<T>, from + k * in_step, size_t(count) * sizeof(T));
    return;
  }
  for (int64_t half = 0; half < count; half += lanes<T>) {
    const int rows = int(count - half < lanes<T> ? count - half : lanes<T>);
    for (int64_t k = 0; k < depth && across; k += lanes<T>) {
      const int deep = int(depth - k < lanes<T> ? depth - k : lanes<T>);
      Vec<T> square[lanes<T>];
      if (rows == lanes<T> && deep == lanes<T>)
        load_transposed(from + half * out_step + k, out_step, square);
      else
        load_transposed(from + half * out_step + k, out_step, square, rows, deep);
      for (int j = 0; j < deep; ++j) store(to + (k + j) * panel<T> + half, square[j]);
    }
    for (int64_t j = half; j < half + rows && !across; ++j)
      for (int64_t i = 0; i < depth; ++i) to[i * panel<T> + j] = from[j * out_step + i * in_step];
  }
}

// Steps of the depth that a panel is fetched ahead from an outer cache. The processor itself follows a few panels at once
// too slowly: an LSTM of 1024 units with 4 sequences takes twice as long without. Fewer rows are done with what is
// fetched so fast that asking for it costs more than it brings.
inline constexpr int64_t far_ahead = 32;
inline constexpr int rows_of_far_ahead = 4;

// `Vectors` of each panel: 1 leaves out the second half.
template <class T, int Rows, int Panels, int Vectors>
void tile(const TileCall<T>& call) {
  Vec<T> sum[Rows][Vectors * Panels] = {};
  const T* packed = call.packed;
  for (int s = 0; s < call.sources; ++s) {
    const T* vector[Rows];
    for (int r = 0; r < Rows; ++r) vector[r] = call.vectors[s * Rows + r];
    const int64_t depth = call.depth[s];
    for (int64_t k = 0; k < depth; ++k) {
      const auto column = [&](int p) {
        const T* here = packed + p / Vectors * call.panel_step + p % Vectors * lanes<T>;
        if (Rows >= rows_of_far_ahead) __builtin_prefetch(here + far_ahead * panel<T>, 0, 2);
        return load(here);
      };
      // What is fewer stays in registers: the numbers of the rows, or those of the panels.
      if constexpr (Panels > 1) {
        Vec<T> value[Rows];
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) value[r] = splat(vector[r][k]);
#pragma GCC unroll 16
        for (int p = 0; p < Vectors * Panels; ++p) {
          const Vec<T> here = kept(column(p));
#pragma GCC unroll 16
          for (int r = 0; r < Rows; ++r) sum[r][p] = fma(value[r], here, sum[r][p]);
        }
      } else {
        Vec<T> here[Vectors];
#pragma GCC unroll 16
        for (int p = 0; p < Vectors; ++p) here[p] = Rows > 1 ? kept(column(p)) : column(p);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
          const Vec<T> value = splat(vector[r][k]);
#pragma GCC unroll 16
          for (int p = 0; p < Vectors; ++p) sum[r][p] = fma(value, here[p], sum[r][p]);
        }
      }
      packed += panel<T>;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)  // unrolled, or the sums would lie in memory
#pragma GCC unroll 16
    for (int p = 0; p < Vectors * Panels; ++p)
      store(call.out[p / Vectors] + r * call.out_step + p % Vectors * lanes<T>, sum[r][p]);
}

// The tile for this many rows that takes as many of the `left` panels at once as registers allow.
template <class T, int Rows, int Panels>
TT_INLINE int tile_step(const TileCall<T>& call, int64_t left, bool narrow) {
  if constexpr (Panels > 1) {
    if (left < Panels) return tile_step<T, Rows, (Panels > 3 ? 2 : Panels - 1)>(call, left, narrow);
  }
  if (narrow)
    tile<T, Rows, Panels, 1>(call);
  else
    tile<T, Rows, Panels, 2>(call);
  return Panels;
}

// `narrow`: only the first half of each panel.
template <class T, int Rows>
TT_INLINE int tile_panels(int rows, const TileCall<T>& call, int64_t left, bool narrow) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return tile_panels<T, Rows - 1>(rows, call, left, narrow);
  }
  return tile_step<T, Rows, tile_width(Rows)>(call, left, narrow);
}

}  // namespace tt
