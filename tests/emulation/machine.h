// The machine of codegen/skeletons/cuda/machine.h on one thread of a CPU.
//
// Every CUDA thread is a fiber; who goes on at a barrier or while waiting is drawn at random. Messages between blocks
// (pushes, words posted to a mailbox) are on their way for a random time and overtake one another, but for two to one
// place. In every launch some blocks are slow, and the ways between some. Shared memory begins as NaN. What cannot go
// on, or is sent to a block that has gone, ends the launch.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#define TT_INLINE inline
#define TT_UNROLL
#define TT_ROLLED
#define TT_KERNEL static void
#define TT_CONSTANT const

namespace emulation {

enum Outcome { done, deadlock, message_to_nobody, outside_memory, too_many_arrivals };
enum State { ready, waiting, at_block, at_cluster, at_warp, gone };

constexpr int stack_bytes = 1 << 17, guard_bytes = 256;

struct Message {
  char* place;
  uint64_t value;
  int bytes, block, from;  // block: whose memory it goes to, or -1
  void* barrier;
};
struct Barrier {
  int pending = 1;
  int64_t bytes = 0;
  uint32_t turn = 0;
};
struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  int block, thread;
  State state = ready;
  const Barrier* barrier = nullptr;  // what it waits for, if it does: the end of a turn with this parity,
  uint32_t parity = 0;
  const uint64_t* place = nullptr;  // or another word than it has seen last
  uint64_t seen = 0;

  bool able() const {
    return state == ready || (state == waiting && (barrier ? (barrier->turn & 1) != parity : *place != seen));
  }
};
struct Warp {
  uint32_t a[32][4], b[32][2];
};

struct Grid {
  int blocks, threads, cluster;
  uint64_t random;
  Outcome outcome = done;
  std::vector<Fiber> fibers;
  std::vector<std::vector<char>> memory;
  std::vector<Warp> warps;
  std::map<void*, Barrier> barriers;
  std::map<char*, std::deque<Message>> under_way;  // to each place in order
  std::vector<bool> slow, slow_way;  // of each block; from each block to each, or (last) to the mailbox
  std::function<void()> kernel;
  ucontext_t scheduler;
  Fiber* now = nullptr;

  uint32_t draw(uint32_t below) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    return uint32_t((random >> 16) % below);
  }
  void leave(State state) {
    now->state = state;
    swapcontext(&now->context, &scheduler);
  }
};
inline Grid* grid;

inline void start() {
  grid->kernel();
  grid->leave(gone);
}

inline void check(Barrier& b) {
  if (b.pending == 0 && b.bytes == 0) ++b.turn, b.pending = 1;
}

inline void deliver() {
  auto entry = grid->under_way.begin();
  std::advance(entry, grid->draw(uint32_t(grid->under_way.size())));
  const Message m = entry->second.front();
  const int to = m.block < 0 ? grid->blocks : m.block;
  if (grid->slow_way[m.from * (grid->blocks + 1) + to] && grid->draw(32)) return;
  entry->second.pop_front();
  if (entry->second.empty()) grid->under_way.erase(entry);
  if (m.block >= 0) {
    bool somebody = false;
    for (int t = 0; t < grid->threads; ++t) somebody |= grid->fibers[m.block * grid->threads + t].state != gone;
    if (!somebody) grid->outcome = message_to_nobody;
  }
  memcpy(m.place, &m.value, m.bytes);
  if (m.barrier) {
    Barrier& b = grid->barriers[m.barrier];
    b.bytes -= m.bytes;
    check(b);
  }
}

// Lets a group of fibers go on when all have come.
inline bool open(int first, int count, State state) {
  for (int i = first; i < first + count; ++i)
    if (grid->fibers[i].state != state) return false;
  for (int i = first; i < first + count; ++i) grid->fibers[i].state = ready;
  return true;
}

