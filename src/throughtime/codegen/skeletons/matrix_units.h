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

// What was found in the numbers that were cut, so far.
struct Found {
  Bits rest = {};  // nothing but zeros and signs, if all need but one piece
  int is = 0;

  int all() const {
    const auto any = (rest << 1) != 0;
    return _mm512_movepi32_mask((__m512i)any) ? is | inexact : is;
  }
};

// Sixteen numbers as pieces, each in the upper half of 32 bits.
struct Split {
  Bits piece[most_pieces];

  TT_INLINE Split(Vec<float> value, Found& found) {
    const auto rounded = [](Bits bits) { return (bits + 0x8000) & 0xffff0000; };
    piece[0] = rounded((Bits)value);
    const Vec<float> second = value - (Vec<float>)piece[0];
    piece[1] = rounded((Bits)second);
    // Exact, but of a subnormal number, whose lower bits must not fall into the other half.
    piece[2] = (Bits)(second - (Vec<float>)piece[1]) & 0xffff0000;
    found.rest |= (Bits)second;
    const Bits size = (Bits)value & 0x7fffffff;
    const auto large = size >= 0x7f000000;  // 2^127 and above
    if (__builtin_expect(_mm512_movepi32_mask((__m512i)large) != 0, 0)) {
      const auto nan = size > 0x7f800000;
      piece[0] = nan ? Bits{} + 0x7fc00000 : piece[0];
      for (int k = 1; k < most_pieces; ++k) piece[k] = nan ? Bits{} : piece[k];
      if (_mm512_movepi32_mask((__m512i)(large & ~nan))) found.is |= unfit;
    }
  }
};

// Steps k and k + 16 of a block of the depth lie in one lane: both operands are cut so, and nothing has to be shuffled.
TT_INLINE void store_pieces(float* to, int64_t step, int pieces, Vec<float> first, Vec<float> second, Found& found) {
  const Split low(first, found), high(second, found);
  for (int k = 0; k < pieces; ++k) store(to + k * step, (Vec<float>)(low.piece[k] >> 16 | high.piece[k]));
}

inline int split_vector(float* to, int64_t rows, int64_t row, const float* from, int64_t depth) {
  Found found;
  for (int64_t k = 0; k < depth; k += tile_depth, to += most_pieces * rows * lanes<float>) {
    float* const at = to + row * lanes<float>;
    if (depth - k >= tile_depth) {
      store_pieces(at, rows * lanes<float>, most_pieces, load(from + k), load(from + k + lanes<float>), found);
      continue;
    }
    const int left = int(depth - k), low = left < lanes<float> ? left : lanes<float>;
    store_pieces(at, rows * lanes<float>, most_pieces, load(from + k, low), load(from + k + low, left - low), found);
  }
  return found.all();
}

inline int split_block(float* to, const float* from, int64_t step) {
  Vec<float> low[lanes<float>], high[lanes<float>];
  load_transposed(from, step, low);
  load_transposed(from + tile_depth / 2 * step, step, high);
  Found found;
  for (int r = 0; r < tile_edge; ++r)
    store_pieces(to + r * lanes<float>, tile_numbers, most_pieces, low[r], high[r], found);
  return found.all();
}

// A block of the depth of a panel, that lies as tile.h packs it.
inline int split_panel(float* to, const float* from, int pieces) {
  Found found;
  for (int half = 0; half < 2; ++half, to += pieces * tile_numbers)
    for (int d = 0; d < tile_depth / 2; ++d) {
      const float* const at = from + d * panel<float> + half * lanes<float>;
      store_pieces(to + d * lanes<float>, tile_numbers, pieces, load(at), load(at + tile_depth / 2 * panel<float>), found);
    }
  return found.all();
}

