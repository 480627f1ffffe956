// LayerNormLSTM.backward: one time step, derived from its equation.
#include "recurrence.h"

template <class T>
struct Cell {
  using V = tt::Vec<T>;
  static constexpr int widths = 2;  // 1, hidden
  enum { carry_d_h, carry_d_c };  // what a step hands to the next
  static constexpr int carries = 2, carry_width[] = {1, 1};
  enum { buffer_div30, buffer_mul31, buffer_f, buffer_div36, buffer_mul37, buffer_i, buffer_div41, buffer_mul42, buffer_g, buffer_sub48, buffer_div49, buffer_div55, buffer_mul63, buffer_total66, buffer_div74, buffer_add78, buffer_total80, buffer_div81, buffer_add82, buffer_mul89, buffer_total92, buffer_div98, buffer_add103, buffer_total105, buffer_div106, buffer_mul113, buffer_total115, buffer_div121, buffer_add125, buffer_total127, buffer_div128, buffer_add129, buffer_mul137, buffer_total139, buffer_div145, buffer_add149, buffer_total151, buffer_div152, buffer_add153, buffer_mul161, buffer_total163, buffer_div169, buffer_add173, buffer_total175, buffer_div176, buffer_add177 };  // kept for a later phase of the step
  static constexpr int buffers = 46, buffer_width[] = {0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1};
  enum { read_gain_i, read_shift_i, read_gain_f, read_shift_f, read_gain_g, read_shift_g, read_gain_o, read_shift_o, read_gain_c, read_shift_c, read_c_seen, read_sub12, read_sqrt13, read_sub14, read_sqrt15, read_sub16, read_sqrt17, read_sub18, read_sqrt19, read_div20, read_sqrt21, read_d_out };
  static constexpr int reads = 22, read_width[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1};
  enum { write_d_net_d_net_i, write_d_net_d_net_f, write_d_net_d_net_g, write_d_net_d_net_o };
  static constexpr int writes = 4, write_width[] = {1, 1, 1, 1};
  enum { sum_d_bias_i, sum_d_bias_f, sum_d_bias_g, sum_d_bias_o, sum_d_gain_i, sum_d_shift_i, sum_d_gain_f, sum_d_shift_f, sum_d_gain_g, sum_d_shift_g, sum_d_gain_o, sum_d_shift_o, sum_d_gain_c, sum_d_shift_c };
  static constexpr int sums = 14, sum_width[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  static constexpr int matrices = 4;  // i.1, f.1, g.1, o.1

  struct Phase0 {
    static constexpr int width = 0, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 5, read[] = {read_sqrt15, read_sqrt13, read_sqrt17, read_sqrt21, read_sqrt19};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      at.keep_one(buffer_div30, (tt::splat<T>(T(1.0)) / at.read_one(read_sqrt15)));
      at.keep_one(buffer_div36, (tt::splat<T>(T(1.0)) / at.read_one(read_sqrt13)));
      at.keep_one(buffer_div41, (tt::splat<T>(T(1.0)) / at.read_one(read_sqrt17)));
      at.keep_one(buffer_div49, (tt::splat<T>(T(1.0)) / at.read_one(read_sqrt21)));
      at.keep_one(buffer_div55, (tt::splat<T>(T(1.0)) / at.read_one(read_sqrt19)));
    }
  };

