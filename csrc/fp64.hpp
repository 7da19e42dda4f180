// fp64 values: each from 53 bits of two words; quantiles by Wichura's AS 241.

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
