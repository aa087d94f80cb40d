// One token from one row of logits: ops/sample.py and sampling/{temperature,truncate}.py in one pass.
// Compiled once for each level; every level, and numpy, chooses the same token.
//
// Token t belongs to block t % n, n = ceil(vocab / 32). The largest logit of each block is found
// first; all that follows looks into few blocks. Nothing is sorted but what is kept, and logits are
// divided by the temperature only where they are looked at.
#include <float.h>
#include <math.h>
#include <string.h>

#include <algorithm>

#include "kernels.h"
#include "level.h"

namespace OCT_NS {
namespace {

constexpr float LEAST = -INFINITY;
constexpr uint64_t LOW = 0xffffffffu;

struct Token {
  float value;
  int32_t id;
};

struct Row {
  const SampleArgs& a;
  int64_t blocks;
  float peak = LEAST, floor = LEAST;  // largest value; values below floor are excluded
  float spread = LEAST;               // below it most blocks have a value
  float edge = LEAST;                 // of values equal to the edge ...
  int64_t last = INT64_MAX;           // ... ids up to this one stay
  float* tops;                        // [blocks]
  float* spare;                       // [blocks]
  uint64_t* bits;                     // [blocks]
  Token* tokens;                      // [vocab]

  float value(int64_t id) const { return a.logits[id] / a.temperature; }
  bool keeps(float v, int64_t id) const {
    return v >= floor && v > LEAST && (v > edge || (v == edge && id <= last));
  }
};

// --- the largest of each block ---------------------------------------------------------------

// False where a logit is NaN or +inf.
bool block_tops(const float* x, int64_t vocab, float* tops, int64_t blocks) {
  int odd = 0;
  for (int64_t i = 0; i < blocks; i++) tops[i] = LEAST;
  for (int64_t at = 0; at < vocab; at += blocks) {
    const int64_t width = std::min(blocks, vocab - at);
    const float* part = x + at;
    for (int64_t i = 0; i < width; i++) {
      odd |= !(part[i] <= FLT_MAX);
      tops[i] = part[i] > tops[i] ? part[i] : tops[i];
    }
  }
  return !odd;
}

// The lowest id that has the largest logit.
int64_t largest(const SampleArgs& a, const float* tops, int64_t blocks, float peak) {
  int64_t best = INT64_MAX;
  for (int64_t b = 0; b < blocks; b++) {
    if (tops[b] != peak) continue;
    for (int64_t id = b; id < a.vocab && id < best; id += blocks)
      if (a.logits[id] == peak) best = id;
  }
  return best;
}

// --- truncation ------------------------------------------------------------------------------

// e^x for x <= 0, in units of 2^-34 rounded down: sums of these are exact in any order. The same
// float32 operations as ops/sample.py:weights.
inline int64_t weight(float x) {
  x = x > -30.0f ? x : -30.0f;
  const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r) * r + r + 1.0f;
  const int32_t power = (static_cast<int32_t>(n) + 34 + 127) << 23;
  float scale;
  memcpy(&scale, &power, sizeof scale);
  return static_cast<int64_t>(p * scale);
}

int64_t whole_weight(const Row& r) {
  int64_t sum = 0;
  const float *x = r.a.logits, temperature = r.a.temperature, peak = r.peak, floor = r.floor;
  for (int64_t i = 0; i < r.a.vocab; i++) {
    const float v = x[i] / temperature;
    const int64_t w = weight(v - peak);
    sum += v >= floor ? w : 0;
  }
  return sum;
}

// Tokens of value >= least that min_p leaves, from the blocks that can have any.
int64_t gather(const Row& r, float least) {
  int64_t count = 0;
  least = std::max(std::max(least, r.floor), -FLT_MAX);
  if (least <= r.spread) {  // most blocks have some: in order, without a branch
    for (int64_t id = 0; id < r.a.vocab; id++) {
      const float v = r.value(id);
      r.tokens[count] = {v, static_cast<int32_t>(id)};
      count += v >= least;
    }
    return count;
  }
  for (int64_t b = 0; b < r.blocks; b++) {
    if (!(r.tops[b] >= least)) continue;
    for (int64_t id = b; id < r.a.vocab; id += r.blocks) {
      const float v = r.value(id);
      if (v >= least) r.tokens[count++] = {v, static_cast<int32_t>(id)};
    }
  }
  return count;
}

// The count-th largest top: so many tokens at least are as large. -inf where blocks do not suffice.
float bound(Row& r, int64_t count) {
  if (count > r.blocks) return LEAST;
  memcpy(r.spare, r.tops, sizeof(float) * static_cast<size_t>(r.blocks));
  std::nth_element(r.spare, r.spare + count - 1, r.spare + r.blocks, [](float x, float y) { return x > y; });
  const float found = r.spare[count - 1];
  if (count > r.blocks / 4) r.spread = std::max(r.spread, found);
  return found;
}

int64_t weight_of(const Row& r, const Token* begin, const Token* end) {
  int64_t sum = 0;
  for (; begin < end; begin++) sum += weight(begin->value - r.peak);
  return sum;
}

struct Edge {
  float value;
  int64_t equals;  // how many tokens of that value stay
};

// Where the falling values of [begin, end) reach the goal; the order of the tokens is lost.
Edge reach(const Row& r, Token* begin, Token* end, double goal) {
  int64_t above = 0;  // weight of what is certain to stay
  for (;;) {
    const float x = begin->value, y = begin[(end - begin) / 2].value, z = end[-1].value;
    const float pivot = std::max(std::min(x, y), std::min(std::max(x, y), z));
    Token* larger = std::partition(begin, end, [=](const Token& t) { return t.value > pivot; });
    Token* equal = std::partition(larger, end, [=](const Token& t) { return t.value == pivot; });
    const int64_t more = above + weight_of(r, begin, larger);
    if (larger > begin && static_cast<double>(more) >= goal) {
      end = larger;
      continue;
    }
    const int64_t each = weight(pivot - r.peak);
    int64_t equals = 1, sum = more + each;
    for (; equals < equal - larger && static_cast<double>(sum) < goal; sum += each) equals++;
    if (static_cast<double>(sum) >= goal || equal == end) return {pivot, equals};
    above = sum;
    begin = equal;
  }
}

// Remembers which tokens stay; [0, count) of r.tokens hold every one of the edge's value.
void keep(Row& r, Edge edge, int64_t count) {
  r.edge = edge.value;
  int64_t equals = 0;
  for (int64_t i = 0; i < count; i++)
    if (r.tokens[i].value == edge.value) std::swap(r.tokens[i], r.tokens[equals++]);
  if (equals <= edge.equals) return;
  std::nth_element(r.tokens, r.tokens + edge.equals - 1, r.tokens + equals,
                   [](const Token& x, const Token& y) { return x.id < y.id; });
  r.last = r.tokens[edge.equals - 1].id;
}

// The top_k largest, and of these the nucleus.
void cut_top_k(Row& r) {
  const int64_t k = r.a.top_k;
  int64_t count = gather(r, bound(r, k));
  Token* end = r.tokens + std::min(k, count);
  if (k < count)
    std::nth_element(r.tokens, end - 1, r.tokens + count, [](const Token& x, const Token& y) { return x.value > y.value; });
  Edge edge;
  if (r.a.top_p < 1.0) {
    edge = reach(r, r.tokens, end, r.a.top_p * static_cast<double>(weight_of(r, r.tokens, end)));
  } else {
    edge = {end[-1].value, 0};
    for (const Token* t = r.tokens; t < end; t++) {
      if (t->value < edge.value) edge = {t->value, 0};
      edge.equals += t->value == edge.value;
    }
  }
  keep(r, edge, count);
}

// The nucleus of the whole row: most are small, so the largest tokens are tried first.
void cut_top_p(Row& r) {
  const double goal = r.a.top_p * static_cast<double>(whole_weight(r));
  for (int64_t tries = 32;; tries = tries < 256 ? 256 : 4 * tries) {
    const float least = bound(r, tries);
    const int64_t count = gather(r, least);
    if (least > LEAST && static_cast<double>(weight_of(r, r.tokens, r.tokens + count)) < goal) continue;
    return keep(r, reach(r, r.tokens, r.tokens + count, goal), count);
  }
}

// Leaves out blocks whose tokens are all below the edge.
void narrow(Row& r) {
  for (int64_t b = 0; b < r.blocks; b++) r.tops[b] = r.tops[b] >= r.edge ? r.tops[b] : LEAST;
}

// --- the draw --------------------------------------------------------------------------------

// Philox4x32-10 of (index, purpose, position, 0): its first two words, as ops/sample.py has them.
inline uint64_t philox(uint64_t index, uint64_t purpose, uint64_t position, uint64_t seed) {
  uint64_t x0 = index, x1 = purpose, x2 = position & LOW, x3 = 0, k0 = seed & LOW, k1 = seed >> 32;
  for (int i = 0; i < 10; i++) {
    const uint64_t p0 = x0 * 0xD2511F53u, p1 = x2 * 0xCD9E8D57u;
    x0 = (p1 >> 32) ^ x1 ^ k0;
    x2 = (p0 >> 32) ^ x3 ^ k1;
    x1 = p1 & LOW;
    x3 = p0 & LOW;
    k0 = (k0 + 0x9E3779B9u) & LOW;
    k1 = (k1 + 0xBB67AE85u) & LOW;
  }
  return x0 << 32 | x1;
}

inline double uniform(uint64_t bits) {
  return (static_cast<double>(static_cast<int64_t>(bits & ((1ull << 52) - 1))) + 0.5) * 0x1p-52;
}

struct Best {
  double score = -INFINITY;
  int64_t id = INT64_MAX;
};

// Scores the tokens of one block, unless its bound is below what is known.
void open(const Row& r, int64_t block, Best& best) {
  const uint64_t bits = r.bits[block];
  const double first = -log(uniform(bits)) / 32.0;
  const double least = log(first);
  if (static_cast<double>(r.tops[block]) - least < best.score) return;
  const int64_t leader = static_cast<int64_t>(bits >> 59) * r.blocks + block;
  for (int64_t id = block; id < r.a.vocab; id += r.blocks) {
    const float v = r.value(id);
    if (!r.keeps(v, id)) continue;
    double time = first;
    if (id != leader) {
      if (static_cast<double>(v) - least < best.score) continue;  // later is never sooner
      time += -log(uniform(philox(static_cast<uint64_t>(id), 0, static_cast<uint64_t>(r.a.position), r.a.seed)));
    }
    const double score = static_cast<double>(v) - log(time);
    if (score > best.score || (score == best.score && id < best.id)) best = {score, id};
  }
}

int64_t draw(const Row& r) {
  const float near = std::max(r.peak - 44.0f, -FLT_MAX);
  int64_t lead = 0;
  for (int64_t b = 0; b < r.blocks; b++) {
    r.bits[b] = philox(static_cast<uint64_t>(b), 1, static_cast<uint64_t>(r.a.position), r.a.seed);
    r.spare[b] = r.tops[b] >= near ? static_cast<float>(weight(r.tops[b] - r.peak) + 1) * 0x1p-34f : 0.0f;
  }
  for (int64_t b = 0; b < r.blocks; b++)
    if (r.tops[b] == r.peak) lead = b;
  Best best;
  open(r, lead, best);
  // A block matters only where -log(u) / 32 <= e^(top - score); 1 - u is less than -log(u), and
  // spare is e^(top - peak) rounded up, so that the test below never leaves out one that matters.
  double factor = 0;
  double score = NAN;
  for (int64_t b = 0; b < r.blocks; b++) {
    if (score != best.score) {
      score = best.score;
      factor = 33.0 * exp(static_cast<double>(r.peak) - score);
    }
    if (b == lead || !(r.tops[b] >= near) || 1.0 - uniform(r.bits[b]) > factor * static_cast<double>(r.spare[b])) continue;
    open(r, b, best);
  }
  return best.id;
}

}  // namespace

int64_t sample_row(const SampleArgs& a) {
  const int64_t blocks = (a.vocab + OCT_BLOCK - 1) / OCT_BLOCK;
  Row r = {a, blocks};
  r.bits = reinterpret_cast<uint64_t*>(a.scratch);
  r.tokens = reinterpret_cast<Token*>(r.bits + blocks);
  r.tops = reinterpret_cast<float*>(r.tokens + a.vocab);
  r.spare = r.tops + blocks;
  if (!block_tops(a.logits, a.vocab, r.tops, blocks)) return -1;
  r.peak = *std::max_element(r.tops, r.tops + blocks);
  if (r.peak == LEAST) return -1;
  if (a.temperature == 0.0f) return largest(a, r.tops, blocks, r.peak);
  for (int64_t b = 0; b < blocks; b++) r.tops[b] /= a.temperature;
  r.peak /= a.temperature;
  if (!(fabsf(r.peak) <= FLT_MAX)) return -1;
  r.floor = r.peak + a.gap;
  const bool top_k = a.top_k > 0 && a.top_k < a.vocab;
  if (top_k) cut_top_k(r);
  else if (a.top_p < 1.0) cut_top_p(r);
  narrow(r);
  return draw(r);
}

}  // namespace OCT_NS
