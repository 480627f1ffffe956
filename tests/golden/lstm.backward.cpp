// LSTM.backward: one time step, derived from its equation.
#include "recurrence.h"

template <class T>
struct Cell {
  using V = tt::Vec<T>;
  static constexpr int widths = 2;  // 1, hidden
  enum { carry_d_h, carry_d_c };  // what a step hands to the next
  static constexpr int carries = 2, carry_width[] = {1, 1};
  enum { buffer_mul21, buffer_mul32, buffer_mul38, buffer_mul44 };  // kept for a later phase of the step
  static constexpr int buffers = 4, buffer_width[] = {1, 1, 1, 1};
  enum { read_c_seen, read_i, read_f, read_g, read_o, read_d_out };
  static constexpr int reads = 6, read_width[] = {1, 1, 1, 1, 1, 1};
  enum { write_d_net_d_net_i, write_d_net_d_net_f, write_d_net_d_net_g, write_d_net_d_net_o };
  static constexpr int writes = 4, write_width[] = {1, 1, 1, 1};
  enum { sum_d_bias_i, sum_d_bias_f, sum_d_bias_g, sum_d_bias_o };
  static constexpr int sums = 4, sum_width[] = {1, 1, 1, 1};
  static constexpr int matrices = 4;  // i.1, f.1, g.1, o.1

  struct Phase0 {
    static constexpr int width = 1, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 6, read[] = {read_d_out, read_f, read_c_seen, read_i, read_g, read_o};
    static constexpr int writes = 4, write[] = {write_d_net_d_net_i, write_d_net_d_net_f, write_d_net_d_net_g, write_d_net_d_net_o};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto add12 = (at.carry(carry_d_h) + at.read(read_d_out));
      const auto f = at.read(read_f);
      const auto c_seen = at.read(read_c_seen);
      const auto i = at.read(read_i);
      const auto g = at.read(read_g);
      const auto c = tt::fma(f, c_seen, (i * g));
      const auto tanh16 = tt::tanh(c);
      const auto o = at.read(read_o);
      const auto mul21 = (((add12 * tanh16) * o) * (tt::splat<T>(T(1.0)) - o));
      const auto add28 = tt::fma((add12 * o), tt::fma(-tanh16, tanh16, tt::splat<T>(T(1.0))), at.carry(carry_d_c));
      const auto mul32 = ((add28 * i) * tt::fma(-g, g, tt::splat<T>(T(1.0))));
      const auto mul38 = (((add28 * c_seen) * f) * (tt::splat<T>(T(1.0)) - f));
      const auto mul44 = (((add28 * g) * i) * (tt::splat<T>(T(1.0)) - i));
      at.next(carry_d_c, (add28 * f));
      at.write(write_d_net_d_net_i, mul44);
      at.write(write_d_net_d_net_f, mul38);
      at.write(write_d_net_d_net_g, mul32);
      at.write(write_d_net_d_net_o, mul21);
      at.sum(sum_d_bias_i, mul44);
      at.sum(sum_d_bias_f, mul38);
      at.sum(sum_d_bias_g, mul32);
      at.sum(sum_d_bias_o, mul21);
      at.keep(buffer_mul21, mul21);
      at.keep(buffer_mul32, mul32);
      at.keep(buffer_mul38, mul38);
      at.keep(buffer_mul44, mul44);
    }
  };

  struct Phase1 {
    static constexpr int width = 1, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 4, first = 0;
      static constexpr int source[] = {2, 3, 4, 5}, source_width[] = {1, 1, 1, 1};
      static constexpr tt::Factor factor[] = {{3, true}, {2, true}, {1, true}, {0, true}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 0, read[] = {0};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      at.next(carry_d_h, at.net(0));
    }
  };
  using Phases = tt::Sequence<Phase0, Phase1>;
};

TT_ENTRY(Cell, float)
