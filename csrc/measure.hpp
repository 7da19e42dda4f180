// Sums and extremes of values in memory.

inline float value_of(const float* in) { return load<float>(in); }
inline double value_of(const double* in) { return load<double>(in); }
inline float value_of(const BFloat16* in) {
    return __builtin_bit_cast(float, (uint32_t)load<BFloat16>(in).bits << 16);
}
inline float value_of(const Float16* in) {
    uint32_t bits = load<Float16>(in).bits, sign = (bits & 0x8000) << 16, rest = bits & 0x7fff;
    if (rest >= 0x7c00) return __builtin_bit_cast(float, sign | 0x7f800000 | rest << 13);
    float magnitude = __builtin_bit_cast(float, rest << 13) * 0x1p112f;  // subnormal numbers included
    return sign ? -magnitude : magnitude;
}

inline f64v values_of(const float* in) {
    typedef float half __attribute__((vector_size(4 * HALF)));
    return __builtin_convertvector(load<half>(in), f64v);
}
inline f64v values_of(const double* in) { return load<f64v>(in); }
inline f64v values_of(const BFloat16* in) {
    typedef uint16_t half __attribute__((vector_size(2 * HALF)));
    typedef float wide __attribute__((vector_size(4 * HALF)));
    return __builtin_convertvector((wide)(__builtin_convertvector(load<half>(in), u32half) << 16), f64v);
}
inline f64v values_of(const Float16* in) {
    f64v result;
    for (int lane = 0; lane < HALF; lane++) result[lane] = value_of(in + lane);
    return result;
}

struct Sums {
    f64v sum{}, squares{}, low = all64(__builtin_inf()), high = all64(-__builtin_inf());

    inline void add(f64v x, f64v centre) {
        f64v deviation = x - centre;
        sum += deviation;
        squares += deviation * deviation;
        low = select(x < low, x, low);
        high = select(x > high, x, high);
    }
};

// Four independent sums, so that an addition need not wait for the previous one.
template <class In>
void measure_run(const In* in, int64_t count, int64_t stride, double centre, zeta_moments& moments) {
    constexpr int STREAMS = 4;
    int64_t i = 0;
    if (stride == 1 && count >= STREAMS * HALF) {
        Sums sums[STREAMS];
        for (; i + STREAMS * HALF <= count; i += STREAMS * HALF)
#pragma GCC unroll 4
            for (int k = 0; k < STREAMS; k++) sums[k].add(values_of(in + i + k * HALF), all64(centre));
        for (const Sums& s : sums)
            for (int lane = 0; lane < HALF; lane++) {
                moments.sum += s.sum[lane];
                moments.squares += s.squares[lane];
                moments.low = s.low[lane] < moments.low ? s.low[lane] : moments.low;
                moments.high = s.high[lane] > moments.high ? s.high[lane] : moments.high;
            }
    }
    for (; i < count; i++) {
        double x = value_of(in + i * stride), deviation = x - centre;
        moments.sum += deviation;
        moments.squares += deviation * deviation;
        moments.low = x < moments.low ? x : moments.low;
        moments.high = x > moments.high ? x : moments.high;
    }
}

template <class In>
void measure_rows(const zeta_view& view, const Piece& piece, zeta_moments& moments) {
    for (int64_t row = piece.first; row < piece.last; row++) {
        const In* in = (const In*)view.data + offset_of(row, view.size, view.stride) + piece.begin * view.stride[INNER];
        measure_run(in, piece.end - piece.begin, view.stride[INNER], view.centre, moments);
    }
}

void measure(const zeta_view& view, const Piece& piece, zeta_moments& moments) {
    switch (view.dtype) {
        case ZETA_FLOAT32: return measure_rows<float>(view, piece, moments);
        case ZETA_BFLOAT16: return measure_rows<BFloat16>(view, piece, moments);
        case ZETA_FLOAT16: return measure_rows<Float16>(view, piece, moments);
        case ZETA_FLOAT64: return measure_rows<double>(view, piece, moments);
    }
}
