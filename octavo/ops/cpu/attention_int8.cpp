// Attention of one row's tokens over one kv head of a cache in int8.
//
// Both products are sums of bytes times bytes, exact in 32 bits, so their order does not matter.
// What meets the cache, a query or a block's probabilities times the values' scales, is rounded
// to 15 bits and split into two bytes, 128 * high + low: a hundredth of the error that the cache
// itself has, for twice the instructions of 8 bits.
#include "attention.h"
#include "narrow.h"

namespace OCT_NS {

constexpr int Q_GROUP = W == 16 ? 8 : 4;  // queries whose two sums fit the registers
constexpr int V_GROUP = W == 16 ? 4 : 2;
constexpr int V_WIDTH = 2;

// What a split row needs beside its bytes. `zero` takes back the 128 that codes carry.
struct Split {
  float scale;
  int32_t zero;
};

// The part of Work.rest of one query: its split, the block's, and the block's bytes.
struct Rest {
  Split query, block;
  float factor;  // what was summed before the block is scaled by
  int8_t weights[2][KEYS];
};
static_assert(sizeof(Rest) <= OCT_REST * sizeof(float), "OCT_REST is too small");

OCT_INLINE Rest* rest_of(const Work& w) { return reinterpret_cast<Rest*>(w.rest); }

// n floats -> n high and n low bytes. n is a multiple of 16.
OCT_INLINE Split split(const float* x, int n, int8_t* high, int8_t* low) {
  constexpr float CODES = 127.0f * 128.0f;
  constexpr int32_t LIFT = 1 << 20;  // keeps what is shifted positive
  const Scale s = scale_for(largest(x, n), CODES);
  I sum = i_set1(0);
  for (int i = 0; i < n; i += W) {
    I v = s.scale == s.scale ? i_round(f_mul(f_load(x + i), f_set1(s.inverse))) : i_set1(0);
    I half = i_add(v, i_set1(64));
    s8_store(high + i, i_add(i_shr<7>(i_add(half, i_set1(LIFT))), i_set1(-(LIFT >> 7))));
    s8_store(low + i, i_add(i_and(half, i_set1(127)), i_set1(-64)));
    sum = i_add(sum, v);
  }
  return {s.scale, SIGNED_BYTES ? 0 : -128 * i_sum(sum)};
}

OCT_INLINE F joined(I high, I low) { return f_from(i_add(i_shl<7>(high), low)); }

// --- scores ----------------------------------------------------------------------------------

// P panels of 16 keys times N queries [d / 4][N][high, low] -> s, rows KEYS apart.
template <int N, int P>
static void panel_scores(const uint8_t* const* panels, const int32_t* q, const Rest* rest, int d, float* s) {
  for (int h = 0; h < 16; h += W) {
    I high[P][N], low[P][N];
    OCT_UNROLL
    for (int p = 0; p < P; p++)
      OCT_UNROLL
      for (int i = 0; i < N; i++) high[p][i] = i_set1(0), low[p][i] = i_set1(rest[i].query.zero);
    for (int j = 0; j < d / 4; j++) {
      OCT_UNROLL
      for (int p = 0; p < P; p++) {
        I codes = i_load(panels[p] + 64 + j * 64 + h * 4);
        OCT_UNROLL
        for (int i = 0; i < N; i++) {
          high[p][i] = dot4_wide(high[p][i], codes, q[(j * N + i) * 2]);
          low[p][i] = dot4_wide(low[p][i], codes, q[(j * N + i) * 2 + 1]);
        }
      }
    }
    OCT_UNROLL
    for (int p = 0; p < P; p++) {
      F scale = f_load(reinterpret_cast<const float*>(panels[p]) + h);
      OCT_UNROLL
      for (int i = 0; i < N; i++)
        f_store(s + i * KEYS + p * 16 + h, f_mul(f_mul(joined(high[p][i], low[p][i]), f_set1(rest[i].query.scale)), scale));
    }
  }
}

// Several panels at once where few queries leave the multipliers waiting for each other.
template <int N>
static void block_scores(const uint8_t* const* panels, int count, const int32_t* q, const Rest* rest, int d, float* s) {
  constexpr int P = W != 16 ? 1 : N <= 2 ? 4 : N <= 4 ? 2 : 1;
  int p = 0;
  for (; p + P <= count; p += P) panel_scores<N, P>(panels + p, q, rest, d, s + p * 16);
  for (; p < count; p++) panel_scores<N, 1>(panels + p, q, rest, d, s + p * 16);
}

static void scores(int n, const uint8_t* const* panels, int count, const int32_t* q, const Rest* rest, int d, float* s) {
  switch (n) {
    case 1: return block_scores<1>(panels, count, q, rest, d, s);
    case 2: return block_scores<2>(panels, count, q, rest, d, s);
    case 3: return block_scores<3>(panels, count, q, rest, d, s);
    case 4: return block_scores<4>(panels, count, q, rest, d, s);
#if defined(__AVX512F__)
    case 5: return block_scores<5>(panels, count, q, rest, d, s);
    case 6: return block_scores<6>(panels, count, q, rest, d, s);
    case 7: return block_scores<7>(panels, count, q, rest, d, s);
    case 8: return block_scores<8>(panels, count, q, rest, d, s);
#endif
  }
}

// --- values ----------------------------------------------------------------------------------

// Probabilities become weights of the codes: times the values' scales, and split. Scales that
// nobody wrote yet may be anything; what is not seen is exactly zero.
static void weigh(const float* s, const uint8_t* const* values, int count, Seen seen, Rest& rest) {
  float x[KEYS] = {0};
  for (int o = 0; o < count; o += W) {
    F v = f_mul(f_load(s + o), f_load(reinterpret_cast<const float*>(values[o / 16]) + o % 16));
    if (!seen.all(count)) v = f_first(f_zero(), f_first(v, f_zero(), seen.high - o), seen.low - o);
    f_store(x + o, v);
  }
  rest.block = split(x, KEYS, rest.weights[0], rest.weights[1]);
}

// N queries x V vectors of dimensions from `c` on: out = factor * out + what the block adds.
template <int N, int V>
static void some_values(const uint8_t* const* values, int count, const Rest* rest, int d, int c, float* out) {
  I high[N][V], low[N][V];
  OCT_UNROLL
  for (int i = 0; i < N; i++)
    OCT_UNROLL
    for (int v = 0; v < V; v++) high[i][v] = i_set1(0), low[i][v] = i_set1(rest[i].block.zero);
  for (int j = 0; j < count; j += 4) {
    const uint8_t* codes = values[j / 16] + 64 + (j % 16 * d + c * 4);
    OCT_UNROLL
    for (int v = 0; v < V; v++) {
      I quad = i_load(codes + v * W * 4);
      OCT_UNROLL
      for (int i = 0; i < N; i++) {
        high[i][v] = dot4_wide(high[i][v], quad, load32(rest[i].weights[0] + j));
        low[i][v] = dot4_wide(low[i][v], quad, load32(rest[i].weights[1] + j));
      }
    }
  }
  OCT_UNROLL
  for (int i = 0; i < N; i++)
    OCT_UNROLL
    for (int v = 0; v < V; v++) {
      float* to = out + i * d + v * W;
      F before = f_mul(f_load(to), f_set1(rest[i].factor));
      f_store(to, f_fma(joined(high[i][v], low[i][v]), f_set1(rest[i].block.scale), before));
    }
}

template <int N>
static void values_of(const uint8_t* const* values, int count, const Rest* rest, int d, float* out) {
  constexpr int V = W == 16 && N <= 2 ? 4 : V_WIDTH;
  int c = 0;
  for (; c + V * W <= d; c += V * W) some_values<N, V>(values, count, rest, d, c, out + c);
  for (; c < d; c += W) some_values<N, 1>(values, count, rest, d, c, out + c);
}

static void add_values(int n, const uint8_t* const* values, int count, const Rest* rest, int d, float* out) {
  switch (n) {
    case 1: return values_of<1>(values, count, rest, d, out);
    case 2: return values_of<2>(values, count, rest, d, out);
#if defined(__AVX512F__)
    case 3: return values_of<3>(values, count, rest, d, out);
    case 4: return values_of<4>(values, count, rest, d, out);
#endif
  }
}

// --- the whole -------------------------------------------------------------------------------

// Where 16 keys begin with their scales; their values follow `plane` bytes later.
OCT_INLINE const uint8_t* panel_at(const AttnArgs& a, int64_t position) {
  int64_t page = a.pages[position / a.page], at = position % a.page;
  return a.cache + ((page * 2 * a.kv_heads + a.kv_head) * a.page + at) * (a.head_dim + OCT_SCALE);
}

struct ByteCache {
  // q becomes groups of up to Q_GROUP queries, [d / 4][group][high, low] of four bytes, scaled.
  static void gather(const AttnArgs& a, const Work& w) {
    const int d = a.head_dim;
    int32_t* q = reinterpret_cast<int32_t*>(w.q);
    for (int i = 0; i < w.n; i++) {
      int first = i / Q_GROUP * Q_GROUP, width = w.n - first < Q_GROUP ? w.n - first : Q_GROUP;
      float x[512];  // head_dim at most
      int8_t bytes[2][512];
      for (int j = 0; j < d; j += W) f_store(x + j, f_mul(f_load(query_at(a, i) + j), f_set1(a.scale)));
      rest_of(w)[i].query = split(x, d, bytes[0], bytes[1]);
      int32_t* to = q + first * d / 2 + (i - first) * 2;
      for (int j = 0; j < d / 4; j++) {
        to[j * width * 2] = load32(bytes[0] + j * 4);
        to[j * width * 2 + 1] = load32(bytes[1] + j * 4);
      }
    }
  }

