// A controller bundle: see docs/deployment.md for the format.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "json.hpp"

using Arrays = std::map<std::string, std::vector<float>>;

struct GoldenPlan {
    Arrays inputs, outputs;
    double action = 1e-4, value = INFINITY;  // how far rounding may move it: in half widths of the range, and in value
};

struct Bundle {
    std::string folder;
    Json manifest;
    std::vector<std::string> sensors;  // graph inputs
    std::vector<std::string> noise;    // graph inputs, none where it is baked in
    std::map<std::string, size_t> sizes;  // of all graph inputs
    std::vector<float> low, high;      // of the actuators
    double macs = 0, bytes = 0;

    std::string file(const std::string& name) const { return folder + "/" + name; }
};

// Throws std::runtime_error with what to do where the bundle is damaged, incomplete or from a newer version.
Bundle read_bundle(const std::string& folder);
std::vector<GoldenPlan> read_golden(const Bundle& bundle);
