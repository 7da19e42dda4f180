#include <immintrin.h>

#include "dispatch.hpp"

namespace zeta::avx512_bf16 {
namespace {
#include "simd_avx512.hpp"

#include "block.hpp"
}  // namespace
}  // namespace zeta::avx512_bf16

const zeta::Kernels zeta::avx512_bf16_kernels = {zeta::avx512_bf16::fill, zeta::avx512_bf16::measure};
