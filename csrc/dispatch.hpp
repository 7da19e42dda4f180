// What the instruction sets' files and the dispatcher agree upon.
#pragma once
#include <cstddef>
#include <cstdint>

#include "zeta.h"

namespace zeta {

constexpr int INNER = ZETA_DIMS - 1;

// Rows `first` to `last` of a job or view, numbered over all dimensions but the innermost; of each, `begin` to `end`.
struct Piece {
    int64_t first, last, begin, end;
    bool streams;  // a job's values go past the caches
};

// Where a row begins.
static inline int64_t offset_of(int64_t row, const int64_t* size, const int64_t* stride) {
    int64_t offset = 0;
    for (int dim = INNER - 1; row && dim >= 0; dim--) {
        offset += row % size[dim] * stride[dim];
        row /= size[dim];
    }
    return offset;
}

struct Kernels {
    void (*fill)(const zeta_job& job, const Piece& piece);
    void (*measure)(const zeta_view& view, const Piece& piece, zeta_moments& moments);
};

extern const Kernels avx512_bf16_kernels, avx512_kernels, avx2_kernels, neon_kernels, portable_kernels;

}  // namespace zeta
