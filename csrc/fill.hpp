// Fill jobs: whole aligned blocks of a row are written directly to memory; the other elements are collected in batches.

// Constants of a job, computed once for all its blocks.
struct Prepared {
    const zeta_job* job;
    Philox philox, philox_low;
    Affine32 affine32;
    Affine64 affine64;
    bool symmetric;
    Symmetric centred;
    Sides sides;
};

inline Side32 side32(const zeta_side& side) {
    return {(uint32_t)(side.count - 1), (float)side.scale, (float)side.q_offset, (float)side.p_offset};
}

Prepared prepare(const zeta_job& job) {
    Prepared result;
    result.job = &job;
    result.philox = philox_of(job.key, job.draw);
    result.philox_low = philox_of(job.key, job.draw | 1ULL << 63);
    result.affine32 = {(float)job.scale, (float)job.shift, (float)job.low, (float)job.high,
                       job.low > -__builtin_inf() || job.high < __builtin_inf()};
    if (job.kind == ZETA_UNIFORM) result.affine32.bounded = leaves_bounds(result.affine32);
    result.affine64 = {job.scale, job.shift, job.low, job.high};
    result.sides = {side32(job.negative), side32(job.positive), (uint32_t)job.split, job.split == 1ULL << 32};
    result.centred = {result.sides.positive};
    const zeta_side &below = job.negative, &above = job.positive;
    result.symmetric = job.split == 1ULL << 31 && below.count == above.count && below.scale == above.scale &&
                       below.q_offset == above.q_offset && below.p_offset == above.p_offset;
    return result;
}

template <class Out>
inline void values_block(const Prepared& prepared, const uint32_t* words, const uint32_t*, Out* out) {
    if (prepared.job->kind == ZETA_UNIFORM)
        uniform_block(words, prepared.affine32, out);
    else if (prepared.symmetric)
        normal_block(words, prepared.centred, prepared.affine32, out);
    else
        normal_block(words, prepared.sides, prepared.affine32, out);
}
inline void values_block(const Prepared& prepared, const uint32_t* words, const uint32_t* low, double* out) {
    if (prepared.job->kind == ZETA_UNIFORM)
        uniform64_block(words, low, prepared.affine64, out);
    else
        normal64_block(words, low, *prepared.job, prepared.affine64, out);
}
inline void values_block(const Prepared&, const uint32_t* words, const uint32_t*, uint32_t* out) {
    __builtin_memcpy(out, words, BLOCK * sizeof *out);
}

template <class Out>
constexpr bool is_double = false;
template <>
constexpr bool is_double<double> = true;

// Collects counters of runs that do not fill an aligned block, and computes a full block of them at once.
template <class Out>
class Batch {
  public:
    explicit Batch(const Prepared& prepared) : prepared_(prepared) {}

    void add(uint64_t index, int64_t count, Out* out, int64_t stride) {
        while (count > 0) {
            int64_t skip = (int64_t)(index % 4), room = 4 * (COUNTERS - used_) - skip;
            int64_t taken = count < room ? count : room, counters = (skip + taken + 3) / 4;
            segments_[segments_used_++] = {out, stride, (int)(4 * used_ + skip), (int)taken};
            for (int64_t k = 0; k < counters; k++) counters_[used_ + k] = index / 4 + (uint64_t)k;
            used_ += (int)counters;
            index += (uint64_t)taken;
            count -= taken;
            out += taken * stride;
            if (used_ == COUNTERS) flush();
        }
    }

    void flush() {
        if (!used_) return;
        for (int k = used_; k < COUNTERS; k++) counters_[k] = 0;
        alignas(64) uint32_t words[BLOCK], low[BLOCK];
        alignas(64) Out values[BLOCK];
        philox_at(counters_, prepared_.philox, words);
        if (is_double<Out>) philox_at(counters_, prepared_.philox_low, low);
        values_block(prepared_, words, low, values);
        for (int k = 0; k < segments_used_; k++) {
            const Segment& segment = segments_[k];
            if (segment.stride == 1)
                __builtin_memcpy(segment.out, values + segment.first, (std::size_t)segment.count * sizeof(Out));
            else
                for (int i = 0; i < segment.count; i++)
                    __builtin_memcpy(segment.out + i * segment.stride, values + segment.first + i, sizeof(Out));
        }
        used_ = segments_used_ = 0;
    }

