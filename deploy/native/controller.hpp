// The controller of a robot: plans from sensor readings, remembers its plans, draws its own noise. As deploy/controller.py.
#pragma once

#include <future>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "bundle.hpp"
#include "graph.hpp"
#include "safety.hpp"
#include "thread.hpp"

namespace tdmpc {

struct Golden {
    double deviation = 0;  // largest difference to the golden actions, in half widths of the actuators' range
    bool holds = true;     // whether rounding explains the differences
};

class Controller {
public:
    // Pipelined it answers at once and plans in a thread, for what is due as many decisions later as the delay says.
    // Throws std::runtime_error where the manifest describes another graph, or a pipeline has no delay to plan in.
    // The bundle must outlive it. `policy` is only needed for the fault policy of that name.
    Controller(const Bundle& bundle, const Runtime& runtime, bool pipelined = false, const Safety& safety = {});
    Controller(const Bundle& bundle, std::unique_ptr<Graph> graph, bool pipelined, const Safety& safety = {},
               std::unique_ptr<Graph> policy = nullptr);

    // Begins an episode; waits for the plan that is being made.
    void reset(unsigned long long seed);
    // What the actuators take now. Where a reading or a plan is not finite, or no plan reaches as far, the fault policy
    // decides. The first actions of an episode, as many as the delay, are the middle of the range. Throws ControlFault where
    // the fault policy is `raise`, and nothing else.
    const Action& act(const Arrays& readings, double age_ms = 0);
    Golden replay(const std::vector<GoldenPlan>& plans);

    const Graph& graph() const { return *graph_; }
    bool planning() const;  // whether a plan is being made
    long faults() const { return faults_; }
    double ratio() const { return watch_.ratio(); }  // part of the action that is the plan's; below 1 while it blends in
    long late_plans() const { return late_plans_; }  // decisions for which no new plan was ready

private:
    struct Plan {
        long decision;            // that it begins with
        std::vector<float> mean;  // in [-1, 1], action after action
    };

    void start();
    void plan(const Arrays& readings);
    void take_up();
    Action due();
    Action instead(const Action& held);
    void decide_instead(long decision);
    void fault(const std::string& kind, const std::string& message);
    bool decided_for(long decision, Action& action) const;
    std::vector<Action> committed() const;
    void fill(const Arrays& readings);

    const Bundle& bundle_;
    std::unique_ptr<Graph> graph_, policy_;
    Watch watch_;
    std::vector<ControlFault> found_;  // in this decision
    Arrays readings_;                  // the last good ones
    std::mt19937_64 random_;
    std::normal_distribution<float> normal_;
    long decision_ = 0, began_ = 0, planned_ = 0;  // of now, of the episode's beginning, of the plan that is being made
    std::vector<Plan> plans_;
    std::map<long, Action> decided_;  // actions that no plan gives
    Action middle_, action_;
    bool acted_ = false;
    long faults_ = 0, late_plans_ = 0;
    std::future<void> running_;       // the plan that is being made
    std::unique_ptr<Thread> thread_;  // of a pipeline; last, so that it ends before what it uses
};

}  // namespace tdmpc
