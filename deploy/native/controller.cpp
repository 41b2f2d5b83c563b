#include "controller.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace tdmpc {

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

Controller::Controller(const Bundle& bundle, const Runtime& runtime, bool pipelined, const Safety& safety)
    : Controller(bundle, load_graph(bundle.file("planner.onnx"), runtime), pipelined, safety,
                 safety.on_fault == FaultPolicy::prior ? load_graph(bundle.file("policy.onnx"), runtime) : nullptr) {}

Controller::Controller(const Bundle& bundle, std::unique_ptr<Graph> graph, bool pipelined, const Safety& safety,
                       std::unique_ptr<Graph> policy)
    : bundle_(bundle), graph_(std::move(graph)), policy_(std::move(policy)), watch_(bundle, safety), thread_(pipelined ? std::make_unique<Thread>() : nullptr) {
    check(bundle, *graph_);
    if (pipelined && bundle.delay == 0)
        throw std::runtime_error(bundle.folder + " plans for the moment of the observation, and a pipeline answers before it "
                                 "has planned: export it with --delay 1, or more where a plan takes longer than a period");
    for (size_t index = 0; index < bundle.low.size(); ++index) middle_.push_back((bundle.low[index] + bundle.high[index]) / 2);
    reset(0);
}

void Controller::reset(unsigned long long seed) {
    if (running_.valid()) running_.wait();  // it draws
    random_.seed(seed);
    normal_.reset();
    start();
}

void Controller::start() {
    began_ = decision_;
    plans_.clear();
    decided_.clear();
    for (size_t number = 1; number <= bundle_.delay; ++number) decided_[decision_ + static_cast<long>(number)] = middle_;
    acted_ = false;
    action_ = watch_.nought();
    readings_.clear();
    watch_.reset();
}

void Controller::fault(const std::string& kind, const std::string& message) { found_.emplace_back(kind, "", message); }

// What the fault policy does, where `held` would be held.
Action Controller::instead(const Action& held) {
    if (watch_.on_fault() == FaultPolicy::prior && policy_ && !readings_.empty()) {
        for (const auto& name : bundle_.sensors) policy_->input(name) = readings_.at(name);
        policy_->run();
        if (finite(policy_->output("action"))) return policy_->output("action");
    }
    return watch_.on_fault() == FaultPolicy::zero ? watch_.nought() : held;
}

void Controller::decide_instead(long decision) {
    decided_[decision] = instead(bundle_.delay ? committed().back() : action_);
}

const Action& Controller::act(const Arrays& readings, double age_ms) {
    ++decision_;
    found_.clear();
    take_up();
    try {
        watch_.examine(readings, age_ms);
        readings_ = readings;
        if (!running_.valid()) plan(readings);
    } catch (const ControlFault& fault) {
        found_.push_back(fault);
        decide_instead(decision_ + static_cast<long>(bundle_.delay));
    }
    const Action planned = due();
    const Action action = watch_.applied(planned, acted_ ? &action_ : nullptr, !found_.empty());
    for (size_t index = 0; index < action.size(); ++index) {
        const float half = (bundle_.high[index] - bundle_.low[index]) / 2, before = acted_ ? action_[index] : middle_[index];
        const float change = static_cast<float>(bundle_.max_change) * half;
        action_[index] = std::isfinite(change) ? std::min(std::max(action[index], before - change), before + change) : action[index];
    }
    acted_ = true;
    faults_ += static_cast<long>(found_.size());
    watch_.tell(found_);
    if (!found_.empty() && watch_.on_fault() == FaultPolicy::raise) throw found_.front();
    return action_;
}

// Whatever the planner is given is written here, and read by its thread: only while it is not running.
void Controller::plan(const Arrays& readings) {
    fill(readings);
    planned_ = decision_ + static_cast<long>(bundle_.delay);
    const auto run = [this] {
        for (const auto& name : bundle_.noise)
            for (auto& draw : graph_->input(name)) draw = normal_(random_);
        graph_->run();
    };
    running_ = thread_ ? thread_->run(run) : std::async(std::launch::deferred, run);
    if (!thread_) take_up();
}

