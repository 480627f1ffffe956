// Products of float32 numbers by matrix units: Intel's AMX, which multiplies tiles of bfloat16 numbers and adds up in
// float32. product.h says what its pieces are.
#pragma once

#include "tile.h"

#if (defined(__AMX_BF16__) || defined(__AMXBF16__)) && defined(__AVX512F__) && defined(__linux__)
#define TT_MATRIX_UNITS 1
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tt {

#if defined(TT_MATRIX_UNITS)

typedef uint32_t Bits __attribute__((vector_size(64)));

// From here on a number is unfit: products with a rounded first piece could be infinite where those of whole numbers are not.
inline constexpr uint32_t huge_bits = (127 + 63) << 23;  // 2^63

// What was found in the numbers that were cut, so far.
struct Found {
  typedef uint16_t Halves __attribute__((vector_size(64)));
  Bits rest = {};       // nothing but zeros and signs, if all need but one piece
  Halves largest = {};  // of the first pieces, without their signs

  int all() const {
    const int more = _mm512_movepi32_mask((__m512i)((rest << 1) != 0)) ? inexact : 0;
    return _mm512_movepi16_mask((__m512i)(largest >= Halves{} + uint16_t(huge_bits >> 15))) ? more | unfit : more;
  }
};

// Two vectors as pieces. Steps k and k + 16 of a block of the depth lie in one lane: both operands are cut so, and nothing
// has to be shuffled.
TT_INLINE void store_pieces(float* to, int64_t step, int pieces, Vec<float> first, Vec<float> second, Found& found) {
  const auto rounded = [](Vec<float> value) { return (Bits)((Bits)value + 0x8000) & 0xffff0000; };
  const auto both = [](Bits low, Bits high) { return (Vec<float>)(low >> 16 | high); };
  const Bits low = rounded(first), high = rounded(second);
  const Vec<float> large = both(low, high);
  store(to, large);
  found.largest = (Found::Halves)_mm512_max_epu16((__m512i)found.largest, (__m512i)((Found::Halves)large << 1));
  first -= (Vec<float>)low, second -= (Vec<float>)high;
  found.rest |= (Bits)first | (Bits)second;
  if (pieces == 1) return;
  const Bits middle_low = rounded(first), middle_high = rounded(second);
  store(to + step, both(middle_low, middle_high));
  first -= (Vec<float>)middle_low, second -= (Vec<float>)middle_high;
  // Exact, but of a subnormal number, whose lower bits must not fall into the other half.
  store(to + 2 * step, both((Bits)first, (Bits)second & 0xffff0000));
}

// Of numbers among which some seemed unfit: not a number is fit, as what it is multiplied with is none either.
inline int looked_at_again(int found, const float* from, int64_t step, int64_t rows, int64_t columns) {
  if (!(found & unfit)) return found;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      uint32_t bits;
      memcpy(&bits, from + i * step + j, sizeof bits);
      bits &= 0x7fffffff;
      if (bits >= huge_bits && bits <= 0x7f800000) return found;
    }
  return found & ~unfit;
}

inline int split_vector(float* to, int64_t rows, int64_t row, const float* from, int64_t depth) {
  Found found;
  float* at = to + row * lanes<float>;
  for (int64_t k = 0; k < depth; k += tile_depth, at += most_pieces * rows * lanes<float>) {
    if (depth - k >= tile_depth) {
      store_pieces(at, rows * lanes<float>, most_pieces, load(from + k), load(from + k + lanes<float>), found);
      continue;
    }
    const int left = int(depth - k), low = left < lanes<float> ? left : lanes<float>;
    store_pieces(at, rows * lanes<float>, most_pieces, load(from + k, low), load(from + k + low, left - low), found);
  }
  return looked_at_again(found.all(), from, 0, 1, depth);
}

