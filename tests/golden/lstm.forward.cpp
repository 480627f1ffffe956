// LSTM: one time step, derived from its equation.
#include "recurrence.h"

template <class T>
struct Cell {
  using V = tt::Vec<T>;
  static constexpr int widths = 2;  // 1, hidden
  enum { carry_h, carry_c };  // what a step hands to the next
  static constexpr int carries = 2, carry_width[] = {1, 1};
  static constexpr int buffers = 0, buffer_width[] = {0};
  enum { read_net_i, read_net_f, read_net_g, read_net_o, read_bias_i, read_bias_f, read_bias_g, read_bias_o };
  static constexpr int reads = 8, read_width[] = {1, 1, 1, 1, 1, 1, 1, 1};
  enum { write_out, write_saved_h_seen, write_saved_c_seen, write_saved_i, write_saved_f, write_saved_g, write_saved_o };
  static constexpr int writes = 7, write_width[] = {1, 1, 1, 1, 1, 1, 1};
  static constexpr int sums = 0, sum_width[] = {0};
  static constexpr int matrices = 4;  // i.1, f.1, g.1, o.1

  struct Phase0 {
    static constexpr int width = 1, nets = 4;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 4, sources = 1, first = 0;
      static constexpr int source[] = {0}, source_width[] = {1};
      static constexpr tt::Factor factor[] = {{0, false}, {1, false}, {2, false}, {3, false}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 8, read[] = {read_net_i, read_bias_i, read_net_f, read_bias_f, read_net_g, read_bias_g, read_net_o, read_bias_o};
    static constexpr int writes = 7, write[] = {write_out, write_saved_h_seen, write_saved_c_seen, write_saved_i, write_saved_f, write_saved_g, write_saved_o};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto i = tt::sigmoid(((at.read(read_net_i) + at.read(read_bias_i)) + at.net(0)));
      const auto f = tt::sigmoid(((at.read(read_net_f) + at.read(read_bias_f)) + at.net(1)));
      const auto g = tt::tanh(((at.read(read_net_g) + at.read(read_bias_g)) + at.net(2)));
      const auto c = at.carry(carry_c);
      const auto c_24 = tt::fma(f, c, (i * g));
      const auto o = tt::sigmoid(((at.read(read_net_o) + at.read(read_bias_o)) + at.net(3)));
      const auto mul30 = (o * tt::tanh(c_24));
      at.next(carry_h, mul30);
      at.next(carry_c, c_24);
      at.write(write_out, mul30);
      at.write(write_saved_h_seen, at.carry(carry_h));
      at.write(write_saved_c_seen, c);
      at.write(write_saved_i, i);
      at.write(write_saved_f, f);
      at.write(write_saved_g, g);
      at.write(write_saved_o, o);
    }
  };
  using Phases = tt::Sequence<Phase0>;
};

TT_ENTRY(Cell, float)
