// What weights and caches are stored as: shared by the C interface and the kernels.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define OCT_PANEL 16  // weight rows interleaved in one panel: one 512-bit vector of 32-bit lanes
#define OCT_BLOCK 32  // elements along k that share a scale, and the unit k is padded to

enum OctFormat {
  OCT_F32 = 0,
  OCT_BF16 = 1,
  OCT_INT8 = 2,  // one scale a row, activations one scale a token
  OCT_Q8_0 = 3,
  OCT_Q4_0 = 4,
  OCT_Q4_1 = 5,
  OCT_Q4_K = 6,
  OCT_Q6_K = 7,
  OCT_FORMATS = 8
};

// A weight matrix [n, k] in panels. `data` is 64-byte aligned, oct_packed_bytes() long.
typedef struct OctWeight {
  int32_t format;
  int32_t reserved;
  int64_t n, k;
  uint8_t* data;
} OctWeight;

enum OctPrologue { OCT_PLAIN = 0, OCT_NORMED = 1, OCT_SILU = 2, OCT_GELU = 3, OCT_GELU_TANH = 4 };
enum OctCache {
  OCT_CACHE_F32 = 0,
  OCT_CACHE_BF16 = 1,
  OCT_CACHE_INT8 = 2,  // a float scale a position and kv head, for the key and for the value
};
#define OCT_SCALE 4  // bytes of such a scale: a position of a kv head takes head_dim + OCT_SCALE

