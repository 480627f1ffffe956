// The loop over time. `Cell` says what one step does; this file says when, and which block does it.
#pragma once

#include "at.h"
#include "exchange.h"
#include "tensor.h"

namespace tt {

template <class Cell, class T, class Exchange, class Multiplier>
struct Loop {
  Block<Cell, T> block;
  Exchange exchange;
  Multiplier multiplier = {};

  explicit Loop(const Int* words) : block(words), exchange(block) {}

  // A team's sequences are a tile of one group; teams take the tiles in turn.
  void run() {
    const Int* w = block.word;
    const Int tiles = (w[rows] + w[tile] - 1) / w[tile];
    Int group_held = -1;
    exchange.open();
    for (Int job = block.team; job < w[groups] * tiles; job += w[teams]) {
      block.group.word = w + block.all_words + job / tiles * Group<Cell, T>::words;
      block.first_row = int(job % tiles * w[tile]);
      block.rows = int(w[rows] - block.first_row < w[tile] ? w[rows] - block.first_row : w[tile]);
      sync();  // the last tile's numbers are not needed any more
      for (int r = thread(); r < block.rows; r += threads()) block.set_range(r);
      if (w[held] && group_held != job / tiles) hold_all(typename Cell::Phases{});
      group_held = job / tiles;
      sync();
      sequences();
    }
    exchange.close();
  }

  void sequences() {
    const Int before = block.made;
    Int begin = block.word[steps], end = 0;
    for (int r = 0; r < block.rows; ++r)
      if (block.first(r) < block.last(r)) {
        begin = block.first(r) < begin ? block.first(r) : begin;
        end = block.last(r) > end ? block.last(r) : end;
      }
    if (begin > end) begin = end;
    block.made = before - begin;
    load_states();
    clear();
    sync();
    for (block.k = begin; block.k < end; ++block.k) {
      fetch_ahead();
      run_all(typename Cell::Phases{});
      exchange_states();
      if (Cell::sums && (block.k - begin) % flush_steps == flush_steps - 1) flush();
    }
    if (Cell::sums) flush();
    store_states();
    block.made += end;
  }

  // Sums are added up in two steps, so that they round less than one chain over all time steps would.
  static constexpr int flush_steps = 8;

  // Visits row and unit of some units of every sequence.
  template <class F>
  void each(int begin, int count, F f) {
    for (int i = thread(); i < block.rows * count; i += threads()) f(i / count, begin + i % count);
  }

  void load_states() {
    TT_UNROLL
    for (int c = 0; c < Cell::carries; ++c) {
      const int w = Cell::carry_width[c];
      const auto start = block.group.start(c);
      const bool whole = Cell::carry_shared[c];
      each(whole ? 0 : block.begin(w), whole ? block.width(w) : block.count(w), [&](int r, int unit) {
        T* to = block.carry(c, block.first(r)) + r * block.carry_stride(c) + unit;
        *to = start.data ? start.data[(block.first_row + r) * start.row + unit] : T(0);
      });
    }
  }

  void store_states() {
    TT_UNROLL
    for (int c = 0; c < Cell::carries; ++c) {
      const int w = Cell::carry_width[c];
      const auto end = block.group.end(c);
      if (!end.data || !block.owns(w)) continue;
      each(block.begin(w), block.count(w), [&](int r, int unit) {
        end.data[(block.first_row + r) * end.row + unit] = block.carry(c, block.last(r))[r * block.carry_stride(c) + unit];
      });
    }
  }

  // What is added to is 0 at first; what is written for a sequence that has ended is 0.
  void clear() {
    TT_UNROLL
    for (int k = 0; k < Cell::sums; ++k) {
      const int w = Cell::sum_width[k];
      const auto sum = block.group.sum(k);
      each(block.begin(w), block.count(w), [&](int r, int unit) {
        block.sum(k)[r * block.sum_stride(k) + unit] = 0;
        if (block.owns(w)) sum.data[(block.first_row + r) * sum.row + unit] = 0;
      });
    }
    if (!block.group.lengths()) return;
    for (int r = 0; r < block.rows; ++r)
      for (Int t = block.last(r) - block.first(r); t < block.word[steps]; ++t)
        TT_UNROLL
        for (int k = 0; k < Cell::writes; ++k) {
          const int w = Cell::write_width[k];
          const auto array = block.group.write(k);
          T* to = array.data + t * array.step + (block.first_row + r) * array.row + block.begin(w);
          for (int unit = thread(); block.owns(w) && unit < block.count(w); unit += threads()) to[unit] = 0;
        }
  }

  void flush() {
    TT_UNROLL
    for (int k = 0; k < Cell::sums; ++k) {
      const int w = Cell::sum_width[k];
      const auto sum = block.group.sum(k);
      each(block.begin(w), block.count(w), [&](int r, int unit) {
        T& part = block.sum(k)[r * block.sum_stride(k) + unit];
        if (block.owns(w)) sum.data[(block.first_row + r) * sum.row + unit] += part;
        part = 0;
      });
    }
    sync();
  }

  // ---- one step ---------------------------------------------------------------------------------------------------

