// Products of matrices with a few vectors at a time, as a kernel knows them. The routines themselves are the same for all
// cells and are compiled once: routines.h.
//
// A matrix is packed once per call into panels of `panel` columns (two native vectors), all rows of the
// product's depth one after the other. A tile holds up to tile_rows sequences x some panels in registers
// and runs through the depth once. Every output is one chain of fused multiply-adds in ascending order
// of depth, whatever the tile: the same bits for any batch, any thread and any chunk.
#pragma once

#include "lanes.h"

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

// Whether the processor reads ahead by itself in as many rows of a matrix as make a square: then asking for what comes next
// only takes time. Measured: Intel's with AMX do, AMD's Zen 4 does not.
#if defined(__AMX_TILE__) || defined(__AMXTILE__)
inline constexpr bool reads_ahead = true;
#else
inline constexpr bool reads_ahead = false;
#endif

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

// Panels of a tile: enough sums to hide the time that one takes, and few enough that turning back after each step finds
// some of the matrix still in the first-level cache.
inline constexpr int tile_width(int rows) {
  const int most = tile_accumulators / (2 * rows);
  return most > 4 ? 4 : most;
}

// ---- strips: many vectors ----------------------------------------------------------------------

// The chains of W x and its gradients; nn/matmul.py says the same.
inline constexpr int64_t piece = 64;

enum class Start { zero, go_on, add };  // what a chain begins with: 0; what stands in `out`; 0, and `out` is added last

// A panel of this depth takes 16 KiB, half of a small first-level cache.
template <class T>
inline constexpr int64_t block_depth = 16384 / (panel<T> * int64_t(sizeof(T)));

// How the left rows of a block of the depth lie in a buffer: number k of row r at [r * row + k * step]. One register
// holds the address of them all; rows some cache lines apart do not fall into the same few lines of a cache.
template <class T>
struct Beside {
  static constexpr int64_t row = block_depth<T> + 64 / int64_t(sizeof(T)), step = 1;
};

// ---- matrices that are read once ---------------------------------------------------------------

// More vectors are worth packing for.
inline constexpr int direct_rows = tile_accumulators > 12 ? 8 : 4;

// Whether a panel of outputs can be made so: its rows' numbers lie side by side, and it has all its rows.
template <class T>
bool is_direct(Matrix<T> matrix, bool transposed, int64_t rows, int64_t unit, int64_t width) {
  return !transposed && matrix.column_step == 1 && rows <= direct_rows && unit + panel<T> <= width;
}

// ---- matrix units -----------------------------------------------------------------------------

// Some processors multiply whole tiles of bfloat16 numbers and add up in float32. A float32 is the sum of three such
// numbers, its pieces, of eight bits each. Of the nine products of two numbers' pieces the six largest are made: what is
// left out is some 2^-26 of the whole, less than one rounding. A number that bfloat16 can hold has one piece, and takes
// half as many; of numbers below 2^-110 the last pieces are subnormal, for which the units take zero.
inline constexpr int most_pieces = 3;

// A tile: 16 rows of the left matrix x 32 steps of the depth, or those x 16 columns of the right one; of the result 16 x 16.
inline constexpr int64_t tile_edge = 16, tile_depth = 32, tile_numbers = 256;  // the last: float32 numbers in as many bytes

inline constexpr int64_t tile_blocks(int64_t depth) { return (depth + tile_depth - 1) / tile_depth; }
inline constexpr int64_t tiles_of(int64_t rows) { return (rows + tile_edge - 1) / tile_edge; }

// Numbers that a packed panel takes; 0 pieces: whole numbers.
template <class T>
constexpr int64_t panel_size(int64_t depth, int pieces) {
  return pieces ? tile_blocks(depth) * 2 * pieces * tile_numbers : depth * panel<T>;
}

// What was found in numbers that were cut: some need more than one piece; some are infinite, or so large that products of
// their pieces might be. Pieces of infinity would make NaN of products that are infinite.
inline constexpr int inexact = 1, unfit = 2;

// A tile of rows times a panel.
template <class T>
struct TilesCall {
  int64_t blocks;  // of the depth, of all sources
  const T* left;   // [block][piece][row][lanes], from the first row of the tile on
  int64_t left_block, left_piece;
  int left_pieces, pieces;  // 1 or 3, of the rows and of the panels
  const T* packed;          // a panel: [block][half][piece][16][lanes]
  T* out;
  int64_t out_step;  // elements from one row's results to the next
};

template <class T>
struct MatrixUnits {
  // The tiles that this thread will multiply have so many rows, until other code says otherwise; 0: it has done.
  void (*shape)(int rows);
  // One panel of one factor, in so many pieces; says what it found.
  int (*pack)(T* to, Matrix<T> matrix, bool transposed, int64_t first, int64_t width, int64_t depth, int pieces);
  // Row number `row` of `rows`: to[block][piece][row][lanes]; says what it found.
  int (*split)(T* to, int64_t rows, int64_t row, const T* from, int64_t depth);
  // `narrow`: only the panel's first half.
  void (*multiply)(const TilesCall<T>& call, bool narrow);
};

// ---- what is compiled once ---------------------------------------------------------------------

template <class T>
struct Routines {
  // One panel of one factor: to[k * panel + j] = element (first + j, k), zero beyond `width` outputs.
  void (*pack_panel)(T* to, Matrix<T> matrix, bool transposed, int64_t first, int64_t width, int64_t depth);
  // The first panels of a call, as many as registers allow, of `left`; says how many. `narrow`: of each only the first
  // half.
  int (*tile)(int rows, const TileCall<T>& call, int64_t left, bool narrow);
  // One panel of up to tile_rows rows that lie `Beside` each other, or some with few rows; says how many. See strip.h.
  int (*strip)(int rows, const T* left, const T* packed, int64_t panel_step, int64_t depth, T* const* out,
               int64_t columns, Start start);
  // One panel of up to direct_rows vectors, from a matrix as it lies. See direct.h.
  void (*direct)(int count, const T* from, int64_t row_step, int64_t depth, int64_t chain, const T* const* vectors,
                 T* const* out);
  const MatrixUnits<T>* units;  // null where there are none
};

}  // namespace tt
