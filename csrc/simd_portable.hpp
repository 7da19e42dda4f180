// Four lanes in plain C++, for all other processors; the tests compare the other implementations with it.
constexpr int LANES = 4;
constexpr int SETS = 2;
#include "vectors.hpp"

inline u64v multiply_wide(u64v a, u64v b) { return (a & 0xffffffff) * (b & 0xffffffff); }

// The product is exact in fp64. Rounding the sum again is wrong only if it was inexact and fell on the midpoint of
// two fp32 numbers, or among the subnormals; there it is first rounded to odd (Boldo & Melquiond 2008).
inline float fma32(float a, float b, float c) {
    double product = (double)a * (double)b, total = product + (double)c;
    uint64_t bits = __builtin_bit_cast(uint64_t, total);
    double magnitude = __builtin_fabs(total);
    if ((bits & 0x1fffffff) == 0x10000000 || magnitude < 0x1p-126) {
        double part = total - product;
        double error = (product - (total - part)) + ((double)c - part);
        if (error != 0 && !(bits & 1)) bits += (error > 0) == (total > 0) ? 1 : -1;
        total = __builtin_bit_cast(double, bits);
    }
    return (float)total;
}
inline f32v fma32(f32v a, f32v b, f32v c) {
    f32v result;
    for (int lane = 0; lane < LANES; lane++) result[lane] = fma32(a[lane], b[lane], c[lane]);
    return result;
}
inline f32v sqrt32(f32v x) {
    f32v result;
    for (int lane = 0; lane < LANES; lane++) result[lane] = __builtin_sqrtf(x[lane]);
    return result;
}
#include "generic.hpp"
