// What words in a row become under a job's law: the arithmetic of the kernels, for every word there is.
// Reads jobs, each with the first word as `start` and their number, a multiple of BLOCK, as the innermost size.
#include <cstdio>

#include ZETA_KERNELS

using namespace zeta::ZETA_NAMESPACE;

int main() {
    for (zeta_job job; std::fread(&job, sizeof job, 1, stdin) == 1; std::fflush(stdout)) {
        const Prepared prepared = prepare(job);
        for (int64_t first = 0; first < job.size[zeta::INNER]; first += BLOCK) {
            alignas(64) uint32_t words[BLOCK];
            alignas(64) float values[BLOCK];
            for (int i = 0; i < BLOCK; i++) words[i] = (uint32_t)(job.start + first + i);
            values_block(prepared, words, words, values);
            if (std::fwrite(values, sizeof values, 1, stdout) != 1) return 1;
        }
    }
}
