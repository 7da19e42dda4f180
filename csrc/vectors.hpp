// Vector types of LANES 32-bit or LANES / 2 64-bit lanes, with the vector extensions that GCC and Clang share.

typedef uint32_t u32v __attribute__((vector_size(4 * LANES)));
typedef int32_t i32v __attribute__((vector_size(4 * LANES)));
typedef float f32v __attribute__((vector_size(4 * LANES)));
typedef uint64_t u64v __attribute__((vector_size(4 * LANES)));
typedef int64_t i64v __attribute__((vector_size(4 * LANES)));
typedef double f64v __attribute__((vector_size(4 * LANES)));
typedef uint16_t u16v __attribute__((vector_size(4 * LANES)));  // twice as many lanes
typedef uint32_t u32half __attribute__((vector_size(2 * LANES)));

// Subtracting zero keeps the sign of a negative zero, which adding it would not.
inline f32v all32(float x) { return x - f32v{}; }
inline f64v all64(double x) { return x - f64v{}; }
inline u64v all64(uint64_t x) { return x - u64v{}; }

inline f32v select(i32v where, f32v yes, f32v no) { return (f32v)((where & (i32v)yes) | (~where & (i32v)no)); }
inline u32v select(i32v where, u32v yes, u32v no) { return (u32v)((where & (i32v)yes) | (~where & (i32v)no)); }
inline f64v select(i64v where, f64v yes, f64v no) { return (f64v)((where & (i64v)yes) | (~where & (i64v)no)); }
inline i64v select(i64v where, i64v yes, i64v no) { return (where & yes) | (~where & no); }

inline bool any(i64v mask) {
    int64_t found = 0;
    for (int lane = 0; lane < LANES / 2; lane++) found |= mask[lane];
    return found != 0;
}
