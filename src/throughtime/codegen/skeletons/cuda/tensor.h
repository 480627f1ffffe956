// Products on tensor cores: operands of 16 bits (or tf32), sums in float. A tile is 16 outputs by 8 sequences.
//
// The own outputs of a product, net after net, are cut into tiles of 16, the last one filled up with zeros; so is the
// depth of every vector. A job is one tile of outputs and one piece of a vector's depth: so many tiles of depth, fewer in
// a vector's last piece. Warps take the jobs in turn, each the same ones at every step: the first tiles of weights of a
// job stay in its warp's registers for all steps, the others in shared memory, where each lane reads what it has written.
// The sums of the pieces are added up where they are used (at.h). nn/cuda_tensor.py chooses the numbers.
#pragma once

#include "scalar.h"

namespace tt {

// A kind of operand: the depth of one tile, and how many numbers one register holds.
struct BFloat16 {
  static constexpr int depth = 16, numbers = 2;
  static uint32_t pack(float first, float second) { return two_bfloat16(first, second); }
  static void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_bfloat16(sum, a, b); }
};
struct Float16 {
  static constexpr int depth = 16, numbers = 2;
  static uint32_t pack(float first, float second) { return two_float16(first, second); }
  static void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_float16(sum, a, b); }
};
struct TFloat32 {
  static constexpr int depth = 8, numbers = 1;
  static uint32_t pack(float first, float) { return one_tfloat32(first); }
  static void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_tfloat32(sum, a, b); }
};

// Of one product: how many jobs a warp has at most, and how many tiles of each stay in registers.
template <int Jobs, int Kept>
struct Cut {
  static constexpr int jobs = Jobs, kept = Kept, tiles = Jobs * Kept;
};

template <class Kind, class... Cuts>
struct Tensor {
  static constexpr int jobs[] = {Cuts::jobs..., 0}, kept[] = {Cuts::kept..., 0}, tiles = (0 + ... + Cuts::tiles);
  static constexpr int chains = 2;  // sums that a job adds to in turn: a product of tiles need not wait for the last

  uint32_t registers[tiles > 0 ? tiles : 1][4];

  static constexpr int first_tile(int product) {
    int sum = 0;
    for (int k = 0; k < product; ++k) sum += jobs[k] * kept[k];
    return sum;
  }
  static TT_INLINE int tiles_of(int count, int size) { return (count + size - 1) / size; }

  // Of a lane's register: which row of the tile it belongs to, and from which depth on.
  static TT_INLINE int row_of(int lane, int i) { return lane / 4 + (i & 1) * 8; }
  static TT_INLINE int depth_of(int lane, int i) { return lane % 4 * Kind::numbers + (i >> 1) * Kind::depth / 2; }

  // `up`: the tile of outputs; `slice`: which of all pieces; `source`: whose piece, a vector of `width` numbers; its
  // tiles of depth [first, first + deep).
  struct Job {
    int number, up, slice, source, width, first, deep;
    Rows<float> vectors;
  };

  template <class P, class Cell>
  static TT_INLINE Job job_of(const Block<Cell, float>& block, const Weights& held, int high, int number) {
    Job job = {number, number % high, number / high, 0, 0, 0, 0, {}};
    int before = 0;  // pieces of the sources before
    TT_UNROLL
    for (int s = 0; s < P::sources; ++s) {
      const int width = block.width(P::source_width[s]), all = tiles_of(width, Kind::depth);
      const int first = (job.slice - before) * held.deep;
      before += tiles_of(all, held.deep);
      if (first < 0 || first >= all) continue;
      job.source = s, job.width = width, job.vectors = Scalar::source<P>(block, s);
      job.first = first, job.deep = all - first;
    }
    job.deep = job.deep < held.deep ? job.deep : held.deep;
    return job;
  }

  // Calls f(job, k) for this warp's jobs, of which this one is its k-th; k is known when compiling if anything is kept.
  template <class P, int product, class Cell, class F>
  static TT_INLINE void each_job(const Block<Cell, float>& block, const Weights& held, int outputs, F f) {
    const int high = tiles_of(outputs, 16), all = high * held.pieces, warps = threads() / 32;
    if constexpr (kept[product] > 0) {
      TT_UNROLL
      for (int k = 0; k < jobs[product]; ++k)
        if (thread() / 32 + k * warps < all) f(job_of<P>(block, held, high, thread() / 32 + k * warps), k);
    } else {
      for (int i = thread() / 32; i < all; i += warps) f(job_of<P>(block, held, high, i), 0);
    }
  }

