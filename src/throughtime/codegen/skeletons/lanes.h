// Native vectors ("lanes"): the only file that knows the instruction set.
//
// Vectors are the compiler's own vector extension, so + - * / and comparisons are written as usual;
// what the extension lacks (fused multiply-add, partial loads, square roots, powers of two) is below.
// Lanes are independent and fma() rounds once everywhere (through C's fma where the machine has none, which is
// exact but slow): so all but sum_lanes(), whose tree has as many leaves as a vector has lanes, gives the same bits
// on every instruction set.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define TT_INLINE inline __attribute__((always_inline))

namespace tt {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(vector_bytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(vector_bytes)));
};

template <class T>
using Vec = typename VectorOf<T>::type;

// What a comparison of Vec<T> gives: integers as wide as T, all ones where true.
template <class T>
using Mask = decltype(Vec<T>{} < Vec<T>{});

template <class T>
inline constexpr int lanes = vector_bytes / int(sizeof(T));

template <class T>
TT_INLINE Vec<T> splat(T value) {
  return value - Vec<T>{};  // minus, for -0 + 0 would be +0
}

// Lane i is true where i < n.
template <class T>
TT_INLINE Mask<T> first_lanes(int n) {
  Mask<T> index;
  for (int i = 0; i < lanes<T>; ++i) index[i] = i;
  return index < n;
}

// mask ? a : b, moving bits only: a NaN in the lane not chosen does no harm.
TT_INLINE Vec<float> select(Mask<float> mask, Vec<float> a, Vec<float> b) { return mask ? a : b; }
TT_INLINE Vec<double> select(Mask<double> mask, Vec<double> a, Vec<double> b) { return mask ? a : b; }

// a < b ? a : b and a > b ? a : b, lane by lane, so b where either is NaN. One instruction on x86, which
// g++ does not always find by itself (and its _mm512_min_ps draws a false warning, hence maskz).
TT_INLINE Vec<float> lesser(Vec<float> a, Vec<float> b) {
#if defined(__AVX512F__)
  return _mm512_maskz_min_ps(0xffff, a, b);
#elif defined(__AVX__)
  return _mm256_min_ps(a, b);
#elif defined(__x86_64__)
  return _mm_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}
TT_INLINE Vec<double> lesser(Vec<double> a, Vec<double> b) {
#if defined(__AVX512F__)
  return _mm512_maskz_min_pd(0xff, a, b);
#elif defined(__AVX__)
  return _mm256_min_pd(a, b);
#elif defined(__x86_64__)
  return _mm_min_pd(a, b);
#else
  return a < b ? a : b;
#endif
}
TT_INLINE Vec<float> greater(Vec<float> a, Vec<float> b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xffff, a, b);
#elif defined(__AVX__)
  return _mm256_max_ps(a, b);
#elif defined(__x86_64__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}
TT_INLINE Vec<double> greater(Vec<double> a, Vec<double> b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_pd(0xff, a, b);
#elif defined(__AVX__)
  return _mm256_max_pd(a, b);
#elif defined(__x86_64__)
  return _mm_max_pd(a, b);
#else
  return a > b ? a : b;
#endif
}

// ---- loads and stores; no address needs to be aligned -----------------------------------------

template <class T>
TT_INLINE Vec<T> load(const T* from) {
  Vec<T> result;
  memcpy(&result, from, sizeof result);
  return result;
}

template <class T>
TT_INLINE void store(T* to, Vec<T> value) {
  memcpy(to, &value, sizeof value);
}

// The value in a register: g++ would read it from memory again each time that it is used.
template <class V>
TT_INLINE V kept(V value) {
#if defined(__x86_64__)
  __asm__("" : "+v"(value));
#endif
  return value;
}

// The first n elements (0 <= n <= lanes), zero in the other lanes; memory beyond them is not touched.
TT_INLINE Vec<float> load(const float* from, int n) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), from);
#elif defined(__AVX__)
  return _mm256_maskload_ps(from, (__m256i)first_lanes<float>(n));
#else
  Vec<float> result = {};
  memcpy(&result, from, size_t(n) * sizeof(float));
  return result;
#endif
}