  // The next step's numbers come from memory while this step is made.
  void fetch_ahead() {
    constexpr int line = 128 / int(sizeof(T));
    if (block.k + 1 >= block.word[steps]) return;
    TT_UNROLL
    for (int k = 0; k < Cell::reads; ++k) {
      const int w = Cell::read_width[k];
      const auto array = block.group.read(k);
      if (!array.step) continue;
      const Int t = block.group.reverse() ? block.time() - 1 : block.time() + 1;
      const T* from = array.data + t * array.step + block.first_row * array.row + block.begin(w);
      each(0, (block.count(w) + line - 1) / line, [&](int r, int i) { prefetch(from + r * array.row + i * line); });
    }
  }

  template <class... Phases>
  void hold_all(Sequence<Phases...>) {
    (hold<Phases, Phases::first_product>(typename Phases::Products{}), ...);
  }
  template <class Phase, int number>
  void hold(Sequence<>) {}
  template <class Phase, int number, class Product, class... More>
  void hold(Sequence<Product, More...>) {
    multiplier.template hold<Product, number>(block, Phase::width);
    hold<Phase, number + 1>(Sequence<More...>{});
  }
  template <class Phase, int number>
  void multiply(Sequence<>) {}
  template <class Phase, int number, class Product, class... More>
  void multiply(Sequence<Product, More...>) {
    multiplier.template multiply<Product, Phase, number>(block);
    multiply<Phase, number + 1>(Sequence<More...>{});
  }

  template <class... Phases>
  void run_all(Sequence<Phases...>) {
    (phase<Phases>(), ...);
  }

  template <class Phase>
  void phase() {
    if constexpr (Phase::nets > 0) {
      multiply<Phase, Phase::first_product>(typename Phase::Products{});
      sync();
    }
    const Int t = block.time();
    each(block.begin(Phase::width), block.count(Phase::width), [&](int r, int unit) {
      if (!block.active(r)) return;
      At<Cell, T, Phase> at{block, r, unit, t, block.first_row + r};
      Phase::pointwise(at);
    });
    if constexpr (Phase::totals > 0) add_up<Phase>();
    if constexpr (Phase::shared + Phase::totals > 0) {
      exchange_all(Phase::shared + Phase::totals, [&](int k) {
        return k < Phase::shared ? block.shared_buffer(Phase::shared_buffer[k])
                                 : block.shared_total(Phase::first_total + k - Phase::shared);
      });
    } else {
      sync();
    }
    if constexpr (Phase::totals > 0) {
      each(0, Phase::totals, [&](int r, int k) {
        const Shared<T> all = block.shared_total(Phase::first_total + k);
        T sum = 0;
        for (int m = 0; m < all.width; ++m) sum += all.data[r * all.stride + m];
        const int to = Phase::total_buffer[k] - Cell::carries;
        block.buffer(to)[r * block.buffer_stride(to)] = sum;
      });
      sync();
    }
  }

  // The member's part of the sums over units, in an order that depends on no chance.
  template <class Phase>
  void add_up() {
    constexpr int lanes = 32;
    const int share = block.share(Phase::width), count = block.owns(Phase::width) ? block.count(Phase::width) : 0;
    const T* values = block.numbers(scratch);
    T* sums = block.numbers(parts);
    sync();
    each(0, Phase::totals * lanes, [&](int r, int i) {
      const T* from = values + (r * Phase::totals + i / lanes) * share;
      T sum = 0;
      for (int unit = i % lanes; unit < count; unit += lanes) sum += from[unit];
      sums[r * Phase::totals * lanes + i] = sum;
    });
    sync();
    each(0, Phase::totals, [&](int r, int k) {
      const T* from = sums + (r * Phase::totals + k) * lanes;
      T sum = 0;
      for (int i = 0; i < lanes; ++i) sum += from[i];
      const Shared<T> all = block.shared_total(Phase::first_total + k);
      all.data[r * all.stride + all.begin] = sum;
    });
  }

  void exchange_states() {
    if constexpr (Cell::shared_carries > 0)
      exchange_all(Cell::shared_carries, [&](int k) { return block.shared_carry(Cell::shared_carry[k], block.k + 1); });
    exchange.step();
  }

  template <class F>
  void exchange_all(int count, F shared) {
    int active = 0;
    for (int r = 0; r < block.rows; ++r) active += block.active(r);
    uint32_t bytes = 0;
    TT_UNROLL
    for (int k = 0; k < count; ++k) bytes += uint32_t((shared(k).width - shared(k).count) * active * int(sizeof(T)));
    exchange.begin(bytes);
    TT_UNROLL
    for (int k = 0; k < count; ++k)
      for (int r = 0; r < block.rows; ++r)
        if (block.active(r)) exchange.send(shared(k), r);
    TT_UNROLL
    for (int k = 0; k < count; ++k)
      for (int r = 0; r < block.rows; ++r)
        if (block.active(r)) exchange.receive(shared(k), r);
    exchange.finish();
  }
};

}  // namespace tt

#define TT_ENTRY(Cell, T, Exchange, ...)                                       \
  TT_KERNEL tt_run(TT_CONSTANT tt::Words<TT_WORDS> words) {                    \
    tt::Loop<Cell<T>, T, tt::Exchange, tt::__VA_ARGS__> loop(words.word);      \
    loop.run();                                                                \
  }
