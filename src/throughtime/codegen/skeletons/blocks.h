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
  return rows >= 128 && columns >= 48 && depth >= tile_depth;
}

#if defined(TT_MATRIX_UNITS)

template <class Of>
struct InPieces {
  static constexpr int64_t deep = block_depth<float>, tall = 6 * tile_edge;  // of a block
  static constexpr int64_t together = 32;  // blocks of the right matrix, a panel wide, that are cut at once: 768 KiB
  static constexpr int64_t panel_room = panel_size<float>(deep, most_pieces), left_room = tall / tile_edge * panel_room / 2;
  static constexpr int64_t room = together * panel_room + 2 * left_room;

  const Of& of;
  int64_t c, c_end;  // columns
  float *right, *left = right + together * panel_room;  // [block of the depth][panel], [2][tile]
  int64_t k0 = 0, k1 = 0;     // the depth that is cut at once
  int pieces[together] = {};  // of each of its blocks; 0: some numbers are unfit

  int64_t panels() const { return (c_end - c + panel<float> - 1) / panel<float>; }
  int64_t depth_at(int64_t k) const { return k + deep < k1 ? deep : k1 - k; }
  int64_t rows_at(int64_t r) const { return r + tall < of.row1 ? tall : of.row1 - r; }
  static int64_t tiles_of(int64_t rows) { return (rows + tile_edge - 1) / tile_edge; }
  float* right_at(int64_t k) const { return right + (k - k0) / deep * panels() * panel_room; }

  void run() {
    const int64_t depth = of.product.depth, some = together / panels() * deep;
    shape_tiles(tile_edge);
    for (; k0 < depth; k0 = k1) {
      k1 = k0 + some < depth ? k0 + some : depth;
      for (int64_t k = k0; k < k1; k += deep) pieces[(k - k0) / deep] = cut_right(k);
      pass();
    }
    shape_tiles(0);
  }

  // Into how many pieces.
  int cut_right(int64_t k) {
    const Matrix<float>& m = of.product.right;
    const float* step[deep];
    const bool lies_well = m.column_step == 1;
    if (!lies_well) of.pack_right(c, c_end, k, depth_at(k));
    for (int64_t d = 0; d < depth_at(k) && lies_well; ++d) step[d] = m.data + of.product.step(k + d) * m.row_step + c;
    // Most blocks that need more than one piece need them for their first numbers.
    Found first;
    float unused[tile_edge];
    const int some = c_end - c < lanes<float> ? int(c_end - c) : lanes<float>;
    store_pieces(unused, 0, 1, load(lies_well ? step[0] : of.right, some), Vec<float>{}, first);
    if (!first.all() && !cut_panels(k, step, 1)) return 1;
    return cut_panels(k, step, most_pieces) & unfit ? 0 : most_pieces;
  }

  int cut_panels(int64_t k, const float** step, int some) {
    static constexpr float nothing[panel<float>] = {};
    const int64_t depth = depth_at(k), columns = c_end - c;
    const bool lies_well = of.product.right.column_step == 1;
    float last[deep][panel<float>];
    Found found;
    for (int64_t j = 0; j < columns; j += panel<float>) {
      const bool is_whole = lies_well && columns - j >= panel<float>;
      const float* here[deep + tile_depth];
      for (int64_t d = 0; d < depth; ++d) {
        here[d] = is_whole ? step[d] + j : lies_well ? last[d] : of.right + j * depth + d * panel<float>;
        if (is_whole || !lies_well) continue;
        const int low = columns - j < lanes<float> ? int(columns - j) : lanes<float>;
        store(last[d], load(step[d] + j, low));
        store(last[d] + lanes<float>, load(step[d] + j + low, int(columns - j) - low));
      }
      for (int64_t d = depth; d % tile_depth; ++d) here[d] = nothing;
      float* to = right_at(k) + j / panel<float> * panel_room;
      for (int64_t d = 0; d < depth; d += tile_depth, to += 2 * some * tile_numbers) split_panel(to, here + d, 0, some, found);
      if (some == 1 && found.all()) break;
    }
    return found.all();
  }

  struct Place {
    int64_t r, k;
  };

  Place after(Place at) const { return at.k + deep < k1 ? Place{at.r, at.k + deep} : Place{at.r + tall, k0}; }

  // A block of the left matrix, on its way into pieces.
  struct Left {
    const InPieces& in;
    const Place at;
    float* const pieces;
    int64_t rows = 0, depth = 0;
    const float* line[deep];  // where each row begins, or, if these do not lie so, each step

    Left(const InPieces& of_this, Place place, float* room) : in(of_this), at(place), pieces(room) {
      static_assert(deep >= tall);
      if (at.r >= in.of.row1) return;
      rows = in.rows_at(at.r), depth = in.depth_at(at.k);
      if (in.of.beside())
        for (int64_t i = 0; i < rows; ++i) line[i] = in.of.left_row(at.r + i) + at.k;
      else
        for (int64_t d = 0; d < depth; ++d) line[d] = in.of.left_step(at.k + d) + at.r;
    }

