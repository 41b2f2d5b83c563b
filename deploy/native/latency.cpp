#include "latency.hpp"

#include <sched.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>

namespace {

constexpr int rounds = 5;
constexpr int warm_up = 20;
constexpr double own_share = 0.95;
constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

double read_clock(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

double cpu_now() { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }

void sleep_until(double moment) {
    timespec until{};
    until.tv_sec = static_cast<time_t>(moment);
    until.tv_nsec = static_cast<long>(1e9 * (moment - static_cast<double>(until.tv_sec)));
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) != 0) {
    }
}

// The value itself, never a mean of two; unknown where less than one value lies beyond.
double percentile(const std::vector<double>& sorted, double point) {
    const double size = static_cast<double>(sorted.size());
    if (size * (100 - point) / 100 < 1 - 1e-9) return unknown;
    return sorted[static_cast<size_t>(std::ceil((size - 1) * point / 100 - 1e-9))];
}

void add_summary(JsonObject& row, const std::string& prefix, std::vector<double> ms) {
    std::sort(ms.begin(), ms.end());
    row.number(prefix + "min_ms", ms.front());
    const std::pair<const char*, double> points[] = {{"p50", 50}, {"p90", 90}, {"p99", 99}, {"p999", 99.9}};
    for (const auto& [name, point] : points) row.number(prefix + name + "_ms", percentile(ms, point));
    row.number(prefix + "max_ms", ms.back());
}

std::vector<double> milliseconds(const std::vector<double>& seconds) {
    std::vector<double> ms;
    for (double value : seconds) ms.push_back(1000 * value);
    return ms;
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const size_t half = values.size() / 2;
    return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// The rate at which so many misses or fewer have this probability (Clopper and Pearson, Biometrika 26, 1934).
double rate_where(int misses, int trials, double probability) {
    double low = 0, high = 1;
    for (int step = 0; step < 60; ++step) {
        const double rate = (low + high) / 2;
        double at_most = 0, choices = 0;
        for (int count = 0; count <= misses; ++count) {
            if (count > 0) choices += std::log((trials - count + 1.0) / count);
            at_most += std::exp(choices + count * std::log(rate) + (trials - count) * std::log1p(-rate));
        }
        (at_most > probability ? low : high) = rate;
    }
    return high;
}

void add_periods(JsonObject& row, const Times& times, double period_ms) {
    const int trials = static_cast<int>(times.missed.size());
    int misses = 0, longest = 0, running = 0;
    for (bool miss : times.missed) {
        misses += miss;
        running = miss ? running + 1 : 0;
        longest = std::max(longest, running);
    }
    row.number("period_ms", period_ms).number("periods", trials).number("misses", misses);
    row.number("miss_rate", static_cast<double>(misses) / trials);
    row.number("miss_rate_lower95", misses == 0 ? 0 : rate_where(misses - 1, trials, 0.95));
    row.number("miss_rate_upper95", misses == trials ? 1 : rate_where(misses, trials, 0.05));
    row.number("longest_misses", longest);
    add_summary(row, "jitter_", milliseconds(times.late_s));
}

std::vector<double> all_ms(const Times& times) {
    std::vector<double> ms;
    for (const auto& round : times.wall_s)
        for (double value : round) ms.push_back(1000 * value);
    return ms;
}

double load_average() {
    double load = 0;
    return getloadavg(&load, 1) == 1 ? load : unknown;
}

double stolen_now() {
    std::ifstream file("/proc/stat");
    std::string name;
    double ticks = 0;
    file >> name;
    for (int field = 0; field < 8; ++field) file >> ticks;
    return file ? ticks / static_cast<double>(sysconf(_SC_CLK_TCK)) : unknown;
}

long preemptions_now() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nivcsw;
}

double priority() {
    sched_param now{};
    return sched_getscheduler(0) == SCHED_FIFO && sched_getparam(0, &now) == 0 ? now.sched_priority : unknown;
}

std::string processor() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);)
        if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
    return "unknown";
}

