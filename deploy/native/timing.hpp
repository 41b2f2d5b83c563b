// The latency protocol of deploy/timing.py: the same rounds and timetables. What follows from the times, Python tells.
#pragma once

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>

namespace tdmpc {

using Json = nlohmann::ordered_json;

struct Before {
    double load, stolen_s;  // seconds that a hypervisor gave the cores to others; not a number where nobody counts them
};

struct Timed {
    // Given when the decision was due; the latest moment there is, if it was due at no time.
    std::function<void(std::chrono::steady_clock::time_point)> decide;
    std::function<long()> late_plans;  // decisions so far for which no new plan was ready
};

// Both give the fields of `tdmpc.deploy.timing.Times`.
Json single_stream(const Timed& subject, int calls, double seconds);
Json periodic(const Timed& subject, double period_s, int periods);

Before before();
// The fields of `machine.facts`, but for the versions; what is not known is null.
Json machine_facts(const Before& begun);
double seconds_now();

}  // namespace tdmpc
