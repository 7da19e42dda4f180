// AVX2 with FMA and F16C: eight 32-bit lanes.

constexpr int LANES = 8;
constexpr int SETS = 2;
#include "vectors.hpp"

using Mask = int;

inline u64v zip_low(u64v a, u64v b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
inline u64v zip_high(u64v a, u64v b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }

inline u64v multiply_wide(u64v a, u64v b) { return (u64v)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
inline u64v xor3(u64v a, u64v b, u64v c) { return a ^ b ^ c; }
// Swap the halves of each 64-bit lane of x, and XOR the lower one with a and b.
inline u64v swap_xor_low(u64v x, u64v a, u64v b) {
    __m256i turned = _mm256_shuffle_epi32((__m256i)x, _MM_SHUFFLE(2, 3, 0, 1));
    return (u64v)_mm256_blend_epi32(turned, (__m256i)((u64v)turned ^ a ^ b), 0x55);
}
inline f32v fma32(f32v a, f32v b, f32v c) { return (f32v)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline f32v sqrt32(f32v x) { return (f32v)_mm256_sqrt_ps((__m256)x); }
inline f64v sqrt64(f64v x) { return (f64v)_mm256_sqrt_pd((__m256d)x); }
// If both operands are equal, these instructions return the second one: x, as in the other implementations.
inline f32v clamp32(f32v x, f32v low, f32v high) {
    return (f32v)_mm256_min_ps((__m256)high, _mm256_max_ps((__m256)low, (__m256)x));
}
inline f64v clamp64(f64v x, f64v low, f64v high) {
    return (f64v)_mm256_min_pd((__m256d)high, _mm256_max_pd((__m256d)low, (__m256d)x));
}

inline Mask at_least(f32v x, f32v limit) {
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)x, (__m256)limit, _CMP_GE_OQ));
}

// For each of the 256 masks: the positions of its set bits without gaps, and for each bit its rank among the set ones.
struct Permutations {
    alignas(32) int32_t gather[256][8];
    alignas(32) int32_t spread[256][8];
};
constexpr Permutations permutations() {
    Permutations table{};
    for (int mask = 0; mask < 256; mask++) {
        int count = 0;
        for (int lane = 0; lane < 8; lane++) {
            table.spread[mask][lane] = count;
            if (mask >> lane & 1) table.gather[mask][count++] = lane;
        }
    }
    return table;
}
constexpr Permutations PERMUTATIONS = permutations();

// Write the chosen lanes to `out` without gaps; all LANES elements of `out` are overwritten.
inline int compress(u32v x, Mask chosen, uint32_t* out) {
    __m256i order = _mm256_load_si256((const __m256i*)PERMUTATIONS.gather[chosen]);
    _mm256_storeu_si256((__m256i*)out, _mm256_permutevar8x32_epi32((__m256i)x, order));
    return __builtin_popcount(chosen);
}
// The inverse: chosen lanes get the next values of `in`, the others stay.
inline f32v expand(f32v x, Mask chosen, const float* in, int* taken) {
    *taken = __builtin_popcount(chosen);
    __m256i order = _mm256_load_si256((const __m256i*)PERMUTATIONS.spread[chosen]);
    __m256 spread = _mm256_permutevar8x32_ps(_mm256_loadu_ps(in), order);
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i lanes = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(chosen), bits), bits);
    return (f32v)_mm256_blendv_ps((__m256)x, spread, (__m256)lanes);
}

// The pack instruction works within each half of the vectors, so that the quarters must be brought back into order.
inline u16v upper_halves(u32v first, u32v second) {
    __m256i packed = _mm256_packus_epi32((__m256i)(first >> 16), (__m256i)(second >> 16));
    return (u16v)_mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0));
}
inline void store_float16(uint16_t* out, f32v x) {
    _mm_storeu_si128((__m128i*)out, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// Streaming stores, which bypass the caches.
constexpr int LINE = 32;
inline void stream_line(void* out, const void* in) {
    _mm256_stream_si256((__m256i*)out, _mm256_load_si256((const __m256i*)in));
}
inline void streamed() { _mm_sfence(); }  // makes the stores visible before another thread is notified
