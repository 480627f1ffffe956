// What one core can do at most: multiply-adds per second, and bytes read per second from wherever they lie.
#include <stdint.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define EXPORT extern "C" __attribute__((visibility("default")))

typedef float Vec __attribute__((vector_size(VECTOR_BYTES)));

// Independent chains: as many as latency times units ask for (4 or 5 cycles, 2 units), and no more than registers.
constexpr int chains = 12;

// `rounds` times `chains` vector multiply-adds; returns how many floating-point operations that are.
EXPORT int64_t multiply_add(int64_t rounds, float* result) {
  Vec sum[chains], factor = Vec{} + 0.999f, step = Vec{} + 0.001f;
#pragma GCC unroll 16
  for (int i = 0; i < chains; ++i) sum[i] = Vec{} + float(i);
  for (int64_t k = 0; k < rounds; ++k)
#pragma GCC unroll 16
    for (int i = 0; i < chains; ++i) sum[i] = sum[i] * factor + step;
  Vec total = {};
#pragma GCC unroll 16
  for (int i = 0; i < chains; ++i) total += sum[i];
  *result = total[0];
  return rounds * chains * 2 * int64_t(VECTOR_BYTES / sizeof(float));
}

// One chain of `rounds` multiply-adds, each waiting for the one before it.
EXPORT void chained(int64_t rounds, float* result) {
  Vec sum = {}, factor = Vec{} + 0.999f, step = Vec{} + 0.001f;
  for (int64_t k = 0; k < rounds; ++k) sum = sum * factor + step;
  *result = sum[0];
}

// Reads `count` floats, a multiple of 8 vectors at an address that is one of theirs, `rounds` times.
EXPORT void read_floats(const float* from, int64_t count, int64_t rounds, float* result) {
  constexpr int64_t lanes = VECTOR_BYTES / sizeof(float);
  Vec sum[8] = {};
  for (int64_t k = 0; k < rounds; ++k) {
    for (int64_t j = 0; j < count; j += 8 * lanes)
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) sum[i] += *(const Vec*)(from + j + i * lanes);
    __asm__ volatile("" : : : "memory");
  }
  Vec total = {};
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) total += sum[i];
  *result = total[0];
}
