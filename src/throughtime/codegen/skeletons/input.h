// W x of the next few steps, made by the slice that needs it when it needs it: what is made so lies in the cache until it
// is read, and no array of all steps is ever there.
#pragma once

#include "pack.h"

namespace tt {

// Vectors that a matrix is multiplied with, copied to where a strip wants them.
template <class T>
struct Vectors {
  int64_t depth = 0, block_step = 0;
  T* data = nullptr;  // [block of the depth][vector][Beside::row]

  // Room for `most` of them. False if there is no memory.
  bool open(int64_t most, int64_t of_depth) {
    depth = of_depth, block_step = most * Beside<T>::row;
    data = allocate<T>((depth + block_depth<T> - 1) / block_depth<T> * block_step);
    return data;
  }

  void put(int64_t number, const T* from) {
    T* to = data + number * Beside<T>::row;
    for (int64_t d = 0; d < depth; d += block_depth<T>, to += block_step)
      memcpy(to, from + d, size_t(depth - d < block_depth<T> ? depth - d : block_depth<T>) * sizeof(T));
  }

  // The first `count` times a panel, or with few of them some panels; says how many. `columns`: how many are left. All
  // depth of a tile after the other, so that its sums stay in the first-level cache.
  int64_t times(const Routines<T>& routines, const T* packed, int64_t count, T* to, int64_t step, int64_t columns) const {
    int64_t made = 1;
    const int64_t tiles = (count + tile_rows - 1) / tile_rows;
    for (int64_t q = 0, v0 = 0; q < tiles; ++q) {
      const int tall = int((count - v0 + tiles - q - 1) / (tiles - q));
      T* out[tile_rows];
      for (int v = 0; v < tall; ++v) out[v] = to + (v0 + v) * step;
      const T* from = data + v0 * Beside<T>::row;
      for (int64_t d = 0; d == 0 || d < depth; d += block_depth<T>, from += block_step) {
        const int64_t deep = depth - d < block_depth<T> ? depth - d : block_depth<T>;
        made = routines.strip(tall, from, packed + d * panel<T>, depth * panel<T>, deep, out, columns,
                              d ? Start::add : Start::zero);
      }
      v0 += tall;
    }
    return made;
  }
};

template <class Cell, class T>
struct Input {
  static constexpr int64_t room = (256 << 10) / int64_t(sizeof(T)), fewest = 48, most = 256;  // numbers; vectors x
  static constexpr int64_t together = 4;  // panels that are packed for a single use

  T* net = nullptr;             // [vector x][net_columns]
  Vectors<T> vectors;           // x of every sequence and step
  const T* places[direct_rows];  // where the first of them lie
  T* unpacked = nullptr;        // where a few panels of W are packed if the call has none
  T* cut = nullptr;             // pieces of x, if matrix units multiply
  int pieces = 0;               // of each x; 0: these steps are made with whole numbers
  int64_t* begins = nullptr;    // of each step the number of its first vector
  int64_t first = 0, end = 0;   // steps of the call, in the order in which they are made
  int64_t steps = 0;            // that are made at once

  // How many steps are made at once. All, if there are few: W is then read once.
  static int64_t steps_of(const Call<Cell, T>& call, int64_t rows) {
    if (call.steps * rows <= (call.depth < most ? call.depth : most)) return call.steps;
    int64_t count = (call.far_in_pieces ? 4 : 1) * room / call.net_columns;
    count = count < fewest ? fewest : count > most ? most : count;
    const int64_t some = count / rows < 1 ? 1 : count / rows;
    // As many every time: W is read again each time, for a few steps left over as well.
    const int64_t times = call.steps / some < 1 ? 1 : call.steps / some;
    return (call.steps + times - 1) / times;
  }

  // False if there is no memory.
  bool open(const Call<Cell, T>& call, int64_t rows, bool is_packed) {
    if (!call.net_count) return true;
    steps = steps_of(call, rows);
    net = allocate<T>(steps * rows * call.net_columns);
    begins = (int64_t*)malloc(size_t(steps) * sizeof(int64_t));
    const bool whole = !is_packed || call.pieces;
    if (whole) unpacked = allocate<T>(together * call.depth * panel<T>);
    if (call.pieces) cut = allocate<T>(steps * rows * tile_blocks(call.depth) * most_pieces * lanes<T>);
    return vectors.open(steps * rows, call.depth) && net && begins && (!whole || unpacked) && (!call.pieces || cut);
  }

  void release() {
    free(net);
    free(vectors.data);
    free(begins);
    free(unpacked);
    free(cut);
  }

