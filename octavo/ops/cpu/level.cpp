// One level's table of kernels.
#include "level.h"
#include "simd.h"

namespace OCT_NS {

static void matmul(const MatArgs& a) {
#if defined(__AMX_INT8__)
  if (a.w->format != OCT_F32) return matmul_tiles(a);
#endif
  if (a.w->format <= OCT_BF16) matmul_float(a);
  else matmul_codes(a);
}

}  // namespace OCT_NS

namespace oct {
const Kernels* OCT_KERNELS() {
  using namespace OCT_NS;
  static const Kernels table = {OCT_NAME,  MAX_TILE, quantise_row, OCT_NS::matmul, norm_row,
                                gated_row, rope_row, store_kv,     attend};
  return &table;
}
}  // namespace oct
