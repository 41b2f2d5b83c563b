// When plans are made: at once, until time is up, or ahead of the decision that they are for. As deploy/plan_runner.py.
#pragma once

#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "bundle.hpp"
#include "graph.hpp"
#include "thread.hpp"

namespace tdmpc {

using Moment = std::chrono::steady_clock::time_point;
using Clock = std::function<Moment()>;
using Draw = std::function<void(std::vector<float>&)>;  // fills with the noise that comes next

struct Mode {
    bool pipelined = false;         // answers at once, and plans in a thread for what is due after the bundle's delay
    double deadline_ms = INFINITY;  // answers within this time, with as many iterations as fit; with all where there is none

    bool has_deadline() const { return deadline_ms != INFINITY; }
};

struct Plan {
    long decision;                    // that it begins with
    std::vector<float> action, mean;  // the first action in the actuators' units; all of them in [-1, 1]
    float value;                      // that the agent's model expects
};

// Makes one plan after the other. A runtime cannot be interrupted: with a deadline or a pipeline a thread plans.
class PlanRunner {
public:
    // Bundle and graphs must outlive it. Throws std::runtime_error where they cannot plan so.
    PlanRunner(const Bundle& bundle, const Graphs& graphs, const Mode& mode, Clock clock);

    // Whether nothing is being planned; may wait for that until then.
    bool is_free(Moment until) const;
    // Plans for a decision; may wait for the plan until then. Only to be called when free, and draws until it is free again.
    void plan(long decision, const Arrays& inputs, Draw draw, Moment until);
    // The newest plan, once. Throws ControlFault where the planner failed; it can be asked again.
    std::optional<Plan> finished();
    void wait() const;  // until nothing is being planned

private:
    void whole(long decision, const Draw& draw);
    void iterate(long decision, const Draw& draw, Moment until);
    void keep(long decision, const Graph& graph);

    const Bundle& bundle_;
    Graph& first_;         // the planner; with a deadline the start
    Graph* const refine_;  // only with a deadline
    const Clock clock_;
    std::mutex mutex_;  // of the latest plan
    std::optional<Plan> latest_;
    bool taken_ = false;
    std::atomic<bool> abandoned_{false};
    Moment::duration pace_{0};  // of the slowest iteration of late
    std::future<void> running_;
    std::unique_ptr<Thread> thread_;  // last, so that it ends before what it uses
};

}  // namespace tdmpc
