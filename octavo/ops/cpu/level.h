// The functions one level is made of; level.cpp puts them into its table. Set by the build:
// OCT_NS, the level's namespace, and OCT_KERNELS, the name of its table function.
#pragma once
#include "kernels.h"

namespace OCT_NS {
using namespace oct;

void norm_row(const float* x, const float* weight, float eps, float* out, int64_t k);
void gated_row(int kind, const float* gate, const float* up, float* out, int64_t k);
void rope_row(float* x, const float* table, int64_t dim);
void quantise_row(int format, const float* x, int64_t k, uint8_t* tile, int slots, int slot);
void store_kv(const StoreArgs& a);
void attend(const AttnArgs& a);
void matmul_float(const MatArgs& a);
void matmul_codes(const MatArgs& a);
void matmul_tiles(const MatArgs& a);  // AMX only
}  // namespace OCT_NS
