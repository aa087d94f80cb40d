// Weights as files store them -> panels, and one row back to floats. Layout only: no arithmetic
// on weights but the conversion of scales, so that nothing is rounded. Portable code.
//
// A panel interleaves 16 rows: for each group of 4 bytes along k, 16 x 4 bytes side by side, so
// that one vector holds the same four columns of 16 rows. Nibbles: group g low, group g + 4 high.
#include <math.h>
#include <string.h>

#include "abi.h"
#include "kernels.h"
#include "pack.h"

namespace oct {
namespace {

constexpr int GROUPS = OCT_BLOCK / 4;

float half_to_float(uint16_t h) {
  int e = (h >> 10) & 31, m = h & 1023;
  float v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexpf(static_cast<float>(m + 1024), e - 25) : ldexpf(static_cast<float>(m), -24);
  return h & 0x8000 ? -v : v;
}

uint16_t read16(const uint8_t* p) {
  uint16_t v;
  memcpy(&v, p, 2);
  return v;
}

uint32_t read32(const uint8_t* p) {
  uint32_t v;
  memcpy(&v, p, 4);
  return v;
}

void write32(uint8_t* p, uint32_t v) { memcpy(p, &v, 4); }

// Eight-bit codes are stored with an offset of 128: unsigned, as the dot products want them.
constexpr uint32_t OFFSET = 0x80808080u;

struct Row {
  uint8_t* panel;
  uint8_t* codes;
  int lane;
  int64_t k, nb;
};

void pack_f32(const Row& r, const uint8_t* src) {
  for (int64_t i = 0; i < r.k; i++) memcpy(r.codes + i * 64 + r.lane * 4, src + i * 4, 4);
}

void pack_bf16(const Row& r, const uint8_t* src) {
  for (int64_t i = 0; i < r.k; i++) memcpy(r.codes + i / 2 * 64 + r.lane * 4 + i % 2 * 2, src + i * 2, 2);
}

void pack_int8(const Row& r, const uint8_t* src) {
  int64_t groups = r.nb * GROUPS;
  for (int64_t g = 0; g < groups; g++) {
    uint8_t four[4] = {0, 0, 0, 0};
    for (int64_t i = 0; i < 4 && g * 4 + i < r.k; i++) four[i] = src[g * 4 + i];
    write32(r.codes + g * 64 + r.lane * 4, read32(four) ^ OFFSET);
  }
}

void pack_q8_0(const Row& r, const uint8_t* src) {
  for (int64_t b = 0; b < r.nb; b++, src += 34) {
    memcpy(r.panel + b * 32 + r.lane * 2, src, 2);
    uint8_t* to = r.codes + b * 512 + r.lane * 4;
    for (int g = 0; g < GROUPS; g++) write32(to + g * 64, read32(src + 2 + g * 4) ^ OFFSET);
  }
}

void pack_q4_0(const Row& r, const uint8_t* src) {
  for (int64_t b = 0; b < r.nb; b++, src += 18) {
    memcpy(r.panel + b * 32 + r.lane * 2, src, 2);
    for (int g = 0; g < 4; g++) write32(r.codes + b * 256 + g * 64 + r.lane * 4, read32(src + 2 + g * 4));
  }
}

void pack_q4_1(const Row& r, const uint8_t* src) {
  for (int64_t b = 0; b < r.nb; b++, src += 20) {
    memcpy(r.panel + b * 64 + r.lane * 2, src, 2);
    memcpy(r.panel + b * 64 + 32 + r.lane * 2, src + 2, 2);
    for (int g = 0; g < 4; g++) write32(r.codes + b * 256 + g * 64 + r.lane * 4, read32(src + 4 + g * 4));
  }
}

// d, dmin, 12 bytes of 6-bit scales and minima, 128 bytes: 32 bytes hold two blocks, low and high.
void pack_q4_k(const Row& r, const uint8_t* src) {
  for (int64_t s = 0; s < r.nb / 8; s++, src += 144) {
    uint8_t* super = r.panel + s * 320;
    memcpy(super + r.lane * 2, src, 2);
    memcpy(super + 32 + r.lane * 2, src + 2, 2);
    const uint8_t *low = src + 4, *mid = src + 8, *high = src + 12, *codes = src + 16;
    for (int b = 0; b < 8; b++) {
      int j = b % 4;
      uint8_t scale = b < 4 ? low[j] & 63 : (high[j] & 15) | (low[j] >> 6) << 4;
      uint8_t least = b < 4 ? mid[j] & 63 : high[j] >> 4 | (mid[j] >> 6) << 4;
      super[64 + b * 32 + r.lane] = scale;
      super[64 + b * 32 + 16 + r.lane] = least;
      uint8_t* to = r.codes + (s * 8 + b) * 256 + r.lane * 4;
      int shift = b % 2 * 4;
      for (int g = 0; g < 4; g++) {
        uint32_t first = read32(codes + b / 2 * 32 + g * 4) >> shift & 0x0f0f0f0fu;
        uint32_t second = read32(codes + b / 2 * 32 + 16 + g * 4) >> shift & 0x0f0f0f0fu;
        write32(to + g * 64, first | second << 4);
      }
    }
  }
}

// 128 bytes of low nibbles, 64 of high pairs of bits, 16 scales, d. Half a superblock (128
// elements) takes 64 low bytes (element e: byte e % 64, nibble e / 64) and 32 high ones (byte
// e % 32, pair e / 32).
void pack_q6_k(const Row& r, const uint8_t* src) {
  for (int64_t s = 0; s < r.nb / 8; s++, src += 210) {
    uint8_t* super = r.panel + s * 288;
    memcpy(super + r.lane * 2, src + 208, 2);
    for (int i = 0; i < 16; i++) super[32 + i * 16 + r.lane] = src[192 + i];
    for (int h = 0; h < 16; h++) {  // halves of blocks
      const uint8_t *low = src + h / 8 * 64, *high = src + 128 + h / 8 * 32;
      int e = h % 8 * 16;
      uint8_t* to = r.codes + (s * 8 + h / 2) * 384 + h % 2 * 192 + r.lane * 4;
      uint32_t nibble[4], bits = 0;
      for (int g = 0; g < 4; g++) {
        nibble[g] = read32(low + (e + g * 4) % 64) >> (e / 64 * 4) & 0x0f0f0f0fu;
        bits |= (read32(high + (e + g * 4) % 32) >> (e / 32 * 2) & 0x03030303u) << (2 * g);
      }
      write32(to, nibble[0] | nibble[1] << 4);
      write32(to + 64, nibble[2] | nibble[3] << 4);
      write32(to + 128, bits);
    }
  }
}

}  // namespace

int64_t source_bytes(int format, int64_t k) {
  switch (format) {
    case OCT_F32: return k * 4;
    case OCT_BF16: return k * 2;
    case OCT_INT8: return k;
    case OCT_Q8_0: return k / 32 * 34;
    case OCT_Q4_0: return k / 32 * 18;
    case OCT_Q4_1: return k / 32 * 20;
    case OCT_Q4_K: return k / 256 * 144;
    case OCT_Q6_K: return k / 256 * 210;
  }
  return -1;
}

void pack_row(const OctWeight* w, int64_t n, const uint8_t* src, float scale) {
  PanelShape shape = panel_shape(w->format, w->k);
  uint8_t* panel = w->data + n / OCT_PANEL * shape.bytes;
  Row r = {panel, panel + shape.codes, static_cast<int>(n % OCT_PANEL), w->k, blocks_of(w->k)};
  switch (w->format) {
    case OCT_F32: return pack_f32(r, src);
    case OCT_BF16: return pack_bf16(r, src);
    case OCT_INT8:
      memcpy(panel + r.lane * 4, &scale, 4);
      return pack_int8(r, src);
    case OCT_Q8_0: return pack_q8_0(r, src);
    case OCT_Q4_0: return pack_q4_0(r, src);
    case OCT_Q4_1: return pack_q4_1(r, src);
    case OCT_Q4_K: return pack_q4_k(r, src);
    case OCT_Q6_K: return pack_q6_k(r, src);
  }
}

namespace {

float scale_at(const uint8_t* p, int lane) { return half_to_float(read16(p + lane * 2)); }

// One block of a packed row -> 32 floats, in the order of operations the formats define.
void read_block(const OctWeight* w, const uint8_t* panel, const uint8_t* codes, int64_t b, int lane, float* out) {
  const uint8_t* bytes = codes + b * 512 + lane * 4;
  const uint8_t* nibbles = codes + b * 256 + lane * 4;
  float d = 0, m = 0;
  switch (w->format) {
    case OCT_Q8_0: d = scale_at(panel + b * 32, lane); break;
    case OCT_INT8: memcpy(&d, panel + lane * 4, 4); break;
    case OCT_Q4_0: d = scale_at(panel + b * 32, lane); break;
    case OCT_Q4_1:
      d = scale_at(panel + b * 64, lane);
      m = scale_at(panel + b * 64 + 32, lane);
      break;
    case OCT_Q4_K: {
      const uint8_t* super = panel + b / 8 * 320;
      d = scale_at(super, lane) * static_cast<float>(super[64 + b % 8 * 32 + lane]);
      m = -(scale_at(super + 32, lane) * static_cast<float>(super[64 + b % 8 * 32 + 16 + lane]));
    }
  }
  for (int i = 0; i < OCT_BLOCK; i++) {
    int g = i / 4, j = i % 4;
    if (w->format == OCT_Q8_0 || w->format == OCT_INT8) {
      out[i] = d * static_cast<float>(static_cast<int>(bytes[g * 64 + j]) - 128);
      continue;
    }
    int code = nibbles[g % 4 * 64 + j] >> (g / 4 * 4) & 15;
    out[i] = w->format == OCT_Q4_0 ? d * static_cast<float>(code - 8) : d * static_cast<float>(code) + m;
  }
}

void read_q6_k(const uint8_t* panel, const uint8_t* codes, int64_t b, int lane, float* out) {
  const uint8_t* super = panel + b / 8 * 288;
  float d = scale_at(super, lane);
  for (int i = 0; i < OCT_BLOCK; i++) {
    int g = i % 16 / 4, j = i % 4;
    const uint8_t* half = codes + b * 384 + i / 16 * 192 + lane * 4 + j;
    int code = (half[g / 2 * 64] >> (g % 2 * 4) & 15) | (half[128] >> (2 * g) & 3) << 4;
    float scale = d * static_cast<float>(static_cast<int8_t>(super[32 + b % 8 * 32 + i / 16 * 16 + lane]));
    out[i] = scale * static_cast<float>(code - 32);
  }
}

}  // namespace

void read_row(const OctWeight* w, int64_t n, float* out) {
  PanelShape shape = panel_shape(w->format, w->k);
  const uint8_t* panel = w->data + n / OCT_PANEL * shape.bytes;
  const uint8_t* codes = panel + shape.codes;
  int lane = static_cast<int>(n % OCT_PANEL);
  if (w->format == OCT_F32) {
    for (int64_t i = 0; i < w->k; i++) memcpy(out + i, codes + i * 64 + lane * 4, 4);
    return;
  }
  if (w->format == OCT_BF16) {
    for (int64_t i = 0; i < w->k; i++) {
      uint32_t wide = static_cast<uint32_t>(read16(codes + i / 2 * 64 + lane * 4 + i % 2 * 2)) << 16;
      memcpy(out + i, &wide, 4);
    }
    return;
  }
  for (int64_t b = 0; b < blocks_of(w->k); b++) {
    float block[OCT_BLOCK];
    if (w->format == OCT_Q6_K) read_q6_k(panel, codes, b, lane, block);
    else read_block(w, panel, codes, b, lane, block);
    int64_t left = w->k - b * OCT_BLOCK;
    memcpy(out + b * OCT_BLOCK, block, sizeof(float) * (left < OCT_BLOCK ? left : OCT_BLOCK));
  }
}

}  // namespace oct

extern "C" int64_t oct_packed_bytes(int32_t format, int64_t n, int64_t k) {
  if (format < 0 || format >= OCT_FORMATS || n <= 0 || k <= 0 || n > (1ll << 31) || k > (1ll << 24)) return -1;
  if (format == OCT_INT8 && k > 65536) return -1;  // the exact sum must fit 32 bits
  if (format >= OCT_Q8_0 && k % (format >= OCT_Q4_K ? 256 : 32)) return -1;
  return (n + OCT_PANEL - 1) / OCT_PANEL * oct::panel_shape(format, k).bytes;
}

extern "C" int32_t oct_row(const OctWeight* w, int64_t r, float* out) {
  if (r < 0 || r >= w->n) return -1;
  oct::read_row(w, r, out);
  return 0;
}
