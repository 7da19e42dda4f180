#include <immintrin.h>

#include "dispatch.hpp"

namespace zeta::avx2 {
namespace {
#include "simd_avx2.hpp"

#include "block.hpp"
}  // namespace
}  // namespace zeta::avx2

const zeta::Kernels zeta::avx2_kernels = {zeta::avx2::fill, zeta::avx2::measure};
