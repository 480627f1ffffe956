// The functions of the equation language on vectors of float and double.
//
// Bounds of the error in units in the last place (ulp): float measured over every bit pattern (sin, cos and erf, which
// only round a double, over a sample), double against arbitrary precision at random points of every magnitude.
// tests/test_functions.py reads this table.
//
//               float   double
//   exp         0.88    0.9
//   expm1       1.57    1.6
//   sigmoid     1.65    1.7
//   tanh        1.00    1.0
//   log         0.83    0.9
//   log1p       0.83    0.9
//   softplus    1.63    1.7
//   sin         0.51    1.0
//   cos         0.51    1.0
//   erf         0.51    1.0
//   sqrt        0.50    0.5
//
// Infinities, NaN, subnormals and the sign of zero come out as in C; minimum and maximum return NaN if either
// argument is NaN. tanh is odd bit for bit, never exceeds 1 and never decreases. All but sin, cos and erf are free of
// branches and give the same bits on every machine.
//
// Polynomials are written from the constant term up. They are minimax fits by the Remez exchange algorithm in
// 200-bit arithmetic, coefficients then rounded; the comment of each tells what was minimised and what was left.
#pragma once

#include "lanes.h"

namespace tt {

template <class T>
struct Format;

template <>
struct Format<float> {
  static constexpr int mantissa_bits = 23, bias = 127;
  // Adding 1.5 * 2^mantissa_bits rounds to a whole number and leaves it in the lowest bits of the sum.
  static constexpr float rounder = 0x1.8p23f;
  // ln2 + ln2_rest is ln 2 to twice the precision.
  static constexpr float ln2 = 0x1.62e430p-1f, ln2_rest = -0x1.05c610p-29f, log2_e = 0x1.715476p0f;
  static constexpr float smallest_normal = 0x1p-126f, sqrt_half = 0x1.6a09e6p-1f;
  // exp rounds to 0 below exp_zero and overflows above exp_infinite; tanh rounds to 1 above tanh_one.
  static constexpr float exp_zero = -104, exp_infinite = 89, tanh_one = 10;
};

template <>
struct Format<double> {
  static constexpr int mantissa_bits = 52, bias = 1023;
  static constexpr double rounder = 0x1.8p52;
  static constexpr double ln2 = 0x1.62e42fefa39efp-1, ln2_rest = 0x1.abc9e3b39803fp-56, log2_e = 0x1.71547652b82fep0;
  static constexpr double smallest_normal = 0x1p-1022, sqrt_half = 0x1.6a09e667f3bcdp-1;
  static constexpr double exp_zero = -746, exp_infinite = 710, tanh_one = 20;
};

template <class V>
using Element = decltype(+V{}[0]);

// The bits of a vector, as integers.
template <class V>
TT_INLINE Mask<Element<V>> bits(V x) {
  return (Mask<Element<V>>)x;
}
template <class V>
TT_INLINE Mask<Element<V>> sign_bit() {
  return bits(splat<Element<V>>(-Element<V>(0)));
}

template <class V>
TT_INLINE V polynomial(V, Element<V> constant) {
  return splat<Element<V>>(constant);
}
template <class V, class... Rest>
TT_INLINE V polynomial(V x, Element<V> constant, Rest... rest) {
  return fma(x, polynomial(x, rest...), splat<Element<V>>(constant));
}

// ---- elementary -------------------------------------------------------------------------------------------------

template <class V>
TT_INLINE V absolute(V x) {
  return (V)(bits(x) & ~sign_bit<V>());
}

// The sign of x on a magnitude, which must be positive.
template <class V>
TT_INLINE V with_sign_of(V x, V magnitude) {
  return (V)(bits(magnitude) | (bits(x) & sign_bit<V>()));
}

// These two let NaN through: lesser() and greater() return their second argument then.
template <class V>
TT_INLINE V at_most(V x, Element<V> limit) {
  return lesser(splat<Element<V>>(limit), x);
}
template <class V>
TT_INLINE V at_least(V x, Element<V> limit) {
  return greater(splat<Element<V>>(limit), x);
}

template <class V>
TT_INLINE V minimum(V a, V b) {
  return select(a != a, a, lesser(a, b));
}

template <class V>
TT_INLINE V maximum(V a, V b) {
  return select(a != a, a, greater(a, b));
}

template <class V>
TT_INLINE V sign(V x) {
  return select(x != 0, select(x == x, with_sign_of(x, splat<Element<V>>(1)), x), x);
}

// ---- the exponential family -------------------------------------------------------------------------------------

// (exp(r) - 1 - r) / r^2 for |r| <= ln2 / 2; error of exp(r) below 2^-28 (float), 2^-57 (double), relative to exp(r).
TT_INLINE Vec<float> exp_tail(Vec<float> r) {
  return polynomial(r, 0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558f2p-5f, 0x1.123a20p-7f, 0x1.6a23e6p-10f);
}
TT_INLINE Vec<double> exp_tail(Vec<double> r) {
  return polynomial(r, 0x1.000000000000ap-1, 0x1.55555555554f9p-3, 0x1.555555555083ep-5, 0x1.1111111127d13p-7,
                    0x1.6c16c18438aecp-10, 0x1.a01a012a0d909p-13, 0x1.a01999e269967p-16, 0x1.71df25b70a865p-19,
                    0x1.28ad9b7efc391p-22, 0x1.ad7f384507b27p-26);
}

// (tanh(r) / r - 1) / r^2 as a function of u = r^2, for |r| <= ln2 / 4; error of tanh(r) below 2^-32 (float),
// 2^-66 (double), relative to tanh(r).
TT_INLINE Vec<float> tanh_tail(Vec<float> u) {
  return polynomial(u, -0x1.55554ep-2f, 0x1.1105c8p-3f, -0x1.afee8ap-5f);
}
TT_INLINE Vec<double> tanh_tail(Vec<double> u) {
  return polynomial(u, -0x1.5555555555555p-2, 0x1.1111111110d14p-3, -0x1.ba1ba1b8fcf10p-5, 0x1.664f47514c9e2p-6,
                    -0x1.226d8724fdc07p-7, 0x1.d666618dbf2dbp-9, -0x1.6bbd7d4e3c344p-10);
}

// exp(x) = 2^n (1 + p) with a whole number n and p within sqrt(2) - 1 of 0, for x in [exp_zero, exp_infinite].
template <class V>
struct PowerAndRest {
  V n, p;
};
template <class V>
TT_INLINE PowerAndRest<V> exp_parts(V x) {
  using T = Element<V>;
  using F = Format<T>;
  const V n = fma(x, splat<T>(F::log2_e), splat<T>(F::rounder)) - F::rounder;
  const V r_high = fma(n, splat<T>(-F::ln2), x);  // exact: it cancels, and the product is not rounded
  const V r_low = n * -F::ln2_rest;
  const V r = r_high + r_low;
  return {n, r_high + fma(r * r, exp_tail(r), r_low)};
}

template <class V>
TT_INLINE V exp(V x) {
  using F = Format<Element<V>>;
  const auto [n, p] = exp_parts(at_least(at_most(x, F::exp_infinite), F::exp_zero));
  return times_power_of_two(p + 1, n);
}

// exp(x) - 1 = 2^n p + (2^n - 1).
template <class V>
TT_INLINE V expm1(V x) {
  using T = Element<V>;
  using F = Format<T>;
  // Below the lower limit the result is -1 and 2^n a rounding error of it.
  const auto [n, p] = exp_parts(at_least(at_most(x, F::exp_infinite), T(-F::mantissa_bits - 3)));
  // For the largest n 2^n overflows, though the result may not: double the result for n - 1 instead.
  const V m = at_most(n, T(F::bias));
  const V power = times_power_of_two(splat<T>(1), m);
  const V y = fma(power, p, power - 1);
  return with_sign_of(x, absolute(select(n > m, y + y, y)));
}

// With e = exp(x), e / (1 + e) is e - e * e / (1 + e) and also 1 - 1 / (1 + e): the one with the smaller subtrahend
// keeps the rounding errors of 1 + e and of the division small against the result.
template <class V>
TT_INLINE V sigmoid(V x) {
  const V e = exp(x), b = at_most(e, 1);
  return fma(-b, b / (e + 1), b);
}

// Write |x| = -n ln2 / 2 + r with a whole number n <= 0, s = 2^n = exp(n ln2), t = tanh(r). The addition theorem gives
//   tanh|x| = ((1 - s) + (1 + s) t) / ((1 + s) + (1 - s) t).
// A quotient q with its last four bits cleared makes the products q (1 - s) and q s and the sums with them exact. So
// the remainder is known almost exactly, and correcting q by it leaves hardly more than that last step's rounding:
// without this care tanh would decrease from one n to the next.
// (ln2_rest may be left out: where n is large tanh hardly depends on r.)
template <class V>
TT_INLINE V tanh(V x) {
  using T = Element<V>;
  using F = Format<T>;
  const V one = splat<T>(1), magnitude = at_most(absolute(x), F::tanh_one);
  const V rounded = fma(magnitude, splat<T>(-2 * F::log2_e), splat<T>(F::rounder));
  const V r = fma(rounded - F::rounder, splat<T>(F::ln2 / 2), magnitude);
  const V u = r * r, r_to_t = r * u * tanh_tail(u), t = r + r_to_t;
  const V s = (V)((bits(rounded) << F::mantissa_bits) + bits(one));  // the shift drops all of `rounder`
  const V less = 1 - s, more = 1 + s;
  const V minus_reciprocal = -1 / fma(less, t, more);
  const V minus_q = (V)(bits(fma(more, t, less) * minus_reciprocal) & ~0xf);
  // remainder = (less + more t) - q (more + less t), with the t = r + r_to_t that has not been rounded
  const V constant = fma(minus_q, s, less + minus_q), slope = fma(minus_q, less, more);
  const V remainder = fma(slope, r_to_t, fma(slope, r, constant));
  // -tanh|x|: its sign is flipped unless x is negative
  return (V)(bits(fma(remainder, minus_reciprocal, minus_q)) ^ (~bits(x) & sign_bit<V>()));
}

// ---- logarithms -------------------------------------------------------------------------------------------------

// (log((1 + s) / (1 - s)) / s - 2) / z as a function of z = s^2, for |s| <= (sqrt(2) - 1) / (sqrt(2) + 1); error below
// 2^-37 (float), 2^-59 (double), relative to the logarithm.
TT_INLINE Vec<float> log_tail(Vec<float> z) {
  return polynomial(z, 0x1.555554p-1f, 0x1.999a7ap-2f, 0x1.2438c0p-2f, 0x1.e2fa1ep-3f);
}
TT_INLINE Vec<double> log_tail(Vec<double> z) {
  return polynomial(z, 0x1.5555555555593p-1, 0x1.999999997fc76p-2, 0x1.2492494204550p-2, 0x1.c71c51f8b36d2p-3,
                    0x1.74664288f0662p-3, 0x1.39a157fd64722p-3, 0x1.2f09781069c25p-3);
}

// n ln2 + log(1 + f) + small, with s = f / (2 + f): log(1 + f) = f - (f^2 / 2 - s (f^2 / 2 + s^2 log_tail(s^2))).
template <class V>
TT_INLINE V log_of_parts(V n, V f, V small) {
  using T = Element<V>;
  using F = Format<T>;
  const V s = f / (f + 2), z = s * s, half_square = T(0.5) * f * f;
  const V low = fma(s, fma(z, log_tail(z), half_square), fma(n, splat<T>(F::ln2_rest), small));
  return fma(n, splat<T>(F::ln2), f - (half_square - low));
}

// x = 2^n m with m in [sqrt(1/2), sqrt(2)), for normal x > 0.
template <class V>
TT_INLINE PowerAndRest<V> log_parts(V x) {
  using T = Element<V>;
  using F = Format<T>;
  const V sqrt_half = splat<T>(F::sqrt_half), two_to_mantissa_bits = splat<T>(F::rounder / T(1.5));
  const Mask<T> shifted = bits(x) - bits(sqrt_half) + bits(splat<T>(1));
  const Mask<T> mantissa = shifted & ~(~Mask<T>{} << F::mantissa_bits);
  const V biased = (V)((shifted >> F::mantissa_bits) | bits(two_to_mantissa_bits));
  return {biased - (two_to_mantissa_bits + T(F::bias)), (V)(mantissa + bits(sqrt_half))};
}

// `y` where 0 < x < infinity; otherwise -infinity at 0, x at infinity and NaN, NaN below 0.
template <class V>
TT_INLINE V within_domain_of_log(V x, V y) {
  using T = Element<V>;
  const V infinity = splat<T>(T(__builtin_inf())), nan = splat<T>(T(__builtin_nan("")));
  return select(x > 0, select(x < infinity, y, x), select(x == 0, -infinity, nan));
}

template <class V>
TT_INLINE V log(V x) {
  using T = Element<V>;
  using F = Format<T>;
  const auto subnormal = x < F::smallest_normal;
  const V shift = select(subnormal, splat<T>(F::mantissa_bits), V{});
  const auto [n, m] = log_parts(times_power_of_two(x, shift));
  return within_domain_of_log(x, log_of_parts(n - shift, m - 1, V{}));
}

template <class V>
TT_INLINE V log1p(V x) {
  const V sum = 1 + x, rounded_x = sum - 1;
  const V lost = (1 - (sum - rounded_x)) + (x - rounded_x);  // sum + lost is 1 + x exactly
  const auto [n, m] = log_parts(sum);
  const auto near_one = n == 0;
  const V y = log_of_parts(n, select(near_one, x, m - 1), select(near_one, V{}, lost / sum));
  return within_domain_of_log(sum, with_sign_of(x, absolute(y)));
}

// log(1 + exp(x)), which must not overflow.
template <class V>
TT_INLINE V softplus(V x) {
  return maximum(x, V{}) + log1p(exp(-absolute(x)));
}

// ---- lane by lane through C's library, in double also for float -------------------------------------------------

template <class V>
TT_INLINE V each_lane(double (*function)(double), V x) {
  for (int i = 0; i < lanes<Element<V>>; ++i) x[i] = Element<V>(function(double(x[i])));
  return x;
}
template <class V>
TT_INLINE V sin(V x) {
  return each_lane(::sin, x);
}
template <class V>
TT_INLINE V cos(V x) {
  return each_lane(::cos, x);
}
template <class V>
TT_INLINE V erf(V x) {
  return each_lane(::erf, x);
}

}  // namespace tt
