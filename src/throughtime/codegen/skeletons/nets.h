// The products of a phase, for the sequences that a thread works for.
#pragma once

#include "pack.h"
#include "rows.h"

namespace tt {

template <class Cell, class T>
struct Nets : Rows<Cell, T> {
  using Base = Rows<Cell, T>;
  using Base::buffer, Base::call, Base::group, Base::nets, Base::per_row;

  // A part of a phase's units.
  struct Part {
    int64_t begin, end;   // its units
    int64_t number, all;  // the number of its first panel, and how many panels all parts have

    int64_t blocks() const { return (end - begin + panel<T> - 1) / panel<T>; }
    // Whether a panel has units in its first half only.
    bool is_narrow(int64_t block) const { return end - begin - block * panel<T> <= lanes<T>; }
  };

  const T* packed;
  const T* packed_here = nullptr;
  T* unpacked = nullptr;  // where the panels of a tile are packed if `packed` is null
  int64_t count = 0;      // sequences that this step belongs to
  int64_t* active = nullptr;
  bool back = false;  // from the last unit to the first
  T* cut = nullptr;   // pieces of the vectors that a phase multiplies with, if matrix units do
  bool in_pieces = false;  // this phase
  int64_t shaped = 0;      // rows of their tiles

  Nets(const Call<Cell, T>& c, const Group<Cell, T>& g, const T* p, int64_t f, int64_t r)
      : Base(c, g, f, r), packed(p) {}

  // What a thread's own caches hold; nn/teams.py says the same.
  static constexpr int64_t near_bytes = 2 << 20;

  // Panels [block0, block1) of a part x nets of one product, for every active sequence.
  template <class Product>
  void multiply(const Part& part, int phase_nets, int64_t block0, int64_t block1, const T* left) {
    if (is_of_zeros<Product>())
      make_zeros<Product>(part, phase_nets, block0, block1);
    else if (in_pieces)
      multiply_tiles<Product>(part, phase_nets, block0, block1, left);
    else
      multiply_whole<Product>(part, phase_nets, block0, block1);
  }

  // A call of one step without states is half as long without what is zero. Not the first of many: an infinite weight
  // shows there as it does in a session.
  template <class Product>
  bool is_of_zeros() const {
    bool zeros = call.is_one_step;
    for (int source : Product::source) zeros = zeros && source < Cell::carries && !group.start[source].data;
    return zeros;
  }

  template <class Product>
  void make_zeros(const Part& part, int phase_nets, int64_t block0, int64_t block1) {
    const int64_t blocks = block1 - block0;
    for (int64_t block = 0; block < count * blocks; ++block)
      memset(nets + (block * phase_nets + Product::first) * panel<T>, 0, Product::nets * panel<T> * sizeof(T));
    if (packed) packed_here += part.all * Product::nets * packed_depth<Product>();
  }

