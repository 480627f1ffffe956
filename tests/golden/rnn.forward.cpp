// Elman: one time step, derived from its equation.
#include "recurrence.h"

template <class T>
struct Cell {
  using V = tt::Vec<T>;
  static constexpr int widths = 2;  // 1, hidden
  enum { carry_h };  // what a step hands to the next
  static constexpr int carries = 1, carry_width[] = {1};
  static constexpr int buffers = 0, buffer_width[] = {0};
  enum { read_net_net, read_bias_net };
  static constexpr int reads = 2, read_width[] = {1, 1};
  enum { write_out, write_saved_h_seen };
  static constexpr int writes = 2, write_width[] = {1, 1};
  static constexpr int sums = 0, sum_width[] = {0};
  static constexpr int matrices = 1;  // net.1

  struct Phase0 {
    static constexpr int width = 1, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 1, first = 0;
      static constexpr int source[] = {0}, source_width[] = {1};
      static constexpr tt::Factor factor[] = {{0, false}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 2, read[] = {read_net_net, read_bias_net};
    static constexpr int writes = 2, write[] = {write_out, write_saved_h_seen};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto tanh6 = tt::tanh(((at.read(read_net_net) + at.read(read_bias_net)) + at.net(0)));
      at.next(carry_h, tanh6);
      at.write(write_out, tanh6);
      at.write(write_saved_h_seen, at.carry(carry_h));
    }
  };
  using Phases = tt::Sequence<Phase0>;
};

TT_ENTRY(Cell, float)
