// A controller bundle: see docs/deployment.md for the format.
#pragma once

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tdmpc {

using Arrays = std::map<std::string, std::vector<float>>;
using Json = nlohmann::ordered_json;  // members in the order of the file, which is that of the arrays in a golden file

struct GoldenPlan {
    Arrays inputs, outputs;
    double action = 1e-4, value = INFINITY;  // how far rounding may move it: in half widths of the range, and in value
};

struct Sensor {
    std::string name;
    std::vector<float> seen_low, seen_high;  // in training; none in older bundles
    bool repeats = true;                     // whether training ever saw the same reading twice
};

struct Bundle {
    std::string folder;
    Json manifest;
    std::vector<std::string> sensors;  // graph inputs
    std::vector<Sensor> described;     // what else is known of each
    std::vector<std::string> noise;    // graph inputs, none where it is baked in
    std::map<std::string, size_t> sizes;  // of all graph inputs
    std::vector<float> low, high;      // of the actuators
    size_t horizon = 0, delay = 0;     // decisions of a plan; from an observation to the action planned from it
    size_t iterations = 0;             // of a plan
    double period_ms = NAN;            // between decisions, where the environment tells
    double max_change = INFINITY;      // of an action from the one before, in half widths of its range
    std::string precision;             // "float32" or "int8"
    long long macs = 0, bytes = 0;     // multiply-adds that a plan runs

    bool takes_committed() const { return delay > 0 || std::isfinite(max_change); }
    std::string file(const std::string& name) const { return folder + "/" + name; }
};

// Throws std::runtime_error with what to do where the bundle is damaged, incomplete or from a newer version.
Bundle read_bundle(const std::string& folder);
std::vector<GoldenPlan> read_golden(const Bundle& bundle);

// Both throw std::runtime_error: where the text is no JSON, and where there is no such part.
Json read_json(const std::string& text);
const Json& part(const Json& whole, const std::string& name);

}  // namespace tdmpc
