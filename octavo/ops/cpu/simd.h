// The vector vocabulary of one instruction level. Every level file includes this with its own
// compiler flags; all names live in the namespace OCT_NS so that no two levels share a symbol
// (a shared inline function compiled for AVX-512 could end up in the portable path).
//
// F: W floats, I: W 32-bit integers, u8 x s8 dot products in groups of four bytes a lane.
#pragma once
#include <stdint.h>
#include <string.h>
#include <math.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(OCT_USE_NEON)  // set by build.py: every aarch64 has NEON, the portable level there too
#include <arm_neon.h>
#endif

#define OCT_INLINE static inline __attribute__((always_inline))
#define OCT_UNROLL _Pragma("GCC unroll 16")

namespace OCT_NS {

OCT_INLINE int32_t load32(const void* p) {
  int32_t v;
  memcpy(&v, p, 4);
  return v;
}

OCT_INLINE float half_to_float(uint16_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#else
  // Exponent shifted into place, subnormals made right by the multiplication.
  uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, rest = static_cast<uint32_t>(h & 0x7fff) << 13;
  float f;
  memcpy(&f, &rest, 4);
  f *= 0x1p112f;
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((h & 0x7c00) == 0x7c00) u |= 0x7f800000u;
  u |= sign;
  memcpy(&f, &u, 4);
  return f;
#endif
}

OCT_INLINE float bf16_to_float(uint16_t h) {
  uint32_t u = static_cast<uint32_t>(h) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

// Round to nearest, ties to even; NaN stays NaN.
OCT_INLINE uint16_t float_to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

// Weights are read once from memory and in order: the next panel follows this one.
// Enough is on its way where a single stream of them is read slowly (many tokens) only at twice the distance.
constexpr int AHEAD = 4096;
template <int BYTES, int FAR = AHEAD> OCT_INLINE void fetch_ahead(const uint8_t* p) {
  OCT_UNROLL
  for (int i = 0; i < BYTES; i += 64) __builtin_prefetch(p + FAR + i);
}

#if defined(__AVX512F__)

constexpr int W = 16;
constexpr bool SIGNED_BYTES = false;  // the dot product takes unsigned weight bytes up to 255
constexpr int MAX_TILE = 16;
constexpr int REGISTERS = 32;
typedef __m512 F;
typedef __m512i I;

OCT_INLINE F f_load(const float* p) { return _mm512_loadu_ps(p); }
OCT_INLINE void f_store(float* p, F v) { _mm512_storeu_ps(p, v); }
OCT_INLINE F f_set1(float v) { return _mm512_set1_ps(v); }
OCT_INLINE F f_add(F a, F b) { return _mm512_add_ps(a, b); }
OCT_INLINE F f_sub(F a, F b) { return _mm512_sub_ps(a, b); }
OCT_INLINE F f_mul(F a, F b) { return _mm512_mul_ps(a, b); }
OCT_INLINE F f_div(F a, F b) { return _mm512_div_ps(a, b); }
OCT_INLINE F f_max(F a, F b) { return _mm512_max_ps(a, b); }
OCT_INLINE F f_min(F a, F b) { return _mm512_min_ps(a, b); }
OCT_INLINE F f_abs(F a) { return _mm512_abs_ps(a); }
OCT_INLINE F f_fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
OCT_INLINE float f_sum(F a) { return _mm512_reduce_add_ps(a); }
OCT_INLINE float f_hmax(F a) { return _mm512_reduce_max_ps(a); }
OCT_INLINE F f_from(I a) { return _mm512_cvtepi32_ps(a); }
OCT_INLINE I i_round(F a) { return _mm512_cvtps_epi32(a); }
OCT_INLINE I i_set1(int32_t v) { return _mm512_set1_epi32(v); }
OCT_INLINE I i_load(const void* p) { return _mm512_loadu_si512(p); }
OCT_INLINE void i_store(void* p, I v) { _mm512_storeu_si512(p, v); }
OCT_INLINE I i_add(I a, I b) { return _mm512_add_epi32(a, b); }
OCT_INLINE I i_and(I a, I b) { return _mm512_and_si512(a, b); }
OCT_INLINE I i_or(I a, I b) { return _mm512_or_si512(a, b); }
OCT_INLINE I i_max(I a, I b) { return _mm512_max_epi32(a, b); }
OCT_INLINE int32_t i_hmax(I a) { return _mm512_reduce_max_epi32(a); }
template <int N> OCT_INLINE I i_shr(I a) { return _mm512_srli_epi32(a, N); }
template <int N> OCT_INLINE I i_shl(I a) { return _mm512_slli_epi32(a, N); }
OCT_INLINE F f_from_half(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
OCT_INLINE F f_from_u8(const void* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
OCT_INLINE F f_from_s8(const void* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
OCT_INLINE F f_as(I a) { return _mm512_castsi512_ps(a); }
OCT_INLINE I i_as(F a) { return _mm512_castps_si512(a); }
OCT_INLINE F f_scale2(F a, F n) { return _mm512_scalef_ps(a, n); }
OCT_INLINE F f_nearest(F a) { return _mm512_roundscale_ps(a, 0); }
// The first `n` lanes of a, `other` in the rest.
OCT_INLINE F f_first(F a, F other, int n) {
  return _mm512_mask_mov_ps(other, n >= 16 ? 0xffff : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1), a);
}
OCT_INLINE void s8_store(int8_t* p, I a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a)); }
OCT_INLINE int32_t i_sum(I a) { return _mm512_reduce_add_epi32(a); }
OCT_INLINE I dot4(I acc, I u, int32_t x) { return _mm512_dpbusd_epi32(acc, u, _mm512_set1_epi32(x)); }
OCT_INLINE I dot4_wide(I acc, I u, int32_t x) { return dot4(acc, u, x); }
OCT_INLINE void bf16_store(uint16_t* p, F v) {
  I u = i_as(v);
  I odd = i_and(i_shr<16>(u), i_set1(1));
  I r = i_shr<16>(i_add(i_add(u, i_set1(0x7fff)), odd));
  __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  r = _mm512_mask_mov_epi32(r, nan, i_set1(0x7fc0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(r));
}
OCT_INLINE F f_from_bf16(const uint16_t* p) {
  return f_as(i_shl<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))));
}

