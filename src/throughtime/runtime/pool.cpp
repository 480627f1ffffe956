// One small pool of threads for all kernels of the process.
//
// tt_parallel runs task(context, 0) ... task(context, tasks - 1), each once, on the calling thread and at most
// threads - 1 workers, and returns when all are done. Index 0 is the calling thread's; which runs another is not defined.
// `nanoseconds`: how long they would take one thread, roughly. Workers that sleep are not woken for little.
//
// It needs no C++ runtime library and has no constructors. Every worker has its own mailbox, so that only as many
// are woken as are wanted. A job is open while its number stands in `open_job`; a worker announces itself in
// `active` before it looks there, and the caller closes the job before it waits for `active` to fall to 0: a worker
// that wakes too late finds the job closed and touches nothing of it, so nobody ever waits for a thread to wake up.
// As long as the threads of OpenMP spin, they run the tasks instead: see openmp.h.

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

namespace {

typedef void (*Task)(void* context, int64_t index);

const int64_t max_workers = 255;
// On a virtual machine waking a sleeping thread takes the caller 15 microseconds and the thread 50; the next job (the next
// layer, the backward pass) often comes within some hundred. Spinning for longer would take a core from somebody else for
// nothing: torch's own threads do so for some thousand.
const int64_t spin_nanoseconds = 300000;
// Who woke too late for a short job would be asleep again before the next, and always too late: so the time is counted
// from a job's end, up to this much.
const int64_t longest_spin_nanoseconds = 600000;
// One thread has done this much before another is of use; short jobs that follow one another count together.
const int64_t worth_waking_nanoseconds = 100000;
// Kernels keep small tiles on the stack; musl and macOS would give a thread 128 or 512 KiB.
const size_t stack_bytes = size_t(2) << 20;

struct alignas(128) Worker {
  uint64_t job;  // number of the newest job offered to this worker
  int sleeping;
  int avoids;  // 1 + the processor that it may not use, or 0
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t wake;
};

struct Pool {
  Worker workers[max_workers];
  int64_t size;  // workers that exist
  int busy;      // a thread is inside tt_parallel
  uint64_t last_job;
  int64_t passed, passed_at;  // nanoseconds: of jobs for which no sleeping worker was woken, and when the last was
  bool at_fork;

  // The job. Written only while it is closed and `active` is 0.
  Task task;
  void* context;
  int64_t tasks;
  uint64_t float_control;

