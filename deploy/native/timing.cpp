#include "timing.hpp"

#include <sched.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

namespace tdmpc {

namespace {

using Moment = std::chrono::steady_clock::time_point;

constexpr int rounds = 5;
constexpr int warm_up = 20;
constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

double read_clock(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

double cpu_now() { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }

// Both clocks are that of the system, CLOCK_MONOTONIC.
Moment moment(double seconds) {
    return Moment(std::chrono::duration_cast<Moment::duration>(std::chrono::duration<double>(seconds)));
}

void sleep_until(double moment) {
    timespec until{};
    until.tv_sec = static_cast<time_t>(moment);
    until.tv_nsec = static_cast<long>(1e9 * (moment - static_cast<double>(until.tv_sec)));
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) != 0) continue;
}

struct Times {
    std::vector<std::vector<double>> wall_s;  // of each call, round by round; in periodic mode from the release on
    std::vector<double> late_s;               // periodic mode: how long after its release a call began
    std::vector<bool> missed;
    double cpu_s = 0, busy_s = 0;
    long preemptions = 0;  // of the calls, by other processes
    long late_plans = 0;

    Json json() const {
        return {{"wall_s", wall_s}, {"late_s", late_s}, {"missed", missed},
                {"cpu_s", cpu_s},   {"busy_s", busy_s}, {"preemptions", preemptions},
                {"late_plans", late_plans}};
    }
};

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

rusage usage_now() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage;
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

std::vector<int> affinity() {
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    std::vector<int> cores;
    for (int core = 0; core < CPU_SETSIZE; ++core)
        if (CPU_ISSET(core, &set)) cores.push_back(core);
    return cores;
}

}  // namespace

double seconds_now() { return read_clock(CLOCK_MONOTONIC); }

Before before() { return {load_average(), stolen_now()}; }

Json single_stream(const Timed& subject, int calls, double seconds) {
    Times times;
    for (int call = 0; call < warm_up; ++call) subject.decide(Moment::max());
    for (int round = 0; round < rounds; ++round) {
        std::vector<double> wall;
        const long preemptions = usage_now().ru_nivcsw, late = subject.late_plans();
        const double cpu = cpu_now(), begun = seconds_now();
        while (static_cast<double>(wall.size()) < static_cast<double>(calls) / rounds ||
               seconds_now() - begun < seconds / rounds) {
            const double entered = seconds_now();
            subject.decide(Moment::max());
            wall.push_back(seconds_now() - entered);
            times.busy_s += wall.back();
        }
        times.cpu_s += cpu_now() - cpu;
        times.preemptions += usage_now().ru_nivcsw - preemptions;
        times.late_plans += subject.late_plans() - late;
        times.wall_s.push_back(std::move(wall));
    }
    return times.json();
}

Json periodic(const Timed& subject, double period_s, int periods) {
    Times times;
    for (int call = 0; call < warm_up; ++call) subject.decide(Moment::max());
    for (int round = 0; round < rounds; ++round) {
        const int count = periods * (round + 1) / rounds - periods * round / rounds;
        std::vector<double> wall;
        const long late = subject.late_plans();
        const double start = seconds_now() + period_s;
        for (int number = 0; number < count;) {
            const double release = start + number * period_s;
            sleep_until(release);
            const long preemptions = usage_now().ru_nivcsw;
            const double cpu = cpu_now(), entered = seconds_now();
            subject.decide(moment(release));
            const double ended = seconds_now();
            times.cpu_s += cpu_now() - cpu;
            times.preemptions += usage_now().ru_nivcsw - preemptions;
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
        times.late_plans += subject.late_plans() - late;
        times.wall_s.push_back(std::move(wall));
    }
    return times.json();
}

Json machine_facts(const Before& begun) {
    const auto cores = affinity();
    return {{"processor", processor()}, {"cores", cores.size()}, {"affinity", cores}, {"priority", priority()},
            {"load_before", begun.load}, {"load_after", load_average()}, {"peak_rss_bytes", 1024 * usage_now().ru_maxrss},
            {"stolen_ms", 1000 * (stolen_now() - begun.stolen_s)}};
}

}  // namespace tdmpc