  // All tiles of a panel are equally tall; but of matrices that come from an outer cache the first tile, which waits for
  // them, does what it can meanwhile.
  template <class Product>
  void multiply_whole(const Part& part, int phase_nets, int64_t block0, int64_t block1) {
    const bool as_packed = packed && !call.pieces;
    if (!packed && Product::sources == 1 && count <= direct_rows)
      return multiply_now<Product>(part, phase_nets, block0, block1);
    int64_t depth[Product::sources], deep = 0;
    for (int s = 0; s < Product::sources; ++s) deep += depth[s] = call.width_of(Product::source_width[s]);
    const int64_t panels = (block1 - block0) * Product::nets;
    const int64_t row_step = (block1 - block0) * phase_nets * panel<T>;
    const int64_t tiles = (count + tile_rows - 1) / tile_rows;
    const bool far = (part.end - part.begin) * Product::nets * deep * int64_t(sizeof(T)) > near_bytes;
    const int64_t tallest = far && tiles > 1 ? tile_rows : (count + tiles - 1) / tiles;
    const int64_t wide = tile_width(int(far ? count - (tiles - 1) * tallest : tallest));
    const T* vectors[Product::sources * tile_rows];
    T* out[tile_accumulators];
    TileCall<T> call_of = {vectors, depth, Product::sources, nullptr, deep * panel<T>, out, row_step};
    const int64_t turns = (panels + wide - 1) / wide, here = block0 * Product::nets;
    const bool narrow = part.is_narrow(block0);
    for (int64_t turn = 0; turn < turns; ++turn) {
      const int64_t first = (back ? turns - 1 - turn : turn) * wide, last = first + wide < panels ? first + wide : panels;
      const T* from = as_packed ? packed_here + (part.number * Product::nets + here + first) * call_of.panel_step
                             : pack_now<Product>(part, here + first, here + last);
      for (int64_t q = 0, r0 = 0; q < tiles; ++q) {
        const int64_t left = count - r0, even = (left + tiles - q - 1) / (tiles - q);
        const int tall = int(!far ? even : left < tallest ? left : tallest);
        for (int s = 0; s < Product::sources; ++s)
          for (int r = 0; r < tall; ++r)
            vectors[s * tall + r] = buffer[active[r0 + r] * per_row + Product::source[s]];
        for (int64_t p = first; p < last;) {
          for (int64_t k = 0; k < wide && p + k < last; ++k) {
            const int64_t block = (p + k) / Product::nets, net = (p + k) % Product::nets;
            out[k] = nets + r0 * row_step + (block * phase_nets + Product::first + net) * panel<T>;
          }
          call_of.packed = from + (p - first) * call_of.panel_step;
          p += call.routines->tile(tall, call_of, last - p, narrow);
        }
        r0 += tall;
      }
    }
    if (packed) packed_here += part.all * Product::nets * packed_depth<Product>();
  }

  // Numbers of one packed net.
  template <class Product>
  int64_t packed_depth() const {
    int64_t size = 0;
    for (int s = 0; s < Product::sources; ++s) size += panel_size<T>(call.width_of(Product::source_width[s]), call.pieces);
    return size;
  }

  // ---- by matrix units ----

  // Numbers that the pieces of a product's vectors take, of every active sequence.
  template <class Product>
  int64_t pieces_of(int64_t vectors) const {
    int64_t blocks = 0;
    for (int s = 0; s < Product::sources; ++s) blocks += tile_blocks(call.width_of(Product::source_width[s]));
    return blocks * most_pieces * vectors * lanes<T>;
  }

  template <class... Products>
  int64_t pieces_of_phase([[maybe_unused]] int64_t vectors, Sequence<Products...>) const {
    return (pieces_of<Products>(vectors) + ... + 0);
  }

  template <class... Phases>
  int64_t most_pieces_of(int64_t vectors, Sequence<Phases...>) const {
    int64_t size, largest = 0;
    ((size = pieces_of_phase(vectors, typename Phases::Products{}), largest = size > largest ? size : largest), ...);
    return largest;
  }

  template <class Product>
  int split(T* to) const {
    int found = 0;
    for (int s = 0; s < Product::sources; ++s) {
      const int64_t depth = call.width_of(Product::source_width[s]);
      for (int64_t i = 0; i < count; ++i)
        found |= call.routines->units->split(to, count, i, buffer[active[i] * per_row + Product::source[s]], depth);
      to += tile_blocks(depth) * most_pieces * count * lanes<T>;
    }
    return found;
  }

  // Cuts the vectors that a phase multiplies with. If a number is infinite, this phase is made with whole ones, of matrices
  // that are packed for it alone.
  template <class... Products>
  void split_all(Sequence<Products...>) {
    in_pieces = false;
    if (!call.pieces || sizeof...(Products) == 0) return;
    [[maybe_unused]] T* to = cut;
    [[maybe_unused]] int found = 0;
    ((found |= split<Products>(to), to += pieces_of<Products>(count)), ...);
    in_pieces = !((found | call.found) & unfit);
    if (in_pieces) shape_tiles(count);
  }

  // All tiles of a product are equally tall; the last may repeat some rows of the one before.
  static int64_t height(int64_t rows) { return (rows + tiles_of(rows) - 1) / tiles_of(rows); }

  void shape_tiles(int64_t rows) {
    if (shaped != height(rows)) call.routines->units->shape(int(shaped = height(rows)));
  }

