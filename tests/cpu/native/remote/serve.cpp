// The kernel library in a process of its own, so that the same tests reach what cannot be loaded
// into Python: other instruction sets under an emulator, and ThreadSanitizer.
//
//   serve LIBRARY      calls come on standard input, answers go to standard output (calls.py)
//
// All memory a call may touch travels with it, in regions. Each ends where a page that nobody may
// touch begins, and what only the caller writes cannot be written to: a kernel that reads or
// writes beyond its buffers dies here. Knows the structs of abi.h, nothing of tests.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <set>
#include <vector>

#include "abi.h"

namespace {

// Every function of abi.h, without its oct_.
#define CALLS(X)                                                                                  \
  X(abi) X(best_level) X(has_level) X(level_name) X(engine_create) X(engine_destroy)              \
  X(packed_bytes) X(pack) X(row) X(run) X(begin) X(end) X(sample)

struct Call {
  char name[32];
  int64_t regions;
  int64_t args[6];
};

struct Region {
  uint64_t at;  // in the caller
  int64_t bytes, writes;
};

struct Answer {
  int64_t result;
  int64_t harmed;  // 1 where something was written before a region
};

[[noreturn]] void die(const char* why) {
  fprintf(stderr, "serve: %s\n", why);
  exit(3);
}

void get(void* to, size_t bytes) {
  if (bytes && fread(to, 1, bytes, stdin) != bytes) exit(0);  // the caller is gone
}

void put(const void* from, size_t bytes) {
  if (bytes && fwrite(from, 1, bytes, stdout) != bytes) exit(0);
}

constexpr uint8_t BEFORE = 0xa5;

// A region's copy: [before | content] page without access.
class Copy {
 public:
  explicit Copy(const Region& region) : region_(region), page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    size_ = (static_cast<size_t>(region.bytes) + page_ - 1) / page_ * page_ + page_;
    void* made = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED) die("no memory");
    base_ = static_cast<uint8_t*>(made);
    before_ = size_ - page_ - static_cast<size_t>(region.bytes);
    memset(base_, BEFORE, before_);
    get(data(), static_cast<size_t>(region.bytes));
  }
  ~Copy() {
    if (base_) munmap(base_, size_);
  }
  Copy(Copy&& other) : region_(other.region_), page_(other.page_), size_(other.size_), before_(other.before_), base_(other.base_) {
    other.base_ = nullptr;
  }
  Copy(const Copy&) = delete;

  uint8_t* data() const { return base_ + before_; }
  bool writes() const { return region_.writes; }

  void guard() const {
    if (mprotect(base_ + size_ - page_, page_, PROT_NONE)) die("mprotect");
    if (!writes() && size_ > page_ && mprotect(base_, size_ - page_, PROT_READ)) die("mprotect");
  }
  bool harmed() const {
    for (size_t i = 0; i < before_; i++)
      if (base_[i] != BEFORE) return true;
    return false;
  }
  void send() const { put(data(), static_cast<size_t>(region_.bytes)); }
  uint8_t* find(uint64_t at) const {
    const uint64_t offset = at - region_.at;
    return offset == 0 || (at > region_.at && offset < static_cast<uint64_t>(region_.bytes)) ? data() + (at - region_.at) : nullptr;
  }

 private:
  Region region_;
  size_t page_, size_ = 0, before_ = 0;
  uint8_t* base_ = nullptr;
};

// The regions of one call, and the caller's pointers made ours.
class Memory {
 public:
  explicit Memory(int64_t count) {
    for (int64_t i = 0; i < count; i++) {
      Region region;
      get(&region, sizeof region);
      copies_.emplace_back(region);
    }
  }
  template <class T>
  T* at(int64_t address) const {
    if (!address) return nullptr;
    for (const Copy& copy : copies_)
      if (uint8_t* found = copy.find(static_cast<uint64_t>(address))) return reinterpret_cast<T*>(found);
    die("a pointer into no region");
  }
  template <class T>
  void move(T*& pointer) const { pointer = at<T>(static_cast<int64_t>(reinterpret_cast<uintptr_t>(pointer))); }
  template <class... T>
  void move_all(T*&... pointers) const { (move(pointers), ...); }

