// The loop over time for some sequences. `Cell` says what one step does; this file says when.
// There is no barrier in the loop, unless sequences are fewer than threads: then a team of these shares the units.
#pragma once

#include "ahead.h"
#include "at.h"
#include "direct.h"
#include "input.h"
#include "pack.h"
#include "rows.h"
#include "team.h"
#include "totals.h"

namespace tt {

template <class Cell, class T>
struct Slice : Rows<Cell, T> {
  using Base = Rows<Cell, T>;
  using Base::call, Base::group, Base::rows, Base::sequence;
  using Base::buffer, Base::next, Base::partial, Base::nets, Base::per_row;

  // Net results of as many units as fit the first-level cache are made at once.
  static constexpr int64_t net_room = 16384 / int64_t(sizeof(T));

  const T* packed;
  int64_t count = 0;  // sequences that this step belongs to
  int64_t* active = nullptr;
  Totals<Cell, T> totals;
  Team* team = nullptr;
  int64_t member = 0, members = 1;
  bool left = false;  // this member has left its team
  const T* packed_here = nullptr;
  T* unpacked = nullptr;  // where the panels of a tile are packed if `packed` is null
  const T* packed_input = nullptr;
  Input<Cell, T> input;
  int64_t now = 0;  // which step is being made
  bool back = false;  // from the last unit to the first

  Slice(const Call<Cell, T>& c, const Group<Cell, T>& g, const T* p, int64_t f, int64_t r)
      : Base(c, g, f, r), packed(p) {}

  int64_t time_of(int64_t k) const { return group.reverse ? call.steps - 1 - k : k; }
  bool is_active(int64_t r, int64_t t) const { return !group.lengths || call.origin + t < group.lengths[sequence(r)]; }

  // False if there is no memory.
  bool open(int64_t net_count) { return Base::open(net_count) && open_own(nullptr); }

  bool borrow(const Slice& leader, int64_t net_count) {
    if (!Base::borrow(leader, net_count + rows * Cell::buffers) || !open_own(&leader.totals)) return false;
    for (int64_t r = 0; r < rows; ++r)
      point_totals<Cell>(buffer + r * per_row, nets + net_count + r * Cell::buffers, typename Cell::Phases{});
    return true;
  }

  // What every member of a team has for itself.
  bool open_own(const Totals<Cell, T>* leader) {
    active = (int64_t*)malloc(size_t(rows) * sizeof(int64_t));
    if (!packed) unpacked = allocate<T>(tile_width(1) * largest_net_of(call, typename Cell::Phases{}));
    return active && (packed || unpacked) && totals.open(call, rows, leader) && input.open(call, rows, packed);
  }

  // The part of `count` panels that is this member's.
  int64_t begin_of(int64_t count) const { return count * member / members; }
  int64_t end_of(int64_t count) const { return count * (member + 1) / members; }

  void release() {
    Base::release();
    free(active);
    free(unpacked);
    totals.release();
    input.release();
  }

  // A sequence that has ended keeps its state; what would be written for it is zero.
  void select_active(int64_t t) {
    count = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t b = sequence(r);
      if (is_active(r, t)) {
        active[count++] = r;
        continue;
      }
      if (member) continue;
      for (int k = 0; k < Cell::writes; ++k)
        memset(group.writes[k].at(t, b), 0, size_t(call.width_of(Cell::write_width[k])) * sizeof(T));
    }
  }

  // Sums are added up in two steps, so that they round less than one chain over all time steps would.
  static constexpr int64_t flush_steps = 8;

  void flush() {
    for (int64_t r = 0; r < rows; ++r)
      for (int k = 0; k < Cell::sums; ++k) {
        T* to = group.sums[k].data + sequence(r) * group.sums[k].row;
        T* from = partial[r * Cell::sums + k];
        const int64_t width = call.width_of(Cell::sum_width[k]), blocks = (width + panel<T> - 1) / panel<T>;
        const int64_t begin = begin_of(blocks) * panel<T>, end = end_of(blocks) * panel<T>;
        for (int64_t j = begin; j < end && j < width; ++j) {
          to[j] += from[j];
          from[j] = T(0);
        }
      }
  }