  private:
    struct Segment {
        Out* out;
        int64_t stride;
        int first, count;
    };
    const Prepared& prepared_;
    int used_ = 0, segments_used_ = 0;
    uint64_t counters_[COUNTERS];
    Segment segments_[COUNTERS];  // each segment has at least one counter
};

// Compute a block in the first-level cache, and write it with streaming stores.
template <class Out>
NOINLINE void stream_block(const Prepared& prepared, const uint32_t* words, const uint32_t* low, Out* out) {
    alignas(64) Out values[BLOCK];
    values_block(prepared, words, low, values);
#pragma GCC unroll 4
    for (int i = 0; i < BLOCK; i += LINE / (int)sizeof(Out)) stream_line(out + i, values + i);
}

// Write aligned blocks directly to memory, and the rest through the batch.
template <class Out>
void fill_run(const Prepared& prepared, Batch<Out>& batch, uint64_t index, int64_t count, Out* out, int64_t stride,
              bool streams) {
    if (stride == 1) {
        int64_t head = (int64_t)(-index & (BLOCK - 1));
        if (count >= head + BLOCK) {
            batch.add(index, head, out, 1);
            index += (uint64_t)head, count -= head, out += head;
            for (; count >= BLOCK; index += BLOCK, count -= BLOCK, out += BLOCK) {
                alignas(64) uint32_t words[BLOCK], low[BLOCK];
                philox_run(index / 4, prepared.philox, words);
                if (is_double<Out>) philox_run(index / 4, prepared.philox_low, low);
                if (streams && (uintptr_t)out % LINE == 0)
                    stream_block(prepared, words, low, out);
                else
                    values_block(prepared, words, low, out);
            }
        }
    }
    batch.add(index, count, out, stride);
}

template <class Out>
void fill_rows(const zeta_job& job, const Piece& piece) {
    const Prepared prepared = prepare(job);
    Batch<Out> batch(prepared);
    int64_t index_stride = job.index_stride[INNER], out_stride = job.out_stride[INNER];
    for (int64_t row = piece.first; row < piece.last; row++) {
        int64_t index = job.start + offset_of(row, job.size, job.index_stride) + piece.begin * index_stride;
        Out* out = (Out*)job.out + offset_of(row, job.size, job.out_stride) + piece.begin * out_stride;
        int64_t count = piece.end - piece.begin;
        if (index_stride == 1)
            fill_run(prepared, batch, (uint64_t)index, count, out, out_stride, piece.streams);
        else
            for (int64_t i = 0; i < count; i++) batch.add((uint64_t)(index + i * index_stride), 1, out + i * out_stride, 1);
    }
    batch.flush();
    if (piece.streams) streamed();
}

#ifdef ZETA_ROUND_BFLOAT16
// Whether no result can be a subnormal number. Draws are 0, or at least 2^-24 (uniform) or q (normal). With a shift, a
// result is 0, or at least half the shift, or the rest after cancellation: a multiple of the product's last bit, which is
// at least 2^-49 times the shift.
bool never_subnormal(const zeta_job& job) {
    auto normal = [](double x) { return x == 0 || __builtin_fabs(x) >= 0x1p-126; };
    auto far = [](const zeta_side& side) { return side.count == 0 || side.q_offset >= 0x1p-60; };
    if (!normal(job.low) || !normal(job.high)) return false;
    if (job.shift != 0) return __builtin_fabs(job.shift) >= 0x1p-70;
    return __builtin_fabs(job.scale) >= 0x1p-60 && (job.kind == ZETA_UNIFORM || (far(job.negative) && far(job.positive)));
}
#endif

void fill(const zeta_job& job, const Piece& piece) {
#ifdef ZETA_ROUND_BFLOAT16
    if (job.dtype == ZETA_BFLOAT16 && never_subnormal(job)) return fill_rows<NoSubnormal>(job, piece);
#endif
    switch (job.dtype) {
        case ZETA_FLOAT32: return fill_rows<float>(job, piece);
        case ZETA_BFLOAT16: return fill_rows<BFloat16>(job, piece);
        case ZETA_FLOAT16: return fill_rows<Float16>(job, piece);
        case ZETA_FLOAT64: return fill_rows<double>(job, piece);
        case ZETA_UINT32: return fill_rows<uint32_t>(job, piece);
    }
}
