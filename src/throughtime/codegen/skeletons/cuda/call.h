// What a launch is told: a flat list of numbers, and one block's view of it. nn/cuda_layout.py writes the list.
#pragma once

#include "functions.h"

namespace tt {

template <class... Items>
struct Sequence {};

// Which matrix a net multiplies a vector with, and whether its transpose.
struct Factor {
  int matrix;
  bool transposed;
};

// A matrix of the call: element (i, j) at data[i * row_step + j * column_step].
template <class T>
struct Matrix {
  const T* data;
  Int row_step, column_step;
};

// An array of the call; element (t, b, unit) at data[t * step + b * row + unit].
template <class T>
struct Array {
  T* data;
  Int step, row;
};

template <int Count>
struct Words {
  Int word[Count];
};

// A vector that all blocks of a team need: each has all of it in its own memory, and makes `count` numbers of every row,
// from `begin` on.
template <class T>
struct Shared {
  T* data;
  int stride, begin, count, width;
  Int mail;  // where its numbers lie in the team's mailbox
};

// Where a product's weights are kept in the block's memory; on tensor cores, into how many pieces the depth of its vectors
// is cut, and how many tiles deep they are.
struct Weights {
  Int place;
  int pieces, deep;
};

enum Front { steps, rows, groups, origin, members, tile, teams, mail, mail_step, stage, step, nets, scratch, parts, ranges, held, front };

// A direction, or a head of one.
template <class Cell, class T>
struct Group {
  const Int* word;

  static constexpr int first_start = 3, first_read = first_start + 4 * Cell::carries,
                       first_write = first_read + 3 * Cell::reads, first_sum = first_write + 3 * Cell::writes,
                       first_matrix = first_sum + 2 * Cell::sums, words = first_matrix + 3 * Cell::matrices;

  bool reverse() const { return word[0] != 0; }
  uint64_t seed() const { return uint64_t(word[1]); }
  const Int* lengths() const { return (const Int*)word[2]; }  // null: every sequence is as long as the call
  Array<const T> start(int k) const { return {(const T*)word[first_start + 4 * k], 0, word[first_start + 4 * k + 1]}; }
  Array<T> end(int k) const { return {(T*)word[first_start + 4 * k + 2], 0, word[first_start + 4 * k + 3]}; }
  Array<const T> read(int k) const {
    const Int* w = word + first_read + 3 * k;
    return {(const T*)w[0], w[1], w[2]};
  }
  Array<T> write(int k) const {
    const Int* w = word + first_write + 3 * k;
    return {(T*)w[0], w[1], w[2]};
  }
  Array<T> sum(int k) const { return {(T*)word[first_sum + 2 * k], 0, word[first_sum + 2 * k + 1]}; }
  Matrix<T> matrix(int k) const {
    const Int* w = word + first_matrix + 3 * k;
    return {(const T*)w[0], w[1], w[2]};
  }
};

// One block: a member of a team that makes all steps of some sequences, and the units that are its own. Its memory holds
// every vector that a product reads whole, and of the others its own units.
template <class Cell, class T>
struct Block {
  const Int* word;
  char* memory;
  int team, member, first_row = 0, rows = 0;
  Group<Cell, T> group = {};
  Int k = 0;     // the step of the call that is being made
  Int made = 0;  // steps made since the launch, less k

  static constexpr int width_words = front, share_words = width_words + Cell::widths,
                       carry_words = share_words + Cell::widths, buffer_words = carry_words + 3 * Cell::carries,
                       total_words = buffer_words + 3 * Cell::buffers, sum_words = total_words + 3 * Cell::all_totals,
                       weight_words = sum_words + 2 * Cell::sums, all_words = weight_words + 3 * Cell::all_products;

  explicit Block(const Int* words)
      : word(words), memory(shared_memory()), team(block_number() / int(words[members])),
        member(block_number() % int(words[members])) {}

  int of(Front what) const { return int(word[what]); }
  int width(int index) const { return int(word[width_words + index]); }
  int share(int index) const { return int(word[share_words + index]); }

  // The own units of a width; a single number (width 0) is made by every member.
  int begin(int index) const { return index == 0 ? 0 : int(word[width_words + index] * member / word[members]); }
  int count(int index) const {
    return index == 0 ? 1 : int(word[width_words + index] * (member + 1) / word[members]) - begin(index);
  }
  // Whether what this member makes of that width is its own alone to store.
  bool owns(int index) const { return index != 0 || member == 0; }

  T* at(Int offset) const { return (T*)(memory + offset); }
  T* numbers(Front what) const { return at(word[what]); }

  // Which of the two places of a vector, of so many numbers a row, is a step's.
  Int side(Int step, Int stride) const { return ((made + step) & 1) * stride * word[tile]; }

  // A vector's numbers in row 0, to be indexed by unit. A carry has two places, for what is seen and what is made.
  T* carry(int k_, Int step) const {
    const Int* w = word + carry_words + 3 * k_;
    return at(w[0]) + side(step, w[1]) - (Cell::carry_shared[k_] ? 0 : begin(Cell::carry_width[k_]));
  }
  int carry_stride(int k_) const { return int(word[carry_words + 3 * k_ + 1]); }
  T* buffer(int k_) const {
    const Int* w = word + buffer_words + 3 * k_;
    return Cell::buffer_shared[k_] ? at(w[0]) + side(k, w[1]) : at(w[0]) - begin(Cell::buffer_width[k_]);
  }
  int buffer_stride(int k_) const { return int(word[buffer_words + 3 * k_ + 1]); }
  T* sum(int k_) const { return at(word[sum_words + 2 * k_]) - begin(Cell::sum_width[k_]); }
  int sum_stride(int k_) const { return int(word[sum_words + 2 * k_ + 1]); }

  Shared<T> shared_carry(int k_, Int step) const {
    const int w = Cell::carry_width[k_];
    return {carry(k_, step), carry_stride(k_), begin(w), count(w), width(w), word[carry_words + 3 * k_ + 2]};
  }
  Shared<T> shared_buffer(int k_) const {
    const int w = Cell::buffer_width[k_];
    return {buffer(k_), buffer_stride(k_), begin(w), count(w), width(w), word[buffer_words + 3 * k_ + 2]};
  }
  // Each member's part of a sum over units.
  Shared<T> shared_total(int k_) const {
    const Int* w = word + total_words + 3 * k_;
    return {at(w[0]) + side(k, w[1]), int(w[1]), member, 1, of(members), w[2]};
  }

  Weights weights(int product) const {
    const Int* w = word + weight_words + 3 * product;
    return {w[0], int(w[1]), int(w[2])};
  }

  // The steps [first, last) that sequence r of the tile belongs to.
  Int first(int r) const { return ((const Int*)(memory + word[ranges]))[2 * r]; }
  Int last(int r) const { return ((const Int*)(memory + word[ranges]))[2 * r + 1]; }
  bool active(int r) const { return first(r) <= k && k < last(r); }
  Int time() const { return group.reverse() ? word[steps] - 1 - k : k; }

  void set_range(int r) const {
    const Int all = word[steps];
    Int length = group.lengths() ? group.lengths()[first_row + r] - word[origin] : all;
    length = length < 0 ? 0 : length < all ? length : all;
    Int* range = (Int*)(memory + word[ranges]) + 2 * r;
    range[0] = group.reverse() ? all - length : 0;
    range[1] = range[0] + length;
  }
};

}  // namespace tt
