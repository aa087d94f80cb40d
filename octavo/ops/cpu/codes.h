// The block formats as kernels see them: where a block's codes, scales and minima lie in a
// panel, and how codes become one unsigned byte a weight. See pack.cpp for who writes them.
#pragma once
#include "put.h"

namespace OCT_NS {

constexpr int GROUPS = OCT_BLOCK / 4;

// Each format says: BLOCK, bytes of a block's codes; SPLIT, whether halves of a block have
// scales of their own; MINIMA, whether weight = scale * code + minimum (otherwise the code's
// zero is in the activation's correction); WIDE, whether codes go beyond 63.
struct Bytes {
  static constexpr int BLOCK = 512;
  static constexpr bool WIDE = true, SPLIT = false, MINIMA = false;
  OCT_INLINE void unpack(const uint8_t* codes, int h, I* u) {
    OCT_UNROLL
    for (int g = 0; g < GROUPS; g++) u[g] = i_load(codes + g * 64 + h * W * 4);
  }
};

struct Nibbles {
  static constexpr int BLOCK = 256;
  static constexpr bool WIDE = false, SPLIT = false;
  OCT_INLINE void unpack(const uint8_t* codes, int h, I* u) {
    const I mask = i_set1(0x0f0f0f0f);
    OCT_UNROLL
    for (int g = 0; g < GROUPS / 2; g++) {
      I both = i_load(codes + g * 64 + h * W * 4);
      u[g] = i_and(both, mask);
      u[g + GROUPS / 2] = i_and(i_shr<4>(both), mask);
    }
  }
};

struct Q8_0 : Bytes {
  OCT_INLINE void scales(const uint8_t* panel, int64_t b, int h, F* d, F*) {
    d[0] = f_from_half(panel + b * 32 + h * W * 2);
  }
};

struct Q4_0 : Nibbles {
  static constexpr bool MINIMA = false;
  OCT_INLINE void scales(const uint8_t* panel, int64_t b, int h, F* d, F*) {
    d[0] = f_from_half(panel + b * 32 + h * W * 2);
  }
};

struct Q4_1 : Nibbles {
  static constexpr bool MINIMA = true;
  OCT_INLINE void scales(const uint8_t* panel, int64_t b, int h, F* d, F* m) {
    d[0] = f_from_half(panel + b * 64 + h * W * 2);
    m[0] = f_from_half(panel + b * 64 + 32 + h * W * 2);
  }
};

struct Q4_K : Nibbles {
  static constexpr bool MINIMA = true;
  OCT_INLINE void scales(const uint8_t* panel, int64_t b, int h, F* d, F* m) {
    const uint8_t* super = panel + b / 8 * 320;
    const uint8_t* own = super + 64 + b % 8 * 32;
    d[0] = f_mul(f_from_half(super + h * W * 2), f_from_u8(own + h * W));
    m[0] = f_sub(f_zero(), f_mul(f_from_half(super + 32 + h * W * 2), f_from_u8(own + 16 + h * W)));
  }
};

struct Q6_K {
  static constexpr int BLOCK = 384;
  static constexpr bool WIDE = false, SPLIT = true, MINIMA = false;
  OCT_INLINE void scales(const uint8_t* panel, int64_t b, int h, F* d, F*) {
    const uint8_t* super = panel + b / 8 * 288;
    const uint8_t* own = super + 32 + b % 8 * 32;
    F wide = f_from_half(super + h * W * 2);
    d[0] = f_mul(wide, f_from_s8(own + h * W));
    d[1] = f_mul(wide, f_from_s8(own + 16 + h * W));
  }
  // Halves of 16 along k: two vectors of low nibbles, one of high pairs of bits.
  OCT_INLINE void unpack(const uint8_t* codes, int h, I* u) {
    const I low = i_set1(0x0f0f0f0f), high = i_set1(0x30303030);
    OCT_UNROLL
    for (int s = 0; s < 2; s++) {
      const uint8_t* half = codes + s * 192 + h * W * 4;
      I a = i_load(half), b = i_load(half + 64), c = i_load(half + 128);
      u[s * 4 + 0] = i_or(i_and(a, low), i_and(i_shl<4>(c), high));
      u[s * 4 + 1] = i_or(i_and(i_shr<4>(a), low), i_and(i_shl<2>(c), high));
      u[s * 4 + 2] = i_or(i_and(b, low), i_and(c, high));
      u[s * 4 + 3] = i_or(i_and(i_shr<4>(b), low), i_and(i_shr<2>(c), high));
    }
  }
};

}  // namespace OCT_NS
