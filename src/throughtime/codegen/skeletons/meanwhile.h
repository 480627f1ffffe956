// What a processor does while its matrix units multiply: it cuts the next numbers into pieces, and puts results where they
// belong. Two small machines that do so a step at a time.
#pragma once

#include "matrix_units.h"

namespace tt {

#if defined(TT_MATRIX_UNITS)

// The first `count` lanes; none or all if there are no so many.
inline __mmask16 lanes_up_to(int64_t count) {
  return count >= lanes<float> ? __mmask16(0xffff) : count > 0 ? __mmask16((1 << count) - 1) : __mmask16(0);
}

// Numbers that the pieces of a tile's rows take.
inline int64_t tile_size(int64_t depth) { return tile_blocks(depth) * most_pieces * tile_numbers; }

// What is cut a little at a time, tile by tile. Of rows whose numbers lie together, a block of the depth of one after the
// other; or else four rows' numbers of a whole block.
template <bool Across>
struct Cutter {
  const float* const* line;  // the next row, or the first of the next steps
  float* to;                 // its pieces
  int64_t at = 0, end;       // the next step of the rows, or the next row of the steps; how many there are
  int64_t size;              // numbers that a tile takes
  int64_t left;              // how much is left
  int turn = 0;              // row of a tile, or quarter
  __mmask16 low = 0xffff, high = 0xffff;  // which of the next steps there are
  Found found = {};

  // The lines of `rows` rows of `depth` steps: of rows as many as fill all tiles, of steps as many as fill all blocks.
  Cutter(const float* const* lines, float* pieces, int64_t rows, int64_t depth) : line(lines), to(pieces) {
    size = tile_size(depth), end = Across ? rows : depth;
    left = tiles_of(rows) * tile_blocks(depth) * (Across ? 4 : tile_edge);
    if (!Across) take_masks();
  }

  // A tile's first row. The last tile repeats some rows of the one before.
  static int64_t first_row(int64_t row, int64_t rows) {
    return row + tile_edge > rows && rows >= tile_edge ? rows - tile_edge : row;
  }

  void take_masks() { low = lanes_up_to(end - at), high = lanes_up_to(end - at - lanes<float>); }

  TT_INLINE void step() {
    --left;
    if constexpr (Across) {
      split_quarter(to, line, first_row(at, end), turn, found);
      if ((turn = (turn + 1) % 4)) return;
      to += size, at += tile_edge;
      if (at < end) return;
      to += most_pieces * tile_numbers - (at / tile_edge) * size, at = 0, line += tile_depth;
    } else {
      const float* const from = *line++ + at;
      const Vec<float> first = _mm512_maskz_loadu_ps(low, from), second = _mm512_maskz_loadu_ps(high, from + lanes<float>);
      store_pieces(to, tile_numbers, most_pieces, first, second, found);
      to += lanes<float>;
      if ((turn = (turn + 1) % tile_edge)) return;
      to += (most_pieces - 1) * tile_numbers, at += tile_depth, line -= tile_edge;
      if (at >= end) at = 0, line += tile_edge;
      take_masks();
    }
  }
};

// What is done beside the units: some of the next block is cut, and a row of the tile that they made before is put where
// it belongs.
template <bool Across>
struct Meanwhile {
  Cutter<Across> cutter;
  int64_t each = 0;               // steps of it at once
  const float* from = nullptr;    // a tile that has been made: [row][panel]
  float* const* place = nullptr;  // the rows that it belongs to
  int64_t rows = 0, j = 0;        // of them that are left; the first column
  __mmask16 low = 0, high = 0;
  bool adds = false;

  explicit Meanwhile(const Cutter<Across>& next) : cutter(next) {}

  void share(int64_t times) { each = (cutter.left + times - 1) / times; }

  void begin(const float* tile, float* const* out, int64_t count, int64_t column, int64_t columns) {
    from = tile, place = out, rows = count, j = column;
    low = lanes_up_to(columns), high = lanes_up_to(columns - lanes<float>);
  }

  TT_INLINE void operator()() {
    for (int64_t n = each < cutter.left ? each : cutter.left; n > 0; --n) cutter.step();
    if (rows > 0) put();
  }

  TT_INLINE void put() {
    float* const to = *place++ + j;
    Vec<float> left = load(from), right = load(from + lanes<float>);
    from += panel<float>, --rows;
    if (__builtin_expect(high == 0xffff, 1)) {
      if (adds) left += load(to), right += load(to + lanes<float>);
      store(to, left);
      store(to + lanes<float>, right);
      return;
    }
    if (adds) left += _mm512_maskz_loadu_ps(low, to), right += _mm512_maskz_loadu_ps(high, to + lanes<float>);
    _mm512_mask_storeu_ps(to, low, left);
    _mm512_mask_storeu_ps(to + lanes<float>, high, right);
  }

  void put_all() {
    while (rows > 0) put();
  }

  void cut_all() {
    while (cutter.left > 0) cutter.step();
  }
};

#endif

}  // namespace tt
