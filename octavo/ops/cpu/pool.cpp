#include "pool.h"

#include <chrono>
#include <climits>

#if defined(__linux__)
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace oct {
namespace {

// About 30 to 100 microseconds: longer than the gap between two steps' launches, short enough
// that an idle server uses no CPU.
constexpr int SPINS_IDLE = 2000;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void sleep_on(std::atomic<uint32_t>& word, uint32_t old) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
#else
  if (word.load() == old) std::this_thread::sleep_for(std::chrono::microseconds(50));
#endif
}

void wake(std::atomic<uint32_t>& word) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
  (void)word;
#endif
}

void pin(int32_t cpu) {
#if defined(__linux__)
  if (cpu < 0 || cpu >= CPU_SETSIZE) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);  // a refusal only costs speed
#else
  (void)cpu;
#endif
}

int this_core() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

}  // namespace

Pool::Pool(int size, const int32_t* cpus) : size_(size), own_(new Own[size]) {
  for (int t = 1; t < size; t++)
    threads_.emplace_back([this, t, cpu = cpus ? cpus[t] : -1] {
      pin(cpu);
      work(t);
    });
}

Pool::~Pool() {
  stop_ = true;
  started_.fetch_add(1);
  wake(started_);
  for (auto& thread : threads_) thread.join();
}

// The sleeper announces itself before it looks a last time, the waker changes the word before
// it looks for sleepers (both sequentially consistent), so that nobody is missed.
void Pool::wait_for(std::atomic<uint32_t>& word, uint32_t old, std::atomic<int>& sleepers, int spins) {
  for (int i = 0; i < spins; i++) {
    if (word.load(std::memory_order_acquire) != old) return;
    relax();
  }
  sleepers.fetch_add(1);
  while (word.load() == old) sleep_on(word, old);
  sleepers.fetch_sub(1);
}

// Where other programs are busy, the system may put two of the team on one core: who waits there
// keeps the one that is waited for from running, so it has to sleep at once.
bool Pool::shares_core(int thread) const {
  const int core = own_[thread].core.load(std::memory_order_relaxed);
  if (core < 0) return false;
  for (int t = 0; t < size_; t++)
    if (t != thread && own_[t].core.load(std::memory_order_relaxed) == core) return true;
  return false;
}

void Pool::work(int thread) {
  uint32_t seen = 0;
  for (;;) {
    wait_for(started_, seen, idle_, shares_core(thread) ? 0 : SPINS_IDLE);
    seen = started_.load(std::memory_order_acquire);
    if (stop_) return;
    job_(context_, thread);
    meet(thread);
  }
}

void Pool::run(Job job, void* context) {
  job_ = job;
  context_ = context;
  next_.store(0, std::memory_order_relaxed);
  started_.fetch_add(1);
  if (idle_.load() > 0) wake(started_);
  job(context, 0);
  meet(0);
}

uint32_t Pool::arrive(int thread) {
  const uint32_t round = round_.load(std::memory_order_acquire);
  own_[thread].next[(round + 1) & 1].store(0, std::memory_order_relaxed);
  own_[thread].core.store(this_core(), std::memory_order_relaxed);
  if (here_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    here_.store(0, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    round_.fetch_add(1);
    if (waiting_.load() > 0) wake(round_);
  }
  return round;
}

}  // namespace oct