// Rows 4 q to 4 q + 3 of a tile of the left matrix, whose numbers of one step lie together, from `first` on.
TT_INLINE void split_quarter(float* to, const float* const* step, int64_t first, int q, Found& found) {
  const auto quarters = [at = first + 4 * q](const float* const* row) {
    return load_quarters(row[0] + at, row[4] + at, row[8] + at, row[12] + at);
  };
  Vec<float> low[4], high[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) low[i] = quarters(step + i), high[i] = quarters(step + tile_depth / 2 + i);
  transpose_quarter(low);
  transpose_quarter(high);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) store_pieces(to + (4 * q + i) * lanes<float>, tile_numbers, most_pieces, low[i], high[i], found);
}

// A block of the depth of a panel: of each of its steps the numbers from `first` on.
TT_INLINE void split_panel(float* to, const float* const* step, int64_t first, int pieces, Found& found) {
  for (int64_t half = first; half < first + panel<float>; half += lanes<float>, to += pieces * tile_numbers)
    for (int d = 0; d < tile_depth / 2; ++d)
      store_pieces(to + d * lanes<float>, tile_numbers, pieces, load(step[d] + half), load(step[d + tile_depth / 2] + half), found);
}

inline int pack_tiles(float* to, Matrix<float> matrix, bool transposed, int64_t first, int64_t width, int64_t depth,
                      int pieces) {
  const int64_t in_step = transposed ? matrix.row_step : matrix.column_step;
  float block[tile_depth][panel<float>];
  const float* step[tile_depth];
  for (int d = 0; d < tile_depth; ++d) step[d] = block[d];
  int all = 0;
  for (int64_t k = 0; k < depth; k += tile_depth, to += 2 * pieces * tile_numbers) {
    const int64_t deep = depth - k < tile_depth ? depth - k : tile_depth;
    memset(block + deep, 0, size_t(tile_depth - deep) * sizeof block[0]);
    pack_panel(block[0], {matrix.data + k * in_step, matrix.row_step, matrix.column_step}, transposed, first, width, deep);
    Found found;
    split_panel(to, step, 0, pieces, found);
    all |= looked_at_again(found.all(), block[0], panel<float>, tile_depth, panel<float>);
  }
  return all;
}

