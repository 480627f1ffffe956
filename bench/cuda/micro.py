"""Cycles of the steps that the kernels' exchanges are made of: what the model in nn/cuda_model.py needs to know.

    python bench/cuda/micro.py

Prints, one a line: a barrier of a block; a push to another block of a cluster and back, and an exchange of all with
all, by the size of the cluster; a barrier of a cluster; a word through the second-level cache and back, and an exchange
of all with all, by the number of blocks; how many clusters run at once, by size.
"""

from __future__ import annotations

import numpy as np
import torch
from common import gpu

from throughtime import runtime
from throughtime.codegen.cuda import cuda_skeletons
from throughtime.nn.cuda_device import arch_of

TURNS, THREADS, SHARED = 1000, 256, 200 << 10
TEXT = """
#include "exchange.h"

using namespace tt;

struct Arguments {
  Int *cycles, *mailbox, turns, members;
};

TT_INLINE void report(const Arguments& a, Int begin) {
  if (thread() == 0 && block_number() == 0) *a.cycles = (clock64() - begin) / a.turns;
}

TT_KERNEL block_barrier(TT_CONSTANT Arguments a) {
  const Int begin = clock64();
  for (Int i = 0; i < a.turns; ++i) sync();
  report(a, begin);
}

TT_KERNEL grid_ping(TT_CONSTANT Arguments a) {  // block 0 and the last one, one word each way
  if (thread() != 0) return;
  const bool first = block_number() == 0;
  if (!first && block_number() != int(a.members) - 1) return;
  uint64_t* own = (uint64_t*)a.mailbox + (first ? 0 : 64);
  uint64_t* other = (uint64_t*)a.mailbox + (first ? 64 : 0);
  const Int begin = clock64();
  for (uint64_t i = 1; i <= uint64_t(a.turns); ++i) {
    if (first) post(own, i);
    while (look(other) != i) {
    }
    if (!first) post(own, i);
  }
  report(a, begin);
}

// Every block posts 32 words and takes those of all others, as a step of a team does.
TT_KERNEL grid_exchange(TT_CONSTANT Arguments a) {
  const Int begin = clock64();
  uint64_t* box = (uint64_t*)a.mailbox;
  for (uint64_t i = 1; i <= uint64_t(a.turns); ++i) {
    uint64_t* half = box + (i & 1) * a.members * 32;
    if (thread() < 32) post(half + block_number() * 32 + thread(), i);
    for (int k = thread(); k < a.members * 32; k += threads())
      while (look(half + k) != i) {
      }
    sync();
  }
  report(a, begin);
}

#if __CUDA_ARCH__ >= 900
TT_KERNEL cluster_barrier(TT_CONSTANT Arguments a) {
  const Int begin = clock64();
  for (Int i = 0; i < a.turns; ++i) cluster_sync();
  report(a, begin);
}

TT_KERNEL cluster_ping(TT_CONSTANT Arguments a) {  // member 0 and the last one, four bytes each way
  Mbarrier* barrier = (Mbarrier*)shared_memory();
  uint32_t* word = (uint32_t*)(barrier + 1);
  const int last = int(a.members) - 1, rank = block_number();
  if (thread() == 0) mbarrier_open(barrier);
  cluster_sync();
  const Int begin = clock64();
  if (thread() == 0 && (rank == 0 || rank == last))
    for (Int i = 0; i < a.turns; ++i) {
      mbarrier_expect(barrier, 4);
      if (rank == 0) push(word, uint32_t(i), barrier, last);
      mbarrier_wait(barrier, uint32_t(i & 1));
      if (rank != 0) push(word, uint32_t(i), barrier, 0);
    }
  report(a, begin);
  cluster_sync();
}

// Every member pushes 32 numbers to every other, with the two barriers in turn that exchange.h has.
TT_KERNEL cluster_exchange(TT_CONSTANT Arguments a) {
  Mbarrier* barriers = (Mbarrier*)shared_memory();
  uint32_t* words = (uint32_t*)(barriers + 2);
  const int rank = block_number();
  if (thread() == 0) mbarrier_open(barriers), mbarrier_open(barriers + 1);
  cluster_sync();
  const Int begin = clock64();
  for (Int i = 0; i < a.turns; ++i) {
    Mbarrier* barrier = barriers + (i & 1);
    uint32_t* half = words + (i & 1) * a.members * 32;
    sync();
    if (thread() == 0) mbarrier_expect(barrier, uint32_t((a.members - 1) * 32 * 4));
    for (int k = thread(); k < 32 * (a.members - 1); k += threads())
      push(half + rank * 32 + k % 32, uint32_t(i), barrier, int((rank + 1 + k / 32) % a.members));
    mbarrier_wait(barrier, uint32_t((i >> 1) & 1));
  }
  report(a, begin);
  cluster_sync();
}
#endif
"""


def main() -> None:
    device = gpu()
    capability = torch.cuda.get_device_capability(device)
    nvrtc = runtime.find_nvrtc(arch_of(capability), int((torch.version.cuda or "0").split(".")[0]))
    files = {**cuda_skeletons(), "micro.cu": TEXT}
    code = runtime.build("micro", files, "micro.cu", (f"-DTT_THREADS={THREADS}",), nvrtc).path.read_bytes()
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    cycles = torch.zeros(1, dtype=torch.int64, device=device)

    def measure(name: str, members: int, cluster: int) -> None:
        function = runtime.load_function(code, name, name)
        mailbox = torch.zeros(64 * max(members, 2), dtype=torch.int64, device=device)
        words = np.array([cycles.data_ptr(), mailbox.data_ptr(), TURNS, members], dtype=np.int64)
        try:
            function.allow_shared(1 << 13, cluster)
            place = words.__array_interface__["data"][0]
            stream = torch.cuda.current_stream().cuda_stream
            function.launch(place, members, THREADS, 1 << 13, stream, cluster, cluster == 1 and members > 1)
            print(f"{name} {members}: {int(cycles)} cycles")
        except runtime.CudaError as error:
            print(f"{name} {members}: {error}")

    measure("block_barrier", 1, 1)
    for members in (2, 8, 32, 64, processors):
        measure("grid_ping", members, 1)
        measure("grid_exchange", members, 1)
    if capability < (9, 0):
        return
    for members in (2, 4, 8, 16):
        for name in ("cluster_barrier", "cluster_ping", "cluster_exchange"):
            measure(name, members, members)
        function = runtime.load_function(code, "cluster_barrier", "cluster_barrier")
        function.allow_shared(SHARED, members)
        at_once = function.active_clusters(members, THREADS, SHARED, members)
        print(f"clusters of {members} with {SHARED >> 10} KB a block: {at_once} at once")


if __name__ == "__main__":
    main()
