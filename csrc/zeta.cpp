// The C interface: choose an instruction set, cut jobs into units of work, distribute the units over threads.
#include "zeta.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#include "dispatch.hpp"

namespace {

struct Isa {
    const char* name;
    zeta::Kernels kernels;
};

const std::vector<Isa>& isas() {
    static const std::vector<Isa> usable = [] {
        std::vector<Isa> all;
#if defined(__x86_64__)
        __builtin_cpu_init();
        bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
        bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
        if (avx512 && __builtin_cpu_supports("avx512bf16")) all.push_back({"avx512_bf16", zeta::avx512_bf16_kernels});
        if (avx512) all.push_back({"avx512", zeta::avx512_kernels});
        if (avx2) all.push_back({"avx2", zeta::avx2_kernels});
#elif defined(__aarch64__)
        all.push_back({"neon", zeta::neon_kernels});
#endif
        all.push_back({"portable", zeta::portable_kernels});
        return all;
    }();
    return usable;
}

// Streaming stores bypass the caches, so that the processor need not read the memory that it overwrites. On Zen 5 one
// core uses the whole memory bandwidth, and they make a uniform fill on two cores 1.4 times as fast; Zen 4 gained
// nothing. Other processors were not measured.
bool streams_well() {
#if defined(__x86_64__)
    unsigned eax, ebx, ecx, edx;
    __builtin_cpu_init();
    if (!__builtin_cpu_is("amd") || !__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return false;
    return (eax >> 8 & 0xf) + (eax >> 20 & 0xff) >= 0x1a;
#else
    return false;
#endif
}

// Keeps subnormal numbers and rounds to nearest, whatever the calling thread has set; restores its setting.
class FloatingPointDefaults {
  public:
#if defined(__x86_64__)
    FloatingPointDefaults() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
    ~FloatingPointDefaults() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#elif defined(__aarch64__)
    FloatingPointDefaults() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" ::"r"((uint64_t)0));
    }
    ~FloatingPointDefaults() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

  private:
    uint64_t saved_;
#endif
};

constexpr int64_t UNIT = 1 << 16;            // elements of a unit of work, which stay in a core's cache
constexpr int64_t WORTH_A_THREAD = 1 << 17;  // elements per thread; starting one takes as long as some 10,000 elements
constexpr int64_t BEYOND_CACHES = 1 << 25;   // bytes; a large part of smaller results stays in the last-level cache

using zeta::INNER;

struct Unit {
    int64_t owner;  // the number of the job or view
    zeta::Piece piece;
};

int64_t rows_of(const int64_t* size) {
    int64_t rows = 1;
    for (int dim = 0; dim < INNER; dim++) rows *= size[dim];
    return rows;
}

template <class Owner>
std::vector<Unit> units_of(const Owner* owners, int64_t count, bool streams = false) {
    std::vector<Unit> units;
    for (int64_t owner = 0; owner < count; owner++) {
        int64_t rows = rows_of(owners[owner].size), inner = owners[owner].size[INNER];
        if (rows == 0 || inner == 0) continue;
        int64_t step = std::max<int64_t>(1, UNIT / inner);
        for (int64_t row = 0; row < rows; row += step)
            for (int64_t begin = 0; begin < inner; begin += UNIT)
                units.push_back(
                    {owner, {row, std::min(row + step, rows), begin, std::min(begin + UNIT, inner), streams}});
    }
    return units;
}

// Call `loop` on the calling thread and up to `threads - 1` new ones.
template <class Loop>
void on_own_threads(int64_t threads, const Loop& loop) {
    std::vector<std::thread> helpers;
    try {
        while ((int64_t)helpers.size() + 1 < threads) helpers.emplace_back(loop);
    } catch (const std::system_error&) {
        // no more threads can be started: the existing ones do all the work
    }
    loop();
    for (std::thread& helper : helpers) helper.join();
}

// Call work(number of the unit) for each unit, on as many threads as are worthwhile.
template <class Work>
void share(int64_t units, int64_t elements, int32_t threads, zeta_team team, const Work& work) {
    std::atomic<int64_t> next{0};
    auto loop = [&] {
        FloatingPointDefaults defaults;
        for (int64_t unit; (unit = next.fetch_add(1, std::memory_order_relaxed)) < units;) work(unit);
    };
    int64_t wanted = std::min<int64_t>({threads, units, elements / WORTH_A_THREAD + 1});
    if (team && wanted > 1)
        team([](void* data) { (*(decltype(loop)*)data)(); }, &loop, (unsigned)wanted, 0);
    else
        on_own_threads(wanted, loop);
}

const Isa* isa_named(const char* name) {
    for (const Isa& isa : isas())
        if (!std::strcmp(isa.name, name)) return &isa;
    return nullptr;
}

int64_t bytes_of(int32_t dtype) {
    return dtype == ZETA_FLOAT64 ? 8 : dtype == ZETA_FLOAT32 || dtype == ZETA_UINT32 ? 4 : 2;
}

bool valid_sizes(const int64_t* size, const void* memory) {
    for (int dim = 0; dim < ZETA_DIMS; dim++)
        if (size[dim] < 0) return false;
    return memory || rows_of(size) * size[INNER] == 0;
}

bool valid(const zeta_job& job) {
    bool real = job.dtype >= ZETA_FLOAT32 && job.dtype <= ZETA_FLOAT64;
    bool kind = job.kind == ZETA_WORDS ? job.dtype == ZETA_UINT32
                                       : real && (job.kind == ZETA_UNIFORM || job.kind == ZETA_NORMAL);
    return kind && job.start >= 0 && valid_sizes(job.size, job.out);
}

bool valid(const zeta_view& view) {
    return view.dtype >= ZETA_FLOAT32 && view.dtype <= ZETA_FLOAT64 && valid_sizes(view.size, view.data);
}

// The number of elements of all jobs or views, or -1 if one is invalid.
template <class Owner>
int64_t elements_of(const Owner* owners, int64_t count) {
    int64_t elements = 0;
    for (int64_t owner = 0; owner < count; owner++) {
        if (!valid(owners[owner])) return -1;
        elements += rows_of(owners[owner].size) * owners[owner].size[INNER];
    }
    return elements;
}

}  // namespace