    // Whether a cutter can do it.
    bool lies_well() const { return in.of.beside() || (in.of.product.left.row_step == 1 && !in.of.product.row_list); }

    template <bool Across>
    Cutter<Across> cutter() const {
      return lies_well() ? Cutter<Across>(line, pieces, rows, depth) : Cutter<Across>(line, pieces, 0, 0);
    }

    // What cutters leave; says what was found.
    int finish() const {
      const int64_t tiles = lies_well() ? rows / tile_edge : 0, blocks = lies_well() ? depth / tile_depth : 0;
      int found = 0;
      for (int64_t tile = 0; tile < tiles_of(rows); ++tile)
        for (int64_t block = tile < tiles ? blocks : 0; block < tile_blocks(depth); ++block) found |= cut(tile, block);
      return found;
    }

    int cut(int64_t tile, int64_t block) const {
      const int64_t r = tile * tile_edge, k = block * tile_depth;
      const int high = int(rows - r < tile_edge ? rows - r : tile_edge);
      const int deep_here = int(depth - k < tile_depth ? depth - k : tile_depth);
      float* const to = pieces + tile * tile_size(depth) + block * most_pieces * tile_numbers;
      Found found;
      if (in.of.beside()) {
        const int low = deep_here < lanes<float> ? deep_here : lanes<float>;
        for (int i = 0; i < tile_edge; ++i)
          store_pieces(to + i * lanes<float>, tile_numbers, most_pieces, i < high ? load(line[r + i] + k, low) : Vec<float>{},
                       i < high ? load(line[r + i] + k + low, deep_here - low) : Vec<float>{}, found);
        return found.all();
      }
      float steps[tile_depth][tile_edge] = {};
      const float* step[tile_depth];
      for (int s = 0; s < tile_depth; ++s) step[s] = steps[s];
      const auto& product = in.of.product;
      for (int s = 0; s < deep_here; ++s)
        for (int i = 0; i < high && !lies_well(); ++i)
          steps[s][i] = in.of.left_step(at.k + k + s)[product.row(at.r + r + i) * product.left.row_step];
      for (int s = 0; s < deep_here && lies_well(); ++s) store(steps[s], load(line[k + s] + r, high));
      for (int q = 0; q < 4; ++q) split_quarter(to, step, 0, q, found);
      return found.all();
    }
  };

  void pass() { of.beside() ? pass_by<false>() : pass_by<true>(); }

  template <bool Across>
  void pass_by() {
    float *made = left, *other = left + left_room;
    int found = 0;
    for (Place at = {of.row0 - tall, k1}; at.r < of.row1; at = after(at)) {
      const Left next(*this, after(at), other);
      Meanwhile<Across> meanwhile(next.template cutter<Across>());
      if (at.r < of.row0)
        ;  // the first block is cut before anything is multiplied
      else if (found & unfit || !pieces[(at.k - k0) / deep])
        of.rows_as_ever(at.r, at.r + rows_at(at.r), c, c_end, at.k, depth_at(at.k));
      else
        multiply(at, made, found, meanwhile);
      meanwhile.cut_all();
      found = meanwhile.cutter.found.all() | next.finish();
      float* const free = made;
      made = other, other = free;
    }
  }

  template <bool Across>
  void multiply(Place at, const float* made, int left_found, Meanwhile<Across>& meanwhile) const {
    const int64_t depth = depth_at(at.k), end = rows_at(at.r), size = tile_size(depth);
    TilesCall<float> call = {};
    call.left_block = most_pieces * tile_numbers, call.left_piece = tile_numbers;
    call.left_pieces = left_found ? most_pieces : 1, call.pieces = pieces[(at.k - k0) / deep];
    call.out_step = panel<float>, call.blocks = tile_blocks(depth);
    alignas(64) float sums[2][tile_edge * panel<float>];
    float* out[tall];
    for (int64_t i = 0; i < end; ++i) out[i] = of.product.out + of.product.row(at.r + i) * of.product.out_step;
    meanwhile.adds = at.k > 0 || of.product.add;
    meanwhile.share(panels() * tiles_of(end) * call.blocks * beside_tiles);
    int turn = 0;
    call.packed = right_at(at.k);
    for (int64_t j = c; j < c_end; j += panel<float>, call.packed += panel_room) {
      call.left = made;
      for (int64_t i = 0; i < end; i += tile_edge, call.left += size) {
        call.out = sums[turn ^= 1];
        multiply_tiles(call, c_end - j <= lanes<float>, meanwhile);
        meanwhile.put_all();
        meanwhile.begin(call.out, out + i, end - i < tile_edge ? end - i : tile_edge, j, c_end - j);
      }
    }
    meanwhile.put_all();
  }
};

#endif

}  // namespace tt
