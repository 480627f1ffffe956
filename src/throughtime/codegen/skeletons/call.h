// What crosses the C interface: a flat list of numbers that says sizes, addresses and strides.
#pragma once

#include <stdlib.h>

#include "lanes.h"
#include "product.h"

namespace tt {

template <class... Items>
struct Sequence {};

// An array of the call; element (t, b, unit) at data[t * step + b * row + unit].
template <class T>
struct Array {
  T* data;
  int64_t step, row;

  T* at(int64_t t, int64_t b) const { return data + t * step + b * row; }
};

// One group (a direction, or a head of one) of a call, read from the flat list of numbers that crosses the C interface.
template <class Cell, class T>
struct Group {
  bool reverse;
  int64_t seed;
  const int64_t* lengths;  // null: every sequence is as long as the call
  int64_t* order;          // which sequences the slices have, one after the other; null: as they are numbered
  Array<const T> start[Cell::carries];
  Array<T> end[Cell::carries];
  Array<const T> reads[Cell::reads + 1];
  Array<T> writes[Cell::writes + 1];
  Array<T> sums[Cell::sums + 1];
  Matrix<T> matrices[Cell::matrices + 1];

  const int64_t* parse(const int64_t* a) {
    reverse = *a++ != 0;
    seed = *a++;
    lengths = (const int64_t*)*a++;
    order = nullptr;
    for (int k = 0; k < Cell::carries; ++k, a += 4) {
      start[k] = {(const T*)a[0], 0, a[1]};
      end[k] = {(T*)a[2], 0, a[3]};
    }
    for (int k = 0; k < Cell::reads; ++k, a += 3) reads[k] = {(const T*)a[0], a[1], a[2]};
    for (int k = 0; k < Cell::writes; ++k, a += 3) writes[k] = {(T*)a[0], a[1], a[2]};
    for (int k = 0; k < Cell::sums; ++k, a += 2) sums[k] = {(T*)a[0], 0, a[1]};
    for (int k = 0; k < Cell::matrices; ++k, a += 3) matrices[k] = {(const T*)a[0], a[1], a[2]};
    return a;
  }
};

// The units of a vector, in parts: one for each thread of a team, that ends where a cache line does, so that no two of
// them write into the same line. Panels are counted from the beginning of each part.
template <class T>
struct Units {
  static constexpr int64_t grain = 64 / int64_t(sizeof(T));
  int64_t width, parts;

  int64_t grains() const { return (width + grain - 1) / grain; }
  int64_t begin(int64_t part) const { return grains() * part / parts * grain; }
  int64_t end(int64_t part) const {
    const int64_t next = begin(part + 1);
    return next < width ? next : width;
  }
  // Panels of a part, the last of which may be narrow or empty; of all parts; the first unit of one of those, and where its units end.
  int64_t panels() const { return ((grains() + parts - 1) / parts * grain + panel<T> - 1) / panel<T>; }
  int64_t all_panels() const { return parts * panels(); }
  int64_t first_of(int64_t number) const { return begin(number / panels()) + number % panels() * panel<T>; }
  int64_t last_of(int64_t number) const { return end(number / panels()); }
};

using Parallel = void (*)(int64_t tasks, int64_t threads, int64_t nanoseconds, void (*task)(void*, int64_t),
                          void* context);

struct Team;

// How far apart vectors of so many numbers lie: by a large power of two, all would fall into the same few lines of a cache.
template <class T>
int64_t spread(int64_t numbers) {
  return numbers * int64_t(sizeof(T)) % 1024 ? numbers : numbers + panel<T>;
}

template <class Cell, class T>
struct Call {
  int64_t steps, rows, groups, threads, origin;
  bool is_one_step;  // whose states are zero where none are given; a session's are not
  Parallel parallel;
  const Routines<T>* routines;
  int64_t smallest, most_members;  // sequences of a slice; threads of a team
  int64_t width[Cell::widths];
  Group<Cell, T>* group;
  // Reads that are W x: how many, which, and of every read the first column among these, or -1. W stands where such a
  // read's array would: data and step of its rows, `row` of its columns.
  int64_t net_count, net_reads[Cell::reads + 1], net_column[Cell::reads + 1], net_columns;
  Array<const T> x;
  int64_t depth;   // numbers in each x
  // Where x is word numbers, such a read's array has a row for every word instead, which is found by its number.
  Array<const int64_t> words;
  bool is_word[Cell::reads + 1];
  T** packed;            // of each group: the step's matrices, then W
  int64_t packed_input;  // where W begins; -1: it is not packed
  int64_t slices;  // of one group
  int64_t team;    // threads of one slice, and parts of its units
  int64_t work;    // multiply-adds of all steps
  int pieces;      // that matrix units take for a number of the packed matrices; 0: these are whole
  bool far_in_pieces;  // they outgrow a thread's own cache
  mutable int found;   // in the matrices, when they were cut
  Team* teams;
  int failed;

