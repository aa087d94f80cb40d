// An engine: a team of threads, the kernels of one level, and memory that runs share.
#pragma once
#include <cstdlib>

#include "abi.h"
#include "kernels.h"
#include "pool.h"

namespace oct {

// Memory that only grows, 64-byte aligned; its content is not kept when it grows.
class Arena {
 public:
  ~Arena() { free(at_); }
  uint8_t* need(int64_t bytes) {
    if (bytes <= size_) return at_;
    free(at_);
    size_ = 0;
    void* fresh = nullptr;
    if (posix_memalign(&fresh, 64, static_cast<size_t>(bytes))) fresh = nullptr;
    at_ = static_cast<uint8_t*>(fresh);
    if (at_) size_ = bytes;
    return at_;
  }

 private:
  uint8_t* at_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace oct

struct OctEngine {
  OctEngine(int threads, const oct::Kernels* k, const int32_t* cpus) : pool(threads, cpus), kernels(k) {}
  oct::Pool pool;
  const oct::Kernels* kernels;
  oct::Arena arena;
};
