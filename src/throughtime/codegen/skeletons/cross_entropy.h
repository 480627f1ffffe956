// Rows of logits -> the cross-entropy of each, its gradient in the logits' own memory, and the bias' gradient.
//
// A row is passed three times while it lies in a cache: largest logit; exponentials and their sum; gradient. Rows are
// independent and the bias' gradient is a sum down each column in an order of its own, so the number of threads changes
// no bit.
#pragma once

#include "functions.h"

namespace tt {

using Parallel = void (*)(int64_t tasks, int64_t threads, int64_t nanoseconds, void (*task)(void*, int64_t),
                          void* context);

constexpr int64_t task_elements = 1 << 14;  // about 10 microseconds: less is not worth waking a thread
constexpr int64_t strip_columns = 512;      // of the bias' gradient: sums that stay in the first-level cache
constexpr int64_t summed_rows = 128;        // in one go: one sum over all rows would round more
constexpr int64_t summed_vectors = 64;      // the same within a row

template <class T>
struct CrossEntropy {
  int64_t rows, classes;
  T* logits;               // [rows, classes], without the bias; the gradient is left here
  const T* bias;           // [classes], or null
  const int64_t* targets;  // [rows], each in [0, classes)
  double* losses;          // [rows]
  const T* scales;         // [rows], what each row's gradient is multiplied by besides `scale`; or null
  T* bias_gradient;        // [classes], or null
  bool with_gradient, add;  // add: to what stands in `bias_gradient`
  double scale, smoothing;

  // Calls f(first column, number of columns) for every vector of a row; the last may be partly filled.
  template <class F>
  TT_INLINE void each_vector(int64_t first, int64_t end, F f) const {
    int64_t c = first;
    for (; c + lanes<T> <= end; c += lanes<T>) f(c, lanes<T>);
    if (c < end) f(c, int(end - c));
  }

  TT_INLINE static Vec<T> read(const T* from, int n) { return n == lanes<T> ? load(from) : load(from, n); }
  TT_INLINE static void write(T* to, Vec<T> value, int n) { n == lanes<T> ? store(to, value) : store(to, value, n); }
  TT_INLINE static Vec<T> filled(Vec<T> value, int n, T other) {
    return n == lanes<T> ? value : select(first_lanes<T>(n), value, splat(other));
  }

  void row(int64_t r) const {
    T* x = logits + r * classes;
    Vec<T> most = splat(-T(INFINITY));
    // greater() drops a NaN in `most`, but the NaN comes back in the sum of the exponentials.
    each_vector(0, classes, [&](int64_t c, int n) {
      Vec<T> v = read(x + c, n);
      if (bias) write(x + c, v = v + read(bias + c, n), n);
      most = greater(most, filled(v, n, -T(INFINITY)));
    });
    T largest = most[0];
    for (int i = 1; i < lanes<T>; ++i) largest = largest < most[i] ? most[i] : largest;

    const double at_target = double(x[targets[r]]);
    double mean = 0, sum = 0;
    for (int64_t c = 0; c < classes; c += summed_vectors * lanes<T>) {
      const int64_t end = c + summed_vectors * lanes<T> < classes ? c + summed_vectors * lanes<T> : classes;
      Vec<T> exponentials = {}, plain = {};
      each_vector(c, end, [&](int64_t at, int n) {
        const Vec<T> v = read(x + at, n);
        const Vec<T> e = filled(exp(v - largest), n, T(0));
        exponentials = exponentials + e;
        if (smoothing != 0) plain = plain + v;
        if (with_gradient) write(x + at, e, n);
      });
      sum += double(sum_lanes(exponentials));
      mean += double(sum_lanes(plain)) / double(classes);
    }
    losses[r] = log(splat(sum))[0] + double(largest) - (1 - smoothing) * at_target;
    if (smoothing != 0) losses[r] -= smoothing * mean;
    if (!with_gradient) return;

    const double whole = scales ? scale * double(scales[r]) : scale;
    const T factor = T(whole / sum), everywhere = T(whole * smoothing / double(classes));
    each_vector(0, classes,
                [&](int64_t c, int n) { write(x + c, read(x + c, n) * factor - everywhere, n); });
    x[targets[r]] -= T(whole * (1 - smoothing));
  }

  // The columns [first, end) of the bias' gradient.
  void strip(int64_t first, int64_t end) const {
    T total[strip_columns] = {};
    for (int64_t r = 0; r < rows; r += summed_rows) {
      T piece[strip_columns] = {};
      for (int64_t k = r; k < rows && k < r + summed_rows; ++k)
        for (int64_t c = first; c < end; ++c) piece[c - first] += logits[k * classes + c];
      for (int64_t c = 0; c < end - first; ++c) total[c] += piece[c];
    }
    for (int64_t c = first; c < end; ++c) bias_gradient[c] = (add ? bias_gradient[c] : T(0)) + total[c - first];
  }

  int64_t rows_of_task() const { return task_elements / classes > 1 ? task_elements / classes : 1; }

  void run(Parallel parallel, int64_t threads) {
    const int64_t tall = rows_of_task();
    parallel(
        (rows + tall - 1) / tall, threads, rows * classes,
        [](void* context, int64_t task) {
          const auto& self = *(const CrossEntropy*)context;
          const int64_t tall = self.rows_of_task();
          for (int64_t r = task * tall; r < self.rows && r < (task + 1) * tall; ++r) self.row(r);
        },
        this);
    if (bias_gradient)
      parallel(
          (classes + strip_columns - 1) / strip_columns, threads, rows * classes / 4,
          [](void* context, int64_t task) {
            const auto& self = *(const CrossEntropy*)context;
            const int64_t first = task * strip_columns, end = first + strip_columns;
            self.strip(first, end < self.classes ? end : self.classes);
          },
          this);
  }
};

// The sum of the losses.
template <class T>
double run_cross_entropy(const int64_t* a, double scale, double smoothing) {
  CrossEntropy<T> call = {a[2],           a[3],           (T*)a[4],    (const T*)a[5], (const int64_t*)a[6],
                          (double*)a[7],  (const T*)a[8], (T*)a[9],    a[10] != 0,     a[11] != 0,
                          scale,          smoothing};
  call.run((Parallel)a[0], a[1]);
  double total = 0;
  for (int64_t r = 0; r < call.rows; ++r) total += call.losses[r];
  return total;
}

}  // namespace tt

#define TT_CROSS_ENTROPY(T)                                                    \
  extern "C" __attribute__((visibility("default"))) double tt_run(             \
      const int64_t* call, double scale, double smoothing) {                   \
    return tt::run_cross_entropy<T>(call, scale, smoothing);                   \
  }