#elif defined(__AVX2__)

constexpr int W = 8;
constexpr bool SIGNED_BYTES = true;
constexpr int MAX_TILE = 4;
constexpr int REGISTERS = 16;
typedef __m256 F;
typedef __m256i I;

OCT_INLINE F f_load(const float* p) { return _mm256_loadu_ps(p); }
OCT_INLINE void f_store(float* p, F v) { _mm256_storeu_ps(p, v); }
OCT_INLINE F f_set1(float v) { return _mm256_set1_ps(v); }
OCT_INLINE F f_add(F a, F b) { return _mm256_add_ps(a, b); }
OCT_INLINE F f_sub(F a, F b) { return _mm256_sub_ps(a, b); }
OCT_INLINE F f_mul(F a, F b) { return _mm256_mul_ps(a, b); }
OCT_INLINE F f_div(F a, F b) { return _mm256_div_ps(a, b); }
OCT_INLINE F f_max(F a, F b) { return _mm256_max_ps(a, b); }
OCT_INLINE F f_min(F a, F b) { return _mm256_min_ps(a, b); }
OCT_INLINE F f_abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
OCT_INLINE F f_fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
OCT_INLINE float f_sum(F a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
OCT_INLINE float f_hmax(F a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
OCT_INLINE F f_from(I a) { return _mm256_cvtepi32_ps(a); }
OCT_INLINE I i_round(F a) { return _mm256_cvtps_epi32(a); }
OCT_INLINE I i_set1(int32_t v) { return _mm256_set1_epi32(v); }
OCT_INLINE I i_load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
OCT_INLINE void i_store(void* p, I v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
OCT_INLINE I i_add(I a, I b) { return _mm256_add_epi32(a, b); }
OCT_INLINE I i_and(I a, I b) { return _mm256_and_si256(a, b); }
OCT_INLINE I i_or(I a, I b) { return _mm256_or_si256(a, b); }
OCT_INLINE I i_max(I a, I b) { return _mm256_max_epi32(a, b); }
OCT_INLINE int32_t i_hmax(I a) {
  __m128i s = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  s = _mm_max_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
template <int N> OCT_INLINE I i_shr(I a) { return _mm256_srli_epi32(a, N); }
template <int N> OCT_INLINE I i_shl(I a) { return _mm256_slli_epi32(a, N); }
OCT_INLINE F f_from_half(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
OCT_INLINE F f_from_u8(const void* p) {
  return f_from(_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}
OCT_INLINE F f_from_s8(const void* p) {
  return f_from(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}
OCT_INLINE F f_as(I a) { return _mm256_castsi256_ps(a); }
OCT_INLINE I i_as(F a) { return _mm256_castps_si256(a); }
OCT_INLINE F f_scale2(F a, F n) {  // n in [-126, 127]
  return f_mul(a, f_as(i_shl<23>(i_add(i_round(n), i_set1(127)))));
}
OCT_INLINE F f_nearest(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
OCT_INLINE F f_first(F a, F other, int n) {
  __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_blendv_ps(other, a, f_as(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane)));
}
OCT_INLINE void s8_store(int8_t* p, I a) {
  __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(w, w));
}
OCT_INLINE int32_t i_sum(I a) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
// Unsigned weights up to 63: the 16-bit pair sums of vpmaddubsw cannot saturate.
OCT_INLINE I dot4(I acc, I u, int32_t x) {
  I pairs = _mm256_maddubs_epi16(u, _mm256_set1_epi32(x));
  return i_add(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
// Any weight byte: stored with an offset of 128, taken back here. |w| * (x with w's sign) stays
// below 2 * 128 * 127, so nothing saturates.
OCT_INLINE I dot4_wide(I acc, I u, int32_t x) {
  I w = _mm256_xor_si256(u, _mm256_set1_epi8(static_cast<char>(0x80)));
  I pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(_mm256_set1_epi32(x), w));
  return i_add(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
OCT_INLINE void bf16_store(uint16_t* p, F v) {
  I u = i_as(v);
  I odd = i_and(i_shr<16>(u), i_set1(1));
  I r = i_shr<16>(i_add(i_add(u, i_set1(0x7fff)), odd));
  r = _mm256_blendv_epi8(r, i_set1(0x7fc0), i_as(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
  __m128i w = _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), w);
}
OCT_INLINE F f_from_bf16(const uint16_t* p) {
  return f_as(i_shl<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))));
}

#elif defined(OCT_USE_NEON)

constexpr int W = 4;
constexpr bool SIGNED_BYTES = true;
constexpr int MAX_TILE = 4;
constexpr int REGISTERS = 32;
typedef float32x4_t F;
typedef int32x4_t I;

OCT_INLINE F f_load(const float* p) { return vld1q_f32(p); }
OCT_INLINE void f_store(float* p, F v) { vst1q_f32(p, v); }
OCT_INLINE F f_set1(float v) { return vdupq_n_f32(v); }
OCT_INLINE F f_add(F a, F b) { return vaddq_f32(a, b); }
OCT_INLINE F f_sub(F a, F b) { return vsubq_f32(a, b); }
OCT_INLINE F f_mul(F a, F b) { return vmulq_f32(a, b); }
OCT_INLINE F f_div(F a, F b) { return vdivq_f32(a, b); }
// As the other levels: b where one of them is no number (fmax and fmin would answer otherwise).
OCT_INLINE F f_max(F a, F b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
OCT_INLINE F f_min(F a, F b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
OCT_INLINE F f_abs(F a) { return vabsq_f32(a); }
OCT_INLINE F f_fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
OCT_INLINE float f_sum(F a) {
  float32x2_t s = vadd_f32(vget_low_f32(a), vget_high_f32(a));
  return vget_lane_f32(vpadd_f32(s, s), 0);
}
OCT_INLINE float f_hmax(F a) { return vmaxnmvq_f32(a); }
OCT_INLINE F f_from(I a) { return vcvtq_f32_s32(a); }
OCT_INLINE I i_round(F a) { return vcvtnq_s32_f32(a); }
OCT_INLINE I i_set1(int32_t v) { return vdupq_n_s32(v); }
OCT_INLINE I i_load(const void* p) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p))); }
OCT_INLINE void i_store(void* p, I v) { vst1q_u8(static_cast<uint8_t*>(p), vreinterpretq_u8_s32(v)); }
OCT_INLINE I i_add(I a, I b) { return vaddq_s32(a, b); }
OCT_INLINE I i_and(I a, I b) { return vandq_s32(a, b); }
OCT_INLINE I i_or(I a, I b) { return vorrq_s32(a, b); }
OCT_INLINE I i_max(I a, I b) { return vmaxq_s32(a, b); }
OCT_INLINE int32_t i_hmax(I a) { return vmaxvq_s32(a); }
template <int N> OCT_INLINE I i_shr(I a) {
  return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), N));
}
template <int N> OCT_INLINE I i_shl(I a) { return vshlq_n_s32(a, N); }
OCT_INLINE F f_from_half(const void* p) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(static_cast<const uint8_t*>(p))));
}
OCT_INLINE F f_from_u8(const void* p) {
  uint8x8_t bytes = vcreate_u8(static_cast<uint32_t>(load32(p)));
  return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))));
}
OCT_INLINE F f_from_s8(const void* p) {
  int8x8_t bytes = vcreate_s8(static_cast<uint32_t>(load32(p)));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
}
OCT_INLINE F f_as(I a) { return vreinterpretq_f32_s32(a); }
OCT_INLINE I i_as(F a) { return vreinterpretq_s32_f32(a); }
OCT_INLINE F f_scale2(F a, F n) {  // n in [-126, 127]
  return f_mul(a, f_as(i_shl<23>(i_add(i_round(n), i_set1(127)))));
}
OCT_INLINE F f_nearest(F a) { return vrndnq_f32(a); }
OCT_INLINE F f_first(F a, F other, int n) {
  const I lane = {0, 1, 2, 3};
  return vbslq_f32(vcgtq_s32(i_set1(n), lane), a, other);
}
OCT_INLINE void s8_store(int8_t* p, I a) {
  int16x4_t half = vmovn_s32(a);
  int8x8_t bytes = vmovn_s16(vcombine_s16(half, half));
  int32_t four = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
  memcpy(p, &four, 4);
}
OCT_INLINE int32_t i_sum(I a) { return vaddvq_s32(a); }
#if defined(__ARM_FEATURE_DOTPROD)
OCT_INLINE I dot4(I acc, I u, int32_t x) {
  return vdotq_s32(acc, vreinterpretq_s8_s32(u), vreinterpretq_s8_s32(vdupq_n_s32(x)));
}
#else
// Two products of signed bytes stay below 2 * 128 * 127: the sums of pairs fit 16 bits.
OCT_INLINE I dot4(I acc, I u, int32_t x) {
  const int8x16_t w = vreinterpretq_s8_s32(u), v = vreinterpretq_s8_s32(vdupq_n_s32(x));
  int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(v)), high = vmull_high_s8(w, v);
  return vpadalq_s16(acc, vpaddq_s16(low, high));
}
#endif
// Any weight byte: stored with an offset of 128, taken back here.
OCT_INLINE I dot4_wide(I acc, I u, int32_t x) {
  return dot4(acc, veorq_s32(u, i_set1(static_cast<int32_t>(0x80808080u))), x);
}
OCT_INLINE void bf16_store(uint16_t* p, F v) {
  uint32x4_t u = vreinterpretq_u32_f32(v);
  uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
  uint32x4_t r = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd);
  r = vbslq_u32(vceqq_f32(v, v), r, vdupq_n_u32(0x7fc00000));
  vst1_u16(p, vshrn_n_u32(r, 16));
}
OCT_INLINE F f_from_bf16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }

#else  // compiler vectors of four: what every target has

constexpr int W = 4;
constexpr bool SIGNED_BYTES = true;
constexpr int MAX_TILE = 4;
constexpr int REGISTERS = 16;
typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
typedef uint32_t U __attribute__((vector_size(16)));

OCT_INLINE F f_load(const float* p) { F v; memcpy(&v, p, 16); return v; }
OCT_INLINE void f_store(float* p, F v) { memcpy(p, &v, 16); }
OCT_INLINE F f_set1(float v) { return F{v, v, v, v}; }
OCT_INLINE F f_add(F a, F b) { return a + b; }
OCT_INLINE F f_sub(F a, F b) { return a - b; }
OCT_INLINE F f_mul(F a, F b) { return a * b; }
OCT_INLINE F f_div(F a, F b) { return a / b; }
OCT_INLINE F f_max(F a, F b) { return a > b ? a : b; }
OCT_INLINE F f_min(F a, F b) { return a < b ? a : b; }
OCT_INLINE F f_abs(F a) { return a < 0 ? -a : a; }
OCT_INLINE F f_fma(F a, F b, F c) { return a * b + c; }
OCT_INLINE float f_sum(F a) { return (a[0] + a[2]) + (a[1] + a[3]); }
OCT_INLINE float f_hmax(F a) { return fmaxf(fmaxf(a[0], a[1]), fmaxf(a[2], a[3])); }
OCT_INLINE F f_from(I a) { return __builtin_convertvector(a, F); }
// The fraction is pushed out of a float's precision and back; right for |a| < 2^22.
OCT_INLINE F f_nearest(F a) {
  F magic = a < 0 ? f_set1(-0x1.8p23f) : f_set1(0x1.8p23f);
  volatile F t = a + magic;
  F u = t;
  return u - magic;
}
OCT_INLINE I i_round(F a) { return __builtin_convertvector(f_nearest(a), I); }
OCT_INLINE I i_set1(int32_t v) { return I{v, v, v, v}; }
OCT_INLINE I i_load(const void* p) { I v; memcpy(&v, p, 16); return v; }
OCT_INLINE void i_store(void* p, I v) { memcpy(p, &v, 16); }
OCT_INLINE I i_add(I a, I b) { return (I)((U)a + (U)b); }
OCT_INLINE I i_and(I a, I b) { return a & b; }
OCT_INLINE I i_or(I a, I b) { return a | b; }
OCT_INLINE I i_max(I a, I b) { return a > b ? a : b; }
OCT_INLINE int32_t i_hmax(I a) {
  int32_t s = a[0];
  for (int i = 1; i < 4; i++) s = a[i] > s ? a[i] : s;
  return s;
}
template <int N> OCT_INLINE I i_shr(I a) { return (I)((U)a >> N); }
template <int N> OCT_INLINE I i_shl(I a) { return (I)((U)a << N); }
OCT_INLINE F f_from_half(const void* p) {
  uint16_t h[4];
  memcpy(h, p, 8);
  return F{half_to_float(h[0]), half_to_float(h[1]), half_to_float(h[2]), half_to_float(h[3])};
}
OCT_INLINE F f_from_u8(const void* p) {
  const uint8_t* b = static_cast<const uint8_t*>(p);
  return F{static_cast<float>(b[0]), static_cast<float>(b[1]), static_cast<float>(b[2]), static_cast<float>(b[3])};
}
OCT_INLINE F f_from_s8(const void* p) {
  const int8_t* b = static_cast<const int8_t*>(p);
  return F{static_cast<float>(b[0]), static_cast<float>(b[1]), static_cast<float>(b[2]), static_cast<float>(b[3])};
}
OCT_INLINE F f_as(I a) { return (F)a; }
OCT_INLINE I i_as(F a) { return (I)a; }
OCT_INLINE F f_scale2(F a, F n) { return a * f_as(i_shl<23>(i_add(i_round(n), i_set1(127)))); }
OCT_INLINE F f_first(F a, F other, int n) {
  I lane = {0, 1, 2, 3};
  return lane < i_set1(n) ? a : other;
}
OCT_INLINE void s8_store(int8_t* p, I a) {
  for (int i = 0; i < 4; i++) p[i] = static_cast<int8_t>(a[i]);
}
OCT_INLINE int32_t i_sum(I a) { return a[0] + a[1] + a[2] + a[3]; }
OCT_INLINE I dot_bytes(I acc, I w, int32_t x) {
  // Sign-extended bytes by shifts: (w << s) >> 24 for each of the four places.
  for (int s = 24; s >= 0; s -= 8) {
    I wide = (I)((U)w << s) >> 24;
    acc += wide * i_set1(static_cast<int32_t>(static_cast<uint32_t>(x) << s) >> 24);
  }
  return acc;
}
OCT_INLINE I dot4(I acc, I u, int32_t x) { return dot_bytes(acc, u, x); }
OCT_INLINE I dot4_wide(I acc, I u, int32_t x) {
  return dot_bytes(acc, u ^ i_set1(static_cast<int32_t>(0x80808080u)), x);
}
OCT_INLINE void bf16_store(uint16_t* p, F v) {
  for (int i = 0; i < 4; i++) p[i] = float_to_bf16(v[i]);
}
OCT_INLINE F f_from_bf16(const uint16_t* p) {
  return F{bf16_to_float(p[0]), bf16_to_float(p[1]), bf16_to_float(p[2]), bf16_to_float(p[3])};
}

