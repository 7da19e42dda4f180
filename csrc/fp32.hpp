// fp32, bf16 and fp16 values: each from one word, in fp32 arithmetic.

constexpr float CENTRAL_LIMIT = 25.0f / 64.0f, SQRT_2PI = 2.5066282749176025f, LN2 = 0.6931471824645996f;
constexpr float CENTRAL[] = {2.6249349117279053f, 5.772726058959961f, 15.626585006713867f, 50.38398742675781f,
                             13.193853378295898f, 3634.548095703125f, -40926.84765625f,    347559.375f,
                             -1493154.75f,        3027260.5f};
constexpr float TAIL_NUMERATOR[] = {3.026963472366333f, 6.439042091369629f, 1.5492653846740723f,
                                    0.058045271784067154f, 7.309807551791891e-05f};
constexpr float TAIL_DENOMINATOR[] = {1.0f, 4.275818347930908f, 3.0138072967529297f, 0.4187026917934418f,
                                      0.010067878291010857f};
constexpr float LOG[] = {-0.4999999701976776f, 0.3333367109298706f,  -0.25001147389411926f, 0.19972050189971924f,
                         -0.16588488221168518f, 0.148347869515419f, -0.1415964663028717f,   0.08787265419960022f};
constexpr int32_t BITS_SQRT_HALF = 0x3f3504f3;

template <int N>
inline f32v horner32(const float (&coefficients)[N], f32v x) {
    f32v value = all32(coefficients[N - 1]);
#pragma GCC unroll 16
    for (int k = N - 2; k >= 0; k--) value = fma32(value, x, all32(coefficients[k]));
    return value;
}

inline f32v uniform32(u32v words) { return __builtin_convertvector((i32v)(words >> 8), f32v) * 0x1p-24f; }

inline f32v log32(f32v p) {
    i32v shifted = (i32v)p - BITS_SQRT_HALF;
    f32v exponent = __builtin_convertvector(shifted >> 23, f32v);
    f32v f = (f32v)((shifted & 0x7fffff) + BITS_SQRT_HALF) - 1.0f;
    return fma32(exponent, all32(LN2), fma32(f * f, horner32(LOG, f), f));
}

inline f32v central32(f32v q) {
    f32v r = q * q;
    return fma32(q, all32(SQRT_2PI), (q * r) * horner32(CENTRAL, r));
}

inline f32v tail32(f32v p) {
    f32v s = sqrt32(-2.0f * log32(p));
    return s - horner32(TAIL_NUMERATOR, s) / horner32(TAIL_DENOMINATOR, s);
}

struct Side32 {
    uint32_t last;  // count - 1
    float scale, q_offset, p_offset;
};

// The two sides of an interval: for a word, the distance of its probability from 1/2, its tail, and its sign.
struct Sides {
    Side32 negative, positive;
    uint32_t split;
    bool all_negative;  // split is 2^32

    inline i32v is_negative(u32v w) const {
        return all_negative ? i32v{} == i32v{} : (i32v)(w < split);
    }
    inline f32v choose(i32v is_negative, float below, float above) const {
        return select(is_negative, all32(below), all32(above));
    }
    inline u32v number(u32v w, i32v is_negative) const { return select(is_negative, split - 1 - w, w - split); }

    inline f32v distance(u32v w, i32v* sign) const {
        i32v below = is_negative(w);
        *sign = below & INT32_MIN;
        return fma32(__builtin_convertvector(number(w, below), f32v), choose(below, negative.scale, positive.scale),
                     choose(below, negative.q_offset, positive.q_offset));
    }
    inline f32v tail(u32v w, i32v* sign) const {
        i32v below = is_negative(w);
        *sign = below & INT32_MIN;
        u32v last = select(below, u32v{} + negative.last, u32v{} + positive.last);
        return fma32(__builtin_convertvector(last - number(w, below), f32v),
                     choose(below, negative.scale, positive.scale), choose(below, negative.p_offset, positive.p_offset));
    }
};

// The same for an interval with two equal sides of 2^31 words each.
struct Symmetric {
    Side32 side;

