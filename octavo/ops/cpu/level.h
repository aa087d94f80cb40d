// The functions one level is made of; level.cpp puts them into its table. A file is compiled
// once for each instruction set it gains from, in the namespace OCT_NS that the build sets.
#pragma once
#include "kernels.h"

#define OCT_DECLARE_ROWS(ns)                                                                      \
  namespace ns {                                                                                  \
  using namespace oct;                                                                            \
  void norm_row(const float* x, const float* weight, float eps, float* out, int64_t k);           \
  void gated_row(int kind, const float* gate, const float* up, float* out, int64_t k);            \
  void rope_row(float* x, const float* table, int64_t dim);                                       \
  void quantise_row(int format, const float* x, int64_t k, uint8_t* tile, int slots, int slot);   \
  void store_kv(const StoreArgs& a);                                                              \
  void attend(const AttnArgs& a);                                                                 \
  void attend_int8(const AttnArgs& a);                                                            \
  void matmul_codes(const MatArgs& a);                                                            \
  int64_t sample_row(const SampleArgs& a);                                                        \
  }
#define OCT_DECLARE_PAIRS(ns)             \
  namespace ns {                          \
  using namespace oct;                    \
  void matmul_float(const MatArgs& a);    \
  void attend_pairs(const AttnArgs& a);   \
  }
#define OCT_DECLARE_TILES(ns)             \
  namespace ns {                          \
  using namespace oct;                    \
  void matmul_tiles(const MatArgs& a);    \
  }

OCT_DECLARE_ROWS(OCT_NS)
OCT_DECLARE_PAIRS(OCT_NS)
OCT_DECLARE_TILES(OCT_NS)