  // Makes steps from `k` on. `slice` says which panels of a read it needs, and which sequences a step has.
  template <class Slice>
  void make(Slice& slice, int64_t k) {
    const Call<Cell, T>& call = slice.call;
    int64_t count = 0;
    first = k, end = k + steps < call.steps ? k + steps : call.steps;
    for (int64_t step = first; step < end; ++step) {
      begins[step - first] = count;
      for (int64_t r = 0; r < slice.rows; ++r) count += slice.is_active(r, slice.time_of(step));
    }
    take(slice, count);
    const T* packed = call.pieces && !pieces ? nullptr : slice.packed_input;
    if (pieces) slice.shape_tiles(count);
    for (int64_t j = 0; j < call.net_count; ++j) {
      const int64_t read = call.net_reads[j];
      const Units<T> units = units_of_read(call, read);
      const bool single = units.parts < call.team;
      const int64_t last = single ? 1 : slice.end_part(units.parts);
      const int64_t size = units.panels() * panel_size<T>(call.depth, call.pieces);
      for (int64_t part = single ? 0 : slice.first_part(units.parts); part < last; ++part)
        make_part(slice, read, units.begin(part), units.end(part), count, packed ? packed + part * size : nullptr);
      if (packed) packed += units.parts * size;
    }
  }

  // Every x of these steps, as pieces if matrix units can multiply them.
  template <class Slice>
  void take(const Slice& slice, int64_t count) {
    const Call<Cell, T>& call = slice.call;
    int found = 0;
    if (cut) {
      each(slice, [&](int64_t number, const T* x) {
        found |= call.routines->units->split(cut, count, number, x, call.depth);
      });
      pieces = (found | call.found) & unfit ? 0 : found ? most_pieces : 1;
      if (pieces) return;
    }
    each(slice, [&](int64_t number, const T* x) {
      if (number < direct_rows) places[number] = x;
      vectors.put(number, x);
    });
  }

  template <class Slice, class F>
  void each(const Slice& slice, F f) const {
    int64_t number = 0;
    for (int64_t step = first; step < end; ++step) {
      const int64_t t = slice.time_of(step);
      for (int64_t r = 0; r < slice.rows; ++r)
        if (slice.is_active(r, t)) f(number++, slice.call.x.at(t, slice.sequence(r)));
    }
  }

  // Units [begin, end) of a read by matrix units.
  template <class Slice>
  void make_tiles(const Slice& slice, int64_t read, int64_t begin, int64_t end, int64_t count, const T* packed) const {
    const Call<Cell, T>& call = slice.call;
    for (int64_t unit = begin; unit < end; unit += panel<T>, packed += panel_size<T>(call.depth, call.pieces)) {
      T* const to = net + call.net_column[read] + unit;
      slice.times_panel({tile_blocks(call.depth), cut, 0, 0, pieces, call.pieces, packed, to, call.net_columns}, count,
                        end - unit <= lanes<T>);
    }
  }

  // Units [begin, end) of a read, for `count` vectors.
  template <class Slice>
  void make_part(const Slice& slice, int64_t read, int64_t begin, int64_t end, int64_t count, const T* packed) {
    const Call<Cell, T>& call = slice.call;
    if (pieces && begin < end) return make_tiles(slice, read, begin, end, count, packed);
    for (int64_t unit = begin; unit < end;) {
      T* const to = net + call.net_column[read] + unit;
      if (!packed && direct_now(slice, read, unit, end, count, to)) {
        unit += panel<T>;
        continue;
      }
      const int64_t left = (end - unit + panel<T> - 1) / panel<T>, fit = count < together ? together : 1;
      const int64_t some = packed || left < fit ? left : fit;
      const T* from = packed ? packed : pack_now(slice, read, unit, end, some);
      const int64_t columns = (end - unit + lanes<T> - 1) / lanes<T> * lanes<T>;
      const int64_t made = vectors.times(*call.routines, from, count, to, call.net_columns,
                                         columns < some * panel<T> ? columns : some * panel<T>);
      unit += made * panel<T>;
      if (packed) packed += made * call.depth * panel<T>;
    }
  }

  // One panel of the result without packing; false if that can't be.
  template <class Slice>
  bool direct_now(const Slice& slice, int64_t read, int64_t unit, int64_t end, int64_t count, T* to) const {
    const Call<Cell, T>& call = slice.call;
    const Matrix<T> w = input_matrix(slice.group.reads[read]);
    if (!is_direct(w, false, count, unit, end)) return false;
    T* out[direct_rows];
    for (int64_t v = 0; v < count; ++v) out[v] = to + v * call.net_columns;
    call.routines->direct(int(count), w.data + unit * w.row_step, w.row_step, call.depth, piece, places, out);
    return true;
  }

  // Panels of W, packed for these steps alone.
  template <class Slice>
  const T* pack_now(const Slice& slice, int64_t read, int64_t unit, int64_t end, int64_t panels) {
    const Matrix<T> w = input_matrix(slice.group.reads[read]);
    const int64_t depth = slice.call.depth;
    for (int64_t p = 0; p < panels; ++p)
      slice.call.routines->pack_panel(unpacked + p * depth * panel<T>, w, false, unit + p * panel<T>, end, depth);
    return unpacked;
  }

  // Read number `read` of step `k` for its active sequence number `i`.
  const T* of(const Call<Cell, T>& call, int64_t k, int64_t i, int read) const {
    return net + (begins[k - first] + i) * call.net_columns + call.net_column[read];
  }
};

}  // namespace tt