  OctWeight* weight(int64_t address) {
    OctWeight* w = at<OctWeight>(address);
    if (w && moved_.insert(w).second) move(w->data);
    return w;
  }
  void program(OctOp* ops, int64_t count, OctStep* step) {
    int64_t groups = 0, layers = 0;
    for (OctOp* op = ops; op < ops + count; op++) {
      op->weight = weight(static_cast<int64_t>(reinterpret_cast<uintptr_t>(op->weight)));
      for (const float** p : {&op->norm, &op->bias, &op->rope, &op->q_norm, &op->k_norm}) move(*p);
      if (op->code != OCT_OP_ATTENTION) continue;
      if (op->group >= groups) groups = op->group + 1;
      if (op->layer >= layers) layers = op->layer + 1;
    }
    move(step->ids);
    move(step->positions);
    move(step->row_start);
    move(step->seconds);
    if (!groups) step->groups = nullptr, step->caches = nullptr;  // whatever they were: nobody looks
    move(step->groups);
    move(step->caches);
    for (float*& buffer : step->buffers) move(buffer);
    for (int64_t i = 0; i < groups; i++) {
      OctGroup& group = const_cast<OctGroup&>(step->groups[i]);
      move(group.lengths);
      move(group.tables);
    }
    for (int64_t i = 0; i < layers; i++) move(const_cast<void*&>(step->caches[i]));
  }
  OctSlots* slots(int64_t address) const {
    OctSlots* s = at<OctSlots>(address);
    move_all(s->tokens, s->known, s->computed, s->samples, s->done, s->earliest, s->last, s->eos, s->stop, s->pages);
    return s;
  }
  void pages(const OctSlots* s) const {
    for (OctPages* p = const_cast<OctPages*>(s->pages); p < s->pages + s->groups; p++) move_all(p->table, p->rows, p->places);
  }
  OctBegun begun(const OctBegun& theirs) const {
    OctBegun b = theirs;
    move_all(b.slot, b.start, b.count, b.drafts, b.logits, b.first, b.sampled, b.row_slot, b.row_position, b.row_known);
    move_all(b.logits_at, b.ids, b.positions, b.row_start, b.lengths);
    return b;
  }
  OctSample* sample(int64_t address) const {
    OctSample* s = at<OctSample>(address);
    move_all(s->logits, s->slots, s->positions, s->temperature, s->gap, s->top_k, s->top_p, s->seed, s->tokens);
    return s;
  }
  void guard() const {
    for (const Copy& copy : copies_) copy.guard();
  }
  void answer(int64_t result) const {
    Answer a = {result, 0};
    for (const Copy& copy : copies_) a.harmed |= copy.harmed();
    put(&a, sizeof a);
    for (const Copy& copy : copies_)
      if (copy.writes()) copy.send();
    fflush(stdout);
  }

 private:
  std::vector<Copy> copies_;
  std::set<const void*> moved_;
};

struct Functions {
#define DECLARED(name) decltype(&oct_##name) name;
  CALLS(DECLARED)
#undef DECLARED
};

template <class F>
void load(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (!function) die(name);
}

Functions load_all(const char* path) {
  void* library = dlopen(path, RTLD_NOW);
  if (!library) die(dlerror());
  Functions f;
#define LOADED(name) load(library, "oct_" #name, f.name);
  CALLS(LOADED)
#undef LOADED
  return f;
}

// ---- a function each: what it is given, and where that is -----------------------------------

int64_t abi(const Functions& f, const int64_t*, Memory&) { return f.abi(); }

