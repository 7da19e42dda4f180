#include "dispatch.hpp"

namespace zeta::portable {
namespace {
#include "simd_portable.hpp"

#include "block.hpp"
}  // namespace
}  // namespace zeta::portable

const zeta::Kernels zeta::portable_kernels = {zeta::portable::fill, zeta::portable::measure};
