// GRU.backward: one time step, derived from its equation.
#include "recurrence.h"

template <class T>
struct Cell {
  using V = tt::Vec<T>;
  static constexpr int widths = 2;  // 1, hidden
  enum { carry_d_h };  // what a step hands to the next
  static constexpr int carries = 1, carry_width[] = {1};
  enum { buffer_add10, buffer_mul17, buffer_add20, buffer_mul26, buffer_mul31 };  // kept for a later phase of the step
  static constexpr int buffers = 5, buffer_width[] = {1, 1, 1, 1, 1};
  enum { read_h_seen, read_r, read_z, read_n, read_d_out };
  static constexpr int reads = 5, read_width[] = {1, 1, 1, 1, 1};
  enum { write_d_net_d_net_r, write_d_net_d_net_z, write_d_net_d_net_n };
  static constexpr int writes = 3, write_width[] = {1, 1, 1};
  enum { sum_d_bias_r, sum_d_bias_z, sum_d_bias_n };
  static constexpr int sums = 3, sum_width[] = {1, 1, 1};
  static constexpr int matrices = 3;  // r.1, z.1, n.1

  struct Phase0 {
    static constexpr int width = 1, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 4, read[] = {read_d_out, read_z, read_n, read_h_seen};
    static constexpr int writes = 2, write[] = {write_d_net_d_net_z, write_d_net_d_net_n};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto add10 = (at.carry(carry_d_h) + at.read(read_d_out));
      const auto z = at.read(read_z);
      const auto sub13 = (tt::splat<T>(T(1.0)) - z);
      const auto n = at.read(read_n);
      const auto mul17 = ((add10 * sub13) * tt::fma(-n, n, tt::splat<T>(T(1.0))));
      const auto mul26 = ((tt::fma(add10, at.read(read_h_seen), (-(add10 * n))) * z) * sub13);
      at.write(write_d_net_d_net_z, mul26);
      at.write(write_d_net_d_net_n, mul17);
      at.sum(sum_d_bias_z, mul26);
      at.sum(sum_d_bias_n, mul17);
      at.keep(buffer_add10, add10);
      at.keep(buffer_mul17, mul17);
      at.keep(buffer_mul26, mul26);
    }
  };

  struct Phase1 {
    static constexpr int width = 1, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 1, first = 0;
      static constexpr int source[] = {2}, source_width[] = {1};
      static constexpr tt::Factor factor[] = {{2, true}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 3, read[] = {read_r, read_h_seen, read_z};
    static constexpr int writes = 1, write[] = {write_d_net_d_net_r};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto linear18 = at.net(0);
      const auto r = at.read(read_r);
      const auto mul31 = (((linear18 * at.read(read_h_seen)) * r) * (tt::splat<T>(T(1.0)) - r));
      at.write(write_d_net_d_net_r, mul31);
      at.sum(sum_d_bias_r, mul31);
      at.keep(buffer_add20, tt::fma(at.buffer(buffer_add10), at.read(read_z), (linear18 * r)));
      at.keep(buffer_mul31, mul31);
    }
  };

  struct Phase2 {
    static constexpr int width = 1, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 2, first = 0;
      static constexpr int source[] = {4, 5}, source_width[] = {1, 1};
      static constexpr tt::Factor factor[] = {{1, true}, {0, true}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 0, read[] = {0};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      at.next(carry_d_h, (at.buffer(buffer_add20) + at.net(0)));
    }
  };
  using Phases = tt::Sequence<Phase0, Phase1, Phase2>;
};

TT_ENTRY(Cell, float)
