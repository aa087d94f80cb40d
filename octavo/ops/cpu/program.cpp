// Runs a program: every thread walks the same list of ops, takes tasks of each, and meets the
// others where one op needs what another made. Owns no arithmetic and no model.
#include <math.h>
#include <time.h>

#include <chrono>

#include "ahead.h"
#include "engine.h"
#include "pack.h"

namespace oct {
namespace {

struct Run {
  OctEngine* engine;
  const OctOp* ops;
  int64_t count;
  const int64_t* width;
  const OctStep* step;
  float* buffer[OCT_BUFFERS];
  uint8_t* shared;   // quantised activations
  uint8_t* private0; // each thread's own memory
  int64_t private_bytes, row_floats, tile_room, panel_room;

  float* row(int b, int64_t t) const { return buffer[b] + t * width[b]; }
  float* scratch(int thread) const { return reinterpret_cast<float*>(private0 + thread * private_bytes); }
  uint8_t* tile(int thread) const { return private0 + thread * private_bytes + (row_floats + 64) * 4; }
  uint8_t* panel(int thread) const { return tile(thread) + tile_room; }
  float* attention(int thread) const { return reinterpret_cast<float*>(panel(thread) + panel_room); }
};

int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls f(begin, end) for every share of [0, total) that this thread gets.
template <class Body>
void shares(Pool& pool, int64_t total, int64_t step, Body f) {
  for (int64_t at = pool.take() * step; at < total; at = pool.take() * step) f(at, at_most(at + step, total));
}

// --- linear ----------------------------------------------------------------------------------

void quantise_token(const Run& r, const OctOp& op, int64_t token, uint8_t* tile, int slots, int slot, int thread) {
  const Kernels& k = *r.engine->kernels;
  const float* x = r.row(op.in, token);
  float* made = r.scratch(thread);
  if (op.prologue == OCT_NORMED) {
    k.norm(x, op.norm, op.eps, made, op.weight->k);
    x = made;
  } else if (op.prologue != OCT_PLAIN) {
    k.gated(op.prologue, x, x + op.weight->k, made, op.weight->k);
    x = made;
  }
  k.quantise(op.weight->format, x, op.weight->k, tile, slots, slot);
}

struct Tiles {
  int64_t count, stride;
  int size;
};

Tiles tiles_of(const Run& r, const OctWeight& w, int64_t tokens) {
  int size = r.engine->kernels->max_tile;
  return {ceil_div(tokens, size), align64(tile_bytes(w.format, w.k, size)), size};
}

// A lone token is quantised by every thread for itself: cheaper than a meeting.
const uint8_t* quantise_all(const Run& r, const OctOp& op, const Tiles& tiles, int thread) {
  const int64_t tokens = r.step->tokens;
  if (tokens == 1) {
    quantise_token(r, op, 0, r.tile(thread), 1, 0, thread);
    return r.tile(thread);
  }
  // Tokens of a tile lie side by side in a record: threads that write one at a time would take its
  // cache lines from each other.
  const int64_t together = tiles.count > 1 ? tiles.size : ceil_div(tokens, r.engine->pool.size());
  shares(r.engine->pool, tokens, together, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      int64_t tile = t / tiles.size;
      int slots = slots_for(static_cast<int>(at_most(tokens - tile * tiles.size, tiles.size)), tiles.size);
      quantise_token(r, op, t, r.shared + tile * tiles.stride, slots, static_cast<int>(t % tiles.size), thread);
    }
  });
  r.engine->pool.meet(thread);
  return r.shared;
}

// The product of some panels and some tiles.
struct Product {
  const Run& r;
  const OctOp& op;
  const Tiles& tiles;
  const uint8_t* act;
  int thread;

  void operator()(int64_t panel0, int64_t panel1, int64_t tile, int64_t tile_run) const {
    MatArgs a;
    a.w = op.weight;
    a.panel0 = panel0;
    a.panel1 = panel1;
    a.act = act + tile * tiles.stride;
    a.tokens = at_most(tile_run * tiles.size, r.step->tokens - tile * tiles.size);
    a.tile_stride = tiles.stride;
    a.y = r.row(op.out, tile * tiles.size) + op.column;
    a.ldy = r.width[op.out];
    a.bias = op.bias;
    a.add = op.add;
    a.scratch = r.panel(thread);
    r.engine->kernels->matmul(a);
  }
};

