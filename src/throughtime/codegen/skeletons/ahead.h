// The next step's numbers come from an outer cache while this step is made.
#pragma once

#include "call.h"

namespace tt {

template <class Cell, class T, class Phase>
struct Ahead {
  const char *reads[Phase::reads + 1], *writes[Phase::writes + 1];
  int count = 0, write_count = 0;

  // `from` and `to`: where this step reads and writes.
  TT_INLINE void begin(const Call<Cell, T>& call, const Group<Cell, T>& group, const T* const* from, T* const* to) {
    const int64_t sign = group.reverse ? -1 : 1;
    for (int k : Phase::read)
      if (Phase::reads && group.reads[k].step && !call.is_mapped(k))
        reads[count++] = (const char*)(from[k] + sign * group.reads[k].step);
    for (int k : Phase::write)
      if (Phase::writes) writes[write_count++] = (const char*)(to[k] + sign * group.writes[k].step);
  }

  // The cache lines that lie `bytes` behind the beginnings.
  TT_INLINE void fetch(int64_t bytes) const {
    for (int k = 0; k < count; ++k) __builtin_prefetch(reads[k] + bytes);
    for (int k = 0; k < write_count; ++k) __builtin_prefetch(writes[k] + bytes, 1);
  }
};

}  // namespace tt
