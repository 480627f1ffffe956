// A part of pool.cpp: how long two threads of the pool take to wait for each other, which differs tenfold between machines.
#pragma once

namespace {

// Two threads that wait for each other again and again.
struct Meetings {
  static const int64_t rounds = 16, batches = 12, patience = 500000;
  alignas(128) int64_t here;
  alignas(128) int64_t there;
  int64_t best;  // nanoseconds of one; 0: nobody came
  bool missed;

  bool wait(const int64_t* place, int64_t value) {
    const int64_t deadline = now() + patience;
    for (;;) {
      for (int i = 0; i < 64; ++i) {
        if (load(place) >= value) return true;
        pause();
      }
      if (now() > deadline || load(&missed)) return false;
    }
  }

  static void run(void* context, int64_t index) {
    Meetings* meetings = static_cast<Meetings*>(context);
    int64_t* mine = index ? &meetings->there : &meetings->here;
    const int64_t* other = index ? &meetings->here : &meetings->there;
    int64_t count = 0;
    for (int64_t b = 0; b < batches; ++b) {
      const int64_t begin = now();
      for (int64_t r = 0; r < rounds; ++r) {
        store(mine, ++count);
        if (!meetings->wait(other, count)) return store(&meetings->missed, true);
      }
      const int64_t each = (now() - begin) / rounds;
      if (index == 0 && b > 0 && (meetings->best == 0 || each < meetings->best)) meetings->best = each;
    }
  }
};

}  // namespace

// Nanoseconds that it takes two threads of the pool to meet, at best; 0 if no second one came to try.
extern "C" __attribute__((visibility("default"))) int64_t tt_meeting() {
  Meetings meetings = {};
  tt_parallel(2, 2, worth_waking_nanoseconds, Meetings::run, &meetings);
  return meetings.best;
}
