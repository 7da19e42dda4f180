// The interface between the dispatcher (zeta.cpp) and the kernels of each instruction set (kernels_*.cpp).
#pragma once
#include <cstddef>
#include <cstdint>

#include "zeta.h"

namespace zeta {

constexpr int INNER = ZETA_DIMS - 1;

// A piece of a job or view: elements `begin` to `end` of rows `first` to `last`. Rows are numbered over all dimensions
// but the innermost.
struct Piece {
    int64_t first, last, begin, end;
    bool streams;  // use streaming stores, which bypass the caches
};

// The offset of a row's first element.
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