struct alignas(64) TileShapes {
  uint8_t palette = 1, unused[15] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 and 1 are sums, 2 to 4 the pieces of the left rows, 5 to 7 those of a column.
inline void shape_tiles(int rows) {
  if (!rows) return _tile_release();
  TileShapes shapes;
  for (int k = 0; k < 8; ++k) shapes.row_bytes[k] = 64, shapes.rows[k] = uint8_t(k < 5 ? rows : tile_edge);
  asm volatile("" : : "r"(&shapes) : "memory");  // the compiler believes that eight bytes of it are read
  _tile_loadconfig(&shapes);
}

// A column's products: of pieces that are together no smaller than the last piece. As soon as a tile has been multiplied for
// the last time, the next one is loaded in its place. Numbers of tiles are part of an instruction, and so of the text.
#define TT_COLUMN(sum, first, then, is_last)                                     \
  if constexpr (Lefts > 1) {                                                     \
    _tile_dpbf16ps(sum, 4, first);                                               \
    if constexpr (is_last) _tile_loadd(4, next_left + 2 * call.left_piece, 64);  \
    _tile_dpbf16ps(sum, 3, first);                                               \
    if constexpr (Pieces > 1) _tile_dpbf16ps(sum, 3, 6);                         \
    if constexpr (is_last) _tile_loadd(3, next_left + call.left_piece, 64);      \
  }                                                                              \
  beside();                                                                      \
  _tile_dpbf16ps(sum, 2, first);                                                 \
  _tile_loadd(first, then, 64);                                                  \
  if constexpr (Pieces > 1) {                                                    \
    _tile_dpbf16ps(sum, 2, 6);                                                   \
    _tile_loadd(6, then + tile_numbers, 64);                                     \
    _tile_dpbf16ps(sum, 2, 7);                                                   \
    _tile_loadd(7, then + 2 * tile_numbers, 64);                                 \
  }                                                                              \
  if constexpr (is_last) _tile_loadd(2, next_left, 64);                          \
  beside();

// `beside` is called after every third product or so, `beside_tiles` times a block: what it does costs next to nothing,
// if it is about as much as the units take. The processor does not look further ahead than some eight of their products,
// so that nothing is done beside them that is not in between.
inline constexpr int beside_tiles = 4;

template <int Lefts, int Pieces, bool Narrow, class Beside>
TT_INLINE void tiles_of(const TilesCall<float>& call, Beside&& beside) {
  constexpr int64_t block = 2 * Pieces * tile_numbers, column = Pieces * tile_numbers;
  const int64_t step = call.out_step * int64_t(sizeof(float));
  const float *left = call.left, *packed = call.packed;
  asm volatile("" ::: "memory");  // the compiler does not know that loads of tiles read memory
  _tile_zero(0);
  _tile_zero(1);
  _tile_loadd(5, packed, 64);
  if constexpr (Lefts > 1) {
    _tile_loadd(4, left + 2 * call.left_piece, 64);
    _tile_loadd(3, left + call.left_piece, 64);
  }
  if constexpr (Pieces > 1) _tile_loadd(6, packed + tile_numbers, 64);
  _tile_loadd(2, left, 64);
  if constexpr (Pieces > 1) _tile_loadd(7, packed + 2 * tile_numbers, 64);
  if constexpr (Pieces == 1 && !Narrow) _tile_loadd(6, packed + column, 64);
  for (int64_t k = 1; k <= call.blocks; ++k) {
    const float* const next_left = k < call.blocks ? left + call.left_block : left;
    const float* const next = k < call.blocks ? packed + block : packed;
    if constexpr (Narrow) {
      TT_COLUMN(0, 5, next, true)
    } else if constexpr (Pieces > 1) {
      TT_COLUMN(0, 5, packed + column, false)
      TT_COLUMN(1, 5, next, true)
    } else {
      TT_COLUMN(0, 5, next, false)
      TT_COLUMN(1, 6, next + column, true)
    }
    left = next_left, packed = next;
  }
  _tile_stored(0, call.out, step);
  if constexpr (!Narrow) _tile_stored(1, call.out + lanes<float>, step);
  asm volatile("" ::: "memory");
}
#undef TT_COLUMN

template <int Lefts, int Pieces, class Beside>
__attribute__((noinline)) void tiles(const TilesCall<float>& call, bool narrow, Beside& beside) {
  narrow ? tiles_of<Lefts, Pieces, true>(call, beside) : tiles_of<Lefts, Pieces, false>(call, beside);
}

template <class Beside>
void multiply_tiles(const TilesCall<float>& call, bool narrow, Beside&& beside) {
  if (call.pieces == 1)
    call.left_pieces == 1 ? tiles<1, 1>(call, narrow, beside) : tiles<3, 1>(call, narrow, beside);
  else
    call.left_pieces == 1 ? tiles<1, 3>(call, narrow, beside) : tiles<3, 3>(call, narrow, beside);
}

// The system must allow a process to use them: its threads have more to keep from then on. Nobody uses them if
// THROUGHTIME_MATRIX_UNITS is 0.
inline bool has_matrix_units() {
  constexpr long request = 0x1023, tiles = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  const char* const wanted = getenv("THROUGHTIME_MATRIX_UNITS");
  return (!wanted || strcmp(wanted, "0") != 0) && syscall(SYS_arch_prctl, request, tiles) == 0;
}

inline constexpr MatrixUnits<float> matrix_units = {
    shape_tiles, pack_tiles, split_vector,
    [](const TilesCall<float>& call, bool narrow) { multiply_tiles(call, narrow, [] {}); }};

#endif

// Null where there are none.
template <class T>
const MatrixUnits<T>* matrix_units_here() {
#if defined(TT_MATRIX_UNITS)
  if constexpr (sizeof(T) == sizeof(float)) return has_matrix_units() ? &matrix_units : nullptr;
#endif
  return nullptr;
}

}  // namespace tt
