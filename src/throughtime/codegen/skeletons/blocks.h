// A rectangle of a product of whole matrices by matrix units: see product.h. `Of` is the rectangle as multiply-adds make
// it.
//
// Of the right matrix as much is cut at once as the second-level cache holds; the left one passes by in blocks. While one
// block is multiplied the next is cut, and the results before are put where they belong: the units work beside the rest of
// the processor.
#pragma once

#include "meanwhile.h"
#include "matrix_product.h"

namespace tt {

// Whether a product is so large that cutting its matrices is little of the work.
inline bool is_worth_cutting(int64_t rows, int64_t columns, int64_t depth) {
  return rows >= 32 && columns >= 32 && depth >= tile_depth && rows * columns * depth >= 1 << 20;
}

#if defined(TT_MATRIX_UNITS)

template <class Of>
struct InPieces {
  // Of a block at most; all are about equally deep.
  static constexpr int64_t deepest = 5 * tile_depth, tall = 6 * tile_edge;
  static constexpr int64_t together = 26;  // blocks of the right matrix, a panel wide, that are cut at once: 780 KiB
  static constexpr int64_t panel_room = panel_size<float>(deepest, most_pieces), left_room = tall / tile_edge * panel_room / 2;
  static constexpr int64_t room = together * panel_room + 2 * left_room;

  const Of& of;
  int64_t c, c_end;  // columns
  float *right, *left = right + together * panel_room;  // [block of the depth][panel], [2][tile]
  int64_t b0 = 0, b1 = 0;     // blocks of the depth that are cut at once
  int pieces[together] = {};  // of each of them; 0: some numbers are unfit

  int64_t panels() const { return (c_end - c + panel<float> - 1) / panel<float>; }
  int64_t rows_at(int64_t r) const { return r + tall < of.row1 ? tall : of.row1 - r; }
  int64_t blocks() const { return (of.product.depth + deepest - 1) / deepest; }
  // Where a block begins.
  int64_t edge(int64_t b) const {
    const int64_t k = tile_blocks(of.product.depth) * b / blocks() * tile_depth;
    return k < of.product.depth ? k : of.product.depth;
  }
  int64_t depth_of(int64_t b) const { return edge(b + 1) - edge(b); }
  float* right_of(int64_t b) const { return right + (b - b0) * panels() * panel_room; }

  void run() {
    shape_tiles(tile_edge);
    for (; b0 < blocks(); b0 = b1) {
      b1 = b0 + together / panels() < blocks() ? b0 + together / panels() : blocks();
      for (int64_t b = b0; b < b1; ++b) pieces[b - b0] = cut_right(b);
      of.beside() ? pass_by<false>() : pass_by<true>();
    }
    shape_tiles(0);
  }

  // Into how many pieces. What does not lie row by row is packed first.
  int cut_right(int64_t b) {
    const Matrix<float>& m = of.product.right;
    const int64_t k = edge(b), depth = depth_of(b);
    const bool lies_well = m.column_step == 1;
    if (!lies_well) of.pack_right(c, c_end, k, depth);
    const float* step[deepest];
    for (int64_t d = 0; d < depth; ++d)
      step[d] = lies_well ? m.data + of.product.step(k + d) * m.row_step + c : of.right + d * panel<float>;
    const int64_t apart = lies_well ? panel<float> : depth * panel<float>;  // a panel's numbers of a step from the next one's
    // Most blocks that need more than one piece need them for their first numbers.
    Found first;
    float unused[tile_edge];
    const int some = c_end - c < lanes<float> ? int(c_end - c) : lanes<float>;
    store_pieces(unused, 0, 1, load(step[0], some), Vec<float>{}, first);
    if (!first.all() && !cut_panels(right_of(b), step, apart, depth, 1)) return 1;
    return cut_panels(right_of(b), step, apart, depth, most_pieces) & unfit ? 0 : most_pieces;
  }

  int cut_panels(float* room, const float* const* step, int64_t apart, int64_t depth, int some) const {
    static constexpr float nothing[panel<float>] = {};
    float last[deepest][panel<float>];  // the panel that is not whole
    Found found;
    int64_t columns = c_end - c;
    for (int64_t j = 0; j < panels() && !(some == 1 && found.all()); ++j, columns -= panel<float>, room += panel_room) {
      const float* here[deepest];
      for (int64_t d = 0; d < depth; ++d) {
        here[d] = step[d] + j * apart;
        if (columns >= panel<float>) continue;
        const int low = columns < lanes<float> ? int(columns) : lanes<float>;
        store(last[d], load(here[d], low));
        store(last[d] + lanes<float>, load(here[d] + low, int(columns) - low));
        here[d] = last[d];
      }
      for (int64_t d = depth; d % tile_depth; ++d) here[d] = nothing;
      float* to = room;
      for (int64_t d = 0; d < depth; d += tile_depth, to += 2 * some * tile_numbers) split_panel(to, here + d, 0, some, found);
    }
    return found.all();
  }