// One tile: every weight is read once. Each thread goes through a share of its own from the
// beginning, then helps where others are not done.
void by_shares(const Product& product) {
  constexpr int64_t RUN = 4;  // panels of a task
  Pool& pool = product.r.engine->pool;
  const OctWeight& w = *product.op.weight;
  for (int i = 0; i < pool.size(); i++) {
    const int owner = (product.thread + i) % pool.size();
    const Share share = share_of(w, owner, pool.size());
    const int64_t count = ceil_div(share.end - share.begin, RUN);
    for (int64_t task = pool.take_of(owner, count); task < count; task = pool.take_of(owner, count)) {
      const int64_t p = share.begin + task * RUN, end = at_most(p + RUN, share.end);
      product(p, end, 0, 1);
    }
  }
}

// Many tiles: tasks are products of a run of panels and a run of tiles. Weights stay in the second
// cache while the tiles pass, and there are enough tasks that no thread waits long for the last.
void by_tasks(const Product& product) {
  constexpr int64_t ACT_BYTES = 1 << 19, WEIGHT_BYTES = 1 << 19;
  Pool& pool = product.r.engine->pool;
  const OctWeight& w = *product.op.weight;
  const Tiles& tiles = product.tiles;
  const int64_t panels = ceil_div(w.n, OCT_PANEL), bytes = panel_shape(w.format, w.k).bytes;
  const int64_t runs = ceil_div(tiles.count, at_least(1, ACT_BYTES / tiles.stride));
  const int64_t tile_run = ceil_div(tiles.count, runs);
  int64_t panel_run = at_least(1, panels / (pool.size() * 8));
  if (panel_run > 2) panel_run = (panel_run + 3) & ~3ll;
  panel_run = at_least(1, at_most(panel_run, WEIGHT_BYTES / bytes));
  const int64_t across = ceil_div(panels, panel_run), down = ceil_div(tiles.count, tile_run);
  shares(pool, across * down, 1, [&](int64_t task, int64_t) {
    const int64_t p = task % across * panel_run;
    product(p, at_most(p + panel_run, panels), task / across * tile_run, tile_run);
  });
}

void linear(const Run& r, const OctOp& op, int thread) {
  const Tiles tiles = tiles_of(r, *op.weight, r.step->tokens);
  const Product product = {r, op, tiles, quantise_all(r, op, tiles, thread), thread};
  if (tiles.count == 1) by_shares(product);
  else by_tasks(product);
}

// --- attention -------------------------------------------------------------------------------

// One kv head of some queries of one row; `count` is 0 where none is left.
struct Piece {
  int64_t row, token, count;
  int head;
};

struct Place {
  const OctOp& op;
  const Run& r;
  const OctGroup& group;
  uint8_t* cache;

  // Rotates the queries of one kv head and its key, and stores key and value.
  void prepare(int64_t token, int64_t row, int head, int thread) const {
    const Kernels& k = *r.engine->kernels;
    const int d = op.head_dim, share = op.heads / op.kv_heads;
    const int64_t position = r.step->positions[token];
    float* qkv = r.row(op.in, token);
    const float* angles = r.row(op.angles, token);
    float* key = qkv + static_cast<int64_t>(op.heads + head) * d;
    for (int h = 0; h <= share; h++) {
      float* x = h < share ? qkv + static_cast<int64_t>(head * share + h) * d : key;
      const float* norm = h < share ? op.q_norm : op.k_norm;
      if (norm) {
        k.norm(x, norm, op.eps, r.scratch(thread), d);
        for (int i = 0; i < d; i++) x[i] = r.scratch(thread)[i];
      }
      if (op.rope_dim) k.rope(x, angles, op.rope_dim);
    }
    StoreArgs s;
    s.k = key;
    s.v = key + static_cast<int64_t>(op.kv_heads) * d;
    s.cache = cache;
    s.slot = group.tables[row * group.table_stride + position / op.page] * static_cast<int64_t>(op.page) + position % op.page;
    s.cache_type = op.cache_type;
    s.kv_heads = op.kv_heads;
    s.kv_head = head;
    s.head_dim = d;
    s.page = op.page;
    k.store(s);
  }