void Controller::fill(const Arrays& readings) {
    for (const auto& name : bundle_.sensors) graph_->input(name) = readings.at(name);
    auto& mean = graph_->input("previous_mean");  // as of the decision before
    std::fill(mean.begin(), mean.end(), 0.0f);
    if (!plans_.empty()) {
        const auto& last = plans_.back();
        const long passed = decision_ + static_cast<long>(bundle_.delay) - 1 - last.decision;
        const size_t from = static_cast<size_t>(passed) * action_.size();
        if (passed >= 0 && from < mean.size())
            std::copy(last.mean.begin() + static_cast<std::ptrdiff_t>(from), last.mean.end(), mean.begin());
    }
    if (!bundle_.takes_committed()) return;
    float* value = graph_->input("committed").data();
    for (const auto& action : committed())
        for (size_t index = 0; index < action.size(); ++index) {
            const float half = (bundle_.high[index] - bundle_.low[index]) / 2;
            *value++ = half > 0 ? (action[index] - middle_[index]) / half : 0.0f;
        }
}

bool Controller::planning() const {
    return thread_ && running_.valid() && running_.wait_for(std::chrono::seconds(0)) != std::future_status::ready;
}

// The plan that was made, if it is ready and of this episode.
void Controller::take_up() {
    if (!running_.valid() || planning()) return;
    bool holds = planned_ - static_cast<long>(bundle_.delay) > began_;
    try {
        running_.get();
    } catch (const std::exception& error) {  // whatever the runtime throws: the next decision asks it again
        fault("plan", std::string("the planner failed: ") + error.what());
        holds = false;
    }
    if (!holds) return;
    const auto &action = graph_->output("action"), &mean = graph_->output("new_mean");
    if (finite(action) && finite(mean))
        plans_.push_back({planned_, mean});
    else {
        fault("plan", "the plan is not finite: are the readings ones that the agent could meet?");
        if (!thread_) decide_instead(planned_);
    }
}

bool Controller::decided_for(long decision, Action& action) const {
    if (const auto found = decided_.find(decision); found != decided_.end()) {
        action = found->second;
        return true;
    }
    for (auto plan = plans_.rbegin(); plan != plans_.rend(); ++plan) {
        const long passed = decision - plan->decision;
        if (passed < 0 || passed >= static_cast<long>(bundle_.horizon)) continue;
        action.resize(bundle_.low.size());
        for (size_t index = 0; index < action.size(); ++index) {
            const float low = bundle_.low[index], high = bundle_.high[index];
            const float share = plan->mean[static_cast<size_t>(passed) * action.size() + index];
            action[index] = std::min(std::max((high + low) / 2 + (high - low) / 2 * share, low), high);
        }
        return true;
    }
    return false;
}

// The action before this decision, and those that are applied until what is planned now is.
std::vector<Action> Controller::committed() const {
    std::vector<Action> actions{acted_ ? action_ : middle_};
    for (long ahead = 0; ahead < static_cast<long>(bundle_.delay); ++ahead) {
        Action action = actions.back();
        decided_for(decision_ + ahead, action);
        actions.push_back(action);
    }
    return actions;
}

Action Controller::due() {
    // Of the plans that have begun only the last will be looked at again.
    while (plans_.size() > 1 && plans_[1].decision <= decision_) plans_.erase(plans_.begin());
    const bool planned = decided_.count(decision_) == 0;
    const bool late = planned && (plans_.empty() || plans_.front().decision != decision_);
    if (late) ++late_plans_;
    Action action;
    if (!decided_for(decision_, action)) {
        fault("late", "the plan is late, and no earlier one reaches as far");
        action = instead(action_);
    } else if (late) {
        watch_.note("late", "a plan is late, and the one before is followed");
    }
    decided_.erase(decision_);
    return action;
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
    return found;
}

}  // namespace tdmpc
