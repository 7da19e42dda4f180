/* The C interface of the compiled kernels. It depends on neither torch nor Python: plain memory in, plain memory out.
 *
 * docs/stream.md defines every value. The functions have the names of the reference, src/zeta/compute/stream/random.py. */
#ifndef ZETA_H
#define ZETA_H

#include <stdint.h>

#ifdef _WIN32
#define ZETA_API __declspec(dllexport)
#else
#define ZETA_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Incremented whenever a struct below or the meaning of a field changes; the loader refuses any other version. */
#define ZETA_ABI 3

enum zeta_kind { ZETA_WORDS = 0, ZETA_UNIFORM = 1, ZETA_NORMAL = 2 };

enum zeta_dtype { ZETA_FLOAT32 = 0, ZETA_BFLOAT16 = 1, ZETA_FLOAT16 = 2, ZETA_FLOAT64 = 3, ZETA_UINT32 = 4 };

#define ZETA_DIMS 6

/* One side of the centre of a normal interval (class Side in random.py), in fp64; fp32 draws round each field. */
typedef struct {
    uint64_t count;
    double scale, q_offset, p_offset;
} zeta_side;

/* Fill a box of elements. Dimensions go from the outermost to the innermost; unused ones have size 1 and come first.
 * Element (i_0, ...) is number start + sum i_d * index_stride_d of the global tensor in row-major order, and is
 * written to out + sum i_d * out_stride_d elements. */
typedef struct {
    void* out;
    int64_t start;
    int64_t size[ZETA_DIMS];
    int64_t index_stride[ZETA_DIMS];
    int64_t out_stride[ZETA_DIMS];
    uint64_t key;
    uint64_t draw;
    int32_t kind;
    int32_t dtype;
    double scale, shift;      /* value = draw * scale + shift, then clamped to [low, high] */
    double low, high;         /* numbers of the dtype, or infinite */
    uint64_t split;           /* ZETA_NORMAL: words below are negative; of 32 bits, or 53 for float64 */
    zeta_side negative, positive;
} zeta_job;

/* Values in memory that are measured. Dimensions as in a job. */
typedef struct {
    const void* data;
    int64_t size[ZETA_DIMS];
    int64_t stride[ZETA_DIMS];
    int32_t dtype;
    double centre;            /* subtracted from each value before it is summed */
} zeta_view;

typedef struct {
    double sum, squares, low, high;   /* of value - centre; the extremes are of the values; NaN shows in the sums */
} zeta_moments;

ZETA_API int32_t zeta_abi(void);
ZETA_API int64_t zeta_job_size(void);
ZETA_API int64_t zeta_view_size(void);

/* The instruction sets compiled in and usable on this processor, best first, separated by commas. */
ZETA_API const char* zeta_isas(void);

/* Calls work(data) on up to `threads` threads at once, and returns when all calls have returned. GOMP_parallel of an
 * OpenMP runtime has this type. With torch's runtime, the kernels run on torch's own threads, which are still awake after
 * an operation; separate threads would compete with them for the processors. */
typedef void (*zeta_team)(void (*work)(void* data), void* data, unsigned threads, unsigned flags);

/* The number of bytes from which on a fill should use streaming stores (which bypass the caches) on this processor. */
ZETA_API int64_t zeta_stream_from(void);

/* Fill all jobs with up to `threads` threads: the team's, or new ones if it is null. Uses streaming stores if all jobs
 * together write `stream_from` bytes or more. Returns 0; 1 for an unknown instruction set, 2 for an
 * invalid job, 3 without memory: then nothing was written. */
ZETA_API int32_t zeta_fill(const char* isa, const zeta_job* jobs, int64_t count, int64_t stream_from, int32_t threads,
                           zeta_team team);

/* Measure all views; the results have the same bits for any number of threads. Returns as zeta_fill. */
ZETA_API int32_t zeta_measure(const char* isa, const zeta_view* views, zeta_moments* moments, int64_t count,
                              int32_t threads, zeta_team team);

#ifdef __cplusplus
}
#endif
#endif
