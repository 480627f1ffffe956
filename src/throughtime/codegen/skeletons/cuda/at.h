// One unit of one sequence at one step, as the pointwise part of a cell sees it.
#pragma once

#include "call.h"

namespace tt {

template <class Cell, class T, class Phase>
struct At {
  const Block<Cell, T>& block;
  int r, unit;
  Int t, b;

  TT_INLINE T net(int k) const {
    const int share = block.share(Phase::width), pieces = block.weights(Phase::net_product[k]).pieces;
    const T* from = block.numbers(nets) + (r * Phase::nets + k) * share + unit - block.begin(Phase::width);
    T sum = *from;
    for (int s = 1; s < pieces; ++s) sum += from[s * block.of(tile) * Phase::nets * share];
    return sum;
  }
  TT_INLINE const T* row(int k) const {
    const auto array = block.group.read(k);
    return array.data + t * array.step + b * array.row;
  }
  TT_INLINE T read(int k) const { return row(k)[unit]; }
  TT_INLINE T read_one(int k) const { return *row(k); }
  TT_INLINE T carry(int k) const { return block.carry(k, block.k)[r * block.carry_stride(k) + unit]; }
  TT_INLINE T carry_one(int k) const { return block.carry(k, block.k)[r * block.carry_stride(k)]; }
  TT_INLINE T buffer(int k) const { return block.buffer(k)[r * block.buffer_stride(k) + unit]; }
  TT_INLINE T buffer_one(int k) const { return block.buffer(k)[r * block.buffer_stride(k)]; }
  TT_INLINE T time() const { return T(block.word[origin] + t); }
  TT_INLINE T size(int width) const { return T(block.width(width)); }

  TT_INLINE void next(int k, T value) const { block.carry(k, block.k + 1)[r * block.carry_stride(k) + unit] = value; }
  TT_INLINE void next_one(int k, T value) const { next(k, value); }
  TT_INLINE void keep(int k, T value) const { block.buffer(k)[r * block.buffer_stride(k) + unit] = value; }
  TT_INLINE void keep_one(int k, T value) const { keep(k, value); }
  TT_INLINE void write(int k, T value) const {
    const auto array = block.group.write(k);
    array.data[t * array.step + b * array.row + unit] = value;
  }
  TT_INLINE void write_one(int k, T value) const {
    if (block.owns(0)) write(k, value);
  }
  TT_INLINE void sum(int k, T value) const { block.sum(k)[r * block.sum_stride(k) + unit] += value; }
  TT_INLINE void sum_one(int k, T value) const { sum(k, value); }
  TT_INLINE void total(int k, T value) const {
    const int share = block.share(Phase::width);
    block.numbers(scratch)[(r * Phase::totals + k) * share + unit - block.begin(Phase::width)] = value;
  }

  TT_INLINE T noise(uint32_t stream, bool fixed) const {
    const uint64_t seed = block.group.seed();
    uint32_t key = mix(uint32_t(seed) ^ stream);
    key = mix(key ^ uint32_t(seed >> 32));
    key = mix(key ^ (fixed ? 0u : uint32_t(block.word[origin] + t)));
    key = mix(key ^ uint32_t(b));
    return T(mix(key + uint32_t(unit) * 0x9e3779b9u) >> 8) * T(1.0 / 16777216);
  }
};

}  // namespace tt
