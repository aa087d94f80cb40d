// Attention of one row's tokens over one kv head of a cache in bfloat16, where the processor has
// pair products. Queries and probabilities are rounded to bfloat16, as a model in bfloat16 rounds
// what it multiplies; sums, softmax and output are in float32.
#include "attention.h"

namespace OCT_NS {

constexpr int Q_GROUP = 8;  // queries whose sums fit the registers
constexpr int V_GROUP = 4;
constexpr int V_WIDTH = 4;
constexpr int PARTS = KEYS / 16;
constexpr float LOG2E = 1.44269504088896341f;
typedef __m512bh P;

// The part of Work.rest of one query: what was summed before a block is scaled by, and the block's
// probabilities in pairs.
struct Rest {
  float factor;
  int32_t pairs[KEYS / 2];
};
static_assert(sizeof(Rest) <= OCT_REST * sizeof(float), "OCT_REST is too small");

OCT_INLINE Rest* rest_of(const Work& w) { return reinterpret_cast<Rest*>(w.rest); }
OCT_INLINE P p_load(const void* at) { return (P)_mm512_loadu_si512(at); }
OCT_INLINE P p_set1(int32_t pair) { return (P)_mm512_set1_epi32(pair); }

// --- scores ----------------------------------------------------------------------------------

// T panels of 16 keys times N queries [d / 2][N] -> s, rows KEYS apart.
template <int N, int T>
static void panel_scores(const uint8_t* const* panels, const int32_t* q, int d, float* s) {
  F acc[T][N];
  OCT_UNROLL
  for (int p = 0; p < T; p++)
    OCT_UNROLL
    for (int i = 0; i < N; i++) acc[p][i] = f_zero();
  for (int j = 0; j < d / 2; j++, q += N) {
    OCT_UNROLL
    for (int p = 0; p < T; p++) {
      const P keys = p_load(panels[p] + j * 64);
      OCT_UNROLL
      for (int i = 0; i < N; i++) acc[p][i] = _mm512_dpbf16_ps(acc[p][i], keys, p_set1(q[i]));
    }
  }
  OCT_UNROLL
  for (int p = 0; p < T; p++)
    OCT_UNROLL
    for (int i = 0; i < N; i++) f_store(s + i * KEYS + p * 16, acc[p][i]);
}

template <int N>
static void block_scores(const uint8_t* const* panels, int count, const int32_t* q, int d, float* s) {
  constexpr int T = N <= 4 ? 4 : 2;
  int p = 0;
  for (; p + T <= count; p += T) panel_scores<N, T>(panels + p, q, d, s + p * 16);
  for (; p < count; p++) panel_scores<N, 1>(panels + p, q, d, s + p * 16);
}

static void scores(int n, const uint8_t* const* panels, int count, const int32_t* q, int d, float* s) {
  switch (n) {
    case 1: return block_scores<1>(panels, count, q, d, s);
    case 2: return block_scores<2>(panels, count, q, d, s);
    case 3: return block_scores<3>(panels, count, q, d, s);
    case 4: return block_scores<4>(panels, count, q, d, s);
    case 5: return block_scores<5>(panels, count, q, d, s);
    case 6: return block_scores<6>(panels, count, q, d, s);
    case 7: return block_scores<7>(panels, count, q, d, s);
    case 8: return block_scores<8>(panels, count, q, d, s);
  }
}

// --- softmax ---------------------------------------------------------------------------------

// 2^x for x <= 127, to 3e-6: a hundredth of what rounding to bfloat16 costs. No number stays none.
OCT_INLINE F exp2_near(F x) {
  x = f_max(f_set1(-127.0f), x);
  const F n = f_nearest(x), r = f_sub(x, n);
  F p = f_fma(f_set1(0.00958285f), r, f_set1(0.05590643f));
  p = f_fma(p, r, f_set1(0.24024099f));
  p = f_fma(p, r, f_set1(0.69312419f));
  p = f_fma(p, r, f_set1(1.0f));
  return f_scale2(p, n);
}

// The 16 lanes from `o` on.
OCT_INLINE __mmask16 lanes(Seen seen, int o) {
  const auto below = [](int n) { return n >= KEYS ? ~0ull : (1ull << n) - 1; };
  return static_cast<__mmask16>((below(seen.high) & ~below(seen.low)) >> o);
}

// Probabilities of a block of KEYS scores, of which `seen` count.
template <bool INSIDE>
OCT_INLINE void soften_pairs(const float* s, Seen seen, Query& q, Rest& rest) {
  const F none = f_set1(-INFINITY);
  F v[PARTS], sum[PARTS];
  OCT_UNROLL
  for (int i = 0; i < PARTS; i++) {
    v[i] = f_load(s + i * 16);
    if (!INSIDE) v[i] = _mm512_mask_mov_ps(none, lanes(seen, i * 16), v[i]);
  }
  const float before = q.top, now = fmaxf(before, f_hmax(f_max(f_max(v[0], v[1]), f_max(v[2], v[3]))));
  const float base = now == -INFINITY ? 0.0f : now;
  const F lift = f_set1(-base * LOG2E);
  OCT_UNROLL
  for (int i = 0; i < PARTS; i++) {
    sum[i] = v[i] = exp2_near(f_fma(v[i], f_set1(LOG2E), lift));
    if (!INSIDE) sum[i] = v[i] = _mm512_maskz_mov_ps(lanes(seen, i * 16), v[i]);
  }
  for (int i = 0; i < PARTS; i += 2)
    _mm512_storeu_si512(rest.pairs + i * 8, (__m512i)_mm512_cvtne2ps_pbh(v[i + 1], v[i]));
  q.top = now;
  rest.factor = f_lane(exp2_near(f_set1((before - base) * LOG2E)));
  q.total = q.total * rest.factor + f_sum(f_add(f_add(sum[0], sum[1]), f_add(sum[2], sum[3])));
}

static void soften_block(float* s, int count, Seen seen, float softcap, Query& q, Rest& rest) {
  if (softcap > 0.0f)
    for (int o = 0; o < count; o += W)
      f_store(s + o, f_mul(f_set1(softcap), f_tanh(f_div(f_load(s + o), f_set1(softcap)))));
  if (seen.high > count) seen.high = count;
  if (seen.all(KEYS)) soften_pairs<true>(s, seen, q, rest);
  else soften_pairs<false>(s, seen, q, rest);
}

// --- values ----------------------------------------------------------------------------------

// N queries x V vectors of dimensions: out = factor * out + p V over the block's `count` positions.
template <int N, int V>
static void some_values(const uint8_t* const* values, const Rest* rest, int count, int d, int c, float* out) {
  F acc[N][V];
  OCT_UNROLL
  for (int i = 0; i < N; i++)
    OCT_UNROLL
    for (int v = 0; v < V; v++) acc[i][v] = f_mul(f_load(out + i * d + v * W), f_set1(rest[i].factor));
  for (int j = 0; j < (count + 1) / 2; j++) {
    const uint8_t* at = values[j / 8] + (j % 8 * d + c) * 4;
    // the odd partner of a last position was never written
    const I keep = i_set1(2 * j + 1 < count ? -1 : 0xffff);
    OCT_UNROLL
    for (int v = 0; v < V; v++) {
      const P pairs = (P)i_and(i_load(at + v * 64), keep);
      OCT_UNROLL
      for (int i = 0; i < N; i++) acc[i][v] = _mm512_dpbf16_ps(acc[i][v], pairs, p_set1(rest[i].pairs[j]));
    }
  }
  OCT_UNROLL
  for (int i = 0; i < N; i++)
    OCT_UNROLL
    for (int v = 0; v < V; v++) f_store(out + i * d + v * W, acc[i][v]);
}

template <int N>
static void values_of(const uint8_t* const* values, const Rest* rest, int count, int d, float* out) {
  int c = 0;
  for (; c + V_WIDTH * W <= d; c += V_WIDTH * W) some_values<N, V_WIDTH>(values, rest, count, d, c, out + c);
  for (; c < d; c += W) some_values<N, 1>(values, rest, count, d, c, out + c);
}

static void add_values(int n, const uint8_t* const* values, const Rest* rest, int count, int d, float* out) {
  switch (n) {
    case 1: return values_of<1>(values, rest, count, d, out);
    case 2: return values_of<2>(values, rest, count, d, out);
    case 3: return values_of<3>(values, rest, count, d, out);
    case 4: return values_of<4>(values, rest, count, d, out);
  }
}

// --- the whole -------------------------------------------------------------------------------

// Where 16 keys begin; their values follow `plane` bytes later.
OCT_INLINE const uint8_t* panel_at(const AttnArgs& a, const int32_t* pages, int head, int64_t position) {
  int64_t page = pages[position / a.page], at = position % a.page, d = a.head_dim;
  return a.cache + ((page * 2 * a.kv_heads + head) * a.page + at) * d * 2;
}

// Asks for the keys, or values, of a block.
OCT_INLINE void ask(const AttnArgs& a, const int32_t* pages, int head, int64_t start, int64_t end, int64_t plane,
                    int64_t bytes) {
  for (int64_t at = start; at < end && at < start + KEYS; at += 16) fetch(panel_at(a, pages, head, at) + plane, bytes);
}

// Of what this thread attends to next, the first block.
OCT_INLINE void ask_next(const AttnArgs& a, int64_t plane, int64_t bytes) {
  ask(a, a.next_pages, a.next_head, a.next_begin / KEYS * KEYS, a.next_end, plane, bytes);
}

struct PairCache {
  // q becomes groups of up to Q_GROUP queries, [d / 2][group], scaled and in pairs.
  static void gather(const AttnArgs& a, const Work& w) {
    const int d = a.head_dim;
    int32_t* q = reinterpret_cast<int32_t*>(w.q);
    for (int i = 0; i < w.n; i++) {
      int first = i / Q_GROUP * Q_GROUP, width = w.n - first < Q_GROUP ? w.n - first : Q_GROUP;
      const float* from = query_at(a, i);
      int32_t *to = q + first * d / 2 + (i - first), pairs[8];
      for (int j = 0; j < d; j += W) {
        const F v = f_mul(f_load(from + j), f_set1(a.scale));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs), (__m256i)_mm512_cvtneps_pbh(v));
        for (int k = 0; k < 8; k++) to[(j / 2 + k) * width] = pairs[k];
      }
    }
  }

  // Memory is asked for ahead of use, as in attention.cpp.
  static void block(const AttnArgs& a, const Work& w, int64_t start, int count, int64_t end) {
    const int d = a.head_dim, panels = (count + 15) / 16;
    const int64_t bytes = 32 * d, plane = bytes / 16 * a.kv_heads * a.page;
    const int32_t* q = reinterpret_cast<const int32_t*>(w.q);
    Rest* rest = reinterpret_cast<Rest*>(w.rest);
    const uint8_t *keys[PARTS], *values[PARTS];
    for (int p = 0; p < panels; p++) {
      keys[p] = panel_at(a, a.pages, a.kv_head, start + p * 16);
      values[p] = keys[p] + plane;
      fetch(values[p], bytes);
    }
    for (int i = 0; i < w.n; i += Q_GROUP)
      scores(w.n - i < Q_GROUP ? w.n - i : Q_GROUP, keys, panels, q + i * d / 2, d, w.s + i * KEYS);
    if (start + KEYS < end) ask(a, a.pages, a.kv_head, start + KEYS, end, 0, bytes);
    else ask_next(a, 0, bytes);
    for (int i = 0; i < w.n; i++) {
      Query& query = w.queries[i];
      soften_block(w.s + i * KEYS, count, seen_by(a, query, start), a.softcap, query, rest[i]);
    }
    if (start + KEYS >= end) ask_next(a, plane, bytes);
    for (int i = 0; i < w.n; i += V_GROUP)
      add_values(w.n - i < V_GROUP ? w.n - i : V_GROUP, values, rest + i, count, d, w.out + i * d);
  }
};

void attend_pairs(const AttnArgs& a) { attend_over<PairCache>(a); }

}  // namespace OCT_NS
