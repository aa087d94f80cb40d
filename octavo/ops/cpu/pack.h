// Layout of packed weights, one row at a time. See pack.cpp.
#pragma once
#include "formats.h"

namespace oct {

int64_t source_bytes(int format, int64_t k);  // a row as files store it
void pack_row(const OctWeight* w, int64_t n, const uint8_t* src, float scale);
void read_row(const OctWeight* w, int64_t n, float* out);

}  // namespace oct
