#include "controller.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "contract.hpp"

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

std::vector<std::string> files(const Mode& mode, const Safety& safety) {
    std::vector<std::string> names{"planner.onnx"};
    if (mode.has_deadline()) names = {"start.onnx", "refine.onnx"};
    if (safety.on_fault == FaultPolicy::prior) names.push_back("policy.onnx");
    return names;
}

}  // namespace

Controller::Controller(const Bundle& bundle, const Runtime& runtime, const Mode& mode, const Safety& safety)
    : Controller(bundle, load_graphs(bundle, files(mode, safety), runtime), mode, safety) {}

Controller::Controller(const Bundle& bundle, Graphs graphs, const Mode& mode, const Safety& safety, Clock clock)
    : bundle_(bundle), graphs_(std::move(graphs)), watch_(bundle, safety), clock_(std::move(clock)), plan_runner_(bundle_, graphs_, mode, clock_) {
    if (mode.has_deadline())
        deadline_ = std::chrono::duration_cast<Moment::duration>(std::chrono::duration<double, std::milli>(mode.deadline_ms));
    for (size_t index = 0; index < bundle.low.size(); ++index) middle_.push_back((bundle.low[index] + bundle.high[index]) / 2);
    reset(0);
}

void Controller::reset(unsigned long long seed) {
    plan_runner_.wait();  // it draws
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

// What the fault policy does, where `held` would be held.
Action Controller::fallback_action(const Action& held) {
    if (watch_.on_fault() == FaultPolicy::prior && !readings_.empty()) {
        Graph& policy = *graphs_.at("policy.onnx");
        for (const auto& name : bundle_.sensors) policy.input(name) = readings_.at(name);
        policy.run();
        if (finite(policy.output("action"))) return policy.output("action");
    }
    return watch_.on_fault() == FaultPolicy::zero ? watch_.nought() : held;
}

const Action& Controller::act(const Arrays& readings, double age_ms, Moment released) {
    const Moment until = std::min(clock_(), released) + deadline_;
    ++decision_;
    found_.clear();
    try {
        take_up();  // a plan that was finished since
    } catch (const ControlFault& fault) {
        found_.push_back(fault);
    }
    try {
        watch_.examine(readings, age_ms);
        readings_ = readings;
        plan(until);
    } catch (const ControlFault& fault) {
        found_.push_back(fault);
        decided_[begins()] = fallback_action(bundle_.delay ? committed().back() : action_);
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

// Takes up what has been planned, and plans for the decision whose action follows those that are pending.
void Controller::plan(Moment until) {
    const bool free = plan_runner_.is_free(until);
    take_up();  // a plan that came late is a better warm start
    if (!free) return;
    const auto draw = [this](std::vector<float>& values) {
        for (auto& value : values) value = normal_(random_);
    };
    plan_runner_.plan(begins(), inputs(), draw, until);
    take_up();
}

Arrays Controller::inputs() const {
    Arrays inputs;
    for (const auto& name : bundle_.sensors) inputs[name] = readings_.at(name);
    auto& mean = inputs["previous_mean"];  // as of the decision before
    mean.resize(bundle_.sizes.at("previous_mean"));
    if (!plans_.empty()) {
        const auto& last = plans_.back();
        const long passed = begins() - 1 - last.decision;
        const size_t from = static_cast<size_t>(passed) * action_.size();
        if (passed >= 0 && from < mean.size())
            std::copy(last.mean.begin() + static_cast<std::ptrdiff_t>(from), last.mean.end(), mean.begin());
    }
    if (!bundle_.takes_committed()) return inputs;
    for (const auto& action : committed())
        for (size_t index = 0; index < action.size(); ++index) {
            const float half = (bundle_.high[index] - bundle_.low[index]) / 2;
            inputs["committed"].push_back(half > 0 ? (action[index] - middle_[index]) / half : 0.0f);
        }
    return inputs;
}

// The newest plan, if there is one of this episode.
void Controller::take_up() {
    auto plan = plan_runner_.finished();
    if (!plan || plan->decision - static_cast<long>(bundle_.delay) <= began_) return;
    if (finite(plan->action) && finite(plan->mean)) plans_.push_back(std::move(*plan));
    else if (plan->decision >= decision_)  // nobody waits for a late one any more
        throw ControlFault("plan", "", "the plan is not finite: are the readings ones that the agent could meet?");
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
        found_.emplace_back("late", "", "the plan is late, and no earlier one reaches as far");
        action = fallback_action(action_);
    } else if (late) {
        watch_.note("late", "a plan is late, and the one before is followed");
    }
    decided_.erase(decision_);
    return action;
}

Golden Controller::replay(const std::vector<GoldenPlan>& plans) {
    Golden found;
    for (const auto& plan : plans) {
        Arrays inputs = plan.inputs;
        for (const auto& [name, size] : bundle_.sizes)
            if (inputs[name].size() != size) throw std::runtime_error("golden.bin does not fit the planner");
        std::vector<float> noise;
        for (const auto& name : bundle_.noise) {
            noise.insert(noise.end(), inputs[name].begin(), inputs[name].end());
            inputs.erase(name);
        }
        const auto draw = [drawn = noise.begin()](std::vector<float>& values) mutable {
            const auto from = std::exchange(drawn, drawn + static_cast<std::ptrdiff_t>(values.size()));
            std::copy(from, drawn, values.begin());
        };
        plan_runner_.plan(decision_, inputs, draw, clock_() + std::chrono::hours(1));
        const auto made = plan_runner_.finished();
        double largest = 0;
        const auto &action = made->action, &golden = output(plan, "action", action.size());
        for (size_t index = 0; index < action.size(); ++index) {
            const double half = (bundle_.high[index] - bundle_.low[index]) / 2.0;
            const double difference = std::abs(action[index] - golden[index]) / half;
            largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
        }
        const double value = std::abs(made->value - output(plan, "value", 1)[0]);
        found.deviation = std::max(found.deviation, largest);
        found.holds = found.holds && largest <= plan.action && !std::isnan(value) && value <= plan.value;
    }
    return found;
}

}  // namespace tdmpc
