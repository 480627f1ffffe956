// One sequence at one step, as the pointwise part of a cell sees it.
#pragma once

#include "call.h"
#include "both.h"

namespace tt {

// ---- random numbers (symbolic/noise.py says the same) -----------------------------------------

TT_INLINE uint32_t mix(uint32_t v) {
  v ^= v >> 17;
  v *= 0xed5ad4bbu;
  v ^= v >> 11;
  v *= 0xac4c1b51u;
  v ^= v >> 15;
  v *= 0x31848babu;
  return v ^ (v >> 14);
}

// ---- one sequence at one step, seen from the pointwise part -----------------------------------

template <bool Value>
struct Fact {
  static constexpr bool value = Value;
};

// `Whole`: all lanes hold units; otherwise the first `n` do.
template <class Cell, class T, bool Whole>
struct At {
  const Call<Cell, T>& call;
  int64_t seed;
  const T* const* reads;
  T* const* writes;
  T* const* sums;
  T* const* buffers;  // carries as seen, then what is kept within the step
  T* const* nexts;
  const T* nets;
  Vec<T>* totals;
  int64_t t, b, unit;
  int n;

  TT_INLINE Vec<T> get(const T* from) const { return Whole ? load(from + unit) : load(from + unit, n); }
  TT_INLINE void put(T* to, Vec<T> value) const { Whole ? store(to + unit, value) : store(to + unit, value, n); }

  TT_INLINE Vec<T> net(int k) const { return load(nets + k * panel<T>); }
  TT_INLINE Vec<T> read(int k) const { return get(reads[k]); }
  TT_INLINE Vec<T> read_one(int k) const { return splat(*reads[k]); }
  TT_INLINE Vec<T> carry(int k) const { return load(buffers[k] + unit); }
  TT_INLINE Vec<T> carry_one(int k) const { return splat(*buffers[k]); }
  TT_INLINE Vec<T> buffer(int k) const { return load(buffers[Cell::carries + k] + unit); }
  TT_INLINE Vec<T> buffer_one(int k) const { return splat(*buffers[Cell::carries + k]); }
  TT_INLINE Vec<T> time() const { return splat(T(call.origin + t)); }
  TT_INLINE Vec<T> size(int width) const { return splat(T(call.width_of(width))); }

  TT_INLINE void next(int k, Vec<T> value) const { store(nexts[k] + unit, value); }
  TT_INLINE void next_one(int k, Vec<T> value) const { *nexts[k] = value[0]; }
  TT_INLINE void keep(int k, Vec<T> value) const { store(buffers[Cell::carries + k] + unit, value); }
  TT_INLINE void keep_one(int k, Vec<T> value) const { *buffers[Cell::carries + k] = value[0]; }
  TT_INLINE void write(int k, Vec<T> value) const { put(writes[k], value); }
  TT_INLINE void write_one(int k, Vec<T> value) const { *writes[k] = value[0]; }
  TT_INLINE void sum(int k, Vec<T> value) const { store(sums[k] + unit, load(sums[k] + unit) + value); }
  TT_INLINE void sum_one(int k, Vec<T> value) const { *sums[k] += value[0]; }
  TT_INLINE void total(int k, Vec<T> value) const {
    totals[k] += Whole ? value : select(first_lanes<T>(n), value, Vec<T>{});
  }

  TT_INLINE Vec<T> noise(uint32_t stream, bool fixed) const {
    uint32_t key = mix(uint32_t(seed) ^ stream);
    key = mix(key ^ uint32_t(uint64_t(seed) >> 32));
    key = mix(key ^ (fixed ? 0u : uint32_t(call.origin + t)));
    key = mix(key ^ uint32_t(b));
    Vec<T> result;
    for (int i = 0; i < lanes<T>; ++i)
      result[i] = T(mix(key + uint32_t(unit + i) * 0x9e3779b9u) >> 8) * T(1.0 / 16777216);
    return result;
  }
};

// The same for both halves of a panel, which must be whole.
template <class Cell, class T>
struct AtBoth {
  At<Cell, T, true> first, second;

  TT_INLINE auto net(int k) const { return both(first.net(k), second.net(k)); }
  TT_INLINE auto read(int k) const { return both(first.read(k), second.read(k)); }
  TT_INLINE auto read_one(int k) const { return first.read_one(k); }
  TT_INLINE auto carry(int k) const { return both(first.carry(k), second.carry(k)); }
  TT_INLINE auto carry_one(int k) const { return first.carry_one(k); }
  TT_INLINE auto buffer(int k) const { return both(first.buffer(k), second.buffer(k)); }
  TT_INLINE auto buffer_one(int k) const { return first.buffer_one(k); }
  TT_INLINE auto time() const { return first.time(); }
  TT_INLINE auto size(int width) const { return first.size(width); }
  TT_INLINE auto noise(uint32_t stream, bool fixed) const {
    return both(first.noise(stream, fixed), second.noise(stream, fixed));
  }

  // What all units have in common is a single vector.
#define TT_GIVEN(what)                                                                                       \
  template <class V>                                                                                         \
  TT_INLINE void what(int k, V value) const {                                                                \
    first.what(k, half_of<0>(value)), second.what(k, half_of<1>(value));                                        \
  }                                                                                                          \
  template <class V>                                                                                         \
  TT_INLINE void what##_one(int k, V value) const {                                                          \
    first.what##_one(k, half_of<0>(value));                                                                    \
  }
  TT_GIVEN(next)
  TT_GIVEN(keep)
  TT_GIVEN(write)
  TT_GIVEN(sum)
#undef TT_GIVEN
  template <class V>
  TT_INLINE void total(int k, V value) const {
    first.total(k, half_of<0>(value)), second.total(k, half_of<1>(value));
  }
};

}  // namespace tt
