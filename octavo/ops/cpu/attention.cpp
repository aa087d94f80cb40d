// Attention of one row's tokens over one kv head of a cache in float32 or bfloat16.
#include "attention.h"

namespace OCT_NS {

constexpr int Q_GROUP = W == 4 ? 4 : 8;  // queries whose sums fit the registers
constexpr int V_WIDTH = W == 16 ? 4 : 2;
constexpr int V_GROUP = 4;

// --- scores ----------------------------------------------------------------------------------

// P panels of 16 keys times N queries [d][N] -> s, rows KEYS apart. Several panels at once where
// few queries leave the multipliers waiting for each other.
template <bool PAIRS, int N, int P>
static void panel_scores(const uint8_t* const* panels, const float* q, int d, float* s) {
  for (int h = 0; h < 16; h += W) {
    F acc[P][N];
    OCT_UNROLL
    for (int p = 0; p < P; p++)
      OCT_UNROLL
      for (int i = 0; i < N; i++) acc[p][i] = f_zero();
    for (int j = 0; j < d; j += 2) {
      OCT_UNROLL
      for (int p = 0; p < P; p++) {
        const uint8_t* keys = panels[p];
        F even, odd;
        if (PAIRS) {
          I pairs = i_load(keys + j * 32 + h * 4);
          even = f_even(pairs);
          odd = f_odd(pairs);
        } else {
          even = f_load(reinterpret_cast<const float*>(keys) + j * 16 + h);
          odd = f_load(reinterpret_cast<const float*>(keys) + j * 16 + 16 + h);
        }
        OCT_UNROLL
        for (int i = 0; i < N; i++)
          acc[p][i] = f_fma(odd, f_set1(q[(j + 1) * N + i]), f_fma(even, f_set1(q[j * N + i]), acc[p][i]));
      }
    }
    OCT_UNROLL
    for (int p = 0; p < P; p++)
      OCT_UNROLL
      for (int i = 0; i < N; i++) f_store(s + i * KEYS + p * 16 + h, acc[p][i]);
  }
}

template <bool PAIRS, int N>
static void block_scores(const uint8_t* const* panels, int count, const float* q, int d, float* s) {
  constexpr int P = W != 16 ? 1 : N <= 4 ? 4 : 2;
  int p = 0;
  for (; p + P <= count; p += P) panel_scores<PAIRS, N, P>(panels + p, q, d, s + p * 16);
  for (; p < count; p++) panel_scores<PAIRS, N, 1>(panels + p, q, d, s + p * 16);
}

template <bool PAIRS>
static void scores(int n, const uint8_t* const* panels, int count, const float* q, int d, float* s) {
  switch (n) {
    case 1: return block_scores<PAIRS, 1>(panels, count, q, d, s);
    case 2: return block_scores<PAIRS, 2>(panels, count, q, d, s);
    case 3: return block_scores<PAIRS, 3>(panels, count, q, d, s);
    case 4: return block_scores<PAIRS, 4>(panels, count, q, d, s);
#if defined(__AVX2__)  // the portable level takes four queries at a time
    case 5: return block_scores<PAIRS, 5>(panels, count, q, d, s);
    case 6: return block_scores<PAIRS, 6>(panels, count, q, d, s);
    case 7: return block_scores<PAIRS, 7>(panels, count, q, d, s);
    case 8: return block_scores<PAIRS, 8>(panels, count, q, d, s);
#endif
  }
}

// --- values ----------------------------------------------------------------------------------

// Two positions' values, V vectors of dimensions from `at` on.
template <bool PAIRS, int V>
OCT_INLINE void load_values(const uint8_t* at, int64_t d, F* even, F* odd) {
  OCT_UNROLL
  for (int v = 0; v < V; v++) {
    if (PAIRS) {
      I pairs = i_load(at + v * W * 4);
      even[v] = f_even(pairs);
      odd[v] = f_odd(pairs);
    } else {
      even[v] = f_load(reinterpret_cast<const float*>(at) + v * W);
      odd[v] = f_load(reinterpret_cast<const float*>(at) + d + v * W);
    }
  }
}

// N queries x V vectors of dimensions: out = factor * out + p V over the block's `count` positions.
template <bool PAIRS, int N, int V>
static void some_values(const uint8_t* const* values, const float* p, const float* factors, int count, int d, int c, float* out) {
  F acc[N][V], even[V], odd[V];
  OCT_UNROLL
  for (int i = 0; i < N; i++)
    OCT_UNROLL
    for (int v = 0; v < V; v++) acc[i][v] = f_mul(f_load(out + i * d + v * W), f_set1(factors[i]));
  int j = 0;
  for (; j + 2 <= count; j += 2) {
    load_values<PAIRS, V>(values[j / 16] + (j % 16 * d + (PAIRS ? 2 * c : c)) * (PAIRS ? 2 : 4), d, even, odd);
    OCT_UNROLL
    for (int i = 0; i < N; i++)
      OCT_UNROLL
      for (int v = 0; v < V; v++)
        acc[i][v] = f_fma(odd[v], f_set1(p[i * KEYS + j + 1]), f_fma(even[v], f_set1(p[i * KEYS + j]), acc[i][v]));
  }
  if (j < count) {  // the odd partner was never written
    const uint8_t* at = values[j / 16] + (j % 16 * d + (PAIRS ? 2 * c : c)) * (PAIRS ? 2 : 4);
    for (int v = 0; v < V; v++) {
      F last = PAIRS ? f_even(i_load(at + v * W * 4)) : f_load(reinterpret_cast<const float*>(at) + v * W);
      for (int i = 0; i < N; i++) acc[i][v] = f_fma(last, f_set1(p[i * KEYS + j]), acc[i][v]);
    }
  }
  OCT_UNROLL
  for (int i = 0; i < N; i++)
    OCT_UNROLL
    for (int v = 0; v < V; v++) f_store(out + i * d + v * W, acc[i][v]);
}

template <bool PAIRS, int N>
static void values_of(const uint8_t* const* values, const float* p, const float* factors, int count, int d, float* out) {
  int c = 0;
  for (; c + V_WIDTH * W <= d; c += V_WIDTH * W)
    some_values<PAIRS, N, V_WIDTH>(values, p, factors, count, d, c, out + c);
  for (; c < d; c += W) some_values<PAIRS, N, 1>(values, p, factors, count, d, c, out + c);
}

template <bool PAIRS>
static void add_values(int n, const uint8_t* const* values, const float* p, const float* factors, int count, int d, float* out) {
  switch (n) {
    case 1: return values_of<PAIRS, 1>(values, p, factors, count, d, out);
    case 2: return values_of<PAIRS, 2>(values, p, factors, count, d, out);
    case 3: return values_of<PAIRS, 3>(values, p, factors, count, d, out);
    case 4: return values_of<PAIRS, 4>(values, p, factors, count, d, out);
  }
}

// --- the whole -------------------------------------------------------------------------------

// Where 16 keys begin; their values follow `plane` bytes later.
template <bool PAIRS>
static const uint8_t* panel_at(const AttnArgs& a, int64_t position) {
  constexpr int64_t SIZE = PAIRS ? 2 : 4;
  int64_t page = a.pages[position / a.page], at = position % a.page, d = a.head_dim;
  return a.cache + ((page * 2 * a.kv_heads + a.kv_head) * a.page + at) * d * SIZE;
}

template <bool PAIRS>
struct FloatCache {
  // q becomes groups of up to Q_GROUP queries, [d][group], scaled.
  static void gather(const AttnArgs& a, const Work& w) {
    const int d = a.head_dim;
    for (int i = 0; i < w.n; i++) {
      int first = i / Q_GROUP * Q_GROUP, width = w.n - first < Q_GROUP ? w.n - first : Q_GROUP;
      const float* from = query_at(a, i);
      float* to = w.q + first * d + (i - first);
      for (int j = 0; j < d; j++) to[j * width] = from[j] * a.scale;
    }
  }

