// Mathematical functions on vectors: float and double, no branches in tanh, sigmoid, exp and expm1.
#pragma once

#include "lanes.h"

namespace tt {

template <class T>
struct Format;

template <>
struct Format<float> {
  static constexpr int mantissa_bits = 23;
  static constexpr int bias = 127;
  // Adding 1.5 * 2^mantissa_bits leaves the nearest integer in the low bits of the sum.
  static constexpr float rounder = 0x1.8p23f;
  static constexpr float log2_e = 0x1.715476p0f;
  // ln 2 in two parts; the first has 9 trailing zero bits, so that n * ln2_high is exact.
  static constexpr float ln2_high = 0x1.62e400p-1f;
  static constexpr float ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exp_limit = 89;        // exp overflows before
  static constexpr float exp_lower = -104;      // exp is 0 below
  static constexpr float tanh_limit = 10;       // tanh is 1 from 9.02 on
};

template <>
struct Format<double> {
  static constexpr int mantissa_bits = 52;
  static constexpr int bias = 1023;
  static constexpr double rounder = 0x1.8p52;
  static constexpr double log2_e = 0x1.71547652b82fep0;
  static constexpr double ln2_high = 0x1.62e42fefa3800p-1;
  static constexpr double ln2_low = 0x1.ef35793c76730p-45;
  static constexpr double exp_limit = 710;
  static constexpr double exp_lower = -746;
  static constexpr double tanh_limit = 20;
};

template <class V>
using Element = decltype(V{}[0] + 0);

template <class T>
struct Identity {
  using type = T;
};
template <class V>
using Scalar = typename Identity<Element<V>>::type;

// c0 + x (c1 + x (c2 + ...))
template <class V>
TT_INLINE V polynomial(V, Scalar<V> c) {
  return splat<Scalar<V>>(c);
}
template <class V, class... C>
TT_INLINE V polynomial(V x, Scalar<V> c, C... rest) {
  return fma(x, polynomial(x, rest...), splat<Scalar<V>>(c));
}

template <class V>
TT_INLINE V absolute(V x) {
  using M = Mask<Scalar<V>>;
  M sign_bit = (M)splat<Scalar<V>>(Scalar<V>(-0.0));
  return (V)((M)x & ~sign_bit);
}

// |magnitude| must be given without its sign bit.
template <class V>
TT_INLINE V with_sign_of(V magnitude, V x) {
  using M = Mask<Scalar<V>>;
  M sign_bit = (M)splat<Scalar<V>>(Scalar<V>(-0.0));
  return (V)((M)magnitude | ((M)x & sign_bit));
}

// min(x, limit), where NaN stays NaN.
template <class V>
TT_INLINE V at_most(V x, Scalar<V> limit) {
  return lesser(splat<Scalar<V>>(limit), x);
}
template <class V>
TT_INLINE V at_least(V x, Scalar<V> limit) {
  return -lesser(splat<Scalar<V>>(-limit), -x);
}

// x * 2^n for integral n in [-2 bias, 2 bias], rounded once: in two steps, for 2^n itself may overflow.
template <class V>
TT_INLINE V times_power_of_two(V x, V n) {
  using T = Scalar<V>;
  using F = Format<T>;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_maskz_scalef_ps(0xffff, x, n);
  else return _mm512_maskz_scalef_pd(0xff, x, n);
#endif
  using M = Mask<T>;
  M exponent = (M)(n + F::rounder) - (M)splat<T>(F::rounder) + 2 * F::bias;
  M half = (exponent >> 1);
  M rest = exponent - half;
  return x * (V)(half << F::mantissa_bits) * (V)(rest << F::mantissa_bits);
}

// (exp(r) - 1 - r) / r^2 for |r| <= ln2 / 2.
TT_INLINE Vec<float> exp_tail(Vec<float> r) {
  return polynomial(r, 0x1.fffffep-2f, 0x1.5554b0p-3f, 0x1.555674p-5f, 0x1.1227b0p-7f, 0x1.6bec02p-10f);
}
TT_INLINE Vec<double> exp_tail(Vec<double> r) {
  return polynomial(r, 0x1.0p-1, 0x1.5555555555559p-3, 0x1.555555555553fp-5, 0x1.111111110f6c4p-7,
                    0x1.6c16c16c1f0bap-10, 0x1.a01a01afdda2fp-13, 0x1.a01a017bbc1d4p-16,
                    0x1.71ddf86389a7bp-19, 0x1.27e5362c7f0d9p-22, 0x1.af5ea89ad423ep-26,
                    0x1.1ee8a96df10dfp-29);
}

// (tanh(r) / r - 1) / r^2 for |r| <= ln2 / 4, u = r^2.
TT_INLINE Vec<float> tanh_tail(Vec<float> u) {
  return polynomial(u, -0x1.55554ep-2f, 0x1.1105c8p-3f, -0x1.afee8ap-5f);
}
TT_INLINE Vec<double> tanh_tail(Vec<double> u) {
  return polynomial(u, -0x1.5555555555555p-2, 0x1.1111111110d14p-3, -0x1.ba1ba1b8fcf10p-5,
                    0x1.664f47514c9e2p-6, -0x1.226d8724fdc07p-7, 0x1.d666618dbf2dbp-9,
                    -0x1.6bbd7d4e3c344p-10);
}

template <class V>
TT_INLINE V exp(V x) {
  using T = Scalar<V>;
  using F = Format<T>;
  x = at_least(at_most(x, F::exp_limit), F::exp_lower);
  V n = fma(x, splat<T>(F::log2_e), splat<T>(F::rounder)) - F::rounder;
  V r = fma(n, splat<T>(-F::ln2_low), fma(n, splat<T>(-F::ln2_high), x));
  V tail = exp_tail(r);
  return times_power_of_two(fma(r * r, tail, r) + T(1), n);
}

template <class V>
TT_INLINE V expm1(V x) {
  using T = Scalar<V>;
  using F = Format<T>;
  V y = at_least(at_most(x, F::exp_limit), T(-F::mantissa_bits - 3));
  V n = fma(y, splat<T>(F::log2_e), splat<T>(F::rounder)) - F::rounder;
  V r = fma(n, splat<T>(-F::ln2_low), fma(n, splat<T>(-F::ln2_high), y));
  V p = fma(r * r, exp_tail(r), r);
  // 2^n overflows for the largest n although the result does not: take one power out.
  V shared = select(n > T(F::bias), n - T(1), n);
  V scale = times_power_of_two(splat<T>(1), shared);
  V result = fma(scale, p, scale - T(1));
  result = select(n > T(F::bias), result + result, result);
  return with_sign_of(absolute(result), x);
}

template <class V>
TT_INLINE V tanh(V x) {
  using T = Scalar<V>;
  using F = Format<T>;
  V a = at_most(absolute(x), F::tanh_limit);
  // a = n ln2/2 + r, s = 2^-n = exp(-n ln2), t = tanh(r).
  V rounded = fma(a, splat<T>(-2 * F::log2_e), splat<T>(F::rounder));
  V n = rounded - F::rounder;
  V r = fma(n, splat<T>(F::ln2_low / 2), fma(n, splat<T>(F::ln2_high / 2), a));
  V u = r * r;
  V t = fma(r * u, tanh_tail(u), r);
  using M = Mask<T>;
  V s = (V)(((M)rounded << F::mantissa_bits) + (M)splat<T>(1));
  // tanh(a) = ((1 - s) + (1 + s) t) / ((1 + s) + (1 - s) t)
  V difference = T(1) - s;
  V sum = T(1) + s;
  V numerator = fma(sum, t, difference);
  V denominator = fma(difference, t, sum);
  V numerator_error = fma(sum, t, difference - numerator);
  V denominator_error = fma(difference, t, (T(1) - denominator) + s);
  V reciprocal = T(1) / denominator;
  V quotient = numerator * reciprocal;
  V remainder = fma(-quotient, denominator, numerator) + fma(-quotient, denominator_error, numerator_error);
  return with_sign_of(fma(remainder, reciprocal, quotient), x);
}

template <class V>
TT_INLINE V sigmoid(V x) {
  using T = Scalar<V>;
  using F = Format<T>;
  V a = lesser(splat<T>(F::tanh_limit*2), x);
  a = at_least(a, F::exp_lower);
  V rounded = fma(a, splat<T>(F::log2_e), splat<T>(F::rounder));
  V n = rounded - F::rounder;
  V r = fma(n, splat<T>(-F::ln2_low), fma(n, splat<T>(-F::ln2_high), a));
  V tail = exp_tail(r);
  V e = times_power_of_two(fma(r * r, tail, r) + T(1), n);
  return e / (T(1) + e);
}

template <class V>
TT_INLINE V log(V x) {
  for (int i = 0; i < lanes<Scalar<V>>; ++i) x[i] = Scalar<V>(::log(double(x[i])));
  return x;
}
template <class V>
TT_INLINE V log1p(V x) {
  for (int i = 0; i < lanes<Scalar<V>>; ++i) x[i] = Scalar<V>(::log1p(double(x[i])));
  return x;
}
template <class V>
TT_INLINE V sin(V x) {
  for (int i = 0; i < lanes<Scalar<V>>; ++i) x[i] = Scalar<V>(::sin(double(x[i])));
  return x;
}
template <class V>
TT_INLINE V cos(V x) {
  for (int i = 0; i < lanes<Scalar<V>>; ++i) x[i] = Scalar<V>(::cos(double(x[i])));
  return x;
}
template <class V>
TT_INLINE V erf(V x) {
  for (int i = 0; i < lanes<Scalar<V>>; ++i) x[i] = Scalar<V>(::erf(double(x[i])));
  return x;
}

// NaN in either argument gives NaN.
template <class V>
TT_INLINE V maximum(V a, V b) {
  V larger = select(a > b, a, b);  // b where a is NaN or b is NaN
  return select(a != a, a, larger);
}
template <class V>
TT_INLINE V minimum(V a, V b) {
  V smaller = select(a < b, a, b);
  return select(a != a, a, smaller);
}

// log(1 + exp(x)) without overflow.
template <class V>
TT_INLINE V softplus(V x) {
  return maximum(x, V{}) + log1p(exp(-absolute(x)));
}

// -1, 0 or 1; NaN at NaN.
template <class V>
TT_INLINE V sign(V x) {
  using T = Scalar<V>;
  V one = select(x > T(0), splat<T>(1), splat<T>(-1));
  return select(x < T(0), one, select(x > T(0), one, x));
}

}  // namespace tt
