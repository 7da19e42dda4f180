// The C interface from outside: a call on standard input, its memory and answers on standard output.
// The call says by offsets where in the memory that comes with it a job or view lies.
#include <cstdio>
#include <vector>

#include "zeta.h"

namespace {

struct Call {
    char isa[16];
    int64_t measures, threads, count, bytes;
};

template <class Item>
std::vector<Item> read(int64_t count) {
    std::vector<Item> items((size_t)count);
    items.resize(std::fread(items.data(), sizeof(Item), items.size(), stdin));
    return items;
}

template <class Item>
void write(const std::vector<Item>& items) {
    std::fwrite(items.data(), sizeof(Item), items.size(), stdout);
}

}  // namespace

int main() {
    std::vector<Call> calls = read<Call>(1);
    if (calls.empty()) return std::puts(zeta_isas()) < 0;
    const Call& call = calls[0];
    if (call.measures) {
        std::vector<zeta_view> views = read<zeta_view>(call.count);
        std::vector<char> memory = read<char>(call.bytes);
        for (zeta_view& view : views) view.data = memory.data() + (size_t)view.data;
        std::vector<zeta_moments> moments(views.size());
        int32_t code = zeta_measure(call.isa, views.data(), moments.data(), call.count, (int32_t)call.threads, nullptr);
        write(moments);
        return code;
    }
    std::vector<zeta_job> jobs = read<zeta_job>(call.count);
    std::vector<char> memory = read<char>(call.bytes);
    for (zeta_job& job : jobs) job.out = memory.data() + (size_t)job.out;
    int64_t from = zeta_stream_from();
    int32_t code = zeta_fill(call.isa, jobs.data(), call.count, from, (int32_t)call.threads, nullptr);
    write(memory);
    return code;
}
