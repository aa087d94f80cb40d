// y = x W^T for weights in integer codes and activations quantised to signed bytes. Sums within
// a block are exact integers; blocks are added in rising k, one accumulator a (row, token): the
// same bits for any number of tokens, and the same on every level that multiplies and adds in
// one rounding. Knows nothing of threads or of where x comes from.
#include "codes.h"

namespace OCT_NS {

template <class Fmt>
OCT_INLINE I dot(I acc, I u, const uint8_t* x) {
  return Fmt::WIDE ? dot4_wide(acc, u, load32(x)) : dot4(acc, u, load32(x));
}

// One vector of rows times MT tokens, over all of k.
template <class Fmt, int MT>
static void rows_by_tokens(const uint8_t* panel, const uint8_t* codes, const uint8_t* act, int64_t nb, int h, F* out) {
  constexpr int RECORD = (OCT_BLOCK + (Fmt::SPLIT ? 12 : 8)) * MT;
  F sum[MT];
  OCT_UNROLL
  for (int t = 0; t < MT; t++) sum[t] = f_zero();
  for (int64_t b = 0; b < nb; b++, codes += Fmt::BLOCK, act += RECORD) {
    I u[GROUPS];
    F d[2], m[1];
    if (h == 0) fetch_ahead<Fmt::BLOCK, MT >= 6 ? 2 * AHEAD : AHEAD>(codes);
    Fmt::unpack(codes, h, u);
    Fmt::scales(panel, b, h, d, m);
    const uint8_t *scale = act + MT * OCT_BLOCK, *correction = scale + MT * 4;
    OCT_UNROLL
    for (int t = 0; t < MT; t++) {
      const uint8_t* x = act + t * OCT_BLOCK;
      const F dx = f_set1(reinterpret_cast<const float*>(scale)[t]);
      I acc = Fmt::MINIMA ? i_set1(0) : i_set1(reinterpret_cast<const int32_t*>(correction)[t]);
      OCT_UNROLL
      for (int g = 0; g < GROUPS / 2; g++) acc = dot<Fmt>(acc, u[g], x + g * 4);
      if (Fmt::SPLIT) {
        sum[t] = f_fma(f_from(acc), f_mul(d[0], dx), sum[t]);
        acc = i_set1(reinterpret_cast<const int32_t*>(correction)[MT + t]);
      }
      OCT_UNROLL
      for (int g = GROUPS / 2; g < GROUPS; g++) acc = dot<Fmt>(acc, u[g], x + g * 4);
      sum[t] = f_fma(f_from(acc), f_mul(d[Fmt::SPLIT ? 1 : 0], dx), sum[t]);
      if (Fmt::MINIMA) sum[t] = f_fma(m[0], f_set1(reinterpret_cast<const float*>(correction)[t]), sum[t]);
    }
  }
  OCT_UNROLL
  for (int t = 0; t < MT; t++) out[t] = sum[t];
}

template <class Fmt, int MT>
static void tile(const MatArgs& a, int64_t token0, int count) {
  PanelShape shape = panel_shape(a.w->format, a.w->k);
  const uint8_t* act = a.act + token0 / MAX_TILE * a.tile_stride;
  for (int64_t p = a.panel0; p < a.panel1; p++) {
    const uint8_t* panel = a.w->data + p * shape.bytes;
    for (int h = 0; h < H; h++) {
      F out[MT];
      rows_by_tokens<Fmt, MT>(panel, panel + shape.codes, act, blocks_of(a.w->k), h, out);
      for (int t = 0; t < count; t++) put(a, p * OCT_PANEL + h * W, token0 + t, out[t]);
    }
  }
}

// One scale a row and one a token: integers all the way, one rounding at the end.
struct Int8 : Bytes {};

template <int MT>
static void int8_tile(const MatArgs& a, int64_t token0, int count) {
  PanelShape shape = panel_shape(OCT_INT8, a.w->k);
  const int64_t nb = blocks_of(a.w->k);
  const uint8_t* tile0 = a.act + token0 / MAX_TILE * a.tile_stride;
  const uint8_t* tail = tile0 + nb * MT * OCT_BLOCK;
  for (int64_t p = a.panel0; p < a.panel1; p++) {
    const uint8_t* panel = a.w->data + p * shape.bytes;
    for (int h = 0; h < H; h++) {
      I acc[MT];
      OCT_UNROLL
      for (int t = 0; t < MT; t++) acc[t] = i_set1(load32(tail + MT * 4 + t * 4));
      const uint8_t *codes = panel + shape.codes, *act = tile0;
      for (int64_t b = 0; b < nb; b++, codes += Bytes::BLOCK, act += MT * OCT_BLOCK) {
        I u[GROUPS];
        if (h == 0) fetch_ahead<Bytes::BLOCK, MT >= 6 ? 2 * AHEAD : AHEAD>(codes);
        Bytes::unpack(codes, h, u);
        OCT_UNROLL
        for (int g = 0; g < GROUPS; g++) {
          OCT_UNROLL
          for (int t = 0; t < MT; t++) acc[t] = dot<Int8>(acc[t], u[g], act + t * OCT_BLOCK + g * 4);
        }
      }
      F d = f_load(reinterpret_cast<const float*>(panel) + h * W);
      for (int t = 0; t < count; t++) {
        F dx = f_set1(reinterpret_cast<const float*>(tail)[t]);
        put(a, p * OCT_PANEL + h * W, token0 + t, f_mul(f_from(acc[t]), f_mul(d, dx)));
      }
    }
  }
}

template <class Fmt>
struct Tile {
  template <int MT>
  static void run(const MatArgs& a, int64_t t, int count) { tile<Fmt, MT>(a, t, count); }
};

template <>
struct Tile<Int8> {
  template <int MT>
  static void run(const MatArgs& a, int64_t t, int count) { int8_tile<MT>(a, t, count); }
};

template <class Fmt>
static void all_tiles(const MatArgs& a) {
  for (int64_t t = 0; t < a.tokens; t += MAX_TILE) {
    int count = a.tokens - t < MAX_TILE ? static_cast<int>(a.tokens - t) : MAX_TILE;
    switch (slots_for(count, MAX_TILE)) {
      case 1: Tile<Fmt>::template run<1>(a, t, count); break;
      case 2: Tile<Fmt>::template run<2>(a, t, count); break;
      case 3: Tile<Fmt>::template run<3>(a, t, count); break;
      case 4: Tile<Fmt>::template run<4>(a, t, count); break;
#if defined(__AVX512F__)
      case 6: Tile<Fmt>::template run<6>(a, t, count); break;
      case 8: Tile<Fmt>::template run<8>(a, t, count); break;
      case 12: Tile<Fmt>::template run<12>(a, t, count); break;
      default: Tile<Fmt>::template run<16>(a, t, count);
#endif
    }
  }
}

void matmul_codes(const MatArgs& a) {
  switch (a.w->format) {
    case OCT_INT8: return all_tiles<Int8>(a);
    case OCT_Q8_0: return all_tiles<Q8_0>(a);
    case OCT_Q4_0: return all_tiles<Q4_0>(a);
    case OCT_Q4_1: return all_tiles<Q4_1>(a);
    case OCT_Q4_K: return all_tiles<Q4_K>(a);
    case OCT_Q6_K: return all_tiles<Q6_K>(a);
  }
}

}  // namespace OCT_NS
