// AMX's tiles without AMX: what its instructions do, in plain C++, so that the kernels written for
// them run on CPUs that lack them, and sanitizers see what they read and write.
//
// tiles.py has the compiler put this before every source; it takes the place of the intrinsics.
// Ends the process where the processor would refuse an instruction. Knows nothing of kernels.
#pragma once

#if defined(__AMX_TILE__)
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace emulated {
namespace {

constexpr int TILES = 8, ROWS = 16, BYTES = 64;

struct Tile {
  int rows, bytes;  // 0: not configured
  alignas(64) uint8_t data[ROWS][BYTES];
};
thread_local Tile tiles[TILES];

void demand(bool sound, const char* what) {
  if (sound) return;
  fprintf(stderr, "tiles: %s\n", what);
  abort();
}

Tile& configured(int tile) {
  demand(tile >= 0 && tile < TILES && tiles[tile].rows > 0, "a tile that is not configured");
  return tiles[tile];
}

void release() { memset(tiles, 0, sizeof tiles); }

void loadconfig(const void* from) {
  struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } c;
  static_assert(sizeof c == 64, "as ldtilecfg reads it");
  memcpy(&c, from, sizeof c);
  release();
  if (c.palette == 0) return;
  demand(c.palette == 1 && c.start == 0, "a palette there is not, or a start in the middle");
  for (uint8_t byte : c.reserved) demand(byte == 0, "a reserved byte");
  for (int i = 0; i < 16; i++) {
    const int most_rows = i < TILES ? ROWS : 0, most_bytes = i < TILES ? BYTES : 0;
    demand(c.rows[i] <= most_rows && c.bytes[i] <= most_bytes, "a tile that is too large");
    demand((c.rows[i] == 0) == (c.bytes[i] == 0), "rows without columns, or columns without rows");
    if (i >= TILES) continue;
    tiles[i].rows = c.rows[i];
    tiles[i].bytes = c.bytes[i];
  }
}

void zero(int tile) { memset(configured(tile).data, 0, sizeof tiles[tile].data); }

void loadd(int tile, const void* from, int64_t stride) {
  Tile& t = configured(tile);
  memset(t.data, 0, sizeof t.data);
  for (int r = 0; r < t.rows; r++)
    memcpy(t.data[r], static_cast<const uint8_t*>(from) + r * stride, static_cast<size_t>(t.bytes));
}

void stored(int tile, void* to, int64_t stride) {
  const Tile& t = configured(tile);
  for (int r = 0; r < t.rows; r++)
    memcpy(static_cast<uint8_t*>(to) + r * stride, t.data[r], static_cast<size_t>(t.bytes));
}

struct Product {
  Tile& sum;
  const Tile &a, &b;
  int rows, columns, steps;
};

// sum [rows][columns] += a [rows][steps] b [steps][columns], in elements of four bytes.
Product product(int sum, int a, int b) {
  const Product p = {configured(sum), configured(a), configured(b), tiles[sum].rows, tiles[sum].bytes / 4, tiles[a].bytes / 4};
  demand(sum != a && sum != b && a != b, "one tile in two places");
  demand(p.sum.bytes % 4 == 0 && p.a.bytes % 4 == 0 && p.b.bytes % 4 == 0, "a part of an element");
  demand(p.a.rows == p.rows && p.b.bytes == p.sum.bytes && p.b.rows == p.steps, "tiles that do not fit each other");
  return p;
}

template <class T>
const T* row(const Tile& t, int r) { return reinterpret_cast<const T*>(t.data[r]); }

// Signed bytes times unsigned ones, four of them an element; nothing saturates.
void dpbsud(int sum, int a, int b) {
  const Product p = product(sum, a, b);
  for (int m = 0; m < p.rows; m++) {
    uint32_t* to = reinterpret_cast<uint32_t*>(p.sum.data[m]);
    for (int k = 0; k < p.steps; k++) {
      const int8_t* x = row<int8_t>(p.a, m) + 4 * k;
      const uint8_t* w = row<uint8_t>(p.b, k);
      for (int n = 0; n < p.columns; n++) {
        int32_t four = 0;
        for (int i = 0; i < 4; i++) four += x[i] * w[4 * n + i];
        to[n] += static_cast<uint32_t>(four);
      }
    }
  }
}

inline float flushed(float f) { return fabsf(f) < FLT_MIN ? copysignf(0.0f, f) : f; }

inline float wide(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float f;
  memcpy(&f, &bits, 4);
  return flushed(f);
}

// Pairs of bfloat16: even and odd ones are summed apart, and what is too small for a normal float is zero.
void dpbf16ps(int sum, int a, int b) {
  const Product p = product(sum, a, b);
  for (int m = 0; m < p.rows; m++) {
    float even[BYTES / 4] = {}, odd[BYTES / 4] = {};
    for (int k = 0; k < p.steps; k++) {
      const float x = wide(row<uint16_t>(p.a, m)[2 * k]), y = wide(row<uint16_t>(p.a, m)[2 * k + 1]);
      const uint16_t* w = row<uint16_t>(p.b, k);
      for (int n = 0; n < p.columns; n++) {
        even[n] = flushed(fmaf(x, wide(w[2 * n]), even[n]));
        odd[n] = flushed(fmaf(y, wide(w[2 * n + 1]), odd[n]));
      }
    }
    float* to = reinterpret_cast<float*>(p.sum.data[m]);
    for (int n = 0; n < p.columns; n++) to[n] = flushed(flushed(to[n]) + flushed(even[n] + odd[n]));
  }
}

}  // namespace
}  // namespace emulated

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbsud
#undef _tile_dpbf16ps
#define _tile_loadconfig emulated::loadconfig
#define _tile_release emulated::release
#define _tile_zero emulated::zero
#define _tile_loadd emulated::loadd
#define _tile_stored emulated::stored
#define _tile_dpbsud emulated::dpbsud
#define _tile_dpbf16ps emulated::dpbf16ps

#endif
