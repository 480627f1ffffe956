// Products on tensor cores: operands of 16 bits (or tf32), sums in float. A tile is 16 outputs by 8 sequences.
//
// The own outputs of a product, net after net, are cut into tiles of 16, the last one filled up with zeros; so is the
// depth of every vector. The weights stay in shared memory in the order in which a warp's lanes take them.
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

template <class Kind>
struct Tensor {
  static int tiles_of(int count, int size) { return (count + size - 1) / size; }

  // Of a lane's register: which row of the tile it belongs to, and from which depth on.
  static int row_of(int lane, int i) { return lane / 4 + (i & 1) * 8; }
  static int depth_of(int lane, int i) { return lane % 4 * Kind::numbers + (i >> 1) * Kind::depth / 2; }

  // [source][tile of outputs][tile of depth][lane][4]
  template <class P, class Cell>
  static void hold(const Block<Cell, float>& block, int phase_width, int product) {
    const int count = block.count(phase_width), high = tiles_of(P::nets * count, 16);
    uint32_t* to = (uint32_t*)block.at(block.word[block.weight_words + product]);
    TT_UNROLL
    for (int s = 0; s < P::sources; ++s) {
      const int depth = block.width(P::source_width[s]), deep = tiles_of(depth, Kind::depth);
      for (int i = thread(); i < high * deep * 128; i += threads()) {
        const int lane = i / 4 % 32, output = i / 128 / deep * 16 + row_of(lane, i % 4);
        const int k = i / 128 % deep * Kind::depth + depth_of(lane, i % 4);
        float pair[2] = {0, 0};
        if (output < P::nets * count) {
          const auto rows = Scalar::rows_of<P>(block, phase_width, output / count, s);
          for (int j = 0; j < Kind::numbers; ++j)
            if (k + j < depth) pair[j] = rows.data[output % count * rows.out_step + (k + j) * rows.in_step];
        }
        to[i] = Kind::pack(pair[0], pair[1]);
      }
      to += high * deep * 128;
    }
  }

  template <class P, class Phase, class Cell>
  static void multiply(const Block<Cell, float>& block, int product) {
    const int count = block.count(Phase::width), share = block.share(Phase::width), parts_of = block.of(slices);
    const int high = tiles_of(P::nets * count, 16), wide = tiles_of(block.rows, 8), lane = thread() % 32;
    int all = 0;
    TT_UNROLL
    for (int s = 0; s < P::sources; ++s) all += tiles_of(block.width(P::source_width[s]), Kind::depth);
    for (int i = thread() / 32; i < high * wide * parts_of; i += threads() / 32) {
      const int up = i % high, row0 = i / high % wide * 8, slice = i / high / wide;
      int from = all * slice / parts_of, to = all * (slice + 1) / parts_of;  // within this source and those to come
      const uint32_t* weights = (const uint32_t*)block.at(block.word[block.weight_words + product]);
      const int row = row0 + lane / 4;
      float sum[4] = {0, 0, 0, 0};
      TT_UNROLL
      for (int s = 0; s < P::sources; ++s) {
        const int depth = block.width(P::source_width[s]), deep = tiles_of(depth, Kind::depth);
        const float* vector = Scalar::source<P>(block, s, row < block.rows ? row : 0);
        for (int d = from > 0 ? from : 0; d < to && d < deep; ++d) {
          const uint32_t* here = weights + ((up * deep + d) * 32 + lane) * 4;
          const uint32_t a[4] = {here[0], here[1], here[2], here[3]};
          uint32_t b[2];
          TT_UNROLL
          for (int j = 0; j < 2; ++j) {
            const int k = d * Kind::depth + depth_of(lane, 2 * j);
            b[j] = Kind::pack(row < block.rows && k < depth ? vector[k] : 0,
                              row < block.rows && k + 1 < depth ? vector[k + 1] : 0);
          }
          Kind::multiply(sum, a, b);
        }
        from -= deep, to -= deep, weights += high * deep * 128;
      }
      TT_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int output = up * 16 + row_of(lane, j >> 1), r = row0 + lane % 4 * 2 + (j & 1);
        if (output >= P::nets * count || r >= block.rows) continue;
        const int net = P::first + output / count, unit = output % count;
        block.numbers(nets)[((slice * block.of(tile) + r) * Phase::nets + net) * share + unit] = sum[j];
      }
    }
  }
};

}  // namespace tt
