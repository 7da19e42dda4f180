// Philox4x32-10 (Salmon et al. 2011): from counters and a key to words.

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
    u64v c0, c1, c2, c3;  // 32-bit words in 64-bit lanes; the upper halves are ignored
};

inline void philox_round(State& state, const uint64_t* key) {
    u64v product0 = multiply_wide(state.c0, all64((uint64_t)MULTIPLIERS[0]));
    u64v product1 = multiply_wide(state.c2, all64((uint64_t)MULTIPLIERS[1]));
    state.c0 = xor3(product1 >> 32, state.c1, all64(key[0]));
    state.c2 = xor3(product0 >> 32, state.c3, all64(key[1]));
    state.c1 = product1;
    state.c3 = product0;
}

// Do the rounds after the first `DONE`, and store the words of each counter together: c0 c1 c2 c3.
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

// The words of COUNTERS consecutive counters, from a multiple of COUNTERS on. All counters have the same upper words, so
// that half of the state is equal after one round, and a quarter after two: these parts are computed only once.
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
