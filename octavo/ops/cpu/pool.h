// A few threads that stay: they spin for a moment after each job, then sleep in the kernel.
// Knows nothing of what it runs.
#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
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

  // Inside a job: waits until every thread is here, then restarts the task counter.
  void meet();

  // Inside a job: the number of a task nobody has taken since the last meeting.
  int64_t take() { return next_.fetch_add(1, std::memory_order_relaxed); }

 private:
  void work(int thread);
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
  std::vector<std::thread> threads_;
};

}  // namespace oct
