// The latency protocol of deploy/latency.py: the same rounds, the same figures, the same JSON.
#pragma once

#include <functional>
#include <vector>

#include "json.hpp"

struct Times {
    std::vector<std::vector<double>> wall_s;  // of each call, round by round; in periodic mode from the release on
    std::vector<double> late_s;               // periodic mode: how long after its release a call began
    std::vector<bool> missed;
    double cpu_s = 0, busy_s = 0;
    long preemptions = 0;  // of the calls, by other processes
};

struct Before {
    double load, stolen_s;  // seconds that a hypervisor gave the cores to others; not a number where nobody counts them
};

Times single_stream(const std::function<void()>& decide, int calls, double seconds);
Times periodic(const std::function<void()>& decide, double period_s, int periods);

// Fields of a row; period_ms is 0 in single-stream mode.
void add_figures(JsonObject& row, const Times& times, double period_ms, double macs);
void add_machine(JsonObject& row, const Times& times, const Before& begun, int threads);

Before before();
double seconds_now();
