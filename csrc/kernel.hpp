// The stream, 512 elements at a time. Compiled once for each instruction set, inside a namespace of its own, after
// one of the simd_*.hpp. The operations carry the names of the reference, and keep its order of rounding.

constexpr int BLOCK = 512, COUNTERS = BLOCK / 4;
// GCC schedules the parts of a block better apart than as one function: 0.31 ns a word for Philox, not 0.46.
#define NOINLINE __attribute__((noinline))
constexpr int HALF = LANES / 2, VECTORS = BLOCK / LANES;

template <class Vector, class Scalar>
inline Vector load(const Scalar* memory) {
    Vector result;
    __builtin_memcpy(&result, memory, sizeof result);
    return result;
}
template <class Vector, class Scalar>
inline void store(Scalar* memory, Vector x) {
    __builtin_memcpy(memory, &x, sizeof x);
}

// -- Philox4x32-10 ----------------------------------------------------------------------------------------------

constexpr uint32_t MULTIPLIERS[2] = {0xd2511f53, 0xcd9e8d57}, WEYL[2] = {0x9e3779b9, 0xbb67ae85};
constexpr int ROUNDS = 10;

struct Philox {
    uint64_t key[ROUNDS][2];  // 32-bit words
    uint64_t draw[2];
};

inline Philox philox_of(uint64_t key, uint64_t draw) {
    Philox result;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        result.key[round][0] = (uint32_t)key + round * WEYL[0];
        result.key[round][1] = (uint32_t)(key >> 32) + round * WEYL[1];
        result.key[round][0] &= 0xffffffff;
        result.key[round][1] &= 0xffffffff;
    }
    result.draw[0] = (uint32_t)draw;
    result.draw[1] = draw >> 32;
    return result;
}

struct State {
    u64v c0, c1, c2, c3;  // 32-bit words in 64-bit lanes; what lies above them is ignored
};

inline void philox_round(State& state, const uint64_t* key) {
    u64v product0 = multiply_wide(state.c0, all64((uint64_t)MULTIPLIERS[0]));
    u64v product1 = multiply_wide(state.c2, all64((uint64_t)MULTIPLIERS[1]));
    state.c0 = xor3(product1 >> 32, state.c1, all64(key[0]));
    state.c2 = xor3(product0 >> 32, state.c3, all64(key[1]));
    state.c1 = product1;
    state.c3 = product0;
}

// The first `DONE` rounds are behind each state; store the words of each counter side by side, c0 c1 c2 c3.
template <int DONE>
inline void philox_rest(State* state, const Philox& philox, uint32_t* words) {
    constexpr int LAST = ROUNDS - 1;
#pragma GCC unroll 10
    for (int round = DONE; round < LAST; round++) {
#pragma GCC unroll 8
        for (int set = 0; set < SETS; set++) philox_round(state[set], philox.key[round]);
    }
#pragma GCC unroll 8
    for (int set = 0; set < SETS; set++) {
        const State& s = state[set];
        u64v product0 = multiply_wide(s.c0, all64((uint64_t)MULTIPLIERS[0]));
        u64v product1 = multiply_wide(s.c2, all64((uint64_t)MULTIPLIERS[1]));
        u64v low = swap_xor_low(product1, s.c1, all64(philox.key[LAST][0]));
        u64v high = swap_xor_low(product0, s.c3, all64(philox.key[LAST][1]));
        store(words + 2 * set * LANES, zip_low(low, high));
        store(words + (2 * set + 1) * LANES, zip_high(low, high));
    }
}

// The words of any COUNTERS counters.
void philox_at(const uint64_t* counters, const Philox& philox, uint32_t* words) {
#pragma GCC unroll 1
    for (int first = 0; first < COUNTERS; first += SETS * HALF) {
        State state[SETS];
        for (int set = 0; set < SETS; set++) {
            u64v counter = load<u64v>(counters + first + set * HALF);
            state[set] = {counter & 0xffffffff, counter >> 32, all64(philox.draw[0]), all64(philox.draw[1])};
        }
        philox_rest<0>(state, philox, words + 4 * first);
    }
}

