// Sampling of many rows on an engine's threads: a row is a task. Knows nothing of how a row is drawn.
#include "engine.h"

namespace oct {
namespace {

struct Rows {
  OctEngine* engine;
  const OctSample* s;
  uint8_t* scratch;
  int64_t each;  // bytes of scratch a thread
};

void sample_one(const Rows& r, int64_t row, int thread) {
  const OctSample& s = *r.s;
  const int64_t slot = s.slots[row];
  SampleArgs a;
  a.logits = s.logits + row * s.vocab;
  a.vocab = s.vocab;
  a.temperature = s.temperature[slot];
  a.gap = s.gap[slot];
  a.top_k = s.top_k[slot];
  a.top_p = s.top_p[slot];
  a.seed = static_cast<uint64_t>(s.seed[slot]);
  a.position = s.positions[row];
  a.scratch = r.scratch + thread * r.each;
  s.tokens[row] = r.engine->kernels->sample(a);
}

void sample_some(void* context, int thread) {
  const Rows& r = *static_cast<Rows*>(context);
  for (int64_t row = r.engine->pool.take(); row < r.s->rows; row = r.engine->pool.take()) sample_one(r, row, thread);
}

}  // namespace
}  // namespace oct

extern "C" int32_t oct_sample(OctEngine* engine, const OctSample* s) {
  if (s->rows <= 0 || s->vocab <= 0 || s->vocab > INT32_MAX) return s->rows ? -2 : 0;
  const int64_t each = oct::align64(oct::sample_scratch(s->vocab));
  uint8_t* scratch = engine->arena.need(each * engine->pool.size());
  if (!scratch) return -1;
  oct::Rows r = {engine, s, scratch, each};
  if (s->rows == 1) oct::sample_one(r, 0, 0);  // waking the others takes longer
  else engine->pool.run(oct::sample_some, &r);
  return 0;
}
