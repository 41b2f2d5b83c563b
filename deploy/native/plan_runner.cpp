#include "plan_runner.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "safety.hpp"

namespace tdmpc {

namespace {

// How much of the slowest iteration so far is still believed after another one: a hiccup is forgotten in time.
constexpr double slack = 0.9;

void check(const Bundle& bundle, const Mode& mode) {
    if (mode.pipelined && mode.has_deadline())
        throw std::runtime_error("a pipelined controller answers at once: give deadline_ms or pipelined, not both");
    if (mode.pipelined && bundle.delay == 0)
        throw std::runtime_error(bundle.folder + " plans for the moment of the observation, and a pipeline answers before it "
                                 "has planned: export it with --delay 1, or more where a plan takes longer than a period");
    if (mode.has_deadline() && !(mode.deadline_ms > 0 && mode.deadline_ms <= 1e9))
        throw std::runtime_error("deadline_ms must be positive and at most 1e9, got " + std::to_string(mode.deadline_ms));
}

}  // namespace

PlanRunner::PlanRunner(const Bundle& bundle, const Graphs& graphs, const Mode& mode, Clock clock)
    : bundle_(bundle),
      first_(*graphs.at(mode.has_deadline() ? "start.onnx" : "planner.onnx")),
      refine_(mode.has_deadline() ? graphs.at("refine.onnx").get() : nullptr),
      clock_(std::move(clock)) {
    check(bundle, mode);
    if (refine_)
        for (const auto& [name, values] : refine_->inputs())
            if (name != "noise" && first_.output(name).size() != values.size())
                throw std::runtime_error(bundle.folder + ": start.onnx and refine.onnx differ in '" + name + "'. Copy it again");
    if (refine_ || mode.pipelined) thread_ = std::make_unique<Thread>();
}

bool PlanRunner::is_free(Moment until) const {
    return !running_.valid() || running_.wait_for(until - clock_()) != std::future_status::timeout;
}

// What the first graph is given is written here, and read by the thread.
void PlanRunner::plan(long decision, const Arrays& inputs, Draw draw, Moment until) {
    for (const auto& [name, values] : inputs) first_.input(name) = values;
    latest_.reset();
    taken_ = abandoned_ = false;
    const auto make = [this, decision, draw = std::move(draw), until] {
        if (refine_) iterate(decision, draw, until);
        else whole(decision, draw);
    };
    running_ = thread_ ? thread_->run(make) : std::async(std::launch::deferred, make);  // without a thread `finished` plans
    is_free(until);
    abandoned_ = true;
}

std::optional<Plan> PlanRunner::finished() {
    try {
        if (running_.valid() && is_free({})) running_.get();
    } catch (const std::exception& error) {  // whatever the runtime throws
        throw ControlFault("plan", "", std::string("the planner failed: ") + error.what());
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    if (taken_ || !latest_) return std::nullopt;
    taken_ = true;  // what another iteration makes of it comes too late
    return latest_;
}

void PlanRunner::wait() const {
    if (running_.valid()) running_.wait();
}

void PlanRunner::whole(long decision, const Draw& draw) {
    for (const auto& name : bundle_.noise) draw(first_.input(name));
    first_.run();
    keep(decision, first_);
}

void PlanRunner::iterate(long decision, const Draw& draw, Moment until) {
    draw(first_.input("noise_policy"));
    first_.run();
    for (const auto& [name, values] : refine_->inputs())
        if (name != "noise") refine_->input(name) = first_.output(name);
    for (size_t number = 1; number <= bundle_.iterations; ++number) {
        const Moment begun = clock_();
        // The first iteration is made in any case: late, it still is the next warm start.
        if (number > 1 && (abandoned_ || begun + pace_ > until)) return;
        draw(refine_->input("noise"));
        refine_->run();
        refine_->input("mean") = refine_->output("new_mean");
        refine_->input("std") = refine_->output("new_std");
        keep(decision, *refine_);
        pace_ = std::max(clock_() - begun, std::chrono::duration_cast<Moment::duration>(slack * pace_));
    }
}

void PlanRunner::keep(long decision, const Graph& graph) {
    Plan plan{decision, graph.output("action"), graph.output("new_mean"), graph.output("value").at(0)};
    const std::lock_guard<std::mutex> lock(mutex_);
    latest_ = std::move(plan);
}

}  // namespace tdmpc
