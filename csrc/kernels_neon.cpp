#include <arm_neon.h>

#include "dispatch.hpp"

namespace zeta::neon {
namespace {
#include "simd_neon.hpp"

#include "block.hpp"
}  // namespace
}  // namespace zeta::neon

const zeta::Kernels zeta::neon_kernels = {zeta::neon::fill, zeta::neon::measure};