  // Panels [block0, block1) x nets of one product, for every active sequence.
  template <class Product>
  void multiply(int64_t width, int phase_nets, int64_t block0, int64_t block1) {
    if (!packed && Product::sources == 1 && count <= direct_rows)
      return multiply_now<Product>(width, phase_nets, block0, block1);
    int64_t depth[Product::sources], deep = 0;
    for (int s = 0; s < Product::sources; ++s) deep += depth[s] = call.width_of(Product::source_width[s]);
    const int64_t blocks = (width + panel<T> - 1) / panel<T>, panels = (block1 - block0) * Product::nets;
    const int64_t row_step = (block1 - block0) * phase_nets * panel<T>;
    const int64_t tiles = (count + tile_rows - 1) / tile_rows, wide = tile_width(int((count + tiles - 1) / tiles));
    const T* vectors[Product::sources * tile_rows];
    T* out[tile_accumulators];
    TileCall<T> call_of = {vectors, depth, Product::sources, nullptr, deep * panel<T>, out, row_step};
    const int64_t turns = (panels + wide - 1) / wide, here = block0 * Product::nets;
    for (int64_t turn = 0; turn < turns; ++turn) {
      const int64_t first = (back ? turns - 1 - turn : turn) * wide, last = first + wide < panels ? first + wide : panels;
      const T* from = packed ? packed_here + (here + first) * call_of.panel_step
                             : pack_now<Product>(width, here + first, here + last);
      for (int64_t q = 0, r0 = 0; q < tiles; ++q) {
        const int tall = int((count - r0 + tiles - q - 1) / (tiles - q));
        for (int s = 0; s < Product::sources; ++s)
          for (int r = 0; r < tall; ++r)
            vectors[s * tall + r] = buffer[active[r0 + r] * per_row + Product::source[s]];
        for (int64_t p = first; p < last;) {
          for (int64_t k = 0; k < wide && p + k < last; ++k) {
            const int64_t block = (p + k) / Product::nets, net = (p + k) % Product::nets;
            out[k] = nets + r0 * row_step + (block * phase_nets + Product::first + net) * panel<T>;
          }
          call_of.packed = from + (p - first) * call_of.panel_step;
          p += tile_panels<T, tile_rows>(tall, call_of, last - p);
        }
        r0 += tall;
      }
    }
    if (packed) packed_here += blocks * Product::nets * deep * panel<T>;
  }

  // The same of a call with few steps and sequences.
  template <class Product>
  void multiply_now(int64_t width, int phase_nets, int64_t block0, int64_t block1) {
    const int64_t depth = call.width_of(Product::source_width[0]), row_step = (block1 - block0) * phase_nets * panel<T>;
    const T* vectors[direct_rows];
    T* out[direct_rows];
    for (int64_t r = 0; r < count; ++r) vectors[r] = buffer[active[r] * per_row + Product::source[0]];
    for (int64_t p = block0 * Product::nets; p < block1 * Product::nets; ++p) {
      const int64_t block = p / Product::nets, net = p % Product::nets, unit = block * panel<T>;
      const Factor factor = Product::factor[net];
      const Matrix<T>& matrix = group.matrices[factor.matrix];
      for (int64_t r = 0; r < count; ++r)
        out[r] = nets + r * row_step + ((block - block0) * phase_nets + Product::first + net) * panel<T>;
      if (is_direct(matrix, factor.transposed, count, unit, width)) {
        const T* from = matrix.data + unit * matrix.row_step;
        direct_panel(int(count), from, matrix.row_step, depth, depth + lanes<T>, vectors, out);
        continue;
      }
      const T* from = pack_now<Product>(width, p, p + 1);
      tile_panels<T, direct_rows>(int(count), TileCall<T>{vectors, &depth, 1, from, 0, out, row_step}, 1);
    }
  }

  // Panels [first, last) of a product, packed for this step alone: a call of one step would read them no second time.
  template <class Product>
  const T* pack_now(int64_t width, int64_t first, int64_t last) {
    T* to = unpacked;
    for (int64_t p = first; p < last; ++p)
      to += pack_net<Cell, T, Product>(call, group, width, p / Product::nets * panel<T>, p % Product::nets, to);
    return unpacked;
  }

  template <class... Products>
  void multiply_all(Sequence<Products...>, [[maybe_unused]] int64_t width, [[maybe_unused]] int phase_nets,
                    [[maybe_unused]] int64_t block0, [[maybe_unused]] int64_t block1) {
    (multiply<Products>(width, phase_nets, block0, block1), ...);
  }

  template <class... Products>
  int64_t packed_of_phase([[maybe_unused]] int64_t width, Sequence<Products...>) {
    return (pack_product<Cell, T, Products>(call, group, width, nullptr) + ... + 0);
  }