// The words of COUNTERS counters in a row, from a multiple of COUNTERS on. All but the lowest word are the same, and
// so is half of the state after one round, a quarter after two: these parts are computed once, not lane by lane.
NOINLINE void philox_run(uint64_t counter, const Philox& philox, uint32_t* words) {
    const auto& key = philox.key;
    uint64_t low = counter & 0xffffffff, constant = philox.draw[0] * MULTIPLIERS[1];
    uint64_t c0 = (constant >> 32) ^ (counter >> 32) ^ key[0][0], c1 = constant & 0xffffffff;
    uint64_t product0 = c0 * MULTIPLIERS[0];
    u64v lanes;
    for (int lane = 0; lane < HALF; lane++) lanes[lane] = (uint64_t)lane * MULTIPLIERS[0];
#pragma GCC unroll 1
    for (int first = 0; first < COUNTERS; first += SETS * HALF) {
        State state[SETS];
        u64v start = lanes + all64((low + (uint64_t)first) * MULTIPLIERS[0]);
#pragma GCC unroll 8
        for (int set = 0; set < SETS; set++) {
            u64v c3 = start + all64((uint64_t)(set * HALF) * MULTIPLIERS[0]);
            u64v c2 = (c3 >> 32) ^ all64(philox.draw[1] ^ key[0][1]);
            u64v product1 = multiply_wide(c2, all64((uint64_t)MULTIPLIERS[1]));
            state[set].c0 = (product1 >> 32) ^ all64(c1 ^ key[1][0]);
            state[set].c1 = product1;
            state[set].c2 = c3 ^ all64((product0 >> 32) ^ key[1][1]);
            state[set].c3 = all64(product0);
        }
        philox_rest<2>(state, philox, words + 4 * first);
    }
}

// -- fp32 ---------------------------------------------------------------------------------------------------------

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

// Where a word lies: the distance of its probability from 1/2, or the tail beyond it, and the sign of its quantile.
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

// The same where both sides are equal, with 2^31 words each.
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

// Whether a draw in [0, 1) can leave the bounds: if so the least or the greatest does, as rounding keeps the order.
inline bool leaves_bounds(const Affine32& affine) {
    const Affine32 free = {affine.scale, affine.shift, affine.low, affine.high, false};
    float least = free(all32(0.0f))[0], most = free(all32(1.0f - 0x1p-24f))[0];
    return !(affine.low <= least && least <= affine.high && affine.low <= most && most <= affine.high);
}

// Two vectors at a time, as that is what fills one of 16-bit numbers.
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
struct NoSubnormal {  // a BFloat16 that is none
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

// The quantile near the centre for all, and in the tails, which few words reach, for those words moved together.
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
    for (int i = count; i < count + LANES; i++) far_words[i] = 0;  // what fills the last vector
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

// -- fp64 ---------------------------------------------------------------------------------------------------------

constexpr double AS241_CENTRAL[2][8] = {
    {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3},
    {1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3, 2.1213794301586595867e4,
     3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3}};
constexpr double AS241_MIDDLE[2][8] = {
    {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4},
    {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1, 1.48103976427480074590e-1,
     1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9}};
constexpr double AS241_FAR[2][8] = {
    {6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7},
    {1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2, 7.86869131145613259100e-4,
     1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15}};
constexpr double LN2_64 = 0.69314718055994530942;
constexpr double ATANH[] = {1.0,        1.0 / 3.0,  1.0 / 5.0,  1.0 / 7.0,  1.0 / 9.0, 1.0 / 11.0,
                            1.0 / 13.0, 1.0 / 15.0, 1.0 / 17.0, 1.0 / 19.0, 1.0 / 21.0};
constexpr int64_t BITS_SQRT_HALF_64 = 0x3fe6a09e667f3bcd;

template <int N>
inline f64v horner64(const double (&coefficients)[N], f64v x) {
    f64v value = all64(coefficients[N - 1]);
#pragma GCC unroll 16
    for (int k = N - 2; k >= 0; k--) value = value * x + coefficients[k];
    return value;
}

inline f64v ratio64(const double (&region)[2][8], f64v x) { return horner64(region[0], x) / horner64(region[1], x); }

inline f64v log64(f64v p) {
    i64v shifted = (i64v)p - BITS_SQRT_HALF_64;
    f64v exponent = __builtin_convertvector(shifted >> 52, f64v);
    f64v f = (f64v)((shifted & 0xfffffffffffff) + BITS_SQRT_HALF_64) - 1.0;
    f64v x = f / (2.0 + f);
    return exponent * LN2_64 + 2.0 * x * horner64(ATANH, x * x);
}

inline f64v quantile64(f64v q, f64v p) {
    f64v z = q * ratio64(AS241_CENTRAL, 0.180625 - q * q);
    i64v outer = q > 0.425;
    if (any(outer)) {
        f64v r = sqrt64(-log64(select(outer, p, all64(0.5))));
        f64v tail = ratio64(AS241_MIDDLE, r - 1.6);
        i64v far = r > 5.0;
        if (any(far)) tail = select(far, ratio64(AS241_FAR, r - 5.0), tail);
        z = select(outer, tail, z);
    }
    return z;
}

inline u64v word53(const uint32_t* high, const uint32_t* low) {
    u64v upper = __builtin_convertvector(load<u32half>(high), u64v);
    u64v lower = __builtin_convertvector(load<u32half>(low), u64v);
    return (upper << 21) | (lower >> 11);
}

struct Affine64 {
    double scale, shift, low, high;

