// Operations of four lanes without special instructions, for instruction sets that have no faster way.

inline u64v zip_low(u64v a, u64v b) { return __builtin_shufflevector(a, b, 0, 2); }
inline u64v zip_high(u64v a, u64v b) { return __builtin_shufflevector(a, b, 1, 3); }

inline u64v xor3(u64v a, u64v b, u64v c) { return a ^ b ^ c; }
// Swap the halves of each 64-bit lane of x, and XOR the lower one with a and b.
inline u64v swap_xor_low(u64v x, u64v a, u64v b) { return x << 32 | (((x >> 32) ^ a ^ b) & 0xffffffff); }
inline f64v sqrt64(f64v x) {
    f64v result;
    for (int lane = 0; lane < LANES / 2; lane++) result[lane] = __builtin_sqrt(x[lane]);
    return result;
}
inline f32v clamp32(f32v x, f32v low, f32v high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}
inline f64v clamp64(f64v x, f64v low, f64v high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

using Mask = i32v;
inline Mask at_least(f32v x, f32v limit) { return x >= limit; }

// Write the chosen lanes to `out` without gaps; up to LANES elements of `out` are overwritten.
inline int compress(u32v x, Mask chosen, uint32_t* out) {
    int count = 0;
    for (int lane = 0; lane < LANES; lane++) {
        out[count] = x[lane];
        count -= chosen[lane];
    }
    return count;
}
// The inverse: chosen lanes get the next values of `in`, the others stay.
inline f32v expand(f32v x, Mask chosen, const float* in, int* taken) {
    int count = 0;
    for (int lane = 0; lane < LANES; lane++) {
        x[lane] = chosen[lane] ? in[count] : x[lane];
        count -= chosen[lane];
    }
    *taken = count;
    return x;
}

inline u16v upper_halves(u32v first, u32v second) {
    return __builtin_shufflevector((u16v)first, (u16v)second, 1, 3, 5, 7, 9, 11, 13, 15);
}

// There are no streaming stores: these are ordinary ones.
constexpr int LINE = 16;
inline void stream_line(void* out, const void* in) { __builtin_memcpy(out, in, LINE); }
inline void streamed() {}

inline uint16_t float16_bits(float x) {
    uint32_t bits = __builtin_bit_cast(uint32_t, x), sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (bits >= 0x477ff000) return (uint16_t)(sign | 0x7c00);  // 65520 and above
    if (bits >= 0x38800000) {                                  // normal: from 2^-14
        bits += 0xfff + (bits >> 13 & 1);
        return (uint16_t)(sign | (bits - 0x38000000) >> 13);
    }
    // subnormal: adding 1/2 leaves a multiple of 2^-24, rounded to even, in the low bits
    float aligned = __builtin_bit_cast(float, bits) + 0.5f;
    return (uint16_t)(sign | (__builtin_bit_cast(uint32_t, aligned) - 0x3f000000));
}
inline void store_float16(uint16_t* out, f32v x) {
    for (int lane = 0; lane < LANES; lane++) {
        uint16_t bits = float16_bits(x[lane]);
        __builtin_memcpy(out + lane, &bits, sizeof bits);
    }
}
