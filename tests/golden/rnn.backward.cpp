// Elman.backward: one time step, derived from its equation.
#include "recurrence.h"

template <class T>
struct Cell {
  using V = tt::Vec<T>;
  static constexpr int widths = 2;  // 1, hidden
  enum { carry_d_h };  // what a step hands to the next
  static constexpr int carries = 1, carry_width[] = {1};
  enum { buffer_mul9 };  // kept for a later phase of the step
  static constexpr int buffers = 1, buffer_width[] = {1};
  enum { read_out, read_d_out };
  static constexpr int reads = 2, read_width[] = {1, 1};
  enum { write_d_net_d_net_net };
  static constexpr int writes = 1, write_width[] = {1};
  enum { sum_d_bias_net };
  static constexpr int sums = 1, sum_width[] = {1};
  static constexpr int matrices = 1;  // net.1

  struct Phase0 {
    static constexpr int width = 1, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 2, read[] = {read_out, read_d_out};
    static constexpr int writes = 1, write[] = {write_d_net_d_net_net};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto out = at.read(read_out);
      const auto mul9 = ((at.carry(carry_d_h) + at.read(read_d_out)) * tt::fma(-out, out, tt::splat<T>(T(1.0))));
      at.write(write_d_net_d_net_net, mul9);
      at.sum(sum_d_bias_net, mul9);
      at.keep(buffer_mul9, mul9);
    }
  };

  struct Phase1 {
    static constexpr int width = 1, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 1, first = 0;
      static constexpr int source[] = {1}, source_width[] = {1};
      static constexpr tt::Factor factor[] = {{0, true}};
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