  void attend(const Piece& now, const Piece& next, int thread) const {
    AttnArgs a;
    a.q = r.row(op.in, now.token);
    a.out = r.row(op.out, now.token);
    a.ldq = r.width[op.in];
    a.ldo = r.width[op.out];
    a.positions = r.step->positions + now.token;
    a.tokens = now.count;
    a.length = group.lengths[now.row];
    a.pages = pages(now);
    a.cache = cache;
    a.cache_type = op.cache_type;
    a.heads = op.heads;
    a.kv_heads = op.kv_heads;
    a.kv_head = now.head;
    a.head_dim = op.head_dim;
    a.page = op.page;
    a.window = op.window;
    a.scale = op.scale;
    a.softcap = op.softcap;
    a.scratch = r.attention(thread);
    a.next_pages = pages(next);
    a.next_begin = op.window > 0 ? at_least(0, r.step->positions[next.token] + 1 - op.window) : 0;
    a.next_end = next.count ? r.step->positions[next.token + next.count - 1] + 1 : 0;
    a.next_head = next.head;
    r.engine->kernels->attention(a);
  }

  const int32_t* pages(const Piece& p) const { return group.tables + p.row * group.table_stride; }
};

void prepare_all(const Place& place, int thread) {
  const OctStep& step = *place.r.step;
  Pool& pool = place.r.engine->pool;
  // 16 tokens that follow each other share the cache lines of their keys.
  const int64_t together = at_least(1, at_most(16, step.tokens / (2 * pool.size())));
  int64_t row = 0;
  shares(pool, step.tokens, together, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      while (step.row_start[row + 1] <= t) row++;  // a thread's shares only go up
      for (int h = 0; h < place.op.kv_heads; h++) place.prepare(t, row, h, thread);
    }
  });
  pool.meet(thread);
}

// Pieces in the order of their tasks; late tokens, which see most, come first.
class Pieces {
 public:
  Pieces(const OctStep& step, const OctOp& op)
      : step_(step), heads_(op.kv_heads), each_(at_least(1, OCT_QUERIES / (op.heads / op.kv_heads))) {}

  // Of a task that is later than those asked for before.
  Piece of(int64_t task) {
    for (; row_ < step_.rows; row_++) {
      const int64_t tokens = step_.row_start[row_ + 1] - step_.row_start[row_], parts = ceil_div(tokens, each_);
      if (task >= before_ + parts * heads_) {
        before_ += parts * heads_;
        continue;
      }
      const int64_t part = parts - 1 - (task - before_) / heads_, token = step_.row_start[row_] + part * each_;
      return {row_, token, at_most(each_, tokens - part * each_), static_cast<int>((task - before_) % heads_)};
    }
    return {};
  }

 private:
  const OctStep& step_;
  int64_t heads_, each_, row_ = 0, before_ = 0;
};

// A task is a piece of up to OCT_QUERIES queries. Where rows have one token each a thread takes a
// task ahead: it waits for memory most, and knows so what to ask for.
void attention(const Run& r, const OctOp& op, int thread) {
  const OctStep& step = *r.step;
  const Place place = {op, r, step.groups[op.group], static_cast<uint8_t*>(step.caches[op.layer])};
  Pool& pool = r.engine->pool;
  Pieces pieces(step, op);
  if (step.tokens > step.rows) {
    prepare_all(place, thread);
    for (Piece now = pieces.of(pool.take()); now.count; now = pieces.of(pool.take())) place.attend(now, {}, thread);
    return;
  }
  Piece now = pieces.of(pool.take());
  while (now.count) {
    const Piece next = pieces.of(pool.take());
    place.prepare(now.token, now.row, now.head, thread);  // all there is to prepare
    place.attend(now, next, thread);
    now = next;
  }
}

// --- the rest --------------------------------------------------------------------------------

void embed(const Run& r, const OctOp& op) {
  shares(r.engine->pool, r.step->tokens, 1, [&](int64_t t, int64_t) {
    float* out = r.row(op.out, t);
    read_row(op.weight, r.step->ids[t], out);
    if (op.scale != 1.0f)
      for (int64_t i = 0; i < op.weight->k; i++) out[i] *= op.scale;
  });
}

void norm(const Run& r, const OctOp& op) {
  shares(r.engine->pool, r.step->tokens, 1, [&](int64_t t, int64_t) {
    r.engine->kernels->norm(r.row(op.in, t), op.norm, op.eps, r.row(op.out, t), r.width[op.in]);
  });
}

// Cosines and sines of this step's positions, times `scale`.
void angles(const Run& r, const OctOp& op) {
  shares(r.engine->pool, r.step->tokens, 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      float* out = r.row(op.out, t);
      const float position = static_cast<float>(r.step->positions[t]);
      const int half = op.rope_dim / 2;
      for (int i = 0; i < half; i++) {
        float angle = position * op.rope[i];
        out[i] = cosf(angle) * op.scale;
        out[half + i] = sinf(angle) * op.scale;
      }
    }
  });
}

