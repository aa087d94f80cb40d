// What an instruction level offers: a table of functions, and the shapes they agree on.
//
// Activations are handed to a product as *tiles* of up to 16 tokens. For each block of 32 along
// k a tile holds one record: `slots` times the block's bytes, then (block formats) `slots`
// scales and `slots` corrections, so that everything a kernel touches has a constant offset.
// The number of slots is slots_for(tokens); kernels are compiled once for each.
#pragma once
#include "formats.h"

#define OCT_TILE 16

namespace oct {

// Tokens of a tile rounded up to a size that has a kernel.
static inline int slots_for(int tokens, int max_tile) {
  static const int sizes[] = {1, 2, 3, 4, 6, 8, 12, 16};
  for (int i = 0; i < 8; i++)
    if (sizes[i] >= tokens && sizes[i] <= max_tile) return sizes[i];
  return max_tile;
}

// Bytes one token takes in a record of format f.
static inline int64_t act_bytes(int format) {
  switch (format) {
    case OCT_F32: return 4 * OCT_BLOCK;
    case OCT_BF16: return 2 * OCT_BLOCK;
    case OCT_INT8: return OCT_BLOCK;
    case OCT_Q6_K: return OCT_BLOCK + 12;  // scale, two corrections (blocks of 16)
    default: return OCT_BLOCK + 8;         // scale, correction
  }
}

static inline int64_t blocks_of(int64_t k) { return (k + OCT_BLOCK - 1) / OCT_BLOCK; }

// Bytes of a whole tile.
static inline int64_t tile_bytes(int format, int64_t k, int slots) {
  return (blocks_of(k) * act_bytes(format) + (format == OCT_INT8 ? 8 : 0)) * slots;
}

// Where the parts of a panel begin. Scales first, then codes: both stay 64-byte aligned.
struct PanelShape {
  int64_t codes;  // offset of the first block of codes
  int64_t bytes;  // whole panel
};

static inline int64_t align64(int64_t n) { return (n + 63) & ~static_cast<int64_t>(63); }

static inline PanelShape panel_shape(int format, int64_t k) {
  int64_t nb = blocks_of(k), super = k / 256, head = 0, block = 0;
  switch (format) {
    case OCT_F32: block = 64 * OCT_BLOCK; break;
    case OCT_BF16: block = 32 * OCT_BLOCK; break;
    case OCT_INT8: head = 64; block = 512; break;           // f32 scale a row
    case OCT_Q8_0: head = nb * 32; block = 512; break;      // f16 scale
    case OCT_Q4_0: head = nb * 32; block = 256; break;
    case OCT_Q4_1: head = nb * 64; block = 256; break;      // f16 scale, f16 minimum
    case OCT_Q4_K: head = super * 320; block = 256; break;  // f16 d, f16 dmin, 8 x (u8 scale, u8 minimum)
    case OCT_Q6_K: head = super * 288; block = 384; break;  // f16 d, 16 x s8 scale
  }
  PanelShape s;
  s.codes = align64(head);
  s.bytes = s.codes + nb * block;
  return s;
}

// Bytes a kernel may use to make a panel ready.
static inline int64_t panel_scratch(int64_t k) { return blocks_of(k) * (512 + 128); }

struct MatArgs {
  const OctWeight* w;
  int64_t panel0, panel1;
  const uint8_t* act;  // first tile
  int64_t tokens;      // of these tiles; every tile but the last is full
  int64_t tile_stride; // bytes between tiles
  float* y;            // [tokens, ldy]
  int64_t ldy;
  const float* bias;   // [n] or null
  int add;             // y += instead of y =
  uint8_t* scratch;    // panel_scratch() bytes, 64-byte aligned
};

struct AttnArgs {
  const float* q;  // [tokens, heads * head_dim], stride ldq; the row's own tokens
  float* out;      // [tokens, heads * head_dim], stride ldo
  int64_t ldq, ldo;
  const int64_t* positions;  // [tokens]
  int64_t tokens;
  int64_t length;  // valid positions of the row
  const int32_t* pages;
  const uint8_t* cache;  // [pages, 2, kv_heads, page, head_dim], as rows.cpp describes
  int cache_type, heads, kv_heads, kv_head, head_dim, page, window;
  float scale, softcap;
  float* scratch;  // attn_scratch() floats
  // What this thread attends to next, to be asked for in time; next_end is 0 where nothing is known.
  const int32_t* next_pages;
  int64_t next_begin, next_end;
  int next_head;
};

struct StoreArgs {
  const float *k, *v;  // [head_dim]
  uint8_t* cache;
  int64_t slot;  // page number * page + offset
  int cache_type, kv_heads, kv_head, head_dim, page;
};

struct SampleArgs {
  const float* logits;  // [vocab]
  int64_t vocab;
  float temperature;  // 0: the largest logit
  float gap;          // log of min_p; -inf where there is none
  int64_t top_k;      // 0: all
  double top_p;
  uint64_t seed;
  int64_t position;
  uint8_t* scratch;  // sample_scratch() bytes, 64-byte aligned
};

static inline int64_t sample_scratch(int64_t vocab) { return vocab * 8 + (vocab / OCT_BLOCK + 1) * 16; }

struct Kernels {
  int max_tile;  // tokens of a full tile
  // Writes one token's k floats into slot `slot` of a tile with `slots` slots.
  void (*quantise)(int format, const float* x, int64_t k, uint8_t* tile, int slots, int slot);
  void (*matmul)(const MatArgs&);
  void (*norm)(const float* x, const float* weight, float eps, float* out, int64_t k);
  void (*gated)(int kind, const float* gate, const float* up, float* out, int64_t k);
  void (*rope)(float* x, const float* table, int64_t dim);  // table: dim / 2 cosines, dim / 2 sines
  void (*store)(const StoreArgs&);
  void (*attention)(const AttnArgs&);
  int64_t (*sample)(const SampleArgs&);  // -1: a logit is NaN or +inf, or none is above -inf
};

// Queries (tokens times heads of one kv head) attended together, at most.
#define OCT_QUERIES 48
#define OCT_REST 48  // floats a query that an int8 cache wants besides
static inline int64_t attn_scratch(int head_dim) {
  return static_cast<int64_t>(OCT_QUERIES) * (2 * head_dim + 64 + OCT_REST + 8) + 64;
}

const Kernels* kernels_portable();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512_bf16();
const Kernels* kernels_amx();
const Kernels* kernels_neon();
const Kernels* kernels_neon_dotprod();

}  // namespace oct