int32_t zeta_abi(void) { return ZETA_ABI; }

int64_t zeta_job_size(void) { return (int64_t)sizeof(zeta_job); }

int64_t zeta_view_size(void) { return (int64_t)sizeof(zeta_view); }

const char* zeta_isas(void) {
    static const std::string names = [] {
        std::string all;
        for (const Isa& isa : isas()) all += (all.empty() ? "" : ",") + std::string(isa.name);
        return all;
    }();
    return names.c_str();
}

int64_t zeta_stream_from(void) {
    static const int64_t from = streams_well() ? BEYOND_CACHES : std::numeric_limits<int64_t>::max();
    return from;
}

// no exception may leave a function of C; memory is allocated before anything is written
constexpr int32_t NO_MEMORY = 3;

int32_t zeta_fill(const char* name, const zeta_job* jobs, int64_t count, int64_t stream_from, int32_t threads,
                  zeta_team team) try {
    const Isa* isa = isa_named(name);
    if (!isa) return 1;
    int64_t elements = elements_of(jobs, count);
    if (elements < 0) return 2;
    int64_t bytes = 0;
    for (int64_t job = 0; job < count; job++)
        bytes += rows_of(jobs[job].size) * jobs[job].size[INNER] * bytes_of(jobs[job].dtype);
    const std::vector<Unit> units = units_of(jobs, count, bytes >= stream_from);
    share((int64_t)units.size(), elements, threads, team,
          [&](int64_t unit) { isa->kernels.fill(jobs[units[unit].owner], units[unit].piece); });
    return 0;
} catch (const std::bad_alloc&) {
    return NO_MEMORY;
}

int32_t zeta_measure(const char* name, const zeta_view* views, zeta_moments* moments, int64_t count,
                     int32_t threads, zeta_team team) try {
    const Isa* isa = isa_named(name);
    if (!isa) return 1;
    int64_t elements = elements_of(views, count);
    if (elements < 0) return 2;
    constexpr zeta_moments NOTHING = {0.0, 0.0, std::numeric_limits<double>::infinity(),
                                      -std::numeric_limits<double>::infinity()};
    const std::vector<Unit> units = units_of(views, count);
    std::vector<zeta_moments> parts(units.size(), NOTHING);
    share((int64_t)units.size(), elements, threads, team, [&](int64_t unit) {
        isa->kernels.measure(views[units[unit].owner], units[unit].piece, parts[unit]);
    });
    std::fill(moments, moments + count, NOTHING);
    for (size_t unit = 0; unit < units.size(); unit++) {
        zeta_moments& total = moments[units[unit].owner];
        total.sum += parts[unit].sum;
        total.squares += parts[unit].squares;
        total.low = std::min(total.low, parts[unit].low);
        total.high = std::max(total.high, parts[unit].high);
    }
    return 0;
} catch (const std::bad_alloc&) {
    return NO_MEMORY;
}
