// GRU: one time step, derived from its equation.
#include "recurrence.h"

template <class T>
struct Cell {
  using V = tt::Vec<T>;
  static constexpr int widths = 2;  // 1, hidden
  enum { carry_h };  // what a step hands to the next
  static constexpr int carries = 1, carry_width[] = {1};
  enum { buffer_z, buffer_mul15 };  // kept for a later phase of the step
  static constexpr int buffers = 2, buffer_width[] = {1, 1};
  enum { read_net_r, read_net_z, read_net_n, read_bias_r, read_bias_z, read_bias_n };
  static constexpr int reads = 6, read_width[] = {1, 1, 1, 1, 1, 1};
  enum { write_out, write_saved_h_seen, write_saved_r, write_saved_z, write_saved_mul3, write_saved_n };
  static constexpr int writes = 6, write_width[] = {1, 1, 1, 1, 1, 1};
  static constexpr int sums = 0, sum_width[] = {0};
  static constexpr int matrices = 3;  // r.1, z.1, n.1

  struct Phase0 {
    static constexpr int width = 1, nets = 2;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 2, sources = 1, first = 0;
      static constexpr int source[] = {0}, source_width[] = {1};
      static constexpr tt::Factor factor[] = {{0, false}, {1, false}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 4, read[] = {read_net_r, read_bias_r, read_net_z, read_bias_z};
    static constexpr int writes = 4, write[] = {write_saved_h_seen, write_saved_r, write_saved_z, write_saved_mul3};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto r = tt::sigmoid(((at.read(read_net_r) + at.read(read_bias_r)) + at.net(0)));
      const auto z = tt::sigmoid(((at.read(read_net_z) + at.read(read_bias_z)) + at.net(1)));
      const auto h = at.carry(carry_h);
      const auto mul15 = (r * h);
      at.write(write_saved_h_seen, h);
      at.write(write_saved_r, r);
      at.write(write_saved_z, z);
      at.write(write_saved_mul3, mul15);
      at.keep(buffer_z, z);
      at.keep(buffer_mul15, mul15);
    }
  };

  struct Phase1 {
    static constexpr int width = 1, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 1, first = 0;
      static constexpr int source[] = {2}, source_width[] = {1};
      static constexpr tt::Factor factor[] = {{2, false}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 2, read[] = {read_net_n, read_bias_n};
    static constexpr int writes = 2, write[] = {write_out, write_saved_n};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto n = tt::tanh(((at.read(read_net_n) + at.read(read_bias_n)) + at.net(0)));
      const auto z = at.buffer(buffer_z);
      const auto add24 = tt::fma((tt::splat<T>(T(1.0)) - z), n, (z * at.carry(carry_h)));
      at.next(carry_h, add24);
      at.write(write_out, add24);
      at.write(write_saved_n, n);
    }
  };
  using Phases = tt::Sequence<Phase0, Phase1>;
};

TT_ENTRY(Cell, float)
