// AVX-512 (F, BW, DQ, VL, and BF16 where it is compiled for it): sixteen 32-bit lanes.

constexpr int LANES = 16;
constexpr int SETS = 8;  // independent Philox states in flight
#include "vectors.hpp"

using Mask = __mmask16;

inline u64v zip_low(u64v a, u64v b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
inline u64v zip_high(u64v a, u64v b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }

inline u64v multiply_wide(u64v a, u64v b) { return (u64v)_mm512_mul_epu32((__m512i)a, (__m512i)b); }
inline u64v xor3(u64v a, u64v b, u64v c) {
    return (u64v)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
}
// Swap the halves of each 64-bit lane of x, and XOR the lower one with a and b.
inline u64v swap_xor_low(u64v x, u64v a, u64v b) {
    return (u64v)_mm512_mask_ternarylogic_epi32(_mm512_rol_epi64((__m512i)x, 32), 0x5555, (__m512i)a, (__m512i)b, 0x96);
}
inline f32v fma32(f32v a, f32v b, f32v c) { return (f32v)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline f32v sqrt32(f32v x) { return (f32v)_mm512_sqrt_ps((__m512)x); }
inline f64v sqrt64(f64v x) { return (f64v)_mm512_sqrt_pd((__m512d)x); }
// If both operands are equal, these instructions return the second one: x, as in the other implementations.
inline f32v clamp32(f32v x, f32v low, f32v high) {
    return (f32v)_mm512_min_ps((__m512)high, _mm512_max_ps((__m512)low, (__m512)x));
}
inline f64v clamp64(f64v x, f64v low, f64v high) {
    return (f64v)_mm512_min_pd((__m512d)high, _mm512_max_pd((__m512d)low, (__m512d)x));
}

inline Mask at_least(f32v x, f32v limit) { return _mm512_cmp_ps_mask((__m512)x, (__m512)limit, _CMP_GE_OQ); }

// Write the chosen lanes to `out` without gaps; all LANES elements of `out` are overwritten.
inline int compress(u32v x, Mask chosen, uint32_t* out) {
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(chosen, (__m512i)x));
    return __builtin_popcount(chosen);
}
// The inverse: chosen lanes get the next values of `in`, the others stay.
inline f32v expand(f32v x, Mask chosen, const float* in, int* taken) {
    *taken = __builtin_popcount(chosen);
    return (f32v)_mm512_mask_expand_ps((__m512)x, chosen, _mm512_loadu_ps(in));
}

inline u16v upper_halves(u32v first, u32v second) {
    return __builtin_shufflevector((u16v)first, (u16v)second, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                   33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63);
}
#ifdef __AVX512BF16__
// One instruction rounds two vectors, but it treats subnormal numbers as zeros.
#define ZETA_ROUND_BFLOAT16
inline u16v round_bfloat16(f32v first, f32v second) {
    return (u16v)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}
#endif

inline void store_float16(uint16_t* out, f32v x) {
    _mm256_storeu_si256((__m256i*)out, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// Streaming stores, which bypass the caches.
constexpr int LINE = 64;
inline void stream_line(void* out, const void* in) { _mm512_stream_si512((__m512i*)out, _mm512_load_si512(in)); }
inline void streamed() { _mm_sfence(); }  // makes the stores visible before another thread is notified
