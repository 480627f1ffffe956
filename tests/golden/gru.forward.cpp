// GRU: one time step, derived from its equation.
#include "recurrence.h"

template <class T>
struct Cell {
  using V = tt::Vec<T>;
  static constexpr int widths = 2;  // 1, hidden
  enum { carry_h };  // what a step hands to the next
  static constexpr int carries = 1, carry_width[] = {1};
  static constexpr int buffers = 0, buffer_width[] = {0};
  enum { read_net_r, read_net_z, read_net_n, read_bias_bias_ih_r, read_bias_bias_ih_z, read_bias_bias_ih_n, read_bias_bias_hh_r, read_bias_bias_hh_z, read_bias_bias_hh_m };
  static constexpr int reads = 9, read_width[] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
  enum { write_out, write_saved_h_seen, write_saved_r, write_saved_z, write_saved_add3, write_saved_n };
  static constexpr int writes = 6, write_width[] = {1, 1, 1, 1, 1, 1};
  static constexpr int sums = 0, sum_width[] = {0};
  static constexpr int matrices = 3;  // r.1, z.1, m.0

  struct Phase0 {
    static constexpr int width = 1, nets = 3;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 3, sources = 1, first = 0;
      static constexpr int source[] = {0}, source_width[] = {1};
      static constexpr tt::Factor factor[] = {{0, false}, {1, false}, {2, false}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 9, read[] = {read_net_r, read_bias_bias_ih_r, read_bias_bias_hh_r, read_net_z, read_bias_bias_ih_z, read_bias_bias_hh_z, read_bias_bias_hh_m, read_net_n, read_bias_bias_ih_n};
    static constexpr int writes = 6, write[] = {write_out, write_saved_h_seen, write_saved_r, write_saved_z, write_saved_add3, write_saved_n};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto r = tt::sigmoid((((at.read(read_net_r) + at.read(read_bias_bias_ih_r)) + at.read(read_bias_bias_hh_r)) + at.net(0)));
      const auto z = tt::sigmoid((((at.read(read_net_z) + at.read(read_bias_bias_ih_z)) + at.read(read_bias_bias_hh_z)) + at.net(1)));
      const auto add22 = (at.read(read_bias_bias_hh_m) + at.net(2));
      const auto n = tt::tanh(tt::fma(r, add22, (at.read(read_net_n) + at.read(read_bias_bias_ih_n))));
      const auto h = at.carry(carry_h);
      const auto add30 = tt::fma((tt::splat<T>(T(1.0)) - z), n, (z * h));
      at.next(carry_h, add30);
      at.write(write_out, add30);
      at.write(write_saved_h_seen, h);
      at.write(write_saved_r, r);
      at.write(write_saved_z, z);
      at.write(write_saved_add3, add22);
      at.write(write_saved_n, n);
    }
  };
  using Phases = tt::Sequence<Phase0>;
};

TT_ENTRY(Cell, float)
