// Products on AMX tiles. The panels' layout is that of a tile's second operand as it is.
#include "codes.h"

#if defined(__AMX_INT8__)

namespace OCT_NS {

void matmul_tiles(const MatArgs& a) {
  if (a.w->format <= OCT_BF16) return matmul_float(a);
  return matmul_codes(a);
}

}  // namespace OCT_NS

#endif
