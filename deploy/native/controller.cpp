#include "controller.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace {

bool finite(const std::vector<float>& values) {
    return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

const std::vector<float>& output(const GoldenPlan& plan, const std::string& name, size_t size) {
    const auto found = plan.outputs.find(name);
    if (found == plan.outputs.end() || found->second.size() != size)
        throw std::runtime_error("golden.bin does not fit the planner");
    return found->second;
}

// The manifest against the graph: names, sizes, and everything that the graph was exported with.
void check(const Bundle& bundle, Graph& graph) {
    const std::string cause = bundle.file("manifest.json") + " does not fit planner.onnx: ";
    for (const auto& [name, size] : bundle.sizes)
        if (graph.input(name).size() != size)
            throw std::runtime_error(cause + "input '" + name + "' has " + std::to_string(size) + " numbers in the manifest and " +
                                     std::to_string(graph.input(name).size()) + " in the graph");
    for (const auto& [name, values] : graph.inputs())
        if (bundle.sizes.count(name) == 0) throw std::runtime_error(cause + "it says nothing of input '" + name + "'");
    if (graph.output("action").size() != bundle.low.size())
        throw std::runtime_error(cause + "they differ in the number of actuators");
    if (graph.manifest().empty()) return;
    const Json carried = read_json(graph.manifest());
    for (const auto& [name, value] : carried.items())
        if (nlohmann::json(part(bundle.manifest, name)) != nlohmann::json(value))  // whatever the order of members
            throw std::runtime_error(cause + "the graph was exported with another '" + name + "'. Copy the bundle again");
}

}  // namespace

Controller::Controller(const Bundle& bundle, const Runtime& runtime)
    : bundle_(bundle), graph_(load_graph(bundle.file("planner.onnx"), runtime)) {
    check(bundle, *graph_);
    reset(0);
}

void Controller::reset(unsigned long long seed) {
    random_.seed(seed);
    normal_.reset();
    start();
}

void Controller::start() {
    auto& mean = graph_->input("previous_mean");
    std::fill(mean.begin(), mean.end(), 0.0f);
    action_.resize(bundle_.low.size());
    for (size_t index = 0; index < action_.size(); ++index)
        action_[index] = std::min(std::max(0.0f, bundle_.low[index]), bundle_.high[index]);
}

bool Controller::read(const Arrays& readings) {
    for (const auto& name : bundle_.sensors) {
        const auto reading = readings.find(name);
        auto& input = graph_->input(name);
        if (reading == readings.end() || reading->second.size() != input.size() || !finite(reading->second)) return false;
        std::copy(reading->second.begin(), reading->second.end(), input.begin());
    }
    return true;
}

const std::vector<float>& Controller::act(const Arrays& readings) {
    if (!read(readings)) {
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

Golden Controller::replay(const std::vector<GoldenPlan>& plans) {
    Golden found;
    for (const auto& plan : plans) {
        for (const auto& [name, values] : plan.inputs) {
            auto& input = graph_->input(name);
            if (input.size() != values.size()) throw std::runtime_error("golden.bin does not fit the planner");
            std::copy(values.begin(), values.end(), input.begin());
        }
        graph_->run();
        double largest = 0;
        const auto &action = graph_->output("action"), &golden = output(plan, "action", action.size());
        for (size_t index = 0; index < action.size(); ++index) {
            const double half = (bundle_.high[index] - bundle_.low[index]) / 2.0;
            const double difference = std::abs(action[index] - golden[index]) / half;
            largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
        }
        const double value = std::abs(graph_->output("value")[0] - output(plan, "value", 1)[0]);
        found.deviation = std::max(found.deviation, largest);
        found.holds = found.holds && largest <= plan.action && !std::isnan(value) && value <= plan.value;
    }
    start();
    return found;
}
