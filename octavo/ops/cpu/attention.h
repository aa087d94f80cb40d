// What attention does whatever a cache holds: the running softmax, and the walk over blocks.
//
// Keys are taken in blocks of 64 that begin at multiples of 64 in the row, every sum runs over
// rising positions or dimensions, and what a query may not see adds exact zeros. So a query's
// bits depend neither on the tokens attended with it nor on where its prompt was cut.
#pragma once
#include "kernels.h"
#include "level.h"
#include "simd.h"

namespace OCT_NS {

constexpr int KEYS = 64;

struct Query {
  int64_t position;
  float top, total;  // running maximum and sum of exponentials
};

// The scratch memory of one call, for n queries (tokens times heads of the kv head).
struct Work {
  Query* queries;
  float *q, *s, *out, *rest;  // [n][d], [n][KEYS], [n][d], OCT_REST floats a query
  int n;
};

OCT_INLINE void fetch(const uint8_t* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}

// The part [low, high) of a block that a query sees.
struct Seen {
  int low, high;
  bool all(int count) const { return low == 0 && high >= count; }
};

OCT_INLINE int clamp_key(int64_t v) { return v < 0 ? 0 : v > KEYS ? KEYS : static_cast<int>(v); }

// Of the block that begins at `start`.
OCT_INLINE Seen seen_by(const AttnArgs& a, const Query& q, int64_t start) {
  int low = a.window > 0 ? clamp_key(q.position - a.window + 1 - start) : 0;
  return {low, clamp_key(q.position + 1 - start)};
}

// --- softmax ---------------------------------------------------------------------------------

// s [KEYS] becomes exp(s - running maximum), 0 outside what is seen; returns the factor that
// what was summed before is to be scaled by. INSIDE: all of [0, count) is seen.
template <bool INSIDE>
static float soften_as(float* s, int count, Seen seen, Query& q) {
  const int low = seen.low, high = seen.high;
  const F none = f_set1(-INFINITY);
  F top = none;
  for (int o = 0; o < count; o += W) {
    F v = f_load(s + o);
    if (!INSIDE) {
      v = f_first(none, f_first(v, none, high - o), low - o);
      f_store(s + o, v);
    }
    top = f_max(top, v);
  }
  const float before = q.top, now = fmaxf(before, f_hmax(top));
  q.top = now;
  if (now == -INFINITY) {
    for (int o = 0; o < count; o += W) f_store(s + o, f_zero());
    return 1.0f;
  }
  F sum = f_zero();
  for (int o = 0; o < count; o += W) {
    F p = f_exp(f_sub(f_load(s + o), f_set1(now)));
    if (!INSIDE) p = f_first(f_zero(), f_first(p, f_zero(), high - o), low - o);
    f_store(s + o, p);
    sum = f_add(sum, p);
  }
  float factor = 0.0f;
  if (before == now) {
    factor = 1.0f;
  } else if (before != -INFINITY) {
    float lanes[W];
    f_store(lanes, f_exp(f_set1(before - now)));
    factor = lanes[0];
  }
  q.total = q.total * factor + f_sum(sum);
  return factor;
}

static inline float soften(float* s, int count, Seen seen, float softcap, Query& q) {
  if (softcap > 0.0f)
    for (int o = 0; o < count; o += W)
      f_store(s + o, f_mul(f_set1(softcap), f_tanh(f_div(f_load(s + o), f_set1(softcap)))));
  return seen.all(count) ? soften_as<true>(s, count, seen, q) : soften_as<false>(s, count, seen, q);
}

// --- the whole -------------------------------------------------------------------------------

// The i-th query as the step has it.
OCT_INLINE const float* query_at(const AttnArgs& a, int i) {
  const int group = a.heads / a.kv_heads;
  return a.q + (i / group) * a.ldq + (a.kv_head * group + i % group) * a.head_dim;
}

static inline void finish(const AttnArgs& a, const Work& w) {
  const int group = a.heads / a.kv_heads, d = a.head_dim;
  for (int i = 0; i < w.n; i++) {
    float* to = a.out + (i / group) * a.ldo + (a.kv_head * group + i % group) * d;
    float total = w.queries[i].total, inverse = total > 0.0f ? 1.0f / total : total == 0.0f ? 0.0f : NAN;
    for (int j = 0; j < d; j += W) f_store(to + j, f_mul(f_load(w.out + i * d + j), f_set1(inverse)));
  }
}

// Cache: gather(a, w) makes the queries ready, block(a, w, start, count, end) adds positions
// [start, start + count) of the row's [0, end).
template <class Cache>
static void attend_over(const AttnArgs& a) {
  const int group = a.heads / a.kv_heads, d = a.head_dim;
  Work w;
  w.n = static_cast<int>(a.tokens) * group;
  w.q = a.scratch;
  w.out = w.q + OCT_QUERIES * d;
  w.s = w.out + OCT_QUERIES * d;
  w.rest = w.s + OCT_QUERIES * KEYS;
  w.queries = reinterpret_cast<Query*>(w.rest + OCT_QUERIES * OCT_REST);
  for (int i = 0; i < w.n; i++) w.queries[i] = Query{a.positions[i / group], -INFINITY, 0.0f};
  memset(w.out, 0, sizeof(float) * w.n * d);
  Cache::gather(a, w);
  int64_t end = a.positions[a.tokens - 1] + 1;
  int64_t begin = a.window > 0 && a.positions[0] >= a.window ? (a.positions[0] - a.window + 1) / KEYS * KEYS : 0;
  for (int64_t start = begin; start < end; start += KEYS)
    Cache::block(a, w, start, static_cast<int>(end - start < KEYS ? end - start : KEYS), end);
  finish(a, w);
}

}  // namespace OCT_NS