  struct Phase1 {
    static constexpr int width = 1, nets = 0;
    static constexpr int totals = 2, total_buffer[] = {15, 22};
    using Products = tt::Sequence<>;
    static constexpr int reads = 17, read[] = {read_d_out, read_sub14, read_gain_f, read_shift_f, read_sub12, read_gain_i, read_shift_i, read_sub16, read_gain_g, read_shift_g, read_c_seen, read_div20, read_gain_c, read_shift_c, read_sub18, read_gain_o, read_shift_o};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto add28 = (at.carry(carry_d_h) + at.read(read_d_out));
      const auto mul31 = (at.read(read_sub14) * at.buffer_one(buffer_div30));
      const auto f = tt::sigmoid(tt::fma(mul31, at.read(read_gain_f), at.read(read_shift_f)));
      const auto mul37 = (at.read(read_sub12) * at.buffer_one(buffer_div36));
      const auto i = tt::sigmoid(tt::fma(mul37, at.read(read_gain_i), at.read(read_shift_i)));
      const auto mul42 = (at.read(read_sub16) * at.buffer_one(buffer_div41));
      const auto g = tt::tanh(tt::fma(mul42, at.read(read_gain_g), at.read(read_shift_g)));
      const auto c = tt::fma(f, at.read(read_c_seen), (i * g));
      const auto sub48 = (c - at.read_one(read_div20));
      const auto mul50 = (sub48 * at.buffer_one(buffer_div49));
      const auto gain_c = at.read(read_gain_c);
      const auto tanh53 = tt::tanh(tt::fma(mul50, gain_c, at.read(read_shift_c)));
      const auto sub18 = at.read(read_sub18);
      const auto mul56 = (sub18 * at.buffer_one(buffer_div55));
      const auto gain_o = at.read(read_gain_o);
      const auto o = tt::sigmoid(tt::fma(mul56, gain_o, at.read(read_shift_o)));
      const auto mul62 = (((add28 * tanh53) * o) * (tt::splat<T>(T(1.0)) - o));
      const auto mul63 = (mul62 * gain_o);
      const auto mul88 = ((add28 * o) * tt::fma(-tanh53, tanh53, tt::splat<T>(T(1.0))));
      const auto mul89 = (mul88 * gain_c);
      at.sum(sum_d_gain_o, (mul62 * mul56));
      at.sum(sum_d_shift_o, mul62);
      at.sum(sum_d_gain_c, (mul88 * mul50));
      at.sum(sum_d_shift_c, mul88);
      at.keep(buffer_mul31, mul31);
      at.keep(buffer_f, f);
      at.keep(buffer_mul37, mul37);
      at.keep(buffer_i, i);
      at.keep(buffer_mul42, mul42);
      at.keep(buffer_g, g);
      at.keep(buffer_sub48, sub48);
      at.keep(buffer_mul63, mul63);
      at.keep(buffer_mul89, mul89);
      at.total(0, (mul63 * sub18));
      at.total(1, (mul89 * sub48));
    }
  };

  struct Phase2 {
    static constexpr int width = 0, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 2, read[] = {read_sqrt19, read_sqrt21};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto sqrt19 = at.read_one(read_sqrt19);
      const auto sqrt21 = at.read_one(read_sqrt21);
      at.keep_one(buffer_div74, (((((-(at.buffer_one(buffer_total66) / sqrt19)) * at.buffer_one(buffer_div55)) * tt::splat<T>(T(0.5))) / sqrt19) / at.size(1)));
      at.keep_one(buffer_div98, (((((-(at.buffer_one(buffer_total92) / sqrt21)) * at.buffer_one(buffer_div49)) * tt::splat<T>(T(0.5))) / sqrt21) / at.size(1)));
    }
  };

  struct Phase3 {
    static constexpr int width = 1, nets = 0;
    static constexpr int totals = 2, total_buffer[] = {18, 25};
    using Products = tt::Sequence<>;
    static constexpr int reads = 1, read[] = {read_sub18};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto mul76 = (at.buffer_one(buffer_div74) * at.read(read_sub18));
      const auto add78 = (tt::fma(at.buffer(buffer_mul63), at.buffer_one(buffer_div55), mul76) + mul76);
      const auto mul100 = (at.buffer_one(buffer_div98) * at.buffer(buffer_sub48));
      const auto add102 = (tt::fma(at.buffer(buffer_mul89), at.buffer_one(buffer_div49), mul100) + mul100);
      at.keep(buffer_add78, add78);
      at.keep(buffer_add103, (at.carry(carry_d_c) + add102));
      at.total(0, (-add78));
      at.total(1, (-add102));
    }
  };

  struct Phase4 {
    static constexpr int width = 0, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 0, read[] = {0};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      at.keep_one(buffer_div81, (at.buffer_one(buffer_total80) / at.size(1)));
      at.keep_one(buffer_div106, (at.buffer_one(buffer_total105) / at.size(1)));
    }
  };

  struct Phase5 {
    static constexpr int width = 1, nets = 0;
    static constexpr int totals = 3, total_buffer[] = {28, 35, 42};
    using Products = tt::Sequence<>;
    static constexpr int reads = 7, read[] = {read_gain_g, read_c_seen, read_gain_f, read_gain_i, read_sub16, read_sub14, read_sub12};
    static constexpr int writes = 1, write[] = {write_d_net_d_net_o};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto add82 = (at.buffer(buffer_add78) + at.buffer_one(buffer_div81));
      const auto add107 = (at.buffer(buffer_add103) + at.buffer_one(buffer_div106));
      const auto i = at.buffer(buffer_i);
      const auto g = at.buffer(buffer_g);
      const auto mul111 = ((add107 * i) * tt::fma(-g, g, tt::splat<T>(T(1.0))));
      const auto mul112 = (mul111 * at.read(read_gain_g));
      const auto f = at.buffer(buffer_f);
      const auto mul135 = (((add107 * at.read(read_c_seen)) * f) * (tt::splat<T>(T(1.0)) - f));
      const auto mul136 = (mul135 * at.read(read_gain_f));
      const auto mul159 = (((add107 * g) * i) * (tt::splat<T>(T(1.0)) - i));
      const auto mul160 = (mul159 * at.read(read_gain_i));
      at.next(carry_d_c, (add107 * f));
      at.write(write_d_net_d_net_o, add82);
      at.sum(sum_d_bias_o, add82);
      at.sum(sum_d_gain_i, (mul159 * at.buffer(buffer_mul37)));
      at.sum(sum_d_shift_i, mul159);
      at.sum(sum_d_gain_f, (mul135 * at.buffer(buffer_mul31)));
      at.sum(sum_d_shift_f, mul135);
      at.sum(sum_d_gain_g, (mul111 * at.buffer(buffer_mul42)));
      at.sum(sum_d_shift_g, mul111);
      at.keep(buffer_add82, add82);
      at.keep(buffer_mul113, (mul112 * at.buffer_one(buffer_div41)));
      at.keep(buffer_mul137, (mul136 * at.buffer_one(buffer_div30)));
      at.keep(buffer_mul161, (mul160 * at.buffer_one(buffer_div36)));
      at.total(0, (mul112 * at.read(read_sub16)));
      at.total(1, (mul136 * at.read(read_sub14)));
      at.total(2, (mul160 * at.read(read_sub12)));
    }
  };

  struct Phase6 {
    static constexpr int width = 0, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 3, read[] = {read_sqrt17, read_sqrt15, read_sqrt13};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto sqrt17 = at.read_one(read_sqrt17);
      const auto sqrt15 = at.read_one(read_sqrt15);
      const auto sqrt13 = at.read_one(read_sqrt13);
      at.keep_one(buffer_div121, (((((-(at.buffer_one(buffer_total115) / sqrt17)) * at.buffer_one(buffer_div41)) * tt::splat<T>(T(0.5))) / sqrt17) / at.size(1)));
      at.keep_one(buffer_div145, (((((-(at.buffer_one(buffer_total139) / sqrt15)) * at.buffer_one(buffer_div30)) * tt::splat<T>(T(0.5))) / sqrt15) / at.size(1)));
      at.keep_one(buffer_div169, (((((-(at.buffer_one(buffer_total163) / sqrt13)) * at.buffer_one(buffer_div36)) * tt::splat<T>(T(0.5))) / sqrt13) / at.size(1)));
    }
  };

  struct Phase7 {
    static constexpr int width = 1, nets = 0;
    static constexpr int totals = 3, total_buffer[] = {31, 38, 45};
    using Products = tt::Sequence<>;
    static constexpr int reads = 3, read[] = {read_sub16, read_sub14, read_sub12};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto mul123 = (at.buffer_one(buffer_div121) * at.read(read_sub16));
      const auto add125 = ((at.buffer(buffer_mul113) + mul123) + mul123);
      const auto mul147 = (at.buffer_one(buffer_div145) * at.read(read_sub14));
      const auto add149 = ((at.buffer(buffer_mul137) + mul147) + mul147);
      const auto mul171 = (at.buffer_one(buffer_div169) * at.read(read_sub12));
      const auto add173 = ((at.buffer(buffer_mul161) + mul171) + mul171);
      at.keep(buffer_add125, add125);
      at.keep(buffer_add149, add149);
      at.keep(buffer_add173, add173);
      at.total(0, (-add125));
      at.total(1, (-add149));
      at.total(2, (-add173));
    }
  };

  struct Phase8 {
    static constexpr int width = 0, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 0, read[] = {0};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      at.keep_one(buffer_div128, (at.buffer_one(buffer_total127) / at.size(1)));
      at.keep_one(buffer_div152, (at.buffer_one(buffer_total151) / at.size(1)));
      at.keep_one(buffer_div176, (at.buffer_one(buffer_total175) / at.size(1)));
    }
  };

  struct Phase9 {
    static constexpr int width = 1, nets = 0;
    static constexpr int totals = 0, total_buffer[] = {0};
    using Products = tt::Sequence<>;
    static constexpr int reads = 0, read[] = {0};
    static constexpr int writes = 3, write[] = {write_d_net_d_net_i, write_d_net_d_net_f, write_d_net_d_net_g};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      const auto add129 = (at.buffer(buffer_add125) + at.buffer_one(buffer_div128));
      const auto add153 = (at.buffer(buffer_add149) + at.buffer_one(buffer_div152));
      const auto add177 = (at.buffer(buffer_add173) + at.buffer_one(buffer_div176));
      at.write(write_d_net_d_net_i, add177);
      at.write(write_d_net_d_net_f, add153);
      at.write(write_d_net_d_net_g, add129);
      at.sum(sum_d_bias_i, add177);
      at.sum(sum_d_bias_f, add153);
      at.sum(sum_d_bias_g, add129);
      at.keep(buffer_add129, add129);
      at.keep(buffer_add153, add153);
      at.keep(buffer_add177, add177);
    }
  };

  struct Phase10 {
    static constexpr int width = 1, nets = 1;
    static constexpr int totals = 0, total_buffer[] = {0};
    struct Product0 {
      static constexpr int nets = 1, sources = 4, first = 0;
      static constexpr int source[] = {20, 33, 40, 47}, source_width[] = {1, 1, 1, 1};
      static constexpr tt::Factor factor[] = {{3, true}, {2, true}, {1, true}, {0, true}};
    };
    using Products = tt::Sequence<Product0>;
    static constexpr int reads = 0, read[] = {0};
    static constexpr int writes = 0, write[] = {0};
    template <class At>
    static TT_INLINE void pointwise(At& at) {
      at.next(carry_d_h, at.net(0));
    }
  };
  using Phases = tt::Sequence<Phase0, Phase1, Phase2, Phase3, Phase4, Phase5, Phase6, Phase7, Phase8, Phase9, Phase10>;
};

TT_ENTRY(Cell, float)
