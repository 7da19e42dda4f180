// The kernels: they compute the stream in blocks of 512 elements. Compiled once for each instruction set, in a separate
// namespace, after one of the simd_*.hpp. The functions have the names of the reference and keep its order of rounding.

constexpr int BLOCK = 512, COUNTERS = BLOCK / 4;
// GCC schedules the parts of a block better as separate functions: 0.31 ns per word for Philox instead of 0.46.
#define NOINLINE __attribute__((noinline))
constexpr int HALF = LANES / 2, VECTORS = BLOCK / LANES;

template <class Vector, class Scalar>
inline Vector load(const Scalar* memory) {
    Vector result;
    __builtin_memcpy(&result, memory, sizeof result);
    return result;
}
template <class Vector, class Scalar>
inline void store(Scalar* memory, Vector x) {
    __builtin_memcpy(memory, &x, sizeof x);
}

#include "philox.hpp"
#include "fp32.hpp"
#include "fp64.hpp"
#include "fill.hpp"
#include "measure.hpp"
