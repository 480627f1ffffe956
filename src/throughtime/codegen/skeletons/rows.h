// What a thread keeps of the sequences that it works for.
#pragma once

#include "call.h"

namespace tt {

template <class Cell, class T>
struct Rows {
  static constexpr int per_row = Cell::carries + Cell::buffers;

  const Call<Cell, T>& call;
  const Group<Cell, T>& group;
  int64_t first, rows;
  T* memory = nullptr;
  T** buffer = nullptr;   // [row][carries + buffers]
  T** next = nullptr;     // [row][carries]
  T** partial = nullptr;  // [row][sums], what was added up since the last flush
  T* nets = nullptr;

  Rows(const Call<Cell, T>& c, const Group<Cell, T>& g, int64_t f, int64_t r) : call(c), group(g), first(f), rows(r) {}

  // The number of its sequence in the batch.
  int64_t sequence(int64_t r) const { return group.order ? group.order[first + r] : first + r; }

  // With room for `net_count` net results. False if there is no memory.
  bool open(int64_t net_count) {
    int64_t row_size = 0;
    for (int k = 0; k < Cell::carries; ++k) row_size += 2 * call.padded(Cell::carry_width[k]);
    for (int k = 0; k < Cell::buffers; ++k) row_size += call.padded(Cell::buffer_width[k]);
    for (int k = 0; k < Cell::sums; ++k) row_size += call.padded(Cell::sum_width[k]);
    row_size = spread<T>(row_size);
    memory = allocate<T>(rows * row_size + net_count);
    buffer = (T**)malloc(size_t(rows) * (per_row + Cell::carries + Cell::sums) * sizeof(T*));
    if (!memory || !buffer) return false;
    next = buffer + rows * per_row;
    partial = next + rows * Cell::carries;
    for (int64_t r = 0; r < rows; ++r) {
      T* at = memory + r * row_size;
      for (int k = 0; k < Cell::carries; ++k) {
        const int64_t size = call.padded(Cell::carry_width[k]);
        memset(at, 0, size_t(2 * size) * sizeof(T));
        buffer[r * per_row + k] = at;
        next[r * Cell::carries + k] = at + size;
        at += 2 * size;
      }
      for (int k = 0; k < Cell::buffers; ++k) {
        buffer[r * per_row + Cell::carries + k] = at;
        at += call.padded(Cell::buffer_width[k]);
      }
      for (int k = 0; k < Cell::sums; ++k) {
        const int64_t size = call.padded(Cell::sum_width[k]), width = call.width_of(Cell::sum_width[k]);
        memset(group.sums[k].data + sequence(r) * group.sums[k].row, 0, size_t(width) * sizeof(T));
        memset(at, 0, size_t(size) * sizeof(T));
        partial[r * Cell::sums + k] = at;
        at += size;
      }
    }
    nets = memory + rows * row_size;
    load_states();
    return true;
  }

  // A member of a team: its own net results and addresses, the states of its leader.
  bool borrow(const Rows& leader, int64_t net_count) {
    const size_t addresses = size_t(rows) * (per_row + Cell::carries + Cell::sums);
    nets = memory = allocate<T>(net_count);
    buffer = (T**)malloc(addresses * sizeof(T*));
    if (!memory || !buffer) return false;
    memcpy((void*)buffer, (const void*)leader.buffer, addresses * sizeof(T*));
    next = buffer + rows * per_row;
    partial = next + rows * Cell::carries;
    return true;
  }

  void load_states() {
    for (int64_t r = 0; r < rows; ++r)
      for (int k = 0; k < Cell::carries; ++k) {
        const size_t bytes = size_t(call.width_of(Cell::carry_width[k])) * sizeof(T);
        const Array<const T>& start = group.start[k];
        if (start.data)
          memcpy(buffer[r * per_row + k], start.data + sequence(r) * start.row, bytes);
        else
          memset(buffer[r * per_row + k], 0, bytes);
      }
  }

  void store_states() {
    for (int64_t r = 0; r < rows; ++r)
      for (int k = 0; k < Cell::carries; ++k)
        if (group.end[k].data)
          memcpy(group.end[k].data + sequence(r) * group.end[k].row, buffer[r * per_row + k],
                 size_t(call.width_of(Cell::carry_width[k])) * sizeof(T));
  }

  void release() {
    free(memory);
    free(buffer);
  }
};

}  // namespace tt
