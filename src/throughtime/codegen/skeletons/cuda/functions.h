// The functions of the equation language on one number, by CUDA's own accurate ones. See its documentation for their
// errors; no fast variants, and a multiply-add is fused only where it is written.
#pragma once

#include "machine.h"

namespace tt {

template <class T>
using Vec = T;

template <class T>
TT_INLINE T infinity() {
  T found;
  if constexpr (sizeof(T) == 4)
    from_bits(uint32_t(0x7f800000), found);
  else
    from_bits(uint64_t(0x7ff0000000000000), found);
  return found;
}

TT_INLINE float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
TT_INLINE double fma(double a, double b, double c) { return ::fma(a, b, c); }

#define TT_FUNCTION(name)                                     \
  TT_INLINE float name(float x) { return ::name##f(x); } \
  TT_INLINE double name(double x) { return ::name(x); }
TT_FUNCTION(exp)
TT_FUNCTION(expm1)
TT_FUNCTION(log)
TT_FUNCTION(log1p)
TT_FUNCTION(sqrt)
TT_FUNCTION(sin)
TT_FUNCTION(cos)
TT_FUNCTION(tanh)
TT_FUNCTION(erf)
#undef TT_FUNCTION

template <class T>
TT_INLINE T splat(T x) {
  return x;
}
template <class T>
TT_INLINE T select(bool condition, T a, T b) {
  return condition ? a : b;
}
template <class T>
TT_INLINE T absolute(T x) {
  return x < 0 ? -x : x == 0 ? T(0) : x;
}
template <class T>
TT_INLINE T sign(T x) {
  return x > 0 ? T(1) : x < 0 ? T(-1) : x;
}

// These return NaN if either argument is NaN.
template <class T>
TT_INLINE T minimum(T a, T b) {
  return a != a || a < b ? a : b;
}
template <class T>
TT_INLINE T maximum(T a, T b) {
  return a != a || a > b ? a : b;
}

template <class T>
TT_INLINE T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}
template <class T>
TT_INLINE T softplus(T x) {
  return maximum(x, T(0)) + log1p(exp(-absolute(x)));
}

// symbolic/noise.py says the same.
TT_INLINE uint32_t mix(uint32_t v) {
  v ^= v >> 17;
  v *= 0xed5ad4bbu;
  v ^= v >> 11;
  v *= 0xac4c1b51u;
  v ^= v >> 15;
  v *= 0x31848babu;
  return v ^ (v >> 14);
}

}  // namespace tt
