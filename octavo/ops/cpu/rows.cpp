// What happens to one token at a time: norms, gates, rotation, quantisation of activations,
// and writing keys and values into the paged cache. Compiled once for each level.
#include "kernels.h"
#include "level.h"
#include "narrow.h"
#include "simd.h"

namespace OCT_NS {

void norm_row(const float* x, const float* weight, float eps, float* out, int64_t k) {
  F squares = f_zero();
  int64_t i = 0;
  for (; i + W <= k; i += W) {
    F v = f_load(x + i);
    squares = f_fma(v, v, squares);
  }
  float total = f_sum(squares);
  for (; i < k; i++) total += x[i] * x[i];
  float scale = 1.0f / sqrtf(total / static_cast<float>(k) + eps);
  for (i = 0; i + W <= k; i += W) f_store(out + i, f_mul(f_mul(f_load(x + i), f_set1(scale)), f_load(weight + i)));
  for (; i < k; i++) out[i] = x[i] * scale * weight[i];
}

OCT_INLINE F f_silu(F x) { return f_div(x, f_add(f_set1(1.0f), f_exp(f_sub(f_zero(), x)))); }

OCT_INLINE F f_gelu_tanh(F x) {
  F cube = f_mul(f_mul(x, x), x);
  F inner = f_mul(f_set1(0.7978845608028654f), f_fma(f_set1(0.044715f), cube, x));
  return f_mul(f_mul(f_set1(0.5f), x), f_add(f_set1(1.0f), f_tanh(inner)));
}

OCT_INLINE F f_gelu(F x) {
  float v[W];
  f_store(v, x);
  for (int i = 0; i < W; i++) v[i] = 0.5f * v[i] * (1.0f + erff(v[i] * 0.70710678118654752f));
  return f_load(v);
}

template <class Act>
OCT_INLINE void gate_with(Act act, const float* gate, const float* up, float* out, int64_t k) {
  int64_t i = 0;
  for (; i + W <= k; i += W) f_store(out + i, f_mul(act(f_load(gate + i)), f_load(up + i)));
  if (i == k) return;
  float g[W] = {0}, u[W] = {0};
  memcpy(g, gate + i, sizeof(float) * (k - i));
  memcpy(u, up + i, sizeof(float) * (k - i));
  f_store(g, f_mul(act(f_load(g)), f_load(u)));
  memcpy(out + i, g, sizeof(float) * (k - i));
}

void gated_row(int kind, const float* gate, const float* up, float* out, int64_t k) {
  if (kind == OCT_SILU) gate_with([](F x) __attribute__((always_inline)) { return f_silu(x); }, gate, up, out, k);
  if (kind == OCT_GELU) gate_with([](F x) __attribute__((always_inline)) { return f_gelu(x); }, gate, up, out, k);
  if (kind == OCT_GELU_TANH)
    gate_with([](F x) __attribute__((always_inline)) { return f_gelu_tanh(x); }, gate, up, out, k);
}

void rope_row(float* x, const float* table, int64_t dim) {
  int64_t half = dim / 2, i = 0;
  const float *cosine = table, *sine = table + half;
  for (; i + W <= half; i += W) {
    F a = f_load(x + i), b = f_load(x + half + i), c = f_load(cosine + i), s = f_load(sine + i);
    f_store(x + i, f_sub(f_mul(a, c), f_mul(b, s)));
    f_store(x + half + i, f_add(f_mul(b, c), f_mul(a, s)));
  }
  for (; i < half; i++) {
    float a = x[i], b = x[half + i];
    x[i] = a * cosine[i] - b * sine[i];
    x[half + i] = b * cosine[i] + a * sine[i];
  }
}

// --- activations -----------------------------------------------------------------------------

// The offset that weight codes of a format carry when they are unsigned bytes. Where the level
// takes signed bytes, eight-bit codes need none.
OCT_INLINE int32_t code_zero(int format) {
  switch (format) {
    case OCT_INT8:
    case OCT_Q8_0: return SIGNED_BYTES ? 0 : 128;
    case OCT_Q4_0: return 8;
    case OCT_Q6_K: return 32;
    default: return 0;
  }
}

// 32 floats -> 32 signed bytes and the sums of both halves.
OCT_INLINE void round_block(const float* x, float inverse, int8_t* q, int32_t* low, int32_t* high) {
  I sum[2] = {i_set1(0), i_set1(0)};
  for (int i = 0; i < OCT_BLOCK; i += W) {
    I v = i_round(f_mul(f_load(x + i), f_set1(inverse)));
    s8_store(q + i, v);
    sum[i / 16] = i_add(sum[i / 16], v);
  }
  *low = i_sum(sum[0]);
  *high = i_sum(sum[1]);
}

OCT_INLINE void block_record(int format, const float* x, uint8_t* record, int slots, int slot) {
  const Scale s = scale_for(largest(x, OCT_BLOCK));
  const float scale = s.scale, none[OCT_BLOCK] = {0};
  int32_t low, high;
  int8_t q[OCT_BLOCK];
  round_block(scale == scale ? x : none, s.inverse, q, &low, &high);
  memcpy(record + slot * OCT_BLOCK, q, OCT_BLOCK);
  uint8_t* tail = record + slots * OCT_BLOCK;
  memcpy(tail + slot * 4, &scale, 4);
  tail += slots * 4;
  if (format == OCT_Q4_1 || format == OCT_Q4_K) {
    float sum = scale * static_cast<float>(low + high);
    memcpy(tail + slot * 4, &sum, 4);
    return;
  }
  int32_t zero = -code_zero(format), first = format == OCT_Q6_K ? zero * low : zero * (low + high);
  memcpy(tail + slot * 4, &first, 4);
  if (format == OCT_Q6_K) {
    int32_t second = zero * high;
    memcpy(tail + slots * 4 + slot * 4, &second, 4);
  }
}

// One scale for the whole token; the sum of its codes for the offset of the weights.
OCT_INLINE void token_record(const float* x, int64_t k, uint8_t* tile, int slots, int slot) {
  const int64_t nb = blocks_of(k), whole = k / OCT_BLOCK;
  float last[OCT_BLOCK] = {0}, none[OCT_BLOCK] = {0};
  memcpy(last, x + whole * OCT_BLOCK, sizeof(float) * (k - whole * OCT_BLOCK));
  const float main = largest(x, whole * OCT_BLOCK), rest = largest(last, OCT_BLOCK);
  const Scale s = scale_for(main >= rest || main != main ? main : rest);
  int32_t total = 0;
  for (int64_t b = 0; b < nb; b++) {
    int32_t low, high;
    int8_t q[OCT_BLOCK];
    const float* from = s.scale != s.scale ? none : b < whole ? x + b * OCT_BLOCK : last;
    round_block(from, s.inverse, q, &low, &high);
    memcpy(tile + (b * slots + slot) * OCT_BLOCK, q, OCT_BLOCK);
    total += low + high;
  }
  uint8_t* tail = tile + nb * slots * OCT_BLOCK;
  memcpy(tail + slot * 4, &s.scale, 4);
  total *= -code_zero(OCT_INT8);
  memcpy(tail + slots * 4 + slot * 4, &total, 4);
}

OCT_INLINE void float_record(int format, const float* x, uint8_t* to) {
  if (format == OCT_F32) {
    memcpy(to, x, 4 * OCT_BLOCK);
    return;
  }
  for (int i = 0; i < OCT_BLOCK; i += W) bf16_store(reinterpret_cast<uint16_t*>(to) + i, f_load(x + i));
}

void quantise_row(int format, const float* x, int64_t k, uint8_t* tile, int slots, int slot) {
  if (format == OCT_INT8) return token_record(x, k, tile, slots, slot);
  int64_t bytes = act_bytes(format), nb = blocks_of(k);
  for (int64_t b = 0; b < nb; b++) {
    const float* from = x + b * OCT_BLOCK;
    float padded[OCT_BLOCK] = {0};
    if ((b + 1) * OCT_BLOCK > k) {
      memcpy(padded, from, sizeof(float) * (k - b * OCT_BLOCK));
      from = padded;
    }
    uint8_t* record = tile + b * bytes * slots;
    if (format <= OCT_BF16) float_record(format, from, record + bytes * slot);
    else block_record(format, from, record, slots, slot);
  }
}

// --- cache -----------------------------------------------------------------------------------
//
// A page of one kv head: keys in panels of 16 positions, values in rows. As bf16 both are kept
// in pairs (two dimensions of a key, two positions of a value side by side), which is how even/odd
// conversion wants them. As int8 both are panels: 16 scales, one a position, and the codes plus
// 128 in quads, which is how dot products of bytes want them. A scale belongs to one position of
// one head, so a token is rounded once and alone, whatever is stored before and after it.

static void store_f32(const StoreArgs& a, int64_t key, int64_t value) {
  float* cache = reinterpret_cast<float*>(a.cache);
  const int64_t at = a.slot % a.page, d = a.head_dim;
  for (int64_t i = 0; i < d; i++) cache[key * d + at / 16 * 16 * d + i * 16 + at % 16] = a.k[i];
  memcpy(cache + (value + at) * d, a.v, sizeof(float) * d);
}

static void store_bf16(const StoreArgs& a, int64_t key, int64_t value) {
  uint16_t* cache = reinterpret_cast<uint16_t*>(a.cache);
  const int64_t at = a.slot % a.page, d = a.head_dim;
  uint16_t* values = cache + value * d + at / 2 * 2 * d + at % 2;
  uint16_t* keys = cache + key * d + at / 16 * 16 * d + at % 16 * 2;
  for (int64_t i = 0; i < d; i += 16) {
    uint16_t k[16], v[16];
    for (int j = 0; j < 16; j += W) {
      bf16_store(k + j, f_load(a.k + i + j));
      bf16_store(v + j, f_load(a.v + i + j));
    }
    for (int j = 0; j < 16; j += 2) memcpy(keys + (i + j) * 16, k + j, 4);
    for (int j = 0; j < 16; j++) values[(i + j) * 2] = v[j];
  }
}

// One position's codes, plus 128; returns their scale.
OCT_INLINE float round_position(const float* x, int64_t d, uint8_t* codes) {
  const Scale s = scale_for(largest(x, d));
  int8_t q[16];
  for (int64_t i = 0; i < d; i += 16) {
    for (int j = 0; j < 16; j += W)
      s8_store(q + j, s.scale == s.scale ? i_round(f_mul(f_load(x + i + j), f_set1(s.inverse))) : i_set1(0));
    for (int j = 0; j < 16; j++) codes[i + j] = static_cast<uint8_t>(q[j] ^ 0x80);
  }
  return s.scale;
}

static void store_int8(const StoreArgs& a, int64_t key, int64_t value) {
  const int64_t at = a.slot % a.page, d = a.head_dim, width = d + OCT_SCALE, lane = at % 16;
  uint8_t* keys = a.cache + (key + at / 16 * 16) * width;
  uint8_t* values = a.cache + (value + at / 16 * 16) * width;
  uint8_t codes[512];  // head_dim at most
  float scale = round_position(a.k, d, codes);
  memcpy(keys + lane * 4, &scale, 4);
  for (int64_t i = 0; i < d; i += 4) memcpy(keys + 64 + i * 16 + lane * 4, codes + i, 4);
  scale = round_position(a.v, d, codes);
  memcpy(values + lane * 4, &scale, 4);
  uint8_t* quads = values + 64 + lane / 4 * 4 * d + lane % 4;
  for (int64_t i = 0; i < d; i++) quads[i * 4] = codes[i];
}

void store_kv(const StoreArgs& a) {
  // where the head's part of the page begins, in positions: keys, values
  int64_t key = (a.slot / a.page * 2 * a.kv_heads + a.kv_head) * a.page;
  int64_t value = key + static_cast<int64_t>(a.kv_heads) * a.page;
  if (a.cache_type == OCT_CACHE_F32) store_f32(a, key, value);
  else if (a.cache_type == OCT_CACHE_BF16) store_bf16(a, key, value);
  else store_int8(a, key, value);
}

}  // namespace OCT_NS
