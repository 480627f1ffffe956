// What the kernels ask of the machine: threads, barriers, messages and tensor cores, in CUDA's words and PTX's.
// Every other file is plain C++ on top of these, so that it can also be run, and its order of events tried, without a GPU.
#pragma once

#define TT_INLINE __forceinline__
#define TT_UNROLL _Pragma("unroll")
#define TT_ROLLED _Pragma("unroll 1")

namespace tt {

using Int = long long;
using uint32_t = unsigned;
using uint64_t = unsigned long long;

TT_INLINE int thread() { return int(threadIdx.x); }
TT_INLINE int threads() { return int(blockDim.x); }
TT_INLINE int block_number() { return int(blockIdx.x); }
TT_INLINE void sync() { __syncthreads(); }

TT_INLINE char* shared_memory() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}

TT_INLINE void prefetch(const void* address) { asm volatile("prefetch.global.L2 [%0];" ::"l"(address)); }

// ---- numbers as bits --------------------------------------------------------------------------------------------

TT_INLINE uint32_t bits(float value) { return __float_as_uint(value); }
TT_INLINE uint64_t bits(double value) { return uint64_t(__double_as_longlong(value)); }
TT_INLINE void from_bits(uint32_t bits, float& value) { value = __uint_as_float(bits); }
TT_INLINE void from_bits(uint64_t bits, double& value) { value = __longlong_as_double(Int(bits)); }

// ---- blocks of one cluster (sm_90 and up) -------------------------------------------------------------------------

TT_INLINE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The address that a shared-memory object of this block has in block `rank` of the cluster.
TT_INLINE uint32_t address_in(const void* own, int rank) {
  uint32_t found;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(found) : "r"(uint32_t(__cvta_generic_to_shared(own))), "r"(rank));
  return found;
}

using Mbarrier = uint64_t;

TT_INLINE void mbarrier_open(Mbarrier* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(uint32_t(__cvta_generic_to_shared(barrier))) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// This turn of the barrier ends when so many bytes have been pushed to it.
TT_INLINE void mbarrier_expect(Mbarrier* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   uint32_t(__cvta_generic_to_shared(barrier))),
               "r"(bytes)
               : "memory");
}

TT_INLINE void mbarrier_wait(Mbarrier* barrier, uint32_t parity) {
  const uint32_t address = uint32_t(__cvta_generic_to_shared(barrier));
  uint32_t done = 0;
  while (!done)
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(done)
        : "r"(address), "r"(parity)
        : "memory");
}

// Stores a number at the same place in block `rank`, and counts its bytes at that block's barrier.
TT_INLINE void push(const void* place, uint32_t value, const Mbarrier* barrier, int rank) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(address_in(place, rank)),
               "r"(value), "r"(address_in(barrier, rank))
               : "memory");
}
TT_INLINE void push(const void* place, uint64_t value, const Mbarrier* barrier, int rank) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(address_in(place, rank)),
               "l"(value), "r"(address_in(barrier, rank))
               : "memory");
}

// ---- blocks of one grid ---------------------------------------------------------------------------------------------

TT_INLINE void post(uint64_t* place, uint64_t word) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(place), "l"(word) : "memory");
}
TT_INLINE uint64_t look(const uint64_t* place) {
  uint64_t word;
  asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(word) : "l"(place) : "memory");
  return word;
}

// ---- tensor cores: sum += a b, each lane of a warp holds a part of every matrix ----------------------------------------

// Two numbers in 16 bits each, the first in the lower half.
TT_INLINE uint32_t two_bfloat16(float first, float second) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
}
TT_INLINE uint32_t two_float16(float first, float second) {
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
}
TT_INLINE uint32_t one_tfloat32(float value) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
  return rounded;
}

// Each kind multiplies [16, depth] by [depth, 8].
#define TT_MMA(name, shape, kind)                                                                                     \
  TT_INLINE void name(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {                              \
    asm("mma.sync.aligned." shape ".row.col.f32." kind "." kind ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
        "{%0, %1, %2, %3};"                                                                                           \
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                                      \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                          \
  }
TT_MMA(mma_bfloat16, "m16n8k16", "bf16")
TT_MMA(mma_float16, "m16n8k16", "f16")
TT_MMA(mma_tfloat32, "m16n8k8", "tf32")
#undef TT_MMA

}  // namespace tt

#define TT_KERNEL extern "C" __global__ void __launch_bounds__(TT_THREADS, 1)
#define TT_CONSTANT const __grid_constant__
