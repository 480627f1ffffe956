// GRU.backward: one time step, derived from its equation.
#include "recurrence.h"

template <class T>
struct Cell {
  using V = tt::Vec<T>;
  static constexpr int widths = 2;  // 1, hidden
  enum { carry_d_h };  // what a step hands to the next
  static constexpr int carries = 1, carry_width[] = {1};
  enum { buffer_add13, buffer_mul21, buffer_mul28, buffer_mul34 };  // kept for a later phase of the step
  static constexpr int buffers = 4, buffer_width[] = {1, 1, 1, 1};
  enum { read_h_seen, read_r, read_z, read_add3, read_n, read_d_out };
  static constexpr int reads = 6, read_width[] = {1, 1, 1, 1, 1, 1};
  enum { write_d_net_d_net_r, write_d_net_d_net_z, write_d_net_d_net_n, write_delta_delta_m_0 };
  static constexpr int writes = 4, write_width[] = {1, 1, 1, 1};
  enum { sum_d_bias_bias_ih_r, sum_d_bias_bias_ih_z, sum_d_bias_bias_ih_n, sum_d_bias_bias_hh_r, sum_d_bias_bias_hh_z, sum_d_bias_bias_hh_m };
  static constexpr int sums = 6, sum_width[] = {1, 1, 1, 1, 1, 1};
  static constexpr int matrices = 3;  // r.1, z.1, m.0

  struct Phase0 {
    static constexpr int width = 1, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 6, read[] = {read_d_out, read_z, read_n, read_r, read_h_seen, read_add3};
    static constexpr int writes = 4, write[] = {write_d_net_d_net_r, write_d_net_d_net_z, write_d_net_d_net_n, write_delta_delta_m_0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto add13 = (at.carry(carry_d_h) + at.read(read_d_out));
      const auto z = at.read(read_z);
      const auto sub16 = (tt::splat<T>(T(1.0)) - z);
      const auto n = at.read(read_n);
      const auto mul20 = ((add13 * sub16) * tt::fma(-n, n, tt::splat<T>(T(1.0))));
      const auto r = at.read(read_r);
      const auto mul21 = (mul20 * r);
      const auto mul28 = ((tt::fma(add13, at.read(read_h_seen), (-(add13 * n))) * z) * sub16);
      const auto mul34 = (((mul20 * at.read(read_add3)) * r) * (tt::splat<T>(T(1.0)) - r));
      at.write(write_d_net_d_net_r, mul34);
      at.write(write_d_net_d_net_z, mul28);
      at.write(write_d_net_d_net_n, mul20);
      at.write(write_delta_delta_m_0, mul21);
      at.sum(sum_d_bias_bias_ih_r, mul34);
      at.sum(sum_d_bias_bias_ih_z, mul28);
      at.sum(sum_d_bias_bias_ih_n, mul20);
      at.sum(sum_d_bias_bias_hh_r, mul34);
      at.sum(sum_d_bias_bias_hh_z, mul28);
      at.sum(sum_d_bias_bias_hh_m, mul21);
      at.keep(buffer_add13, add13);
      at.keep(buffer_mul21, mul21);
      at.keep(buffer_mul28, mul28);
      at.keep(buffer_mul34, mul34);
    }
  };

  struct Phase1 {
    static constexpr int width = 1, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 3, first = 0;
      static constexpr int source[] = {2, 3, 4}, source_width[] = {1, 1, 1};
      static constexpr tt::Factor factor[] = {{2, true}, {1, true}, {0, true}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 1, read[] = {read_z};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      at.next(carry_d_h, tt::fma(at.buffer(buffer_add13), at.read(read_z), at.net(0)));
    }
  };
  using Phases = tt::Sequence<Phase0, Phase1>;
};

TT_ENTRY(Cell, float)
