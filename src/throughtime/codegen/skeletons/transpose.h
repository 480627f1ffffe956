// Squares of vectors: rows become columns.
#pragma once

#include "lanes.h"

namespace tt {

// a0 b0 a1 b1 ..., from the lower or the upper halves.
template <class T, bool Upper, int... I>
TT_INLINE Vec<T> interleaved(Vec<T> a, Vec<T> b, Indices<I...>) {
  constexpr int from = Upper ? lanes<T> / 2 : 0;
  return __builtin_shufflevector(a, b, (from + I / 2 + (I % 2 ? lanes<T> : 0))...);
}

// Rows become columns: log2(lanes) times, row i is interleaved with the row half the square below it.
template <class T>
TT_INLINE void transpose(Vec<T>* rows) {
  constexpr int half = lanes<T> / 2;
  for (int width = 1; width < lanes<T>; width *= 2) {
    Vec<T> mixed[lanes<T>];
#pragma GCC unroll 16
    for (int i = 0; i < half; ++i) {
      mixed[2 * i] = interleaved<T, false>(rows[i], rows[i + half], UpTo<lanes<T>>{});
      mixed[2 * i + 1] = interleaved<T, true>(rows[i], rows[i + half], UpTo<lanes<T>>{});
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes<T>; ++i) rows[i] = mixed[i];
  }
}

#if defined(__AVX__)
// Four elements each of as many rows as fit a vector, `apart` numbers from one to the next: shuffles that loads do cost
// less than those of registers.
TT_INLINE Vec<float> load_quarters(const float* from, int64_t apart) {
#if defined(__AVX512F__)
  __m512 result = _mm512_castps128_ps512(_mm_loadu_ps(from));
  result = _mm512_mask_broadcast_f32x4(result, 0x00f0, _mm_loadu_ps(from + apart));
  result = _mm512_mask_broadcast_f32x4(result, 0x0f00, _mm_loadu_ps(from + 2 * apart));
  return _mm512_mask_broadcast_f32x4(result, 0xf000, _mm_loadu_ps(from + 3 * apart));
#else
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from)), _mm_loadu_ps(from + apart), 1);
#endif
}

// Of every four neighbours the first or the last two of `a` and of `b`, `Size` at a time: a0 b0 a1 b1, or a0 a1 b0 b1.
template <bool Upper, int Size, int... I>
TT_INLINE Vec<float> within_quarters(Vec<float> a, Vec<float> b, Indices<I...>) {
  constexpr int of_b = lanes<float>;
  return __builtin_shufflevector(
      a, b, (I / 4 * 4 + (Upper ? 2 : 0) + (Size == 1 ? I % 4 / 2 + I % 2 * of_b : I % 2 + I % 4 / 2 * of_b))...);
}

// Columns 4 q to 4 q + 3 of a square, whose rows lie `step` apart: of vectors that each hold four numbers of rows i, i + 4,
// i + 8 and so on.
TT_INLINE void transpose_quarter(Vec<float>* square) {
  constexpr UpTo<lanes<float>> all;
  const Vec<float> low = within_quarters<false, 1>(square[0], square[1], all);
  const Vec<float> low_end = within_quarters<false, 1>(square[2], square[3], all);
  const Vec<float> high = within_quarters<true, 1>(square[0], square[1], all);
  const Vec<float> high_end = within_quarters<true, 1>(square[2], square[3], all);
  square[0] = within_quarters<false, 2>(low, low_end, all);
  square[1] = within_quarters<true, 2>(low, low_end, all);
  square[2] = within_quarters<false, 2>(high, high_end, all);
  square[3] = within_quarters<true, 2>(high, high_end, all);
}
#endif

// Columns of a square of numbers, whose rows lie `step` apart.
template <class T>
TT_INLINE void load_transposed(const T* from, int64_t step, Vec<T>* columns) {
#if defined(__AVX__)
  if constexpr (sizeof(T) == 4) {
    // Some rows after the other, so that these stay in the first-level cache even if all fall into the same lines of it.
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
#pragma GCC unroll 4
      for (int q = 0; q < lanes<T> / 4; ++q) columns[4 * q + i] = load_quarters(from + i * step + 4 * q, 4 * step);
#pragma GCC unroll 4
    for (int q = 0; q < lanes<T> / 4; ++q) transpose_quarter(columns + 4 * q);
    return;
  }
#endif
#pragma GCC unroll 16
  for (int j = 0; j < lanes<T>; ++j) columns[j] = load(from + j * step);
  transpose<T>(columns);
}

// The same of `rows` and their first `width` numbers; zeros stand for the others.
template <class T>
TT_INLINE void load_transposed(const T* from, int64_t step, Vec<T>* columns, int rows, int width) {
  for (int j = 0; j < lanes<T>; ++j) columns[j] = j < rows ? load(from + j * step, width) : Vec<T>{};
  transpose<T>(columns);
}

}  // namespace tt
