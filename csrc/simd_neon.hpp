// NEON on 64-bit ARM: four 32-bit lanes.

constexpr int LANES = 4;
constexpr int SETS = 4;
#include "vectors.hpp"

inline u64v multiply_wide(u64v a, u64v b) {
    return (u64v)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
}
inline f32v fma32(f32v a, f32v b, f32v c) {
    return (f32v)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
inline f32v sqrt32(f32v x) { return (f32v)vsqrtq_f32((float32x4_t)x); }
#include "generic.hpp"
