// LayerNormLSTM: one time step, derived from its equation.
#include "recurrence.h"

template <class T>
struct Cell {
  using V = tt::Vec<T>;
  static constexpr int widths = 2;  // 1, hidden
  enum { carry_h, carry_c };  // what a step hands to the next
  static constexpr int carries = 2, carry_width[] = {1, 1};
  enum { buffer_add22, buffer_total23, buffer_div25, buffer_sub26, buffer_total28, buffer_div34, buffer_add41, buffer_total42, buffer_div43, buffer_sub44, buffer_total46, buffer_div50, buffer_add57, buffer_total58, buffer_div59, buffer_sub60, buffer_total62, buffer_div66, buffer_add73, buffer_total74, buffer_div75, buffer_sub76, buffer_total78, buffer_div82, buffer_o, buffer_c_89, buffer_total90, buffer_div91, buffer_sub92, buffer_total94, buffer_div98 };  // kept for a later phase of the step
  static constexpr int buffers = 31, buffer_width[] = {1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0};
  enum { read_net_i, read_net_f, read_net_g, read_net_o, read_bias_i, read_bias_f, read_bias_g, read_bias_o, read_gain_i, read_shift_i, read_gain_f, read_shift_f, read_gain_g, read_shift_g, read_gain_o, read_shift_o, read_gain_c, read_shift_c };
  static constexpr int reads = 18, read_width[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  enum { write_out, write_saved_h_seen, write_saved_c_seen, write_saved_sub12, write_saved_sqrt13, write_saved_sub14, write_saved_sqrt15, write_saved_sub16, write_saved_sqrt17, write_saved_sub18, write_saved_sqrt19, write_saved_div20, write_saved_sqrt21 };
  static constexpr int writes = 13, write_width[] = {1, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0};
  static constexpr int sums = 0, sum_width[] = {0};
  static constexpr int matrices = 4;  // i.1, f.1, g.1, o.1

  struct Phase0 {
    static constexpr int width = 1, nets = 4;
    static constexpr int totals = 4, total_buffer[] = {3, 9, 15, 21};
    struct Product0 {
      static constexpr int nets = 4, sources = 1, first = 0;
      static constexpr int source[] = {0}, source_width[] = {1};
      static constexpr tt::Factor factor[] = {{0, false}, {1, false}, {2, false}, {3, false}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 8, read[] = {read_net_i, read_bias_i, read_net_f, read_bias_f, read_net_g, read_bias_g, read_net_o, read_bias_o};
    static constexpr int writes = 2, write[] = {write_saved_h_seen, write_saved_c_seen};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto add22 = ((at.read(read_net_i) + at.read(read_bias_i)) + at.net(0));
      const auto add41 = ((at.read(read_net_f) + at.read(read_bias_f)) + at.net(1));
      const auto add57 = ((at.read(read_net_g) + at.read(read_bias_g)) + at.net(2));
      const auto add73 = ((at.read(read_net_o) + at.read(read_bias_o)) + at.net(3));
      at.write(write_saved_h_seen, at.carry(carry_h));
      at.write(write_saved_c_seen, at.carry(carry_c));
      at.keep(buffer_add22, add22);
      at.keep(buffer_add41, add41);
      at.keep(buffer_add57, add57);
      at.keep(buffer_add73, add73);
      at.total(0, add22);
      at.total(1, add41);
      at.total(2, add57);
      at.total(3, add73);
    }
  };

  struct Phase1 {
    static constexpr int width = 0, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 0, read[] = {0};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      at.keep_one(buffer_div25, (at.buffer_one(buffer_total23) / at.size(1)));
      at.keep_one(buffer_div43, (at.buffer_one(buffer_total42) / at.size(1)));
      at.keep_one(buffer_div59, (at.buffer_one(buffer_total58) / at.size(1)));
      at.keep_one(buffer_div75, (at.buffer_one(buffer_total74) / at.size(1)));
    }
  };

  struct Phase2 {
    static constexpr int width = 1, nets = 0;
    static constexpr int totals = 4, total_buffer[] = {6, 12, 18, 24};
    using Products = tt::Sequence<>;
    static constexpr int reads = 0, read[] = {0};
    static constexpr int writes = 4, write[] = {write_saved_sub12, write_saved_sub14, write_saved_sub16, write_saved_sub18};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto sub26 = (at.buffer(buffer_add22) - at.buffer_one(buffer_div25));
      const auto sub44 = (at.buffer(buffer_add41) - at.buffer_one(buffer_div43));
      const auto sub60 = (at.buffer(buffer_add57) - at.buffer_one(buffer_div59));
      const auto sub76 = (at.buffer(buffer_add73) - at.buffer_one(buffer_div75));
      at.write(write_saved_sub12, sub26);
      at.write(write_saved_sub14, sub44);
      at.write(write_saved_sub16, sub60);
      at.write(write_saved_sub18, sub76);
      at.keep(buffer_sub26, sub26);
      at.keep(buffer_sub44, sub44);
      at.keep(buffer_sub60, sub60);
      at.keep(buffer_sub76, sub76);
      at.total(0, (sub26 * sub26));
      at.total(1, (sub44 * sub44));
      at.total(2, (sub60 * sub60));
      at.total(3, (sub76 * sub76));
    }
  };

