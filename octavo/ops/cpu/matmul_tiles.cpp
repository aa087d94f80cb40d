// Products on AMX tiles, whose second operand is laid out as our panels are. Integer tiles give
// the very sums that the vector kernels give, and scales are applied in the same order, so block
// formats may take either way for any number of tokens. bfloat16 tiles round in an order of
// their own, so on this level every bfloat16 product runs here.
#include "codes.h"

#if defined(__AMX_INT8__)

namespace OCT_NS {

// What ldtilecfg reads.
struct alignas(64) Config {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};  // a row
  uint8_t rows[16] = {};
};

// Tiles 0-3 sums [tokens][16 rows], 4-5 activations, 6-7 weights.
static void configure(int tokens, int act_bytes, int weight_rows) {
  Config c;
  for (int i = 0; i < 8; i++) {
    c.bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? act_bytes : 64);
    c.rows[i] = static_cast<uint8_t>(i >= 6 ? weight_rows : tokens);
  }
  _tile_loadconfig(&c);
}

// --- bfloat16 and int8: one sum over all of k --------------------------------------------------

struct Brain {
  static constexpr int ACT = 64, WEIGHT = 1024;
  typedef F Sum;
};
struct Int8 {
  static constexpr int ACT = 32, WEIGHT = 512;
  typedef I Sum;
};

#define OCT_DOT(Fmt, c, a, b)                      \
  if (Fmt::ACT == 64) _tile_dpbf16ps(c, a, b);     \
  else _tile_dpbsud(c, a, b)

struct Finish {
  const MatArgs& a;
  const uint8_t* tail;  // INT8: scales and corrections of the tile's tokens
  int slots;

  void operator()(const uint8_t* sums, const uint8_t* panel, int64_t row, int64_t token, int count) const {
    for (int t = 0; t < count; t++) {
      I sum = i_load(sums + t * 64);
      if (a.w->format == OCT_BF16) {
        put(a, row, token + t, f_as(sum));
        continue;
      }
      sum = i_add(sum, i_set1(load32(tail + slots * 4 + t * 4)));
      F d = f_mul(f_load(reinterpret_cast<const float*>(panel)), f_set1(reinterpret_cast<const float*>(tail)[t]));
      put(a, row, token + t, f_mul(f_from(sum), d));
    }
  }
};

// One tile of tokens with one to four panels.
template <class Fmt, int P>
static void across(const MatArgs& a, const uint8_t* act, int slots, int64_t p, int64_t token, int count) {
  const PanelShape shape = panel_shape(a.w->format, a.w->k);
  const int64_t nb = blocks_of(a.w->k);
  const uint8_t* panel = a.w->data + p * shape.bytes;
  const uint8_t* w = panel + shape.codes;
  alignas(64) uint8_t sums[4][1024];
  _tile_zero(0);
  if (P > 1) _tile_zero(1);
  if (P > 2) _tile_zero(2);
  if (P > 3) _tile_zero(3);
  const uint8_t* x = act;
  for (int64_t b = 0; b < nb; b++, x += slots * Fmt::ACT, w += Fmt::WEIGHT) {
    for (int i = 0; i < P; i++) fetch_ahead<Fmt::WEIGHT>(w + i * shape.bytes);
    _tile_loadd(4, x, Fmt::ACT);
    _tile_loadd(6, w, 64);
    OCT_DOT(Fmt, 0, 4, 6);
    if (P > 1) {
      _tile_loadd(7, w + shape.bytes, 64);
      OCT_DOT(Fmt, 1, 4, 7);
    }
    if (P > 2) {
      _tile_loadd(6, w + 2 * shape.bytes, 64);
      OCT_DOT(Fmt, 2, 4, 6);
    }
    if (P > 3) {
      _tile_loadd(7, w + 3 * shape.bytes, 64);
      OCT_DOT(Fmt, 3, 4, 7);
    }
  }
  _tile_stored(0, sums[0], 64);
  if (P > 1) _tile_stored(1, sums[1], 64);
  if (P > 2) _tile_stored(2, sums[2], 64);
  if (P > 3) _tile_stored(3, sums[3], 64);
  const Finish finish = {a, act + nb * slots * Fmt::ACT, slots};
  for (int i = 0; i < P; i++) finish(sums[i], panel + i * shape.bytes, (p + i) * OCT_PANEL, token, count);
}

