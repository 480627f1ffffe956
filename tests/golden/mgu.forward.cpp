// MinimalGatedUnit: one time step, derived from its equation.
#include "recurrence.h"

template <class T>
struct Cell {
  using V = tt::Vec<T>;
  static constexpr int widths = 2;  // 1, hidden
  enum { carry_h };  // what a step hands to the next
  static constexpr int carries = 1, carry_width[] = {1};
  enum { buffer_f, buffer_mul9 };  // kept for a later phase of the step
  static constexpr int buffers = 2, buffer_width[] = {1, 1};
  enum { read_net_f, read_net_h, read_bias_f, read_bias_h };
  static constexpr int reads = 4, read_width[] = {1, 1, 1, 1};
  enum { write_out, write_saved_h_seen, write_saved_f, write_saved_mul2, write_saved_candidate };
  static constexpr int writes = 5, write_width[] = {1, 1, 1, 1, 1};
  static constexpr int sums = 0, sum_width[] = {0};
  static constexpr int matrices = 2;  // f.1, h.1

  struct Phase0 {
    static constexpr int width = 1, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 1, first = 0;
      static constexpr int source[] = {0}, source_width[] = {1};
      static constexpr tt::Factor factor[] = {{0, false}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 2, read[] = {read_net_f, read_bias_f};
    static constexpr int writes = 3, write[] = {write_saved_h_seen, write_saved_f, write_saved_mul2};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto f = tt::sigmoid(((at.read(read_net_f) + at.read(read_bias_f)) + at.net(0)));
      const auto h = at.carry(carry_h);
      const auto mul9 = (f * h);
      at.write(write_saved_h_seen, h);
      at.write(write_saved_f, f);
      at.write(write_saved_mul2, mul9);
      at.keep(buffer_f, f);
      at.keep(buffer_mul9, mul9);
    }
  };

  struct Phase1 {
    static constexpr int width = 1, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 1, first = 0;
      static constexpr int source[] = {2}, source_width[] = {1};
      static constexpr tt::Factor factor[] = {{1, false}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 2, read[] = {read_net_h, read_bias_h};
    static constexpr int writes = 2, write[] = {write_out, write_saved_candidate};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto candidate = tt::tanh(((at.read(read_net_h) + at.read(read_bias_h)) + at.net(0)));
      const auto f = at.buffer(buffer_f);
      const auto add18 = tt::fma((tt::splat<T>(T(1.0)) - f), at.carry(carry_h), (f * candidate));
      at.next(carry_h, add18);
      at.write(write_out, add18);
      at.write(write_saved_candidate, candidate);
    }
  };
  using Phases = tt::Sequence<Phase0, Phase1>;
};

TT_ENTRY(Cell, float)
