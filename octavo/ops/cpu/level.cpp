// One level's table of kernels. OCT_ROWS and OCT_PAIRS name the namespaces its parts come from:
// a level compiles anew only what its instructions change.
#include "level.h"
#include "simd.h"

OCT_DECLARE_ROWS(OCT_ROWS)
OCT_DECLARE_PAIRS(OCT_PAIRS)

namespace OCT_NS {

#if defined(__AMX_INT8__)
// Tiles for everything in bfloat16 and int8. Block formats get the same bits either way: tiles
// where enough tokens pay for making panels ready.
static void matmul(const MatArgs& a) {
  const int format = a.w->format;
  if (format == OCT_F32) return OCT_PAIRS::matmul_float(a);
  if (format == OCT_BF16 || format == OCT_INT8) return matmul_tiles(a);
  const int64_t full = format == OCT_Q6_K || a.tokens < 4 * OCT_TILE ? 0 : a.tokens / OCT_TILE * OCT_TILE;
  MatArgs part = a;
  part.tokens = full;
  if (full) matmul_tiles(part);
  part.tokens = a.tokens - full;
  part.act += full / OCT_TILE * a.tile_stride;
  part.y += full * a.ldy;
  if (part.tokens) OCT_ROWS::matmul_codes(part);
}
#else
static void matmul(const MatArgs& a) {
  if (a.w->format <= OCT_BF16) OCT_PAIRS::matmul_float(a);
  else OCT_ROWS::matmul_codes(a);
}
#endif

#if defined(__AVX512BF16__) && !defined(__AMX_INT8__)  // slower than floats where there are AMX tiles
static void attention(const AttnArgs& a) {
  if (a.cache_type == OCT_CACHE_BF16) OCT_PAIRS::attend_pairs(a);
  else OCT_ROWS::attend(a);
}
#else
static void attention(const AttnArgs& a) { OCT_ROWS::attend(a); }
#endif

}  // namespace OCT_NS

namespace oct {
const Kernels* OCT_KERNELS() {
  static const Kernels table = {OCT_NS::MAX_TILE,    OCT_ROWS::quantise_row, OCT_NS::matmul,
                                OCT_ROWS::norm_row,  OCT_ROWS::gated_row,    OCT_ROWS::rope_row,
                                OCT_ROWS::store_kv,  OCT_NS::attention,
                                OCT_ROWS::sample_row};
  return &table;
}
}  // namespace oct
