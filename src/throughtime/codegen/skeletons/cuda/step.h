// A launch for each phase of each time step, for large layers and many sequences: between the launches the products are
// made, of all sequences at once, by a library of matrix products. A block is one sequence of one group. Its memory is
// the GPU's, laid out as in loop.h, so that these products can read it and write to it.
#pragma once

#include "loop.h"

namespace tt {

// Products are made by somebody else.
struct Outside {
  template <class P, int product, class B>
  static void hold(const B&, int) {}
  template <class P, class Phase, int product, class B>
  static void multiply(const B&) {}
};

template <class Cell, class T>
struct Step {
  Loop<Cell, T, Alone, Outside> loop;

  // The words of a mailbox say where the memory of all blocks lies, and how many bytes each has.
  explicit Step(const Int* words) : loop(words) {
    auto& block = loop.block;
    const Int job = block_number();
    block.memory = (char*)words[mail] + job * words[mail_step];
    block.group.word = words + block.all_words + job / words[rows] * Group<Cell, T>::words;
    block.first_row = int(job % words[rows]);
    block.rows = 1;
    block.k = words[step];
  }

  // Stage 0 begins the sequence, then each phase is a stage, and one more ends it.
  void run() { stage_of(loop.block.of(stage), typename Cell::Phases{}); }

  template <class... Phases>
  void stage_of(int now, Sequence<Phases...>) {
    constexpr int last = sizeof...(Phases);
    int at = 0;
    ((++at == now ? loop.template phase<Phases>() : void()), ...);
    if (now == 0) {
      if (thread() == 0) loop.block.set_range(0);
      sync();
      loop.load_states();
      loop.clear();
    }
    if (Cell::sums && (now > last || (now == last && loop.block.k % loop.flush_steps == loop.flush_steps - 1))) {
      sync();
      loop.flush();
    }
    if (now > last) loop.store_states();
  }
};

}  // namespace tt

#define TT_STEP(Cell, T)                                       \
  TT_KERNEL tt_run(TT_CONSTANT tt::Words<TT_WORDS> words) {    \
    tt::Step<Cell<T>, T> step(words.word);                     \
    step.run();                                                \
  }
