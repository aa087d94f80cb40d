// A few threads that stay: they spin for a moment after each job, then sleep in the kernel.
// Knows nothing of what it runs.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace oct {

// One team of `size` threads, the caller being number 0.
class Pool {
 public:
  using Job = void (*)(void* context, int thread);

  // cpus: one a thread to pin the workers to, or null. The caller is never pinned.
  Pool(int size, const int32_t* cpus);
  ~Pool();

  int size() const { return size_; }

  // Runs job(context, t) for every thread and returns when all have ended. One caller at a time.
  void run(Job job, void* context);

  // Inside a job: waits until every thread is here, then restarts the task counters.
  void meet(int thread) { wait(thread, arrive(thread)); }

  // A meeting in parts, for who has something to do meanwhile: says that this thread is here,
  // whether all are, and waits for them.
  uint32_t arrive(int thread);
  bool met(uint32_t round) const { return round_.load(std::memory_order_acquire) != round; }
  void wait(int thread, uint32_t round) {
    if (!met(round)) wait_for(round_, round, waiting_, shares_core(thread) ? 0 : SPINS_MEET);
  }

  // Inside a job: the number of a task nobody has taken since the last meeting.
  int64_t take() { return next_.fetch_add(1, std::memory_order_relaxed); }

  // The same of the tasks that belong to thread `owner`, `count` of them; any thread may take
  // them. `count` where none is left.
  int64_t take_of(int owner, int64_t count) {
    std::atomic<int64_t>& next = own_[owner].next[round_.load(std::memory_order_relaxed) & 1];
    if (next.load(std::memory_order_relaxed) >= count) return count;
    const int64_t task = next.fetch_add(1, std::memory_order_relaxed);
    return task < count ? task : count;
  }

 private:
  // One counter for this round and one for the next, which its owner clears before it arrives.
  struct alignas(64) Own {
    std::atomic<int64_t> next[2] = {{0}, {0}};
    std::atomic<int> core{-1};  // where its owner last arrived; -1: not known
  };

  // A wait of about 50 to 100 microseconds.
  static constexpr int SPINS_MEET = 4000;

  void work(int thread);
  bool shares_core(int thread) const;
  void wait_for(std::atomic<uint32_t>& word, uint32_t old, std::atomic<int>& sleepers, int spins);

  const int size_;
  Job job_ = nullptr;
  void* context_ = nullptr;
  bool stop_ = false;
  alignas(64) std::atomic<uint32_t> started_{0};
  alignas(64) std::atomic<int> idle_{0};  // workers asleep between jobs
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<int> here_{0};
  alignas(64) std::atomic<int> waiting_{0};  // threads asleep at a meeting
  alignas(64) std::atomic<int64_t> next_{0};
  std::unique_ptr<Own[]> own_;
  std::vector<std::thread> threads_;
};

}  // namespace oct