// Two full tiles of tokens with two panels: as many products as loads.
template <class Fmt>
static void square(const MatArgs& a, const uint8_t* act, int64_t p, int64_t token) {
  const PanelShape shape = panel_shape(a.w->format, a.w->k);
  const int64_t nb = blocks_of(a.w->k);
  const uint8_t* panel = a.w->data + p * shape.bytes;
  const uint8_t* w = panel + shape.codes;
  alignas(64) uint8_t sums[4][1024];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const uint8_t* x = act;
  for (int64_t b = 0; b < nb; b++, x += OCT_TILE * Fmt::ACT, w += Fmt::WEIGHT) {
    _tile_loadd(4, x, Fmt::ACT);
    _tile_loadd(6, w, 64);
    OCT_DOT(Fmt, 0, 4, 6);
    _tile_loadd(7, w + shape.bytes, 64);
    OCT_DOT(Fmt, 1, 4, 7);
    _tile_loadd(5, x + a.tile_stride, Fmt::ACT);
    OCT_DOT(Fmt, 2, 5, 6);
    OCT_DOT(Fmt, 3, 5, 7);
  }
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  _tile_stored(2, sums[2], 64);
  _tile_stored(3, sums[3], 64);
  for (int i = 0; i < 4; i++) {
    const Finish finish = {a, act + i / 2 * a.tile_stride + nb * OCT_TILE * Fmt::ACT, OCT_TILE};
    finish(sums[i], panel + i % 2 * shape.bytes, (p + i % 2) * OCT_PANEL, token + i / 2 * OCT_TILE, OCT_TILE);
  }
}

template <class Fmt>
static void plain(const MatArgs& a) {
  int64_t t = 0;
  if (a.tokens >= 2 * OCT_TILE) configure(OCT_TILE, Fmt::ACT, Fmt::WEIGHT / 64);
  for (; t + 2 * OCT_TILE <= a.tokens; t += 2 * OCT_TILE) {
    const uint8_t* act = a.act + t / OCT_TILE * a.tile_stride;
    int64_t p = a.panel0;
    for (; p + 2 <= a.panel1; p += 2) square<Fmt>(a, act, p, t);
    if (p < a.panel1) {
      across<Fmt, 1>(a, act, OCT_TILE, p, t, OCT_TILE);
      across<Fmt, 1>(a, act + a.tile_stride, OCT_TILE, p, t + OCT_TILE, OCT_TILE);
    }
  }
  for (; t < a.tokens; t += OCT_TILE) {
    int count = a.tokens - t < OCT_TILE ? static_cast<int>(a.tokens - t) : OCT_TILE, slots = slots_for(count, OCT_TILE);
    const uint8_t* act = a.act + t / OCT_TILE * a.tile_stride;
    configure(slots, Fmt::ACT, Fmt::WEIGHT / 64);
    int64_t p = a.panel0;
    for (; p + 4 <= a.panel1; p += 4) across<Fmt, 4>(a, act, slots, p, t, count);
    for (; p < a.panel1; p++) across<Fmt, 1>(a, act, slots, p, t, count);
  }
  _tile_release();
}

// --- block formats -----------------------------------------------------------------------------

// A panel made ready for many tiles of tokens: bytes instead of nibbles, floats instead of halves.
struct Ready {
  uint8_t* codes;  // [nb][512]
  float *d, *m;    // [nb][16]
};

template <class Fmt>
static void unpack_panel(const uint8_t* panel, const uint8_t* codes, int64_t nb, const Ready& to) {
  for (int64_t b = 0; b < nb; b++) {
    I u[GROUPS];
    F d[2], m[1];
    Fmt::unpack(codes + b * Fmt::BLOCK, 0, u);
    Fmt::scales(panel, b, 0, d, m);
    for (int g = 0; g < GROUPS; g++) i_store(to.codes + b * 512 + g * 64, u[g]);
    f_store(to.d + b * 16, d[0]);
    if (Fmt::MINIMA) f_store(to.m + b * 16, m[0]);
  }
}

