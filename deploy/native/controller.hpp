// The controller of a robot: plans from sensor readings, remembers its last plan, draws its own noise.
#pragma once

#include <memory>
#include <random>

#include "bundle.hpp"
#include "graph.hpp"

struct Golden {
    double deviation = 0;  // largest difference to the golden actions, in half widths of the actuators' range
    bool holds = true;     // whether rounding explains the differences
};

class Controller {
public:
    // Throws std::runtime_error where the manifest describes another graph.
    Controller(const Bundle& bundle, const Runtime& runtime);

    void reset(unsigned long long seed);
    // What the actuators take. A reading or a plan that is not finite leaves the last action as it is.
    const std::vector<float>& act(const Arrays& readings);
    Golden replay(const std::vector<GoldenPlan>& plans);

    const Graph& graph() const { return *graph_; }
    long faults() const { return faults_; }

private:
    void start();
    bool read(const Arrays& readings);

    const Bundle& bundle_;
    std::unique_ptr<Graph> graph_;
    std::mt19937_64 random_;
    std::normal_distribution<float> normal_;
    std::vector<float> action_;
    long faults_ = 0;
};