inline int pack_tiles(float* to, Matrix<float> matrix, bool transposed, int64_t first, int64_t width, int64_t depth,
                      int pieces) {
  const int64_t step = transposed ? matrix.row_step : matrix.column_step;
  int found = 0;
  for (int64_t k = 0; k < depth; k += tile_depth, to += 2 * pieces * tile_numbers) {
    float block[tile_depth * panel<float>];
    const int64_t deep = depth - k < tile_depth ? depth - k : tile_depth;
    memset(block + deep * panel<float>, 0, size_t(tile_depth - deep) * panel<float> * sizeof(float));
    pack_panel(block, {matrix.data + k * step, matrix.row_step, matrix.column_step}, transposed, first, width, deep);
    found |= split_panel(to, block, pieces);
  }
  return found;
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

// What multiplies a column: the products of pieces that are together no smaller than the last piece. Numbers of tiles are
// part of an instruction, and so of the text.
#define TT_FIRST(sum, piece)                       \
  _tile_dpbf16ps(sum, 2, piece);                   \
  if constexpr (Lefts > 1) {                       \
    _tile_dpbf16ps(sum, 3, piece);                 \
    _tile_dpbf16ps(sum, 4, piece);                 \
  }
#define TT_SECOND(sum, piece)    \
  _tile_dpbf16ps(sum, 2, piece); \
  if constexpr (Lefts > 1) _tile_dpbf16ps(sum, 3, piece);

template <int Lefts, int Pieces, bool Narrow>
__attribute__((noinline)) void tiles(const TilesCall<float>& call) {
  constexpr int64_t block = 2 * Pieces * tile_numbers;
  const int64_t step = call.out_step * int64_t(sizeof(float));
  const float *left = call.left, *packed = call.packed;
  asm volatile("" ::: "memory");  // the compiler does not know that loads of tiles read memory
  _tile_zero(0);
  _tile_zero(1);
  // A tile is loaded well before it is multiplied.
  for (int64_t k = 0; k < call.blocks; ++k, left += call.left_block, packed += block) {
    _tile_loadd(2, left, 64);
    _tile_loadd(5, packed, 64);
    if constexpr (Pieces > 1) {
      _tile_loadd(6, packed + tile_numbers, 64);
      _tile_loadd(7, packed + 2 * tile_numbers, 64);
    }
    if constexpr (Lefts > 1) {
      _tile_loadd(3, left + call.left_piece, 64);
      _tile_loadd(4, left + 2 * call.left_piece, 64);
    }
    if constexpr (Pieces == 1 && !Narrow) _tile_loadd(6, packed + tile_numbers, 64);
    TT_FIRST(0, 5)
    if constexpr (Pieces > 1) {
      if constexpr (!Narrow) _tile_loadd(5, packed + 3 * tile_numbers, 64);
      TT_SECOND(0, 6)
      if constexpr (!Narrow) _tile_loadd(6, packed + 4 * tile_numbers, 64);
      _tile_dpbf16ps(0, 2, 7);
      if constexpr (!Narrow) {
        _tile_loadd(7, packed + 5 * tile_numbers, 64);
        TT_FIRST(1, 5) TT_SECOND(1, 6)
        _tile_dpbf16ps(1, 2, 7);
      }
    } else if constexpr (!Narrow) {
      TT_FIRST(1, 6)
    }
  }
  _tile_stored(0, call.out, step);
  if constexpr (!Narrow) _tile_stored(1, call.out + lanes<float>, step);
  asm volatile("" ::: "memory");
}
#undef TT_FIRST
#undef TT_SECOND

template <int Lefts, int Pieces>
TT_INLINE void tiles(const TilesCall<float>& call, bool narrow) {
  narrow ? tiles<Lefts, Pieces, true>(call) : tiles<Lefts, Pieces, false>(call);
}

inline void multiply_tiles(const TilesCall<float>& call, bool narrow) {
  if (call.pieces == 1)
    call.left_pieces == 1 ? tiles<1, 1>(call, narrow) : tiles<3, 1>(call, narrow);
  else
    call.left_pieces == 1 ? tiles<1, 3>(call, narrow) : tiles<3, 3>(call, narrow);
}

// The system must allow a process to use them: its threads have more to keep from then on. Nobody uses them if
// THROUGHTIME_MATRIX_UNITS is 0.
inline bool has_matrix_units() {
  constexpr long request = 0x1023, tiles = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  const char* const wanted = getenv("THROUGHTIME_MATRIX_UNITS");
  return (!wanted || strcmp(wanted, "0") != 0) && syscall(SYS_arch_prctl, request, tiles) == 0;
}

inline constexpr MatrixUnits<float> matrix_units = {shape_tiles, pack_tiles, split_vector, split_block, multiply_tiles};

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
