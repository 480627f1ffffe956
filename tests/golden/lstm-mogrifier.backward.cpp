// MogrifierLSTM.backward: one time step, derived from its equation.
#include "recurrence.h"

template <class T>
struct Cell {
  using V = tt::Vec<T>;
  static constexpr int widths = 3;  // 1, input, hidden
  enum { carry_d_h, carry_d_c };  // what a step hands to the next
  static constexpr int carries = 2, carry_width[] = {2, 2};
  enum { buffer_mul24, buffer_mul35, buffer_mul41, buffer_mul47, buffer_mul62 };  // kept for a later phase of the step
  static constexpr int buffers = 5, buffer_width[] = {2, 2, 2, 2, 1};
  enum { read_x, read_c_seen, read_sigmoid3, read_i, read_f, read_g, read_o, read_d_out };
  static constexpr int reads = 8, read_width[] = {1, 2, 1, 2, 2, 2, 2, 2};
  enum { write_d_x, write_delta_delta_q_0, write_delta_delta_i_0, write_delta_delta_f_0, write_delta_delta_g_0, write_delta_delta_o_0 };
  static constexpr int writes = 6, write_width[] = {1, 1, 2, 2, 2, 2};
  enum { sum_d_bias_i, sum_d_bias_f, sum_d_bias_g, sum_d_bias_o };
  static constexpr int sums = 4, sum_width[] = {2, 2, 2, 2};
  static constexpr int matrices = 9;  // q.0, i.0, i.1, f.0, f.1, g.0, g.1, o.0, o.1

  struct Phase0 {
    static constexpr int width = 2, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 6, read[] = {read_d_out, read_f, read_c_seen, read_i, read_g, read_o};
    static constexpr int writes = 4, write[] = {write_delta_delta_i_0, write_delta_delta_f_0, write_delta_delta_g_0, write_delta_delta_o_0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto add15 = (at.carry(carry_d_h) + at.read(read_d_out));
      const auto f = at.read(read_f);
      const auto c_seen = at.read(read_c_seen);
      const auto i = at.read(read_i);
      const auto g = at.read(read_g);
      const auto c = tt::fma(f, c_seen, (i * g));
      const auto tanh19 = tt::tanh(c);
      const auto o = at.read(read_o);
      const auto mul24 = (((add15 * tanh19) * o) * (tt::splat<T>(T(1.0)) - o));
      const auto add31 = tt::fma((add15 * o), tt::fma(-tanh19, tanh19, tt::splat<T>(T(1.0))), at.carry(carry_d_c));
      const auto mul35 = ((add31 * i) * tt::fma(-g, g, tt::splat<T>(T(1.0))));
      const auto mul41 = (((add31 * c_seen) * f) * (tt::splat<T>(T(1.0)) - f));
      const auto mul47 = (((add31 * g) * i) * (tt::splat<T>(T(1.0)) - i));
      at.next(carry_d_c, (add31 * f));
      at.write(write_delta_delta_i_0, mul47);
      at.write(write_delta_delta_f_0, mul41);
      at.write(write_delta_delta_g_0, mul35);
      at.write(write_delta_delta_o_0, mul24);
      at.sum(sum_d_bias_i, mul47);
      at.sum(sum_d_bias_f, mul41);
      at.sum(sum_d_bias_g, mul35);
      at.sum(sum_d_bias_o, mul24);
      at.keep(buffer_mul24, mul24);
      at.keep(buffer_mul35, mul35);
      at.keep(buffer_mul41, mul41);
      at.keep(buffer_mul47, mul47);
    }
  };

  struct Phase1 {
    static constexpr int width = 1, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 4, first = 0;
      static constexpr int source[] = {2, 3, 4, 5}, source_width[] = {2, 2, 2, 2};
      static constexpr tt::Factor factor[] = {{7, true}, {5, true}, {3, true}, {1, true}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 2, read[] = {read_sigmoid3, read_x};
    static constexpr int writes = 2, write[] = {write_d_x, write_delta_delta_q_0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto add56 = at.net(0);
      const auto sigmoid3 = at.read(read_sigmoid3);
      const auto mul62 = ((((add56 * at.read(read_x)) * tt::splat<T>(T(2.0))) * sigmoid3) * (tt::splat<T>(T(1.0)) - sigmoid3));
      at.write(write_d_x, (add56 * (tt::splat<T>(T(2.0)) * sigmoid3)));
      at.write(write_delta_delta_q_0, mul62);
      at.keep(buffer_mul62, mul62);
    }
  };

  struct Phase2 {
    static constexpr int width = 2, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 5, first = 0;
      static constexpr int source[] = {2, 3, 4, 5, 6}, source_width[] = {2, 2, 2, 2, 1};
      static constexpr tt::Factor factor[] = {{8, true}, {6, true}, {4, true}, {2, true}, {0, true}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 0, read[] = {0};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      at.next(carry_d_h, at.net(0));
    }
  };
  using Phases = tt::Sequence<Phase0, Phase1, Phase2>;
};

TT_ENTRY(Cell, float)
