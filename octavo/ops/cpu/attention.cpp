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
  constexpr int P = W == 16 && N <= 4 ? 4 : 1;
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

// N queries x V vectors of dimensions: out += p V over `count` positions of one page panel.
template <bool PAIRS, int N, int V>
static void panel_values(const uint8_t* values, const float* p, int count, int d, float* out) {
  F acc[N][V];
  OCT_UNROLL
  for (int i = 0; i < N; i++)
    OCT_UNROLL
    for (int v = 0; v < V; v++) acc[i][v] = f_load(out + i * d + v * W);
  int j = 0;
  for (; j + 2 <= count; j += 2) {
    OCT_UNROLL
    for (int v = 0; v < V; v++) {
      F even, odd;
      if (PAIRS) {
        I pairs = i_load(values + (static_cast<int64_t>(j) * d + v * W * 2) * 2);
        even = f_even(pairs);
        odd = f_odd(pairs);
      } else {
        even = f_load(reinterpret_cast<const float*>(values) + static_cast<int64_t>(j) * d + v * W);
        odd = f_load(reinterpret_cast<const float*>(values) + static_cast<int64_t>(j + 1) * d + v * W);
      }
      OCT_UNROLL
      for (int i = 0; i < N; i++)
        acc[i][v] = f_fma(odd, f_set1(p[i * KEYS + j + 1]), f_fma(even, f_set1(p[i * KEYS + j]), acc[i][v]));
    }
  }
  if (j < count) {  // the odd partner was never written
    for (int v = 0; v < V; v++) {
      F even = PAIRS ? f_even(i_load(values + (static_cast<int64_t>(j) * d + v * W * 2) * 2))
                     : f_load(reinterpret_cast<const float*>(values) + static_cast<int64_t>(j) * d + v * W);
      for (int i = 0; i < N; i++) acc[i][v] = f_fma(even, f_set1(p[i * KEYS + j]), acc[i][v]);
    }
  }
  for (int i = 0; i < N; i++)
    for (int v = 0; v < V; v++) f_store(out + i * d + v * W, acc[i][v]);
}

template <bool PAIRS, int V>
static void values_of(int n, const uint8_t* values, const float* p, int count, int d, float* out) {
  switch (n) {
    case 1: return panel_values<PAIRS, 1, V>(values, p, count, d, out);
    case 2: return panel_values<PAIRS, 2, V>(values, p, count, d, out);
    case 3: return panel_values<PAIRS, 3, V>(values, p, count, d, out);
    case 4: return panel_values<PAIRS, 4, V>(values, p, count, d, out);
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

template <bool PAIRS, int V>
static void add_values(const AttnArgs& a, const Work& w, const uint8_t* values, int first, int count) {
  const int d = a.head_dim;
  for (int c = 0; c < d; c += V * W)
    for (int i = 0; i < w.n; i += V_GROUP)
      values_of<PAIRS, V>(w.n - i < V_GROUP ? w.n - i : V_GROUP, values + c * 4,
                          w.s + i * KEYS + first, count, d, w.out + i * d + c);
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
    const uint8_t* keys[KEYS / 16];
    for (int p = 0; p < panels; p++) {
      keys[p] = panel_at<PAIRS>(a, start + p * 16);
      fetch(keys[p] + plane, bytes);
    }
    for (int i = 0; i < w.n; i += Q_GROUP)
      scores<PAIRS>(w.n - i < Q_GROUP ? w.n - i : Q_GROUP, keys, panels, w.q + i * d, d, w.s + i * KEYS);
    for (int64_t next = start + KEYS; next < end && next < start + 2 * KEYS; next += 16)
      fetch(panel_at<PAIRS>(a, next), bytes);
    for (int i = 0; i < w.n; i++) {
      Query& q = w.queries[i];
      float factor = soften(w.s + i * KEYS, panels * 16, seen_by(a, q, start), a.softcap, q);
      if (factor == 1.0f) continue;
      for (int j = 0; j < d; j += W) f_store(w.out + i * d + j, f_mul(f_load(w.out + i * d + j), f_set1(factor)));
    }
    for (int p = 0; p < panels; p++) {
      int inside = count - p * 16 < 16 ? count - p * 16 : 16;
      if (d % (V_WIDTH * W) == 0) add_values<PAIRS, V_WIDTH>(a, w, keys[p] + plane, p * 16, inside);
      else add_values<PAIRS, 1>(a, w, keys[p] + plane, p * 16, inside);
    }
  }
};

void attend(const AttnArgs& a) {
  if (a.cache_type == OCT_CACHE_F32) attend_over<FloatCache<false>>(a);
  else if (a.cache_type == OCT_CACHE_BF16) attend_over<FloatCache<true>>(a);
  else attend_int8(a);
}

}  // namespace OCT_NS