  // Where a lane has tile c of a job, if so many tiles before it are in registers.
  template <class Cell>
  static TT_INLINE uint32_t* place(const Block<Cell, float>& block, const Weights& held, int before, int job, int c) {
    return (uint32_t*)block.at(held.place) + ((job * (held.deep - before) + c - before) * 32 + thread() % 32) * 4;
  }

  template <class P, int product, class Cell>
  TT_INLINE void hold(const Block<Cell, float>& block, int phase_width) {
    const int count = block.count(phase_width), lane = thread() % 32;
    const Weights held = block.weights(product);
    each_job<P, product>(block, held, P::nets * count, [&](const Job& job, int k) {
      Rows<float> rows[2];  // of the outputs of this lane's even and odd registers
      TT_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int output = job.up * 16 + row_of(lane, i);
        rows[i] = {nullptr, 0, 0};
        if (output >= P::nets * count) continue;
        rows[i] = Scalar::rows_of<P>(block, phase_width, output / count, job.source);
        rows[i].data += output % count * rows[i].out_step;
      }
      const auto weight = [&](int c, int i) {  // of tile c, the lane's register i
        const Rows<float> from = i & 1 ? rows[1] : rows[0];
        float pair[2] = {0, 0};
        TT_UNROLL
        for (int j = 0; j < Kind::numbers; ++j) {
          const int at = (job.first + c) * Kind::depth + depth_of(lane, i) + j;
          if (from.data && c < job.deep && at < job.width) pair[j] = from.data[at * from.in_step];
        }
        return Kind::pack(pair[0], pair[1]);
      };
      TT_UNROLL
      for (int c = 0; c < kept[product]; ++c) {
        uint32_t(&to)[4] = registers[first_tile(product) + k * kept[product] + c];
        TT_ROLLED  // numbers on their way from memory take registers too
        for (int i = 0; i < 4; ++i) {
          const uint32_t found = weight(c, i);
          TT_UNROLL
          for (int j = 0; j < 4; ++j) to[j] = i == j ? found : to[j];
        }
      }
      for (int c = kept[product]; c < job.deep; ++c) {
        uint32_t* to = place(block, held, kept[product], job.number, c);
        TT_ROLLED
        for (int i = 0; i < 4; ++i) to[i] = weight(c, i);
      }
    });
  }

  template <class P, class Phase, int product, class Cell>
  TT_INLINE void multiply(const Block<Cell, float>& block) {
    const int count = block.count(Phase::width), share = block.share(Phase::width), lane = thread() % 32;
    const Weights held = block.weights(product);
    each_job<P, product>(block, held, P::nets * count, [&](const Job& job, int k) {
      for (int row0 = 0; row0 < block.rows; row0 += 8) {
        const int row = row0 + lane / 4;
        const bool there = row < block.rows;
        const float* vector = job.vectors.data + (there ? row : 0) * job.vectors.out_step;
        float sum[chains][4] = {};
        const auto add = [&](float(&to)[4], int c, const uint32_t(&a)[4]) {
          uint32_t b[2];
          TT_UNROLL
          for (int j = 0; j < 2; ++j) {
            const int at = (job.first + c) * Kind::depth + depth_of(lane, 2 * j);
            b[j] = Kind::pack(there && at < job.width ? vector[at] : 0,
                              there && at + 1 < job.width ? vector[at + 1] : 0);
          }
          Kind::multiply(to, a, b);
        };
        TT_UNROLL
        for (int c = 0; c < kept[product]; ++c)
          if (c < job.deep) add(sum[c % chains], c, registers[first_tile(product) + k * kept[product] + c]);
        for (int c = kept[product]; c < job.deep; c += chains)
          TT_UNROLL
          for (int j = 0; j < chains; ++j) {
            if (c + j >= job.deep) continue;
            const uint32_t* from = place(block, held, kept[product], job.number, c + j);
            const uint32_t a[4] = {from[0], from[1], from[2], from[3]};
            add(sum[j], c + j, a);
          }
        TT_UNROLL
        for (int j = 0; j < 4; ++j) {
          const int output = job.up * 16 + row_of(lane, j >> 1), r = row0 + lane % 4 * 2 + (j & 1);
          if (output >= P::nets * count || r >= block.rows) continue;
          const int net = P::first + output / count, unit = output % count;
          block.numbers(nets)[((job.slice * block.of(tile) + r) * Phase::nets + net) * share + unit] =
              sum[0][j] + sum[1][j];
        }
      }
    });
  }
};

}  // namespace tt