  // Pages lie anywhere, so memory is asked for ahead of use: this block's values before its
  // scores, the next block's keys before this one's values.
  static void block(const AttnArgs& a, const Work& w, int64_t start, int count, int64_t end) {
    const int d = a.head_dim, panels = (count + 15) / 16;
    const int64_t bytes = 16 * d * (PAIRS ? 2 : 4), plane = bytes / 16 * a.kv_heads * a.page;
    const uint8_t *keys[KEYS / 16], *values[KEYS / 16];
    for (int p = 0; p < panels; p++) {
      keys[p] = panel_at<PAIRS>(a, start + p * 16);
      values[p] = keys[p] + plane;
      fetch(values[p], bytes);
    }
    for (int i = 0; i < w.n; i += Q_GROUP)
      scores<PAIRS>(w.n - i < Q_GROUP ? w.n - i : Q_GROUP, keys, panels, w.q + i * d, d, w.s + i * KEYS);
    for (int64_t next = start + KEYS; next < end && next < start + 2 * KEYS; next += 16)
      fetch(panel_at<PAIRS>(a, next), bytes);
    float* factors = w.rest;
    for (int i = 0; i < w.n; i++) {
      Query& q = w.queries[i];
      factors[i] = soften(w.s + i * KEYS, panels * 16, seen_by(a, q, start), a.softcap, q);
    }
    for (int i = 0; i < w.n; i += V_GROUP)
      add_values<PAIRS>(w.n - i < V_GROUP ? w.n - i : V_GROUP, values, w.s + i * KEYS, factors + i, count, d, w.out + i * d);
  }
};

void attend(const AttnArgs& a) {
  if (a.cache_type == OCT_CACHE_F32) attend_over<FloatCache<false>>(a);
  else if (a.cache_type == OCT_CACHE_BF16) attend_over<FloatCache<true>>(a);
  else attend_int8(a);
}

}  // namespace OCT_NS