// CPU time of the calling thread: neighbours on the machine do not count.
double now() {
#if defined(CLOCK_THREAD_CPUTIME_ID)
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
#else
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
#endif
}

void walk(void* context, int thread) {
  const Run& r = *static_cast<Run*>(context);
  double* seconds = thread == 0 ? r.step->seconds : nullptr;
  double last = seconds ? now() : 0.0;
  Pool& pool = r.engine->pool;
  Ahead ahead(r.ops, r.count, thread, pool.size());
  for (int64_t i = 0; i < r.count; i++) {
    const OctOp& op = r.ops[i];
    switch (op.code) {
      case OCT_OP_EMBED: embed(r, op); break;
      case OCT_OP_LINEAR: linear(r, op, thread); break;
      case OCT_OP_ATTENTION: attention(r, op, thread); break;
      case OCT_OP_NORM: norm(r, op); break;
      case OCT_OP_ANGLES: angles(r, op); break;
    }
    if (i + 1 < r.count) {
      const uint32_t round = pool.arrive(thread);
      ahead.aim(i + 1);
      while (!pool.met(round) && ahead.some()) {}
      pool.wait(thread, round);
    }
    if (seconds) {
      double t = now();
      seconds[i] += t - last;
      last = t;
    }
  }
}

// The only inputs that could reach outside a table; everything else is the builder's to get right.
bool in_range(const Run& r) {
  const OctStep& step = *r.step;
  for (int64_t i = 0; i < r.count; i++) {
    const OctOp& op = r.ops[i];
    if (op.code == OCT_OP_EMBED)
      for (int64_t t = 0; t < step.tokens; t++)
        if (step.ids[t] < 0 || step.ids[t] >= op.weight->n) return false;
    if (op.code != OCT_OP_ATTENTION) continue;
    int64_t limit = step.groups[op.group].table_stride * op.page;
    for (int64_t t = 0; t < step.tokens; t++)
      if (step.positions[t] < 0 || step.positions[t] >= limit) return false;
    break;  // one look at each is enough: ops share ids and positions
  }
  return true;
}

// Sizes of everything, then one allocation.
bool lay_out(Run& r) {
  const OctStep& step = *r.step;
  int64_t total = 0, act = 0, offset[OCT_BUFFERS], floats = 0, heads = 0;
  for (int b = 0; b < OCT_BUFFERS; b++) {
    offset[b] = total;
    if (!step.buffers[b]) total += align64(r.width[b] * step.tokens * 4);
  }
  for (int64_t i = 0; i < r.count; i++) {
    const OctOp& op = r.ops[i];
    heads = at_least(heads, op.head_dim);
    if (op.code != OCT_OP_LINEAR) continue;
    Tiles tiles = tiles_of(r, *op.weight, step.tokens);
    act = at_least(act, tiles.count * tiles.stride);
    r.tile_room = at_least(r.tile_room, align64(tile_bytes(op.weight->format, op.weight->k, 1)));
    r.panel_room = at_least(r.panel_room, align64(panel_scratch(op.weight->k)));
    floats = at_least(floats, op.weight->k);
  }
  r.row_floats = align64(at_least(floats, heads));
  r.private_bytes = align64((r.row_floats + 64) * 4 + r.tile_room + r.panel_room + (heads ? attn_scratch(static_cast<int>(heads)) * 4 : 0)) + 256;
  uint8_t* base = r.engine->arena.need(total + act + r.private_bytes * r.engine->pool.size() + 64);
  if (!base) return false;
  for (int b = 0; b < OCT_BUFFERS; b++)
    r.buffer[b] = step.buffers[b] ? step.buffers[b] : reinterpret_cast<float*>(base + offset[b]);
  r.shared = base + total;
  r.private0 = r.shared + act;
  return true;
}

}  // namespace
}  // namespace oct

extern "C" int32_t oct_run(OctEngine* engine, const OctOp* ops, int64_t count, const int64_t* width, const OctStep* step) {
  if (step->tokens <= 0 || count <= 0) return 0;
  oct::Run r = {};
  r.engine = engine;
  r.ops = ops;
  r.count = count;
  r.width = width;
  r.step = step;
  if (!oct::lay_out(r)) return -1;
  if (!oct::in_range(r)) return -2;
  engine->pool.run(oct::walk, &r);
  return 0;
}