  // A block of rows and one of the depth.
  struct Place {
    int64_t r, b;
  };

  Place after(Place at) const { return at.b + 1 < b1 ? Place{at.r, at.b + 1} : Place{at.r + tall, b0}; }

  // A block of the left matrix, on its way into pieces.
  struct Left {
    const InPieces& in;
    const Place at;
    int64_t rows = 0, depth = 0;
    const float* line[deepest];  // the rows of all tiles, or, if numbers of these do not lie together, the steps
    float copy[deepest * tall];  // of steps of which not even those do

    Left(const InPieces& of_this, Place place) : in(of_this), at(place) {
      static constexpr float nothing[tall] = {};
      static_assert(deepest >= tall);
      if (at.r >= in.of.row1) return;
      rows = in.rows_at(at.r), depth = in.depth_of(at.b);
      const auto& product = in.of.product;
      const int64_t k = in.edge(at.b), tiles = tiles_of(rows) * tile_edge;
      if (in.of.beside()) {
        for (int64_t i = 0; i < tiles; ++i) {
          const int64_t row = Cutter<false>::first_row(i / tile_edge * tile_edge, rows) + i % tile_edge;
          line[i] = in.of.left_row(at.r + (row < rows ? row : rows - 1)) + k;
        }
        return;
      }
      const bool lies_well = product.left.row_step == 1 && !product.row_list && rows >= tile_edge;
      for (int64_t d = 0; d < depth; ++d) {
        const float* const step = in.of.left_step(k + d);
        line[d] = lies_well ? step + at.r : copy + d * tall;
        for (int64_t i = 0; i < tiles && !lies_well; ++i) {
          const int64_t row = i < rows ? i : rows - 1;
          copy[d * tall + i] = step[product.row(at.r + row) * product.left.row_step];
        }
      }
      for (int64_t d = depth; d % tile_depth; ++d) line[d] = nothing;
    }
  };

  template <bool Across>
  void pass_by() {
    float *made = left, *other = left + left_room;
    int found = 0;
    for (Place at = {of.row0 - tall, b1}; at.r < of.row1; at = after(at)) {
      const Left next(*this, after(at));
      Meanwhile<Across> meanwhile({next.line, other, next.rows, next.depth});
      if (at.r >= of.row0) {  // the first block is cut before anything is multiplied
        if (found & unfit || !pieces[at.b - b0])
          of.rows_as_ever(at.r, at.r + rows_at(at.r), c, c_end, edge(at.b), depth_of(at.b));
        else
          multiply(at, made, found, meanwhile);
      }
      meanwhile.cut_all();
      found = meanwhile.cutter.found.all();
      float* const free = made;
      made = other, other = free;
    }
  }

  template <bool Across>
  void multiply(Place at, const float* made, int left_found, Meanwhile<Across>& meanwhile) const {
    const int64_t depth = depth_of(at.b), end = rows_at(at.r), size = tile_size(depth);
    TilesCall<float> call = {};
    call.left_block = most_pieces * tile_numbers, call.left_piece = tile_numbers;
    call.left_pieces = left_found ? most_pieces : 1, call.pieces = pieces[at.b - b0];
    call.out_step = panel<float>, call.blocks = tile_blocks(depth);
    alignas(64) float sums[2][tile_edge * panel<float>];
    float* out[tall];
    for (int64_t i = 0; i < end; ++i) out[i] = of.product.out + of.product.row(at.r + i) * of.product.out_step;
    meanwhile.adds = at.b > 0 || of.product.add;
    meanwhile.share(panels() * tiles_of(end) * call.blocks * beside_tiles);
    int turn = 0;
    call.packed = right_of(at.b);
    for (int64_t j = c; j < c_end; j += panel<float>, call.packed += panel_room) {
      call.left = made;
      for (int64_t i = 0; i < end; i += tile_edge, call.left += size) {
        call.out = sums[turn ^= 1];
        multiply_tiles(call, c_end - j <= lanes<float>, meanwhile);
        meanwhile.put_all();
        const int64_t rows = end - i < tile_edge ? end - i : tile_edge;
        const int64_t skipped = i - Cutter<Across>::first_row(i, end);
        meanwhile.begin(call.out + skipped * panel<float>, out + i, rows, j, c_end - j);
      }
    }
    meanwhile.put_all();
  }
};

#endif

}  // namespace tt
