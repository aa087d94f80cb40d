// What a thread reads next. A step of few tokens takes as long as its weights take to arrive, so
// memory should never rest: in every product a thread begins with a share of its own, and while
// it waits for others it asks for the beginning of its next one.
#pragma once
#include "abi.h"
#include "kernels.h"

namespace oct {

// The panels of w that belong to `thread` of `size` threads.
struct Share {
  int64_t begin, end;
};
static inline Share share_of(const OctWeight& w, int thread, int size) {
  const int64_t panels = (w.n + OCT_PANEL - 1) / OCT_PANEL;
  return {panels * thread / size, panels * (thread + 1) / size};
}

class Ahead {
 public:
  Ahead(const OctOp* ops, int64_t count, int thread, int size)
      : ops_(ops), count_(count), thread_(thread), size_(size) {}

  // Op i is about to begin: some() is about the first product from there on.
  void aim(int64_t i) {
    while (i < count_ && ops_[i].code != OCT_OP_LINEAR) i++;
    if (i == aimed_) return;
    aimed_ = i;
    left_ = 0;
    if (i == count_) return;
    const OctWeight& w = *ops_[i].weight;
    const Share share = share_of(w, thread_, size_);
    const int64_t panel = panel_shape(w.format, w.k).bytes;
    at_ = w.data + share.begin * panel;
    left_ = (share.end - share.begin) * panel;
    if (left_ > FAR) left_ = FAR;
  }

  // Asks for a little more of it; false where that was enough.
  bool some() {
    if (left_ <= 0) return false;
    for (int64_t i = 0; i < SOME; i += 64) __builtin_prefetch(at_ + i);
    at_ += SOME;
    left_ -= SOME;
    return true;
  }

 private:
  // FAR: the most that is asked for, a part of any second cache. SOME: what is asked for between
  // two looks at whether all are there; it may go past the share, which hurts nobody.
  static constexpr int64_t FAR = 128 << 10, SOME = 512;

  const OctOp* ops_;
  int64_t count_;
  int thread_, size_;
  int64_t aimed_ = -1, left_ = 0;
  const uint8_t* at_ = nullptr;
};

}  // namespace oct
