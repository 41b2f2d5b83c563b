#include "controller.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace {

bool finite(const std::vector<float>& values) {
    return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

}  // namespace

Controller::Controller(const Bundle& bundle, const Runtime& runtime)
    : bundle_(bundle), graph_(load_graph(bundle.file("planner.onnx"), runtime)) {
    reset(0);
}

void Controller::reset(unsigned long long seed) {
    random_.seed(seed);
    normal_.reset();
    begin();
}

void Controller::begin() {
    auto& mean = graph_->input("previous_mean");
    std::fill(mean.begin(), mean.end(), 0.0f);
    action_.resize(bundle_.low.size());
    for (size_t index = 0; index < action_.size(); ++index)
        action_[index] = std::min(std::max(0.0f, bundle_.low[index]), bundle_.high[index]);
}

bool Controller::sense(const Arrays& readings) {
    for (const auto& name : bundle_.sensors) {
        const auto reading = readings.find(name);
        auto& input = graph_->input(name);
        if (reading == readings.end() || reading->second.size() != input.size() || !finite(reading->second)) return false;
        std::copy(reading->second.begin(), reading->second.end(), input.begin());
    }
    return true;
}

const std::vector<float>& Controller::act(const Arrays& readings) {
    if (!sense(readings)) {
        ++faults_;
        return action_;
    }
    for (const auto& name : bundle_.noise)
        for (auto& draw : graph_->input(name)) draw = normal_(random_);
    graph_->run();
    const auto &action = graph_->output("action"), &mean = graph_->output("new_mean");
    if (!finite(action) || !finite(mean)) {
        ++faults_;
        return action_;
    }
    action_ = action;
    std::copy(mean.begin(), mean.end(), graph_->input("previous_mean").begin());
    return action_;
}

double Controller::golden_deviation(const std::vector<GoldenPlan>& plans) {
    double largest = 0;
    for (const auto& plan : plans) {
        for (const auto& [name, values] : plan.inputs) {
            auto& input = graph_->input(name);
            if (input.size() != values.size()) throw std::runtime_error("golden.bin does not fit the planner");
            std::copy(values.begin(), values.end(), input.begin());
        }
        graph_->run();
        const auto &action = graph_->output("action"), &golden = plan.outputs.at("action");
        for (size_t index = 0; index < action.size(); ++index) {
            const double half = (bundle_.high[index] - bundle_.low[index]) / 2.0;
            const double difference = std::abs(action[index] - golden[index]) / half;
            largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
        }
    }
    begin();
    return largest;
}
