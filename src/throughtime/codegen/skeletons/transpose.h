// Squares of vectors: rows become columns.
#pragma once

#include "lanes.h"

namespace tt {

template <int... I>
struct Indices {};
template <int N, int... I>
struct Counted : Counted<N - 1, N - 1, I...> {};
template <int... I>
struct Counted<0, I...> {
  using type = Indices<I...>;
};
template <int N>
using UpTo = typename Counted<N>::type;  // 0, 1, ..., N - 1

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

}  // namespace tt
