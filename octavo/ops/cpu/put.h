// Where every product ends.
#pragma once
#include "kernels.h"
#include "level.h"
#include "simd.h"

namespace OCT_NS {

constexpr int H = OCT_PANEL / W;  // vectors across a panel

// W rows' sums of one token: bias, addition, and the last panel's missing rows.
OCT_INLINE void put(const MatArgs& a, int64_t row, int64_t token, F v) {
  float* y = a.y + token * a.ldy + row;
  int64_t left = a.w->n - row;
  if (left >= W) {
    if (a.bias) v = f_add(v, f_load(a.bias + row));
    if (a.add) v = f_add(v, f_load(y));
    f_store(y, v);
    return;
  }
  float lanes[W];
  f_store(lanes, v);
  for (int64_t i = 0; i < left; i++) y[i] = lanes[i] + (a.bias ? a.bias[row + i] : 0.0f) + (a.add ? y[i] : 0.0f);
}

}  // namespace OCT_NS