  struct Phase3 {
    static constexpr int width = 0, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 0, read[] = {0};
    static constexpr int writes = 4, write[] = {write_saved_sqrt13, write_saved_sqrt15, write_saved_sqrt17, write_saved_sqrt19};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto sqrt32 = tt::sqrt(((at.buffer_one(buffer_total28) / at.size(1)) + tt::splat<T>(T(1e-05))));
      const auto sqrt49 = tt::sqrt(((at.buffer_one(buffer_total46) / at.size(1)) + tt::splat<T>(T(1e-05))));
      const auto sqrt65 = tt::sqrt(((at.buffer_one(buffer_total62) / at.size(1)) + tt::splat<T>(T(1e-05))));
      const auto sqrt81 = tt::sqrt(((at.buffer_one(buffer_total78) / at.size(1)) + tt::splat<T>(T(1e-05))));
      at.write_one(write_saved_sqrt13, sqrt32);
      at.write_one(write_saved_sqrt15, sqrt49);
      at.write_one(write_saved_sqrt17, sqrt65);
      at.write_one(write_saved_sqrt19, sqrt81);
      at.keep_one(buffer_div34, (tt::splat<T>(T(1.0)) / sqrt32));
      at.keep_one(buffer_div50, (tt::splat<T>(T(1.0)) / sqrt49));
      at.keep_one(buffer_div66, (tt::splat<T>(T(1.0)) / sqrt65));
      at.keep_one(buffer_div82, (tt::splat<T>(T(1.0)) / sqrt81));
    }
  };

  struct Phase4 {
    static constexpr int width = 1, nets = 0;
    static constexpr int totals = 1, total_buffer[] = {28};
    using Products = tt::Sequence<>;
    static constexpr int reads = 8, read[] = {read_gain_i, read_shift_i, read_gain_f, read_shift_f, read_gain_g, read_shift_g, read_gain_o, read_shift_o};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto i = tt::sigmoid(tt::fma((at.buffer(buffer_sub26) * at.buffer_one(buffer_div34)), at.read(read_gain_i), at.read(read_shift_i)));
      const auto f = tt::sigmoid(tt::fma((at.buffer(buffer_sub44) * at.buffer_one(buffer_div50)), at.read(read_gain_f), at.read(read_shift_f)));
      const auto g = tt::tanh(tt::fma((at.buffer(buffer_sub60) * at.buffer_one(buffer_div66)), at.read(read_gain_g), at.read(read_shift_g)));
      const auto o = tt::sigmoid(tt::fma((at.buffer(buffer_sub76) * at.buffer_one(buffer_div82)), at.read(read_gain_o), at.read(read_shift_o)));
      const auto c_89 = tt::fma(f, at.carry(carry_c), (i * g));
      at.next(carry_c, c_89);
      at.keep(buffer_o, o);
      at.keep(buffer_c_89, c_89);
      at.total(0, c_89);
    }
  };

  struct Phase5 {
    static constexpr int width = 0, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 0, read[] = {0};
    static constexpr int writes = 1, write[] = {write_saved_div20};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto div91 = (at.buffer_one(buffer_total90) / at.size(1));
      at.write_one(write_saved_div20, div91);
      at.keep_one(buffer_div91, div91);
    }
  };

  struct Phase6 {
    static constexpr int width = 1, nets = 0;
    static constexpr int totals = 1, total_buffer[] = {31};
    using Products = tt::Sequence<>;
    static constexpr int reads = 0, read[] = {0};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto sub92 = (at.buffer(buffer_c_89) - at.buffer_one(buffer_div91));
      at.keep(buffer_sub92, sub92);
      at.total(0, (sub92 * sub92));
    }
  };

  struct Phase7 {
    static constexpr int width = 0, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 0, read[] = {0};
    static constexpr int writes = 1, write[] = {write_saved_sqrt21};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto sqrt97 = tt::sqrt(((at.buffer_one(buffer_total94) / at.size(1)) + tt::splat<T>(T(1e-05))));
      at.write_one(write_saved_sqrt21, sqrt97);
      at.keep_one(buffer_div98, (tt::splat<T>(T(1.0)) / sqrt97));
    }
  };

  struct Phase8 {
    static constexpr int width = 1, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 2, read[] = {read_gain_c, read_shift_c};
    static constexpr int writes = 1, write[] = {write_out};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto mul103 = (at.buffer(buffer_o) * tt::tanh(tt::fma((at.buffer(buffer_sub92) * at.buffer_one(buffer_div98)), at.read(read_gain_c), at.read(read_shift_c))));
      at.next(carry_h, mul103);
      at.write(write_out, mul103);
    }
  };
  using Phases = tt::Sequence<Phase0, Phase1, Phase2, Phase3, Phase4, Phase5, Phase6, Phase7, Phase8>;
};

TT_ENTRY(Cell, float)
