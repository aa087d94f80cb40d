// y = x W^T for float32 and bfloat16 weights in panels of 16 rows. One accumulator a (row,
// token), filled in rising k whatever the number of tokens: the same bits alone or in a crowd.
// Knows nothing of threads or of where x comes from.
#include "put.h"

namespace OCT_NS {

// UNASKED: up to so many tokens a block is done so fast that the processor's own look ahead reads
// more a second than it does when it is asked as well.
struct Single {  // float32: [block][32][16 rows]; activations [block][slot][32]
  static constexpr int WEIGHT = 64 * OCT_BLOCK, ACT = 4 * OCT_BLOCK, STEPS = OCT_BLOCK;
  static constexpr int UNASKED = W == 16 ? 2 : 0;
  template <int MT, int N>
  OCT_INLINE void step(const uint8_t* const* w, const uint8_t* x, int j, F (*acc)[N]) {
    F wide[N];
    OCT_UNROLL
    for (int p = 0; p < N; p++) wide[p] = f_load(reinterpret_cast<const float*>(w[p] + j * 64));
    OCT_UNROLL
    for (int t = 0; t < MT; t++) {
      F v = f_set1(reinterpret_cast<const float*>(x + t * ACT)[j]);
      OCT_UNROLL
      for (int p = 0; p < N; p++) acc[t][p] = f_fma(wide[p], v, acc[t][p]);
    }
  }
};

struct Brain {  // bfloat16: [block][16 pairs][16 rows][2]; activations [block][slot][32]
  static constexpr int WEIGHT = 32 * OCT_BLOCK, ACT = 2 * OCT_BLOCK, STEPS = OCT_BLOCK / 2;
#if defined(__AVX512BF16__)
  static constexpr int UNASKED = 2;
#else
  static constexpr int UNASKED = 0;
#endif
  template <int MT, int N>
  OCT_INLINE void step(const uint8_t* const* w, const uint8_t* x, int j, F (*acc)[N]) {
#if defined(__AVX512BF16__)
    __m512bh wide[N];
    OCT_UNROLL
    for (int p = 0; p < N; p++) wide[p] = (__m512bh)_mm512_loadu_si512(w[p] + j * 64);
    OCT_UNROLL
    for (int t = 0; t < MT; t++) {
      __m512bh v = (__m512bh)_mm512_set1_epi32(load32(x + t * ACT + j * 4));
      OCT_UNROLL
      for (int p = 0; p < N; p++) acc[t][p] = _mm512_dpbf16_ps(acc[t][p], wide[p], v);
    }
#else
    F even[N], odd[N];
    OCT_UNROLL
    for (int p = 0; p < N; p++) {
      I pairs = i_load(w[p] + j * 64);
      even[p] = f_even(pairs);
      odd[p] = f_odd(pairs);
    }
    OCT_UNROLL
    for (int t = 0; t < MT; t++) {
      const uint16_t* pair = reinterpret_cast<const uint16_t*>(x + t * ACT) + 2 * j;
      F a = f_set1(bf16_to_float(pair[0])), b = f_set1(bf16_to_float(pair[1]));
      OCT_UNROLL
      for (int p = 0; p < N; p++) acc[t][p] = f_fma(odd[p], b, f_fma(even[p], a, acc[t][p]));
    }
#endif
  }
};

// N vectors of weights (N / H panels, or one vector of a panel) times MT tokens.
template <class Fmt, int MT, int N>
static void block_columns(const uint8_t* const* w, const uint8_t* act, int64_t nb, int slots, F (*acc)[N]) {
  F sum[MT][N];
  const uint8_t* at[N];
  OCT_UNROLL  // these two as well: a loop that stays keeps the sums in memory
  for (int t = 0; t < MT; t++)
    OCT_UNROLL
    for (int p = 0; p < N; p++) sum[t][p] = f_zero();
  for (int p = 0; p < N; p++) at[p] = w[p];
  for (int64_t b = 0; b < nb; b++) {
    if (MT > Fmt::UNASKED)
      for (int p = 0; p < N; p += H) fetch_ahead<Fmt::WEIGHT, N <= H ? 2 * AHEAD : AHEAD>(at[p]);
    OCT_UNROLL
    for (int j = 0; j < Fmt::STEPS; j++) Fmt::template step<MT, N>(at, act, j, sum);
    act += Fmt::ACT * slots;
    OCT_UNROLL
    for (int p = 0; p < N; p++) at[p] += Fmt::WEIGHT;
  }
  OCT_UNROLL
  for (int t = 0; t < MT; t++)
    OCT_UNROLL
    for (int p = 0; p < N; p++) acc[t][p] = sum[t][p];
}

template <class Fmt, int MT, int N>
static void group(const MatArgs& a, const uint8_t* panel, int64_t bytes, int64_t row, int64_t token0, int count) {
  const uint8_t* w[N];
  for (int p = 0; p < N; p++) w[p] = panel + (p / H) * bytes + (p % H) * W * 4;
  F acc[MT][N];
  block_columns<Fmt, MT, N>(w, a.act + token0 / MAX_TILE * a.tile_stride, blocks_of(a.w->k), MT, acc);
  for (int t = 0; t < count; t++)
    for (int p = 0; p < N; p++) put(a, row + p * W, token0 + t, acc[t][p]);
}

// Several panels at once where few tokens leave registers free: more independent sums.
template <class Fmt, int MT>
static void tile(const MatArgs& a, int64_t token0, int count) {
  int64_t bytes = panel_shape(a.w->format, a.w->k).bytes, p = a.panel0;
  constexpr int WIDE = (MT <= 4 ? 4 : MT <= 12 ? 2 : 1) * H;
  constexpr int N = W == 16 ? WIDE : (MT == 1 ? 2 * H : H > 2 && REGISTERS < 32 ? 2 : H);
  for (; N >= H && p + N / H <= a.panel1; p += N / H)
    group<Fmt, MT, N>(a, a.w->data + p * bytes, bytes, p * OCT_PANEL, token0, count);
  for (; p < a.panel1; p++)
    for (int h = 0; h < H; h++)
      group<Fmt, MT, 1>(a, a.w->data + p * bytes + h * W * 4, bytes, p * OCT_PANEL + h * W, token0, count);
}

template <class Fmt>
static void all_tiles(const MatArgs& a) {
  for (int64_t t = 0; t < a.tokens; t += MAX_TILE) {
    int count = a.tokens - t < MAX_TILE ? static_cast<int>(a.tokens - t) : MAX_TILE;
    switch (slots_for(count, MAX_TILE)) {
      case 1: tile<Fmt, 1>(a, t, count); break;
      case 2: tile<Fmt, 2>(a, t, count); break;
      case 3: tile<Fmt, 3>(a, t, count); break;
      case 4: tile<Fmt, 4>(a, t, count); break;
#if defined(__AVX512F__)
      case 6: tile<Fmt, 6>(a, t, count); break;
      case 8: tile<Fmt, 8>(a, t, count); break;
      case 12: tile<Fmt, 12>(a, t, count); break;
      default: tile<Fmt, 16>(a, t, count);
#endif
    }
  }
}

void matmul_float(const MatArgs& a) {
  if (a.w->format == OCT_F32) all_tiles<Single>(a);
  else all_tiles<Brain>(a);
}

}  // namespace OCT_NS
