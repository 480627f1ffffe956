// The products that kernels of all cells are made with: compiled once for each kind of number.
#pragma once

#include "direct.h"
#include "matrix_units.h"
#include "strip.h"
#include "tile.h"

namespace tt {

template <class T>
inline const Routines<T> routines = {
    [](T* to, Matrix<T> matrix, bool transposed, int64_t first, int64_t width, int64_t depth) {
      pack_panel(to, matrix, transposed, first, width, depth);
    },
    [](int rows, const TileCall<T>& call, int64_t left, bool narrow) {
      return tile_panels<T, tile_rows>(rows, call, left, narrow);
    },
    [](int rows, const T* left, const T* packed, int64_t panel_step, int64_t depth, T* const* out, int64_t columns,
       Start start) {
      return strip_rows<T, Beside<T>, tile_rows>(rows, left, packed, panel_step, depth, piece, out, columns, start);
    },
    [](int count, const T* from, int64_t row_step, int64_t depth, int64_t chain, const T* const* vectors,
       T* const* out) { direct_panel<T>(count, from, row_step, depth, chain, vectors, out); },
    matrix_units_here<T>(),
};

}  // namespace tt