  // The first sequence of a slice; of the one after the last: their number.
  int64_t first_of(int64_t slice) const { return rows * slice / slices; }
  int64_t width_of(int index) const { return width[index]; }

  bool is_mapped(int read) const { return net_count && net_column[read] >= 0; }

  // What a step reads of an array that is not mapped.
  const T* read_of(const Group<Cell, T>& own, int read, int64_t t, int64_t b) const {
    return is_word[read] ? own.reads[read].at(0, *words.at(t, b)) : own.reads[read].at(t, b);
  }

  const int64_t* parse_input(const int64_t* a) {
    net_count = *a++;
    for (int k = 0; k < Cell::reads; ++k) net_column[k] = -1;
    if (net_count < 0) return parse_words(a);
    if (!net_count) return a;
    x = {(const T*)a[0], a[1], a[2]}, depth = a[3];
    a += 4;
    for (int64_t k = 0; k < net_count; ++k) net_reads[k] = *a++;
    place_nets();
    return a;
  }

  const int64_t* parse_words(const int64_t* a) {
    words = {(const int64_t*)a[0], a[1], a[2]};
    for (a += 3; net_count < 0; ++net_count) is_word[*a++] = true;
    return a;
  }

  void place_nets() {
    for (int64_t k = 0; k < net_count; ++k) {
      net_column[net_reads[k]] = net_columns;
      net_columns += padded(Cell::read_width[net_reads[k]]);
    }
    net_columns = spread<T>(net_columns);
  }

  // As whole numbers if `cut_into` is 0.
  void pack_panel(T* to, Matrix<T> matrix, bool transposed, int64_t first, int64_t end, int64_t depth, int cut_into) const {
    if (!cut_into) return routines->pack_panel(to, matrix, transposed, first, end, depth);
    if (is_refused()) return;
    const int what = routines->units->pack(to, matrix, transposed, first, end, depth, cut_into);
    if (what) __atomic_fetch_or(&found, what, __ATOMIC_RELAXED);
  }

  // Whether the matrices can't be packed in so many pieces.
  bool is_refused() const {
    const int what = __atomic_load_n(&found, __ATOMIC_RELAXED);
    return what & unfit || (pieces == 1 && what);
  }

  int64_t padded(int index) const { return (width[index] + panel<T> - 1) / panel<T> * panel<T>; }
};

template <class T>
T* allocate(int64_t count) {
  void* memory = nullptr;
  return posix_memalign(&memory, 64, size_t(count > 0 ? count : 1) * sizeof(T)) == 0 ? (T*)memory : nullptr;
}

// The packed weights of a call, in memory that the next one uses again: fresh pages can take longer than a short call.
// Calls side by side find nothing kept, and the last to end leaves its memory.
struct Packing {
  static constexpr size_t front = 64, most = size_t(128) << 20;  // bytes: before the numbers; that are kept
  static inline char* kept = nullptr;                            // its length stands at its beginning
  char* memory = nullptr;

  // Null if there is no memory.
  template <class T>
  T* open(int64_t count) {
    const size_t bytes = front + size_t(count) * sizeof(T);
    memory = __atomic_exchange_n(&kept, (char*)nullptr, __ATOMIC_ACQ_REL);
    if (memory && *(size_t*)memory < bytes) {
      free(memory);
      memory = nullptr;
    }
    if (!memory && (memory = allocate<char>(int64_t(bytes)))) *(size_t*)memory = bytes;
    return memory ? (T*)(memory + front) : nullptr;
  }

  void close() {
    if (memory && *(size_t*)memory <= most) memory = __atomic_exchange_n(&kept, memory, __ATOMIC_ACQ_REL);
    free(memory);
  }
};

}  // namespace tt