  // Memory is asked for ahead of use, as in attention.cpp.
  static void block(const AttnArgs& a, const Work& w, int64_t start, int count, int64_t end) {
    const int d = a.head_dim, panels = (count + 15) / 16;
    const int64_t bytes = 16 * (d + OCT_SCALE), plane = bytes / 16 * a.kv_heads * a.page;
    const int32_t* q = reinterpret_cast<const int32_t*>(w.q);
    Rest* rest = rest_of(w);
    const uint8_t *keys[KEYS / 16], *values[KEYS / 16];
    for (int p = 0; p < panels; p++) {
      keys[p] = panel_at(a, start + p * 16);
      values[p] = keys[p] + plane;
      fetch(values[p], bytes);
    }
    for (int i = 0; i < w.n; i += Q_GROUP)
      scores(w.n - i < Q_GROUP ? w.n - i : Q_GROUP, keys, panels, q + i * d / 2, rest + i, d, w.s + i * KEYS);
    for (int64_t next = start + KEYS; next < end && next < start + 2 * KEYS; next += 16) fetch(panel_at(a, next), bytes);
    for (int i = 0; i < w.n; i++) {
      Query& query = w.queries[i];
      const Seen seen = seen_by(a, query, start);
      rest[i].factor = soften(w.s + i * KEYS, panels * 16, seen, a.softcap, query);
      weigh(w.s + i * KEYS, values, panels * 16, seen, rest[i]);
    }
    for (int i = 0; i < w.n; i += V_GROUP)
      add_values(w.n - i < V_GROUP ? w.n - i : V_GROUP, values, panels * 16, rest + i, d, w.out + i * d);
  }
};

void attend_int8(const AttnArgs& a) { attend_over<ByteCache>(a); }

}  // namespace OCT_NS
