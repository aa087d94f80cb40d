// Which levels this CPU has, engines, and packing on an engine's threads.
#include "engine.h"

#include <new>

#include "pack.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace oct {
namespace {

#if defined(__x86_64__)
// What the system saves at a switch of tasks: vector state beyond what it saves is unusable.
uint64_t saved_state() {
  uint32_t a, d;
  asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return static_cast<uint64_t>(d) << 32 | a;
}

// Whether this process may use tiles: the CPU has them, says leaf 7, and the system saves and allows them.
bool has_tiles(uint32_t leaf7) {
#if defined(OCT_EMULATED_TILES)  // tests bring their own
  (void)leaf7;
  return true;
#elif defined(__linux__) && defined(SYS_arch_prctl)
  constexpr uint32_t TILES = 1u << 22 | 1u << 24 | 1u << 25;  // BF16 TILE INT8
  if ((leaf7 & TILES) != TILES || (saved_state() & 0x60000) != 0x60000) return false;
  constexpr int REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#else
  (void)leaf7;
  return false;
#endif
}

int find_level() {
  uint32_t a, b, c, d, b7, c7, d7, a71;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return OCT_PORTABLE;
  bool fma = c >> 12 & 1, xsave = c >> 27 & 1, avx = c >> 28 & 1, f16c = c >> 29 & 1;
  if (!(fma && xsave && avx && f16c) || (saved_state() & 6) != 6) return OCT_PORTABLE;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) || !(b7 >> 5 & 1)) return OCT_PORTABLE;
  constexpr uint32_t WIDE = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F DQ BW VL
  if ((b7 & WIDE) != WIDE || !(c7 >> 11 & 1) || (saved_state() & 0xe6) != 0xe6) return OCT_AVX2;
  if (!__get_cpuid_count(7, 1, &a71, &b, &c, &d) || !(a71 >> 5 & 1)) return OCT_AVX512;
  return has_tiles(d7) ? OCT_AMX : OCT_AVX512_BF16;
}
#elif defined(__aarch64__)
bool has_dot_products() {
#if defined(__linux__)
  constexpr unsigned long ASIMDDP = 1ul << 20;  // HWCAP_ASIMDDP, which old headers lack
  return (getauxval(AT_HWCAP) & ASIMDDP) != 0;
#elif defined(__APPLE__)
  int32_t on = 0;
  size_t size = sizeof on;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &on, &size, nullptr, 0) == 0 && on;
#else
  return false;
#endif
}

int find_level() { return has_dot_products() ? OCT_NEON_DOTPROD : OCT_NEON; }
#else
int find_level() { return OCT_PORTABLE; }
#endif

const Kernels* kernels_of(int level) {
  switch (level) {
    case OCT_PORTABLE: return kernels_portable();
#if defined(OCT_HAVE_AVX2)
    case OCT_AVX2: return kernels_avx2();
#endif
#if defined(OCT_HAVE_AVX512)
    case OCT_AVX512: return kernels_avx512();
#endif
#if defined(OCT_HAVE_AVX512_BF16)
    case OCT_AVX512_BF16: return kernels_avx512_bf16();
#endif
#if defined(OCT_HAVE_AMX)
    case OCT_AMX: return kernels_amx();
#endif
#if defined(OCT_HAVE_NEON)
    case OCT_NEON: return kernels_neon();
#endif
#if defined(OCT_HAVE_NEON_DOTPROD)
    case OCT_NEON_DOTPROD: return kernels_neon_dotprod();
#endif
  }
  return nullptr;
}

struct Packing {
  OctEngine* engine;
  const OctWeight* w;
  const uint8_t* src;
  const float* scales;
  int64_t first, rows, bytes;
};

void pack_some(void* context, int) {
  constexpr int64_t STEP = 64;
  const Packing& p = *static_cast<Packing*>(context);
  for (int64_t at = p.engine->pool.take() * STEP; at < p.rows; at = p.engine->pool.take() * STEP)
    for (int64_t r = at; r < p.rows && r < at + STEP; r++)
      pack_row(p.w, p.first + r, p.src + r * p.bytes, p.scales ? p.scales[r] : 0.0f);
}

}  // namespace
}  // namespace oct

extern "C" int32_t oct_abi(void) { return OCT_ABI; }

extern "C" int32_t oct_best_level(void) {
  static const int level = [] {
    int found = oct::find_level();
    while (!oct::kernels_of(found)) found--;  // what the compiler at hand could not build is skipped
    return found;
  }();
  return level;
}

extern "C" int32_t oct_has_level(int32_t level) { return level <= oct_best_level() && oct::kernels_of(level); }

extern "C" const char* oct_level_name(int32_t level) {
  static const char* const names[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx", "neon", "neon_dotprod"};
  return level >= 0 && level < OCT_LEVELS ? names[level] : nullptr;
}

extern "C" OctEngine* oct_engine_create(int32_t threads, int32_t level, const int32_t* cpus) {
  if (threads < 1 || threads > 1024 || !oct_has_level(level)) return nullptr;
  try {
    return new OctEngine(threads, oct::kernels_of(level), cpus);
  } catch (...) {  // no thread or no memory: nothing may unwind into C
    return nullptr;
  }
}

extern "C" void oct_engine_destroy(OctEngine* engine) { delete engine; }

extern "C" int32_t oct_pack(OctEngine* engine, const OctWeight* w, const void* src, const float* scales, int64_t first,
                            int64_t rows) {
  if (first < 0 || rows < 0 || first + rows > w->n || oct_packed_bytes(w->format, w->n, w->k) < 0) return -1;
  oct::Packing p = {engine, w, static_cast<const uint8_t*>(src), scales, first, rows, oct::source_bytes(w->format, w->k)};
  engine->pool.run(oct::pack_some, &p);
  return 0;
}
