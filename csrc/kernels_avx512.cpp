#include <immintrin.h>

#include "dispatch.hpp"

namespace zeta::avx512 {
namespace {
#include "simd_avx512.hpp"

#include "block.hpp"
}  // namespace
}  // namespace zeta::avx512

const zeta::Kernels zeta::avx512_kernels = {zeta::avx512::fill, zeta::avx512::measure};
