// MogrifierLSTM: one time step, derived from its equation.
#include "recurrence.h"

template <class T>
struct Cell {
  using V = tt::Vec<T>;
  static constexpr int widths = 3;  // 1, hidden, input
  enum { carry_h, carry_c };  // what a step hands to the next
  static constexpr int carries = 2, carry_width[] = {1, 1};
  enum { buffer_x_11 };  // kept for a later phase of the step
  static constexpr int buffers = 1, buffer_width[] = {2};
  enum { read_bias_i, read_bias_f, read_bias_g, read_bias_o, read_x };
  static constexpr int reads = 5, read_width[] = {1, 1, 1, 1, 2};
  enum { write_out, write_saved_h_seen, write_saved_c_seen, write_saved_sigmoid3, write_saved_x, write_saved_i, write_saved_f, write_saved_g, write_saved_o };
  static constexpr int writes = 9, write_width[] = {1, 1, 1, 2, 2, 1, 1, 1, 1};
  static constexpr int sums = 0, sum_width[] = {0};
  static constexpr int matrices = 9;  // q.0, i.0, i.1, f.0, f.1, g.0, g.1, o.0, o.1

  struct Phase0 {
    static constexpr int width = 2, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 1, first = 0;
      static constexpr int source[] = {0}, source_width[] = {1};
      static constexpr tt::Factor factor[] = {{0, false}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 1, read[] = {read_x};
    static constexpr int writes = 2, write[] = {write_saved_sigmoid3, write_saved_x};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto sigmoid8 = tt::sigmoid(at.net(0));
      const auto x_11 = ((tt::splat<T>(T(2.0)) * sigmoid8) * at.read(read_x));
      at.write(write_saved_sigmoid3, sigmoid8);
      at.write(write_saved_x, x_11);
      at.keep(buffer_x_11, x_11);
    }
  };

  struct Phase1 {
    static constexpr int width = 1, nets = 4;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 4, sources = 2, first = 0;
      static constexpr int source[] = {2, 0}, source_width[] = {2, 1};
      static constexpr tt::Factor factor[] = {{1, false}, {2, false}, {3, false}, {4, false}, {5, false}, {6, false}, {7, false}, {8, false}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 4, read[] = {read_bias_i, read_bias_f, read_bias_g, read_bias_o};
    static constexpr int writes = 7, write[] = {write_out, write_saved_h_seen, write_saved_c_seen, write_saved_i, write_saved_f, write_saved_g, write_saved_o};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto i = tt::sigmoid((at.read(read_bias_i) + at.net(0)));
      const auto f = tt::sigmoid((at.read(read_bias_f) + at.net(1)));
      const auto g = tt::tanh((at.read(read_bias_g) + at.net(2)));
      const auto o = tt::sigmoid((at.read(read_bias_o) + at.net(3)));
      const auto c = at.carry(carry_c);
      const auto c_34 = tt::fma(f, c, (i * g));
      const auto mul36 = (o * tt::tanh(c_34));
      at.next(carry_h, mul36);
      at.next(carry_c, c_34);
      at.write(write_out, mul36);
      at.write(write_saved_h_seen, at.carry(carry_h));
      at.write(write_saved_c_seen, c);
      at.write(write_saved_i, i);
      at.write(write_saved_f, f);
      at.write(write_saved_g, g);
      at.write(write_saved_o, o);
    }
  };
  using Phases = tt::Sequence<Phase0, Phase1>;
};

TT_ENTRY(Cell, float)