template <class Fmt>
OCT_INLINE void add_block(const uint8_t* sums, const uint8_t* scale, const float* ds, const float* ms, F* sum) {
  const uint8_t* correction = scale + OCT_TILE * 4;
  const F d = f_load(ds), m = Fmt::MINIMA ? f_load(ms) : f_zero();
  OCT_UNROLL
  for (int t = 0; t < OCT_TILE; t++) {
    I acc = i_load(sums + t * 64);
    if (!Fmt::MINIMA) acc = i_add(acc, i_set1(reinterpret_cast<const int32_t*>(correction)[t]));
    F both = f_mul(d, f_set1(reinterpret_cast<const float*>(scale)[t]));
    sum[t] = f_fma(f_from(acc), both, sum[t]);
    if (Fmt::MINIMA) sum[t] = f_fma(m, f_set1(reinterpret_cast<const float*>(correction)[t]), sum[t]);
  }
}

// Sums of block b to memory, by tiles c, x and w (plain numbers: they are part of instructions).
#define OCT_TILE_BLOCK(c, x, w, b)                    \
  _tile_zero(c);                                      \
  _tile_loadd(x, act + (b) * RECORD, OCT_BLOCK);      \
  _tile_loadd(w, r.codes + (b) * 512, 64);            \
  _tile_dpbsud(c, x, w);                              \
  _tile_stored(c, sums[(b) % 4], 64)

// 16 tokens times one panel. What a tile stores can be read only some time later, so the tiles
// run two blocks ahead of the scaling.
template <class Fmt>
static void one_tile(const MatArgs& a, const Ready& r, const uint8_t* act, int64_t row, int64_t token) {
  constexpr int RECORD = (OCT_BLOCK + 8) * OCT_TILE, SCALES = OCT_BLOCK * OCT_TILE;
  alignas(64) uint8_t sums[4][1024];
  const int64_t nb = blocks_of(a.w->k);
  F sum[OCT_TILE];
  OCT_UNROLL
  for (int t = 0; t < OCT_TILE; t++) sum[t] = f_zero();
  OCT_TILE_BLOCK(0, 4, 6, 0);
  if (nb > 1) {
    OCT_TILE_BLOCK(1, 5, 7, 1);
  }
  int64_t b = 0;
  for (; b + 4 <= nb; b += 2) {
    OCT_TILE_BLOCK(0, 4, 6, b + 2);
    OCT_TILE_BLOCK(1, 5, 7, b + 3);
    add_block<Fmt>(sums[b % 4], act + b * RECORD + SCALES, r.d + b * 16, r.m + b * 16, sum);
    add_block<Fmt>(sums[b % 4 + 1], act + (b + 1) * RECORD + SCALES, r.d + b * 16 + 16, r.m + b * 16 + 16, sum);
  }
  for (; b < nb; b++) {  // at most three: two of them are in memory already
    if (b + 2 < nb && (b + 2) % 2 == 0) {
      OCT_TILE_BLOCK(0, 4, 6, b + 2);
    }
    add_block<Fmt>(sums[b % 4], act + b * RECORD + SCALES, r.d + b * 16, r.m + b * 16, sum);
  }
  OCT_UNROLL
  for (int t = 0; t < OCT_TILE; t++) put(a, row, token + t, sum[t]);
}

template <class Fmt>
static void blocks(const MatArgs& a) {
  const PanelShape shape = panel_shape(a.w->format, a.w->k);
  const int64_t nb = blocks_of(a.w->k);
  Ready r = {a.scratch, nullptr, nullptr};
  r.d = reinterpret_cast<float*>(r.codes + nb * 512);
  r.m = r.d + nb * 16;
  configure(OCT_TILE, OCT_BLOCK, GROUPS);
  for (int64_t p = a.panel0; p < a.panel1; p++) {
    const uint8_t* panel = a.w->data + p * shape.bytes;
    unpack_panel<Fmt>(panel, panel + shape.codes, nb, r);
    for (int64_t t = 0; t < a.tokens; t += OCT_TILE)
      one_tile<Fmt>(a, r, a.act + t / OCT_TILE * a.tile_stride, p * OCT_PANEL, t);
  }
  _tile_release();
}

void matmul_tiles(const MatArgs& a) {
  switch (a.w->format) {
    case OCT_BF16: return plain<Brain>(a);
    case OCT_INT8: return plain<Int8>(a);
    case OCT_Q8_0: return blocks<Q8_0>(a);
    case OCT_Q4_0: return blocks<Q4_0>(a);
    case OCT_Q4_1: return blocks<Q4_1>(a);
    case OCT_Q4_K: return blocks<Q4_K>(a);
  }
}

}  // namespace OCT_NS

#endif
