// Floats as small integers with one scale: how much of them there is, and how they round.
#pragma once
#include "simd.h"

namespace OCT_NS {

// The largest magnitude. Compared as integers, in whose order what is not a number is greatest,
// so that it is never lost.
OCT_INLINE float largest(const float* x, int64_t n) {
  I m = i_set1(0);
  for (int64_t i = 0; i < n; i += W) m = i_max(m, i_as(f_abs(f_load(x + i))));
  int32_t bits = i_hmax(m);
  float top;
  memcpy(&top, &bits, 4);
  return top;
}

// One scale for `top`, and what to multiply with before rounding. Values too small to invert
// become zero; a number that is none makes the scale none, so that the caller sees it.
struct Scale {
  float scale, inverse;
};
OCT_INLINE Scale scale_for(float top, float codes = 127.0f) {
  if (!(top < 3e38f)) return {NAN, 0.0f};
  return top > 1e-30f ? Scale{top / codes, codes / top} : Scale{0.0f, 0.0f};
}

}  // namespace OCT_NS