  template <class Phase>
  void run(int64_t t) {
    const int64_t width = call.width_of(Phase::width);
    const int64_t blocks = (width + panel<T> - 1) / panel<T>;
    int64_t together = Phase::nets ? net_room / (count * Phase::nets * panel<T>) : blocks;
    together = together < 1 ? 1 : together > blocks ? blocks : together;
    if (Phase::totals) memset((void*)totals.own, 0, size_t(count) * Phase::totals * sizeof(Vec<T>));
    const T* packed_phase = packed_here;
    const int64_t first = begin_of(blocks), last = end_of(blocks), turns = (last - first + together - 1) / together;
    if (packed && !turns) packed_here += packed_of_phase(width, typename Phase::Products{});
    // Every other step goes through the units backwards: what a cache still holds of the matrices is used first.
    back = now % 2;
    for (int64_t turn = 0; turn < turns; ++turn) {
      const int64_t block0 = first + (back && !Phase::totals ? turns - 1 - turn : turn) * together;
      const int64_t block1 = block0 + together < last ? block0 + together : last;
      packed_here = packed_phase;
      multiply_all(typename Phase::Products{}, width, Phase::nets, block0, block1);
      for (int64_t i = 0; i < count; ++i) pointwise<Phase>(t, i, width, block0, block1);
    }
    const bool shared = members > 1;
    if (shared) {
      team->meet();
      if (team->given_up) give_up();
    }
    if (left) return;
    for (int64_t i = 0; i < count; ++i)
      for (int k = 0; k < Phase::totals; ++k)
        *buffer[active[i] * per_row + Phase::total_buffer[k]] = totals.template sum<Phase>(i, k, width, shared);
    if (Phase::totals) totals.second = !totals.second;
  }

  // At a meeting: the leader goes on alone, with all units, the others have nothing more to do.
  void give_up() {
    left = member > 0;
    if (!left) members = 1;
    if (!left && call.net_count) input.make(*this, now);
  }

  template <class Phase>
  TT_INLINE void pointwise(int64_t t, int64_t i, int64_t width, int64_t block0, int64_t block1) {
    const int64_t r = active[i], b = sequence(r);
    const T* reads[Cell::reads + 1];
    T* writes[Cell::writes + 1];
    for (int n = 0; n < Phase::reads; ++n) {
      const int k = Phase::read[n];
      reads[k] = call.is_mapped(k) ? input.of(call, now, i, k) : group.reads[k].at(t, b);
    }
    for (int n = 0; n < Phase::writes; ++n) writes[Phase::write[n]] = group.writes[Phase::write[n]].at(t, b);
    T* const* sums = partial + r * Cell::sums;
    Ahead<Cell, T, Phase> ahead;
    if (now + 1 < call.steps) ahead.begin(call, group, reads, writes);
    const int64_t net_step = Phase::nets * panel<T>;
    const T* net = nets + i * (block1 - block0) * net_step;
    for (int64_t block = block0; block < block1; ++block, net += net_step)
      for (int half = 0; half < 2; ++half) {
        const int64_t unit = block * panel<T> + half * lanes<T>;
        if (half == 0 || vector_bytes == 64) ahead.fetch(unit * int64_t(sizeof(T)));
        const int64_t n = width - unit;
        const T* here = net + half * lanes<T>;
        Vec<T> own[Phase::totals + 1] = {};
        Vec<T>* const total = Phase::totals && members > 1 ? own : totals.own + i * Phase::totals;
        if (n >= lanes<T>) {
          At<Cell, T, true> at{call, group.seed, reads, writes, sums, buffer + r * per_row, next + r * Cell::carries, here,
                               total, t, b, unit, lanes<T>};
          Phase::pointwise(at);
        } else if (n > 0) {
          At<Cell, T, false> at{call, group.seed, reads, writes, sums, buffer + r * per_row, next + r * Cell::carries, here,
                                total, t, b, unit, int(n)};
          Phase::pointwise(at);
        }
        for (int k = 0; k < Phase::totals && total == own && n > 0; ++k)
          totals.template terms_of<Phase>(i, k, width)[unit / lanes<T>] = own[k];
      }
  }

  template <class... Phases>
  void loop(Sequence<Phases...>) {
    for (int64_t k = 0; k < call.steps; ++k) {
      const int64_t t = time_of(now = k);
      if (k == 0 || group.lengths) select_active(t);
      if (count == 0) continue;
      if (call.net_count && k >= input.end) input.make(*this, k);
      packed_here = packed;
      ((left ? void() : run<Phases>(t)), ...);
      if (left) return;
      for (int64_t i = 0; i < count; ++i)
        for (int c = 0; c < Cell::carries; ++c) {
          T*& seen = buffer[active[i] * per_row + c];
          T*& made = next[active[i] * Cell::carries + c];
          T* swapped = seen;
          seen = made;
          made = swapped;
        }
      if (Cell::sums && (k + 1) % flush_steps == 0) flush();
    }
    if (Cell::sums) flush();
    if (members > 1) team->meet();  // the rows' memory is the leader's, who frees it when all are done with it
  }
};

}  // namespace tt