inline Outcome launch(int blocks, int threads, int cluster, int bytes, uint64_t seed, std::function<void()> kernel) {
  Grid g;
  grid = &g;
  g.blocks = blocks, g.threads = threads, g.cluster = cluster, g.random = seed * 0x9e3779b97f4a7c15u + 1;
  g.kernel = kernel;
  g.memory.assign(blocks, std::vector<char>(bytes + guard_bytes, char(0xff)));
  g.warps.resize(blocks * ((threads + 31) / 32));
  g.fibers.resize(blocks * threads);
  for (int i = 0; i < blocks * threads; ++i) {
    Fiber& f = g.fibers[i];
    f.block = i / threads, f.thread = i % threads;
    f.stack.reset(new char[stack_bytes]);
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get();
    f.context.uc_stack.ss_size = stack_bytes;
    f.context.uc_link = nullptr;
    makecontext(&f.context, start, 0);
  }
  for (int b = 0; b < blocks; ++b) {
    g.slow.push_back(g.draw(3) == 0);
    for (int to = 0; to <= blocks; ++to) g.slow_way.push_back(g.draw(3) == 0);
  }
  std::vector<int> able;
  while (g.outcome == done) {
    able.clear();
    for (int i = 0; i < blocks * threads; ++i)
      if (g.fibers[i].able()) able.push_back(i);
    if (able.empty() && g.under_way.empty()) {
      for (const Fiber& f : g.fibers)
        if (f.state != gone) g.outcome = deadlock;
      break;
    }
    if (!g.under_way.empty() && (able.empty() || g.draw(8) == 0)) {
      deliver();
      continue;
    }
    Fiber& f = g.fibers[able[g.draw(uint32_t(able.size()))]];
    if (g.slow[f.block] && g.draw(16)) continue;
    g.now = &f;
    swapcontext(&g.scheduler, &f.context);
    if (f.state == at_block) open(f.block * threads, threads, at_block);
    if (f.state == at_cluster) open(f.block / cluster * cluster * threads, cluster * threads, at_cluster);
    if (f.state == at_warp) open(f.block * threads + f.thread / 32 * 32, 32, at_warp);
  }
  for (const auto& m : g.memory)
    for (int i = bytes; i < bytes + guard_bytes; ++i)
      if (m[i] != char(0xff)) g.outcome = outside_memory;
  return g.outcome;
}

}  // namespace emulation