std::vector<double> affinity() {
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    std::vector<double> cores;
    for (int core = 0; core < CPU_SETSIZE; ++core)
        if (CPU_ISSET(core, &set)) cores.push_back(core);
    return cores;
}

}  // namespace

double seconds_now() { return read_clock(CLOCK_MONOTONIC); }

Before before() { return {load_average(), stolen_now()}; }

Times single_stream(const std::function<void()>& decide, int calls, double seconds) {
    Times times;
    for (int call = 0; call < warm_up; ++call) decide();
    for (int round = 0; round < rounds; ++round) {
        std::vector<double> wall;
        const long preemptions = preemptions_now();
        const double cpu = cpu_now(), begun = seconds_now();
        while (static_cast<double>(wall.size()) < static_cast<double>(calls) / rounds ||
               seconds_now() - begun < seconds / rounds) {
            const double entered = seconds_now();
            decide();
            wall.push_back(seconds_now() - entered);
            times.busy_s += wall.back();
        }
        times.cpu_s += cpu_now() - cpu;
        times.preemptions += preemptions_now() - preemptions;
        times.wall_s.push_back(std::move(wall));
    }
    return times;
}

Times periodic(const std::function<void()>& decide, double period_s, int periods) {
    Times times;
    for (int call = 0; call < warm_up; ++call) decide();
    for (int round = 0; round < rounds; ++round) {
        const int count = periods * (round + 1) / rounds - periods * round / rounds;
        std::vector<double> wall;
        const double start = seconds_now() + period_s;
        for (int number = 0; number < count;) {
            const double release = start + number * period_s;
            sleep_until(release);
            const long preemptions = preemptions_now();
            const double cpu = cpu_now(), entered = seconds_now();
            decide();
            const double ended = seconds_now();
            times.cpu_s += cpu_now() - cpu;
            times.preemptions += preemptions_now() - preemptions;
            times.busy_s += ended - entered;
            times.late_s.push_back(entered - release);
            wall.push_back(ended - release);
            // What 2.5 periods have passed over has missed its own deadline and skipped the next release.
            const int skipped =
                std::min(std::max(static_cast<int>((ended - release) / period_s) - 1, 0), count - number - 1);
            times.missed.push_back(ended - release > period_s);
            times.missed.insert(times.missed.end(), skipped, true);
            number += 1 + skipped;
        }
        if (!wall.empty()) times.wall_s.push_back(std::move(wall));
    }
    return times;
}

void add_figures(JsonObject& row, const Times& times, double period_ms, double macs) {
    const auto ms = all_ms(times);
    std::vector<double> medians;
    for (const auto& round : times.wall_s) medians.push_back(median(milliseconds(round)));
    const auto [least, most] = std::minmax_element(medians.begin(), medians.end());
    row.text("mode", period_ms > 0 ? "periodic" : "single").number("calls", static_cast<double>(ms.size()));
    add_summary(row, "", ms);
    row.numbers("repeat_p50_ms", medians).number("spread", (*most - *least) / median(medians));
    row.number("cpu_ms_mean", 1000 * times.cpu_s / static_cast<double>(ms.size()));
    row.number("cpu_share", times.cpu_s / times.busy_s);
    row.number("preemptions", static_cast<double>(times.preemptions));
    if (period_ms > 0) add_periods(row, times, period_ms);
    row.number("macs_per_s", 1000 * macs / median(ms));
}

void add_machine(JsonObject& row, const Times& times, const Before& begun, int threads) {
    const auto cores = affinity();
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const double free_cores = static_cast<double>(cores.size()) - threads;
    row.text("processor", processor()).number("cores", static_cast<double>(cores.size())).numbers("affinity", cores);
    row.number("load_before", begun.load).number("load_after", load_average());
    row.number("stolen_ms", 1000 * (stolen_now() - begun.stolen_s)).number("priority", priority());
    row.number("peak_rss_bytes", 1024.0 * static_cast<double>(usage.ru_maxrss));
    row.flag("contended", times.cpu_s / times.busy_s < own_share || begun.load > free_cores);
}
