// One level's table of kernels. OCT_ROWS and OCT_FLOAT name the namespaces its parts come from:
// a level compiles anew only what its instructions change.
#include "level.h"
#include "simd.h"

OCT_DECLARE_ROWS(OCT_ROWS)
OCT_DECLARE_FLOAT(OCT_FLOAT)

namespace OCT_NS {

static void matmul(const MatArgs& a) {
#if defined(__AMX_INT8__)
  if (a.w->format == OCT_BF16 || a.w->format == OCT_INT8) return matmul_tiles(a);
  if (a.w->format != OCT_F32 && a.tokens >= OCT_TILE) return matmul_tiles(a);
#endif
  if (a.w->format <= OCT_BF16) OCT_FLOAT::matmul_float(a);
  else OCT_ROWS::matmul_codes(a);
}

}  // namespace OCT_NS

namespace oct {
const Kernels* OCT_KERNELS() {
  static const Kernels table = {OCT_NS::MAX_TILE,    OCT_ROWS::quantise_row, OCT_NS::matmul,
                                OCT_ROWS::norm_row,  OCT_ROWS::gated_row,    OCT_ROWS::rope_row,
                                OCT_ROWS::store_kv,  OCT_ROWS::attend};
  return &table;
}
}  // namespace oct