namespace tt {

using Int = long long;

inline int thread() { return emulation::grid->now->thread; }
inline int threads() { return emulation::grid->threads; }
inline int block_number() { return emulation::grid->now->block; }
inline void sync() { emulation::grid->leave(emulation::at_block); }
inline char* shared_memory() { return emulation::grid->memory[block_number()].data(); }
inline void prefetch(const void*) {}

inline uint32_t bits(float value) {
  uint32_t found;
  memcpy(&found, &value, 4);
  return found;
}
inline uint64_t bits(double value) {
  uint64_t found;
  memcpy(&found, &value, 8);
  return found;
}
inline void from_bits(uint32_t bits, float& value) { memcpy(&value, &bits, 4); }
inline void from_bits(uint64_t bits, double& value) { memcpy(&value, &bits, 8); }

inline void cluster_sync() { emulation::grid->leave(emulation::at_cluster); }

using Mbarrier = uint64_t;
inline void mbarrier_open(Mbarrier* barrier) { emulation::grid->barriers[barrier] = {}; }
inline void mbarrier_expect(Mbarrier* barrier, uint32_t bytes) {
  auto& b = emulation::grid->barriers[barrier];
  if (b.pending == 0) emulation::grid->outcome = emulation::too_many_arrivals;
  b.pending = 0, b.bytes += bytes;
  emulation::check(b);
}
inline void mbarrier_wait(Mbarrier* barrier, uint32_t parity) {
  auto& fiber = *emulation::grid->now;
  fiber.barrier = &emulation::grid->barriers[barrier];
  fiber.parity = parity;
  emulation::grid->leave(emulation::waiting);
  fiber.barrier = nullptr;
}
template <class Bits>
void push(const void* place, Bits value, const Mbarrier* barrier, int rank) {
  auto& g = *emulation::grid;
  const int own = block_number(), other = own / g.cluster * g.cluster + rank;
  char* mine = g.memory[own].data();
  char* theirs = g.memory[other].data();
  char* to = theirs + ((const char*)place - mine);
  g.under_way[to].push_back({to, value, int(sizeof(Bits)), other, own, theirs + ((const char*)barrier - mine)});
}

inline void post(uint64_t* place, uint64_t word) {
  emulation::grid->under_way[(char*)place].push_back({(char*)place, word, 8, -1, block_number(), nullptr});
}
inline uint64_t look(const uint64_t* place) {
  auto& fiber = *emulation::grid->now;
  const bool again = fiber.place == place;
  fiber.place = place;
  emulation::grid->leave(again ? emulation::waiting : emulation::ready);
  return fiber.seen = *place;
}

inline float narrowed(float value, int kept) {  // rounds to the nearest number of so many bits, ties to even
  uint32_t b = bits(value);
  const int cut = 23 - kept;
  b += (1u << (cut - 1)) - 1 + (b >> cut & 1);
  b &= ~((1u << cut) - 1);
  from_bits(b, value);
  return value;
}
inline uint32_t two_bfloat16(float first, float second) {
  return bits(narrowed(first, 7)) >> 16 | (bits(narrowed(second, 7)) & 0xffff0000u);
}
inline uint32_t two_float16(float first, float second) {
  const _Float16 both[2] = {_Float16(first), _Float16(second)};
  uint32_t found;
  memcpy(&found, both, 4);
  return found;
}
inline uint32_t one_tfloat32(float value) { return bits(narrowed(value, 10)); }

// Which element of a matrix [16, depth] or [depth, 8] a lane's register holds, as the PTX manual's tables for
// mma.m16n8k16 (and .m16n8k8 for tf32) list it.
template <class Number>
void matrix_product(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int depth, Number number) {
  auto& g = *emulation::grid;
  const int lane = thread() % 32;
  auto& warp = g.warps[block_number() * ((g.threads + 31) / 32) + thread() / 32];
  memcpy(warp.a[lane], a, sizeof a);
  memcpy(warp.b[lane], b, sizeof b);
  g.leave(emulation::at_warp);
  float left[16][16], right[16][8];
  for (int l = 0; l < 32; ++l) {
    const int group = l >> 2, in_group = l & 3;
    if (depth == 16) {
      for (int i = 0; i < 8; ++i) {
        const int row = (i < 2 || (4 <= i && i < 6)) ? group : group + 8;
        const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
        left[row][column] = number(warp.a[l][i / 2], i & 1);
      }
      for (int i = 0; i < 4; ++i) right[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group] = number(warp.b[l][i / 2], i & 1);
    } else {
      for (int i = 0; i < 4; ++i) {
        const int row = (i == 0 || i == 2) ? group : group + 8, column = i < 2 ? in_group : in_group + 4;
        left[row][column] = number(warp.a[l][i], 0);
      }
      for (int i = 0; i < 2; ++i) right[in_group + 4 * i][group] = number(warp.b[l][i], 0);
    }
  }
  for (int i = 0; i < 4; ++i) {
    const int row = i < 2 ? lane >> 2 : (lane >> 2) + 8, column = (lane & 3) * 2 + (i & 1);
    for (int k = 0; k < depth; ++k) sum[i] += left[row][k] * right[k][column];
  }
  g.leave(emulation::at_warp);
}
inline void mma_bfloat16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  matrix_product(sum, a, b, 16, [](uint32_t word, int half) {
    float value;
    from_bits(half ? word & 0xffff0000u : word << 16, value);
    return value;
  });
}
inline void mma_float16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  matrix_product(sum, a, b, 16, [](uint32_t word, int half) {
    const uint16_t part = uint16_t(half ? word >> 16 : word);
    _Float16 value;
    memcpy(&value, &part, 2);
    return float(value);
  });
}
inline void mma_tfloat32(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  matrix_product(sum, a, b, 8, [](uint32_t word, int) {
    float value;
    from_bits(word, value);
    return value;
  });
}

}  // namespace tt
