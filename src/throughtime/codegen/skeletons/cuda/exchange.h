// How the blocks of a team tell one another what each has made: three schemes behind one interface.
//
//   begin(bytes)   all own numbers lie in the own memory; so many bytes will come from the others
//   send(v, r)     row r of the own part of a vector, to all others
//   receive(v, r)  row r of the others' parts
//   finish()       all threads of the block see all of it
//
// Every exchange is between all members, and each has something to send: who has finished one knows that all others have
// begun it. What is exchanged lies
// in two places in turn, one for even steps and one for odd: who writes to a place has finished an exchange of the step
// before, so all others have begun that step and done with what lay there.
#pragma once

#include "call.h"

namespace tt {

// A team of one block.
struct Alone {
  template <class B>
  explicit Alone(const B&) {}
  void open() {}
  void begin(uint32_t) { sync(); }
  template <class T>
  void send(const Shared<T>&, int) {}
  template <class T>
  void receive(const Shared<T>&, int) {}
  void finish() {}
  void step() {}
  void close() {}
};

// A team that is a thread-block cluster: numbers are pushed into the others' shared memory, and counted there by a
// barrier. There are two barriers in turn: a fast member's next numbers may come before a slow one's last.
struct Cluster {
  Mbarrier* barriers;
  int member, members_;
  uint32_t exchanges = 0;

  template <class B>
  explicit Cluster(const B& block) : barriers((Mbarrier*)block.memory), member(block.member), members_(block.of(members)) {}

  void open() {
    if (thread() == 0) mbarrier_open(barriers), mbarrier_open(barriers + 1);
    cluster_sync();  // nobody pushes to a barrier that is not open
  }
  void begin(uint32_t bytes) {
    sync();
    if (thread() == 0) mbarrier_expect(barriers + (exchanges & 1), bytes);
  }
  template <class T>
  void send(const Shared<T>& v, int r) {
    T* row = v.data + r * v.stride + v.begin;
    for (int i = thread(); i < v.count * (members_ - 1); i += threads()) {
      const int unit = i % v.count, peer = (member + 1 + i / v.count) % members_;
      push(row + unit, bits(row[unit]), barriers + (exchanges & 1), peer);
    }
  }
  template <class T>
  void receive(const Shared<T>&, int) {}
  void finish() {
    mbarrier_wait(barriers + (exchanges & 1), (exchanges >> 1) & 1);
    ++exchanges;
    sync();
  }
  void step() {}
  void close() { cluster_sync(); }  // nobody leaves while others may still push to it
};

// A team of any blocks of the grid, all of which must run at once: numbers go through the second-level cache. Each half
// of a word of the mailbox is a number (or half of one) and the step it belongs to, so that no order between words
// matters and nothing else has to be told. The mailbox is zero before the launch; a step's number is never 0.
struct Grid {
  uint64_t* mailbox;
  Int mailbox_step;
  uint32_t steps_made = 1;

  template <class B>
  explicit Grid(const B& block)
      : mailbox((uint64_t*)block.word[mail] + 2 * block.team * block.word[mail_step]), mailbox_step(block.word[mail_step]) {}

  template <class T>
  static constexpr int words = sizeof(T) / 4;

  template <class T>
  uint64_t* place(const Shared<T>& v, int r, int unit) const {
    return mailbox + (steps_made & 1) * mailbox_step + v.mail + (Int(r) * v.width + unit) * words<T>;
  }

  void open() {}
  void begin(uint32_t) { sync(); }
  template <class T>
  void send(const Shared<T>& v, int r) {
    for (int unit = v.begin + thread(); unit < v.begin + v.count; unit += threads()) {
      const uint64_t number = bits(v.data[r * v.stride + unit]);
      uint64_t* to = place(v, r, unit);
      for (int half = 0; half < words<T>; ++half)
        post(to + half, (number >> (32 * half) & 0xffffffffu) << 32 | steps_made);
    }
  }
  template <class T>
  void receive(const Shared<T>& v, int r) {
    for (int i = thread(); i < v.width - v.count; i += threads()) {
      const int unit = i < v.begin ? i : i + v.count;
      const uint64_t* from = place(v, r, unit);
      uint64_t number = 0;
      for (int half = 0; half < words<T>; ++half) {
        uint64_t word;
        do word = look(from + half);
        while (uint32_t(word) != steps_made);
        number |= word >> 32 << (32 * half);
      }
      if constexpr (words<T> == 1)
        from_bits(uint32_t(number), v.data[r * v.stride + unit]);
      else
        from_bits(number, v.data[r * v.stride + unit]);
    }
  }
  void finish() { sync(); }
  void step() { ++steps_made; }
  void close() {}
};

}  // namespace tt