#endif

OCT_INLINE F f_zero() { return f_set1(0.0f); }

// Pairs (a0, b0, a1, b1, ...) of bf16, W of them: the a's and the b's as floats.
OCT_INLINE F f_even(I pairs) { return f_as(i_shl<16>(pairs)); }
OCT_INLINE F f_odd(I pairs) { return f_as(i_and(pairs, i_set1(static_cast<int32_t>(0xffff0000u)))); }

// exp for x <= 88; below -87 the smallest normal numbers. Exactly 1 at 0. Relative error 2e-7.
OCT_INLINE F f_exp(F x) {
  x = f_min(f_max(x, f_set1(-87.0f)), f_set1(88.0f));
  F n = f_nearest(f_mul(x, f_set1(1.44269504088896341f)));
  F r = f_fma(n, f_set1(-0.693145751953125f), x);
  r = f_fma(n, f_set1(-1.42860682030941723e-6f), r);
  F p = f_set1(1.0f / 720);
  p = f_fma(p, r, f_set1(1.0f / 120));
  p = f_fma(p, r, f_set1(1.0f / 24));
  p = f_fma(p, r, f_set1(1.0f / 6));
  p = f_fma(p, r, f_set1(0.5f));
  p = f_fma(p, r, f_set1(1.0f));
  p = f_fma(p, r, f_set1(1.0f));
  return f_scale2(p, n);
}

// tanh by exp(-2 |x|): no overflow, and the sign put back.
OCT_INLINE F f_tanh(F x) {
  F e = f_exp(f_mul(f_abs(x), f_set1(-2.0f)));
  F t = f_div(f_sub(f_set1(1.0f), e), f_add(f_set1(1.0f), e));
  I sign = i_and(i_as(x), i_set1(INT32_MIN));
  return f_as(i_or(i_as(t), sign));
}

}  // namespace OCT_NS
