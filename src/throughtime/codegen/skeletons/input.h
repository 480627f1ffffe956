// W x of the next few steps, made by the slice that needs it when it needs it: what is made so lies in the cache until it
// is read, and no array of all steps is ever there.
#pragma once

#include "pack.h"
#include "strip.h"

namespace tt {

template <class Cell, class T>
struct Input {
  static constexpr int64_t room = (256 << 10) / int64_t(sizeof(T)), fewest = 48, most = 256;  // numbers; vectors x

  T* net = nullptr;             // [vector x][net_columns]
  const T** vectors = nullptr;  // x of every sequence and step
  int64_t* begins = nullptr;    // of each step the number of its first vector
  int64_t first = 0, end = 0;   // steps of the call, in the order in which they are made
  int64_t steps = 0;            // that are made at once

  // False if there is no memory.
  bool open(const Call<Cell, T>& call, int64_t rows) {
    if (!call.net_count) return true;
    int64_t count = room / call.net_columns;
    count = count < fewest ? fewest : count > most ? most : count;
    steps = count / rows < 1 ? 1 : count / rows;
    if (steps > call.steps) steps = call.steps;
    net = allocate<T>(steps * rows * call.net_columns);
    vectors = (const T**)malloc(size_t(steps * rows) * sizeof(T*));
    begins = (int64_t*)malloc(size_t(steps) * sizeof(int64_t));
    return net && vectors && begins;
  }

  void release() {
    free(net);
    free(vectors);
    free(begins);
  }

  // Makes steps from `k` on. `slice` says which panels of a read it needs, and which sequences a step has.
  template <class Slice>
  void make(const Slice& slice, int64_t k) {
    const Call<Cell, T>& call = slice.call;
    int64_t count = 0;
    first = k, end = k + steps < call.steps ? k + steps : call.steps;
    for (int64_t step = first; step < end; ++step) {
      const int64_t t = slice.time_of(step);
      begins[step - first] = count;
      for (int64_t r = 0; r < slice.rows; ++r) {
        if (!slice.is_active(r, t)) continue;
        const T* x = vectors[count++] = call.x.at(t, slice.sequence(r));
        for (int64_t d = 0; d < call.depth; d += 64 / int64_t(sizeof(T))) __builtin_prefetch(x + d, 0, 2);
      }
    }
    const T* packed = slice.packed_input;
    for (int64_t j = 0; j < call.net_count; ++j) {
      const int64_t width = call.width_of(Cell::read_width[call.net_reads[j]]), column = call.net_column[call.net_reads[j]];
      const int64_t blocks = (width + panel<T> - 1) / panel<T>;
      const bool shared = width > 1;  // every member of a team reads a single number
      for (int64_t p = shared ? slice.begin_of(blocks) : 0; p < (shared ? slice.end_of(blocks) : blocks); ++p)
        strips(packed + p * call.depth * panel<T>, call.depth, count, net + column + p * panel<T>, call.net_columns);
      packed += blocks * call.depth * panel<T>;
    }
  }

  // One panel of the result. All depth of a tile after the other, so that its sums stay in the first-level cache.
  void strips(const T* packed, int64_t depth, int64_t count, T* to, int64_t columns) const {
    for (int64_t q = 0; q < count; q += tile_rows) {
      const int tall = int(count - q < tile_rows ? count - q : tile_rows);
      for (int64_t d = 0; d == 0 || d < depth; d += piece) {
        const T* from[tile_rows];
        T* out[tile_rows];
        for (int v = 0; v < tall; ++v) from[v] = vectors[q + v] + d, out[v] = to + (q + v) * columns;
        strip_apart(tall, from, packed + d * panel<T>, depth - d < piece ? depth - d : piece, out,
                    d ? Start::add : Start::zero);
      }
    }
  }

  // Not inlined: inside that loop the compiler would keep the sums in memory.
  __attribute__((noinline)) static void strip_apart(int tall, const T* const* from, const T* packed, int64_t depth,
                                                    T* const* out, Start start) {
    strip_rows<T, tile_rows>(tall, from, 1, packed, depth, out, panel<T>, start);
  }

  // Read number `read` of step `k` for its active sequence number `i`.
  const T* of(const Call<Cell, T>& call, int64_t k, int64_t i, int read) const {
    return net + (begins[k - first] + i) * call.net_columns + call.net_column[read];
  }
};

}  // namespace tt