  // The pieces of `vectors` vectors times a panel, tile by tile.
  void times_panel(TilesCall<T> tiles, int64_t vectors, bool narrow) const {
    const int64_t tall = height(vectors);
    const T* const left = tiles.left;
    T* const to = tiles.out;
    tiles.left_block = most_pieces * vectors * lanes<T>, tiles.left_piece = vectors * lanes<T>;
    for (int64_t q = 0; q < tiles_of(vectors); ++q) {
      const int64_t first = q * tall + tall < vectors ? q * tall : vectors - tall;
      tiles.left = left + first * lanes<T>, tiles.out = to + first * tiles.out_step;
      call.routines->units->multiply(tiles, narrow);
    }
  }

  template <class Product>
  void multiply_tiles(const Part& part, int phase_nets, int64_t block0, int64_t block1, const T* left) {
    const int64_t panels = (block1 - block0) * Product::nets, row_step = (block1 - block0) * phase_nets * panel<T>;
    const int64_t size = packed_depth<Product>(), blocks = pieces_of<Product>(1) / (most_pieces * lanes<T>);
    const bool narrow = part.is_narrow(block0);
    for (int64_t turn = 0; turn < panels; ++turn) {
      const int64_t p = back ? panels - 1 - turn : turn, block = p / Product::nets, net = p % Product::nets;
      const T* from = packed_here + ((part.number + block0) * Product::nets + p) * size;
      T* const to = nets + (block * phase_nets + Product::first + net) * panel<T>;
      times_panel({blocks, left, 0, 0, most_pieces, call.pieces, from, to, row_step}, count, narrow);
    }
    packed_here += part.all * Product::nets * size;
  }

  // The same of a call with few steps and sequences.
  template <class Product>
  void multiply_now(const Part& part, int phase_nets, int64_t block0, int64_t block1) {
    const int64_t depth = call.width_of(Product::source_width[0]), row_step = (block1 - block0) * phase_nets * panel<T>;
    const T* vectors[direct_rows];
    T* out[direct_rows];
    for (int64_t r = 0; r < count; ++r) vectors[r] = buffer[active[r] * per_row + Product::source[0]];
    for (int64_t p = block0 * Product::nets; p < block1 * Product::nets; ++p) {
      const int64_t block = p / Product::nets, net = p % Product::nets, unit = part.begin + block * panel<T>;
      const Factor factor = Product::factor[net];
      const Matrix<T>& matrix = group.matrices[factor.matrix];
      for (int64_t r = 0; r < count; ++r)
        out[r] = nets + r * row_step + ((block - block0) * phase_nets + Product::first + net) * panel<T>;
      if (is_direct(matrix, factor.transposed, count, unit, part.end)) {
        const T* from = matrix.data + unit * matrix.row_step;
        call.routines->direct(int(count), from, matrix.row_step, depth, depth + lanes<T>, vectors, out);
        continue;
      }
      const T* from = pack_now<Product>(part, p, p + 1);
      const TileCall<T> tile = {vectors, &depth, 1, from, 0, out, row_step};
      call.routines->tile(int(count), tile, 1, part.is_narrow(block));
    }
  }

  // Panels [first, last) of a product, packed for this step alone: a call of one step would read them no second time.
  template <class Product>
  const T* pack_now(const Part& part, int64_t first, int64_t last) {
    T* to = unpacked;
    for (int64_t p = first; p < last; ++p) {
      const int64_t unit = part.begin + p / Product::nets * panel<T>;
      to += pack_net<Cell, T, Product>(call, group, part.end, unit, p % Product::nets, to, 0);
    }
    return unpacked;
  }

  template <class... Products>
  void multiply_all(Sequence<Products...>, [[maybe_unused]] const Part& part, [[maybe_unused]] int phase_nets,
                    [[maybe_unused]] int64_t block0, [[maybe_unused]] int64_t block1) {
    [[maybe_unused]] const T* left = cut;
    ((multiply<Products>(part, phase_nets, block0, block1, left), left += pieces_of<Products>(count)), ...);
  }

  template <class... Products>
  int64_t packed_of_phase([[maybe_unused]] int64_t width, Sequence<Products...>) {
    return (pack_product<Cell, T, Products>(call, group, width, nullptr) + ... + 0);
  }
};

}  // namespace tt