int64_t best_level(const Functions& f, const int64_t*, Memory&) { return f.best_level(); }

int64_t has_level(const Functions& f, const int64_t* a, Memory&) { return f.has_level(static_cast<int32_t>(a[0])); }

int64_t level_name(const Functions& f, const int64_t* a, Memory& m) {
  const char* name = f.level_name(static_cast<int32_t>(a[0]));
  if (name) strcpy(m.at<char>(a[1]), name);
  return name != nullptr;
}

OctEngine* engine_of(int64_t handle) { return reinterpret_cast<OctEngine*>(static_cast<uintptr_t>(handle)); }

int64_t engine_create(const Functions& f, const int64_t* a, Memory& m) {
  OctEngine* made = f.engine_create(static_cast<int32_t>(a[0]), static_cast<int32_t>(a[1]), m.at<int32_t>(a[2]));
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(made));
}

int64_t engine_destroy(const Functions& f, const int64_t* a, Memory&) {
  f.engine_destroy(engine_of(a[0]));
  return 0;
}

int64_t packed_bytes(const Functions& f, const int64_t* a, Memory&) {
  return f.packed_bytes(static_cast<int32_t>(a[0]), a[1], a[2]);
}

int64_t run(const Functions& f, const int64_t* a, Memory& m) {
  OctOp* ops = m.at<OctOp>(a[1]);
  const int64_t* widths = m.at<int64_t>(a[3]);
  OctStep* step = m.at<OctStep>(a[4]);
  m.program(ops, a[2], step);
  m.guard();
  return f.run(engine_of(a[0]), ops, a[2], widths, step);
}

int64_t pack(const Functions& f, const int64_t* a, Memory& m) {
  OctWeight* w = m.weight(a[1]);
  m.guard();
  return f.pack(engine_of(a[0]), w, m.at<void>(a[2]), m.at<float>(a[3]), a[4], a[5]);
}

int64_t row(const Functions& f, const int64_t* a, Memory& m) {
  OctWeight* w = m.weight(a[0]);
  m.guard();
  return f.row(w, a[1], m.at<float>(a[2]));
}

int64_t begin(const Functions& f, const int64_t* a, Memory& m) {
  OctSlots* s = m.slots(a[0]);
  OctBegun* theirs = m.at<OctBegun>(a[3]);
  OctBegun b = m.begun(*theirs);
  m.pages(s);
  m.guard();
  const int64_t result = f.begin(s, m.at<int64_t>(a[1]), a[2], &b);
  OctBegun back = *theirs;  // with the pointers they know
  back.room = b.room, back.tokens = b.tokens, back.live = b.live, back.samples = b.samples, back.scored = b.scored;
  back.width = b.width, back.widest = b.widest, back.longest = b.longest;
  *theirs = back;
  return result;
}

int64_t end(const Functions& f, const int64_t* a, Memory& m) {
  OctSlots* s = m.slots(a[0]);
  const OctBegun b = m.begun(*m.at<OctBegun>(a[1]));
  OctEnded* e = m.at<OctEnded>(a[4]);
  m.move_all(e->tokens, e->counts, e->finished);
  m.guard();
  f.end(s, &b, a[2], m.at<int64_t>(a[3]), e);
  return 0;
}

int64_t sample(const Functions& f, const int64_t* a, Memory& m) {
  OctSample* s = m.sample(a[1]);
  m.guard();
  return f.sample(engine_of(a[0]), s);
}

int64_t call(const Functions& f, const Call& c, Memory& m) {
#define CALLED(known) \
  if (!strncmp(c.name, #known, sizeof c.name)) return known(f, c.args, m);
  CALLS(CALLED)
#undef CALLED
  die("an unknown call");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) die("one library is wanted");
  const Functions functions = load_all(argv[1]);
  for (;;) {
    Call c;
    get(&c, sizeof c);
    Memory memory(c.regions);
    memory.answer(call(functions, c, memory));
  }
}
