// A kernel's entry for tests: runs a whole grid, and says how it ended (emulation::Outcome).
#include "kernel.cu"

extern "C" __attribute__((visibility("default"))) int emulate(const long long* words, int count, int blocks, int threads, int cluster, int bytes,
                                                              unsigned long long seed) {
  tt::Words<TT_WORDS> copy = {};
  memcpy(copy.word, words, sizeof(long long) * count);
  return emulation::launch(blocks, threads, cluster, bytes, seed, [&] { tt_run(copy); });
}
