// The controller of a robot: plans from sensor readings, remembers its plans, draws its own noise. As deploy/controller.py.
#pragma once

#include <map>
#include <memory>
#include <random>
#include <vector>

#include "bundle.hpp"
#include "graph.hpp"
#include "plan_runner.hpp"
#include "safety.hpp"

namespace tdmpc {

struct Golden {
    double deviation = 0;  // largest difference to the golden actions, in half widths of the actuators' range
    bool holds = true;     // whether rounding explains the differences
};

class Controller {
public:
    // Throws std::runtime_error where the manifest describes another graph, or the bundle cannot plan as asked, for example
    // where a pipeline has no delay to plan in. The bundle must outlive it.
    Controller(const Bundle& bundle, const Runtime& runtime, const Mode& mode = {}, const Safety& safety = {});
    // With graphs that are loaded already: the planner, or start and refine where there is a deadline; and the policy for the
    // fault policy `prior`.
    Controller(const Bundle& bundle, Graphs graphs, const Mode& mode, const Safety& safety, Clock clock = std::chrono::steady_clock::now);

    // Begins an episode; waits for the plan that is being made.
    void reset(unsigned long long seed);
    // What the actuators take now. Where a reading or a plan is not finite, or no plan reaches as far, the fault policy
    // decides. The first actions of an episode, as many as the delay, are the middle of the range. Throws ControlFault where
    // the fault policy is `raise`, and nothing else. `released` is when the decision was due: a deadline runs from there, and
    // not from this call, so that what a loop was woken late is made good.
    const Action& act(const Arrays& readings, double age_ms = 0, Moment released = Moment::max());
    Golden replay(const std::vector<GoldenPlan>& plans);

    const Graph& graph() const { return *graphs_.begin()->second; }
    bool planning() const { return !plan_runner_.is_free({}); }  // whether a plan is being made
    long faults() const { return faults_; }
    double ratio() const { return watch_.ratio(); }  // part of the action that is the plan's; below 1 while it blends in
    long late_plans() const { return late_plans_; }  // decisions for which no new plan was ready

private:
    void start();
    void plan(Moment until);
    void take_up();
    Action due();
    Action fallback_action(const Action& held);
    bool decided_for(long decision, Action& action) const;
    std::vector<Action> committed() const;
    Arrays inputs() const;
    long begins() const { return decision_ + static_cast<long>(bundle_.delay); }  // the decision that is planned now

    const Bundle& bundle_;
    const Graphs graphs_;
    Watch watch_;
    const Clock clock_;
    Moment::duration deadline_{0};
    std::vector<ControlFault> found_;  // in this decision
    Arrays readings_;                  // the last good ones
    std::mt19937_64 random_;
    std::normal_distribution<float> normal_;
    long decision_ = 0, began_ = 0;  // of now, of the episode's beginning
    std::vector<Plan> plans_;
    std::map<long, Action> decided_;  // actions that no plan gives
    Action middle_, action_;
    bool acted_ = false;
    long faults_ = 0, late_plans_ = 0;
    PlanRunner plan_runner_;  // last, so that its thread ends before what it uses
};

}  // namespace tdmpc