    inline f32v distance(u32v w, i32v* sign) const {
        i32v centred = (i32v)(w ^ 0x80000000), below = centred >> 31;
        *sign = below & INT32_MIN;
        return fma32(__builtin_convertvector(centred ^ below, f32v), all32(side.scale), all32(side.q_offset));
    }
    inline f32v tail(u32v w, i32v* sign) const {
        i32v centred = (i32v)(w ^ 0x80000000), below = centred >> 31;
        *sign = below & INT32_MIN;
        return fma32(__builtin_convertvector(INT32_MAX - (centred ^ below), f32v), all32(side.scale),
                     all32(side.p_offset));
    }
};

struct Affine32 {
    float scale, shift, low, high;
    bool bounded;

    inline f32v operator()(f32v x) const {
        x = fma32(x, all32(scale), all32(shift));
        return bounded ? clamp32(x, all32(low), all32(high)) : x;
    }
};

// Whether a draw in [0, 1) can leave the bounds: rounding keeps the order, so that only the extremes need to be checked.
inline bool leaves_bounds(const Affine32& affine) {
    const Affine32 free = {affine.scale, affine.shift, affine.low, affine.high, false};
    float least = free(all32(0.0f))[0], most = free(all32(1.0f - 0x1p-24f))[0];
    return !(affine.low <= least && least <= affine.high && affine.low <= most && most <= affine.high);
}

// Store two vectors at a time, because these fill one vector of 16-bit numbers.
inline void store_as(float* out, f32v first, f32v second) {
    store(out, first);
    store(out + LANES, second);
}
struct BFloat16 {
    uint16_t bits;
};
inline u32v round_upper(u32v bits) { return bits + 0x7fff + (bits >> 16 & 1); }
inline void store_as(BFloat16* out, f32v first, f32v second) {
    store(out, upper_halves(round_upper((u32v)first), round_upper((u32v)second)));
}
#ifdef ZETA_ROUND_BFLOAT16
struct NoSubnormal {  // a BFloat16 that is not subnormal
    uint16_t bits;
};
inline void store_as(NoSubnormal* out, f32v first, f32v second) { store(out, round_bfloat16(first, second)); }
#endif
struct Float16 {
    uint16_t bits;
};
inline void store_as(Float16* out, f32v first, f32v second) {
    store_float16((uint16_t*)out, first);
    store_float16((uint16_t*)out + LANES, second);
}

template <class Out>
NOINLINE void uniform_block(const uint32_t* words, const Affine32& affine, Out* out) {
#pragma GCC unroll 4
    for (int i = 0; i < BLOCK; i += 2 * LANES) {
        f32v first = uniform32(load<u32v>(words + i)), second = uniform32(load<u32v>(words + i + LANES));
        store_as(out + i, affine(first), affine(second));
    }
}

// Computes the central formula for all words, and the tail formula only for the few words in the tails, which are
// first compressed into full vectors.
template <class Out, class Where>
NOINLINE void normal_block(const uint32_t* words, const Where& where, const Affine32& affine, Out* out) {
    float central[BLOCK];
    uint32_t far_words[BLOCK + 2 * LANES];
    float far[BLOCK + 2 * LANES];
    Mask masks[VECTORS];
    int count = 0;
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS; i++) {
        i32v sign;
        u32v w = load<u32v>(words + i * LANES);
        f32v q = where.distance(w, &sign);
        store(central + i * LANES, (f32v)((i32v)central32(q) | sign));
        masks[i] = at_least(q, all32(CENTRAL_LIMIT));
        count += compress(w, masks[i], far_words + count);
    }
    for (int i = count; i < count + LANES; i++) far_words[i] = 0;  // pads the last vector
#pragma GCC unroll 2
    for (int i = 0; i < count; i += LANES) {
        i32v sign;
        f32v p = where.tail(load<u32v>(far_words + i), &sign);
        store(far + i, (f32v)((i32v)tail32(p) ^ sign));
    }
    const float* next = far;
#pragma GCC unroll 4
    for (int i = 0; i < VECTORS; i += 2) {
        f32v z[2];
        for (int k = 0; k < 2; k++) {
            int taken;
            z[k] = expand(load<f32v>(central + (i + k) * LANES), masks[i + k], next, &taken);
            next += taken;
        }
        store_as(out + i * LANES, affine(z[0]), affine(z[1]));
    }
}