    inline f64v operator()(f64v x) const { return clamp64(x, all64(low), all64(high)); }
};

void uniform64_block(const uint32_t* high, const uint32_t* low, const Affine64& affine, double* out) {
    for (int i = 0; i < BLOCK; i += HALF) {
        f64v u = __builtin_convertvector((i64v)word53(high + i, low + i), f64v) * 0x1p-53;
        store(out + i, affine(affine.shift + u * affine.scale));
    }
}

void normal64_block(const uint32_t* high, const uint32_t* low, const zeta_job& job, const Affine64& affine,
                    double* out) {
    int64_t split = (int64_t)job.split;
    for (int i = 0; i < BLOCK; i += HALF) {
        i64v word = (i64v)word53(high + i, low + i), below = word < split;
        i64v number = select(below, split - 1 - word, word - split);
        i64v mirrored = select(below, (int64_t)job.negative.count - 1 - number, (int64_t)job.positive.count - 1 - number);
        f64v scale = select(below, all64(job.negative.scale), all64(job.positive.scale));
        f64v q = __builtin_convertvector(number, f64v) * scale +
                 select(below, all64(job.negative.q_offset), all64(job.positive.q_offset));
        f64v p = __builtin_convertvector(mirrored, f64v) * scale +
                 select(below, all64(job.negative.p_offset), all64(job.positive.p_offset));
        f64v z = quantile64(q, p);
        z = select(below, -z, z);
        store(out + i, affine(affine.shift + z * affine.scale));
    }
}

// -- blocks ---------------------------------------------------------------------------------------------------------

// What all blocks of a job share.
struct Prepared {
    const zeta_job* job;
    Philox philox, philox_low;
    Affine32 affine32;
    Affine64 affine64;
    bool symmetric;
    Symmetric centred;
    Sides sides;
    bool streams = false;
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

// Pieces of runs that do not fill an aligned block share one, counter by counter.
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
    Segment segments_[COUNTERS];  // each takes a counter at least
};

// A block by way of the first cache, and past the others.
template <class Out>
NOINLINE void stream_block(const Prepared& prepared, const uint32_t* words, const uint32_t* low, Out* out) {
    alignas(64) Out values[BLOCK];
    values_block(prepared, words, low, values);
#pragma GCC unroll 4
    for (int i = 0; i < BLOCK; i += LINE / (int)sizeof(Out)) stream_line(out + i, values + i);
}

// Aligned blocks go straight to memory, the rest through the batch.
template <class Out>
void fill_run(const Prepared& prepared, Batch<Out>& batch, uint64_t index, int64_t count, Out* out, int64_t stride) {
    if (stride == 1) {
        int64_t head = (int64_t)(-index & (BLOCK - 1));
        if (count >= head + BLOCK) {
            batch.add(index, head, out, 1);
            index += (uint64_t)head, count -= head, out += head;
            for (; count >= BLOCK; index += BLOCK, count -= BLOCK, out += BLOCK) {
                alignas(64) uint32_t words[BLOCK], low[BLOCK];
                philox_run(index / 4, prepared.philox, words);
                if (is_double<Out>) philox_run(index / 4, prepared.philox_low, low);
                if (prepared.streams && (uintptr_t)out % LINE == 0)
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
    Prepared prepared = prepare(job);
    prepared.streams = piece.streams;
    Batch<Out> batch(prepared);
    int64_t index_stride = job.index_stride[INNER], out_stride = job.out_stride[INNER];
    for (int64_t row = piece.first; row < piece.last; row++) {
        int64_t index = job.start + offset_of(row, job.size, job.index_stride) + piece.begin * index_stride;
        Out* out = (Out*)job.out + offset_of(row, job.size, job.out_stride) + piece.begin * out_stride;
        int64_t count = piece.end - piece.begin;
        if (index_stride == 1)
            fill_run(prepared, batch, (uint64_t)index, count, out, out_stride);
        else
            for (int64_t i = 0; i < count; i++) batch.add((uint64_t)(index + i * index_stride), 1, out + i * out_stride, 1);
    }
    batch.flush();
    if (piece.streams) streamed();
}

#ifdef ZETA_ROUND_BFLOAT16
// Whether no result is a subnormal number. Draws are 0 or at least 2^-24 (uniform) or q (normal). With a shift, a result
// is 0, or at least half the shift, or what is left where the product cancels it: a multiple of the product's last bit,
// 2^-49 times the shift or more.
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

// -- what lies in memory ------------------------------------------------------------------------------------------

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

// Four independent sums, so that one addition need not wait for the last.
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
