// MinimalGatedUnit.backward: one time step, derived from its equation.
#include "recurrence.h"

template <class T>
struct Cell {
  using V = tt::Vec<T>;
  static constexpr int widths = 2;  // 1, hidden
  enum { carry_d_h };  // what a step hands to the next
  static constexpr int carries = 1, carry_width[] = {1};
  enum { buffer_add8, buffer_mul15, buffer_add18, buffer_mul26 };  // kept for a later phase of the step
  static constexpr int buffers = 4, buffer_width[] = {1, 1, 1, 1};
  enum { read_h_seen, read_f, read_candidate, read_d_out };
  static constexpr int reads = 4, read_width[] = {1, 1, 1, 1};
  enum { write_d_net_d_net_f, write_d_net_d_net_h };
  static constexpr int writes = 2, write_width[] = {1, 1};
  enum { sum_d_bias_f, sum_d_bias_h };
  static constexpr int sums = 2, sum_width[] = {1, 1};
  static constexpr int matrices = 2;  // f.1, h.1

  struct Phase0 {
    static constexpr int width = 1, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 3, read[] = {read_d_out, read_candidate, read_f};
    static constexpr int writes = 1, write[] = {write_d_net_d_net_h};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto add8 = (at.carry(carry_d_h) + at.read(read_d_out));
      const auto candidate = at.read(read_candidate);
      const auto mul15 = ((add8 * at.read(read_f)) * tt::fma(-candidate, candidate, tt::splat<T>(T(1.0))));
      at.write(write_d_net_d_net_h, mul15);
      at.sum(sum_d_bias_h, mul15);
      at.keep(buffer_add8, add8);
      at.keep(buffer_mul15, mul15);
    }
  };

  struct Phase1 {
    static constexpr int width = 1, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 1, first = 0;
      static constexpr int source[] = {2}, source_width[] = {1};
      static constexpr tt::Factor factor[] = {{1, true}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 3, read[] = {read_f, read_h_seen, read_candidate};
    static constexpr int writes = 1, write[] = {write_d_net_d_net_f};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto f = at.read(read_f);
      const auto sub10 = (tt::splat<T>(T(1.0)) - f);
      const auto linear16 = at.net(0);
      const auto h_seen = at.read(read_h_seen);
      const auto add8 = at.buffer(buffer_add8);
      const auto mul26 = ((tt::fma(linear16, h_seen, tt::fma(add8, at.read(read_candidate), (-(add8 * h_seen)))) * f) * sub10);
      at.write(write_d_net_d_net_f, mul26);
      at.sum(sum_d_bias_f, mul26);
      at.keep(buffer_add18, tt::fma(add8, sub10, (linear16 * f)));
      at.keep(buffer_mul26, mul26);
    }
  };

  struct Phase2 {
    static constexpr int width = 1, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 1, first = 0;
      static constexpr int source[] = {4}, source_width[] = {1};
      static constexpr tt::Factor factor[] = {{0, true}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 0, read[] = {0};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      at.next(carry_d_h, (at.buffer(buffer_add18) + at.net(0)));
    }
  };
  using Phases = tt::Sequence<Phase0, Phase1, Phase2>;
};

TT_ENTRY(Cell, float)