TT_INLINE Vec<double> load(const double* from, int n) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), from);
#elif defined(__AVX__)
  return _mm256_maskload_pd(from, (__m256i)first_lanes<double>(n));
#else
  Vec<double> result = {};
  memcpy(&result, from, size_t(n) * sizeof(double));
  return result;
#endif
}

TT_INLINE void store(float* to, Vec<float> value, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, __mmask16((1u << n) - 1), value);
#elif defined(__AVX__)
  _mm256_maskstore_ps(to, (__m256i)first_lanes<float>(n), value);
#else
  memcpy(to, &value, size_t(n) * sizeof(float));
#endif
}

TT_INLINE void store(double* to, Vec<double> value, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_pd(to, __mmask8((1u << n) - 1), value);
#elif defined(__AVX__)
  _mm256_maskstore_pd(to, (__m256i)first_lanes<double>(n), value);
#else
  memcpy(to, &value, size_t(n) * sizeof(double));
#endif
}

// ---- arithmetic -------------------------------------------------------------------------------

// a * b + c, rounded once.
TT_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  for (int i = 0; i < lanes<float>; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
#endif
}

TT_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_pd(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_pd(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f64(c, a, b);
#else
  for (int i = 0; i < lanes<double>; ++i) c[i] = __builtin_fma(a[i], b[i], c[i]);
  return c;
#endif
}

TT_INLINE Vec<float> sqrt(Vec<float> x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xffff, x);  // g++ 12 warns inside _mm512_sqrt_ps
#elif defined(__AVX__)
  return _mm256_sqrt_ps(x);
#elif defined(__x86_64__)
  return _mm_sqrt_ps(x);
#elif defined(__aarch64__)
  return vsqrtq_f32(x);
#else
  for (int i = 0; i < lanes<float>; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

TT_INLINE Vec<double> sqrt(Vec<double> x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_pd(0xff, x);
#elif defined(__AVX__)
  return _mm256_sqrt_pd(x);
#elif defined(__x86_64__)
  return _mm_sqrt_pd(x);
#elif defined(__aarch64__)
  return vsqrtq_f64(x);
#else
  for (int i = 0; i < lanes<double>; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

// x * 2^n, rounded once, for whole numbers n with |n| <= 2 * 127 (float), 2 * 1023 (double).
TT_INLINE Vec<float> times_power_of_two(Vec<float> x, Vec<float> n) {
#if defined(__AVX512F__)
  return _mm512_maskz_scalef_ps(0xffff, x, n);
#else
  // 2^n itself may overflow: two factors 2^(n/2), whose exponent fields stay within 0 .. 254.
  const Mask<float> field = __builtin_convertvector(n, Mask<float>) + 2 * 127, half = field >> 1;
  return x * (Vec<float>)(half << 23) * (Vec<float>)((field - half) << 23);
#endif
}

TT_INLINE Vec<double> times_power_of_two(Vec<double> x, Vec<double> n) {
#if defined(__AVX512F__)
  return _mm512_maskz_scalef_pd(0xff, x, n);
#else
  // As above; few machines convert or shift 64-bit integers arithmetically, so 2^52 puts n in the low bits.
  const Mask<double> field = (Mask<double>)(n + (0x1p52 + 2 * 1023)) & 0xfff, half = field >> 1;
  return x * (Vec<double>)(half << 52) * (Vec<double>)((field - half) << 52);
#endif
}

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

// Lanes change places with those `Width` away.
template <class T, int Width, int... I>
TT_INLINE Vec<T> swapped(Vec<T> v, Indices<I...>) {
  return __builtin_shufflevector(v, v, (I ^ Width)...);
}

// The sum of all lanes, always in the same order: neighbours pairwise, as a balanced tree.
template <class T, int Width = 1>
TT_INLINE T sum_tree(Vec<T> v) {
  if constexpr (Width == lanes<T>)
    return v[0];
  else
    return sum_tree<T, 2 * Width>(v + swapped<T, Width>(v, UpTo<lanes<T>>{}));
}
TT_INLINE float sum_lanes(Vec<float> v) { return sum_tree<float>(v); }
TT_INLINE double sum_lanes(Vec<double> v) { return sum_tree<double>(v); }

}  // namespace tt