  alignas(128) int64_t next;     // the first index that nobody has taken
  alignas(128) int64_t active;   // workers that may be looking at the job
  alignas(128) uint64_t open_job;  // its number, or 0
  int caller_sleeping;
  pthread_mutex_t mutex;
  pthread_cond_t done;
};

Pool pool;

template <class T>
T load(const T* place) {
  return __atomic_load_n(place, __ATOMIC_SEQ_CST);
}

template <class T>
void store(T* place, T value) {
  __atomic_store_n(place, value, __ATOMIC_SEQ_CST);
}

// Rounding and flush-to-zero modes belong to a thread; a worker takes the caller's, so that results do not depend on
// which thread computed them.
uint64_t get_float_control() {
#if defined(__SSE__)
  return __builtin_ia32_stmxcsr() & ~uint64_t(0x3f);  // without the exception flags, which are results
#elif defined(__aarch64__)
  uint64_t value;
  __asm__ volatile("mrs %0, fpcr" : "=r"(value));
  return value;
#else
  return 0;
#endif
}

void set_float_control(uint64_t value) {
  if (get_float_control() == value) return;
#if defined(__SSE__)
  __builtin_ia32_ldmxcsr(unsigned(value));
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" : : "r"(value));
#endif
}

void pause() {
#if defined(__SSE2__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

int64_t now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t(time.tv_sec) * 1000000000 + time.tv_nsec;
}

// Spin until it is `reached`; false when the time is over.
template <class Reached>
bool spin(bool from_end_of_job, Reached reached) {
  int64_t time = now(), deadline = time + spin_nanoseconds;
  const int64_t last = time + longest_spin_nanoseconds;
  do {
    for (int i = 0; i < 16; ++i) {
      if (reached()) return true;
      pause();
    }
    time = now();
    if (from_end_of_job && __atomic_load_n(&pool.busy, __ATOMIC_RELAXED))
      deadline = time + spin_nanoseconds < last ? time + spin_nanoseconds : last;
  } while (time < deadline);
  return false;
}

void run_tasks() {
  for (;;) {
    const int64_t index = __atomic_fetch_add(&pool.next, 1, __ATOMIC_RELAXED);
    if (index >= pool.tasks) return;
    pool.task(pool.context, index);
  }
}

void run_caller_tasks() {
  pool.task(pool.context, 0);  // which nobody else takes
  run_tasks();
}

#include "openmp.h"

// Wait for a job newer than `seen`. Either the worker sees the new number or the caller sees it sleeping, because
// each writes its own word before it reads the other's.
uint64_t wait_for_job(Worker* worker, uint64_t seen) {
  if (!spin(true, [&] { return load(&worker->job) != seen; })) {
    pthread_mutex_lock(&worker->mutex);
    store(&worker->sleeping, 1);
    while (load(&worker->job) == seen) pthread_cond_wait(&worker->wake, &worker->mutex);
    store(&worker->sleeping, 0);
    pthread_mutex_unlock(&worker->mutex);
  }
  return load(&worker->job);
}

void* work(void* argument) {
  Worker* worker = static_cast<Worker*>(argument);
  uint64_t seen = 0;
  for (;;) {
    seen = wait_for_job(worker, seen);
    __atomic_fetch_add(&pool.active, 1, __ATOMIC_SEQ_CST);
    if (load(&pool.open_job) == seen) {
      set_float_control(pool.float_control);
      run_tasks();
    }
    if (__atomic_sub_fetch(&pool.active, 1, __ATOMIC_SEQ_CST) == 0 && load(&pool.caller_sleeping)) {
      pthread_mutex_lock(&pool.mutex);
      pthread_cond_signal(&pool.done);
      pthread_mutex_unlock(&pool.mutex);
    }
  }
  return nullptr;
}

#include "waking.h"

void wait_until_left() {
  if (spin(false, [] { return load(&pool.active) == 0; })) return;
  pthread_mutex_lock(&pool.mutex);
  store(&pool.caller_sleeping, 1);
  while (load(&pool.active) != 0) pthread_cond_wait(&pool.done, &pool.mutex);
  store(&pool.caller_sleeping, 0);
  pthread_mutex_unlock(&pool.mutex);
}

// A child of fork has only the thread that forked: its pool starts empty.
void forget_workers() {
  pool.size = 0;
  pool.busy = 0;
  pool.active = 0;
  pool.open_job = 0;
  pool.caller_sleeping = 0;
  openmp = nullptr;  // its threads are gone, too, and it would wait for them
}

void forget_after_fork() {
  if (!pool.at_fork) pool.at_fork = pthread_atfork(nullptr, nullptr, forget_workers) == 0;
}

// Make the pool at least `wanted` workers large; where the system refuses a thread, the others do its work.
void grow(int64_t wanted) {
  if (pool.size >= wanted) return;
  forget_after_fork();
  if (!pool.at_fork) return;
  if (pool.size == 0) {
    pthread_mutex_init(&pool.mutex, nullptr);
    pthread_cond_init(&pool.done, nullptr);
  }
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, stack_bytes);
  // A worker inherits the mask: signals are for the threads of the program.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (pool.size < wanted) {
    Worker* worker = &pool.workers[pool.size];
    worker->job = 0;
    worker->sleeping = 0;
    worker->avoids = 0;
    pthread_mutex_init(&worker->mutex, nullptr);
    pthread_cond_init(&worker->wake, nullptr);
    if (pthread_create(&worker->thread, &attributes, work, worker) != 0) break;
    ++pool.size;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void tt_parallel(int64_t tasks, int64_t threads,
                                                                   int64_t nanoseconds, Task task, void* context) {
  // A call from inside a task, or from a second thread of the program, finds the pool busy and works alone.
  if (tasks <= 1 || threads <= 1 || __atomic_exchange_n(&pool.busy, 1, __ATOMIC_ACQUIRE)) {
    for (int64_t index = 0; index < tasks; ++index) task(context, index);
    return;
  }
  int64_t helpers = (tasks < threads ? tasks : threads) - 1;
  if (helpers > max_workers) helpers = max_workers;
  pool.task = task;
  pool.context = context;
  pool.tasks = tasks;
  pool.float_control = get_float_control();
  pool.next = 1;
  if (run_on_openmp(helpers)) {
    __atomic_store_n(&pool.busy, 0, __ATOMIC_RELEASE);
    return;
  }
  grow(helpers);
  if (helpers > pool.size) helpers = pool.size;
  const uint64_t job = ++pool.last_job;
  store(&pool.open_job, job);
  bool wake = false, asked = false;
  for (int64_t i = 0; i < helpers; ++i) {
    if (!asked && load(&pool.workers[i].sleeping)) wake = is_worth_waking(nanoseconds), asked = true;
    if (wake || !load(&pool.workers[i].sleeping)) offer(&pool.workers[i], job);
  }

  run_caller_tasks();
  store(&pool.open_job, uint64_t(0));
  wait_until_left();
  __atomic_store_n(&pool.busy, 0, __ATOMIC_RELEASE);
}

// `parallel` is OpenMP's GOMP_parallel, of the library that the program's other work runs on.
extern "C" __attribute__((visibility("default"))) void tt_use_openmp(void* parallel) {
  forget_after_fork();
  if (pool.at_fork) openmp = reinterpret_cast<OpenMP>(parallel);
}

#include "meeting.h"
