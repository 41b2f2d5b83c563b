// The controller in C++ on a script, a word a line: `act`, `move` (readings that are other ones each time), `far` (readings of
// 1e9), `nan`, `old`, `miss` (an observation that does not come), `late` (a decision whose deadline is over already), `some` (one
// with time for two iterations and a half), and `reset`. `hold` lets no plan through, as a pipeline never does, until `release`.
// The next plan or iteration after `fail` fails; the next iteration after `slow` takes 2,000 seconds instead of 1,000.
// After the first two arguments come settings of Safety, as `hold_ms=40`, and numbers: plan k is those from k * H * A on.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <sstream>
#include <thread>

#include "controller.hpp"

using namespace tdmpc;

namespace {

std::mutex mutex;
std::condition_variable changed;
bool held = false;
std::vector<float> plans;
std::atomic<bool> fails{false}, slow{false};
std::atomic<int> seconds{0};  // no test waits for time to pass

constexpr int deadline_s = 100'000;

void hold(bool whether) {
    {
        const std::lock_guard<std::mutex> lock(mutex);
        held = whether;
    }
    changed.notify_all();
}

class Scripted : public Graph {
public:
    explicit Scripted(const Bundle& bundle) {
        const size_t plan = bundle.sizes.at("previous_mean");
        for (const auto& [name, size] : bundle.sizes) inputs_[name].resize(size);
        for (const char* name : {"mean", "std", "new_mean", "new_std"}) outputs_[name].resize(plan);
        outputs_["action"].resize(bundle.low.size());
        outputs_["value"].resize(1);
    }
    const std::map<std::string, std::vector<float>>& inputs() const override { return inputs_; }
    std::vector<float>& input(const std::string& name) override { return inputs_.at(name); }
    const std::vector<float>& output(const std::string& name) const override { return outputs_.at(name); }
    void run() override {
        enter();
        plan();
    }
    std::string backend() const override { return "script"; }
    std::string precision() const override { return "float32"; }
    std::string version() const override { return "0"; }
    std::string manifest() const override { return ""; }
    std::string given_;

protected:
    void enter() {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [] { return !held; });
        note({"previous_mean", "committed"});
    }
    void note(const std::vector<std::string>& names) {
        std::ostringstream given;
        for (const auto& name : names)
            if (inputs_.count(name))
                for (float value : inputs_.at(name)) given << " " << value;
        given_ = given.str();
    }
    void plan() {
        if (fails.exchange(false)) throw std::runtime_error("the accelerator is gone");
        auto& mean = outputs_.at("new_mean");
        for (size_t index = 0; index < mean.size(); ++index) mean[index] = plans[(turn_ * mean.size() + index) % plans.size()];
        ++turn_;
    }
    std::map<std::string, std::vector<float>> inputs_, outputs_;

private:
    size_t turn_ = 0;
};

class Start : public Scripted {
public:
    using Scripted::Scripted;
    void run() override {
        enter();
        outputs_["mean"] = inputs_.at("previous_mean");
        outputs_["std"].assign(outputs_["std"].size(), 2.0f);
    }
};

class Refine : public Scripted {
public:
    explicit Refine(const Bundle& bundle) : Scripted(bundle) {
        inputs_ = {{"mean", outputs_["mean"]}, {"std", outputs_["std"]}};
        inputs_["noise"].resize(bundle.sizes.at("noise_samples") / bundle.iterations);
    }
    void run() override {
        note({"mean", "std"});
        given_ += inputs_["noise"] == drawn_ ? " 1" : " 0";
        drawn_ = inputs_["noise"];
        seconds += slow.exchange(false) ? 2000 : 1000;
        plan();
        outputs_["new_std"].assign(outputs_["new_std"].size(), 1.0f);
    }

private:
    std::vector<float> drawn_;
};

class Policy : public Scripted {
public:
    using Scripted::Scripted;
    void run() override {}
    const std::vector<float>& output(const std::string&) const override { return action_; }

private:
    std::vector<float> action_{1.25f, 1.75f};
};

void set(Safety& safety, const std::string& name, const std::string& value) {
    const std::map<std::string, FaultPolicy> policies{{"hold", FaultPolicy::hold}, {"zero", FaultPolicy::zero},
                                                      {"prior", FaultPolicy::prior}, {"raise", FaultPolicy::raise}};
    const double number = std::strtod(value.c_str(), nullptr);
    if (name == "on_fault") safety.on_fault = policies.at(value);
    else if (name == "hold_ms") safety.hold_ms = number;
    else if (name == "range_margin") safety.range_margin = number;
    else if (name == "stuck_ms") safety.stuck_ms = number;
    else if (name == "blend_ms") safety.blend_ms = number;
    else if (name == "on_hold_timeout") safety.on_hold_timeout = std::vector<float>(2, static_cast<float>(number));
    else std::exit(3);
}

}  // namespace

std::unique_ptr<Graph> tdmpc::load_graph(const std::string&, const Runtime&) { return nullptr; }

int main(int count, char** words) {
    if (count < 3) return 2;
    const Bundle bundle = read_bundle(words[1]);
    const bool pipelined = std::string(words[2]) == "pipelined", anytime = std::string(words[2]) == "deadline";
    Safety safety;
    safety.max_age_ms = 20;
    for (int index = 3; index < count; ++index) {
        const std::string word = words[index];
        const auto equals = word.find('=');
        if (equals != std::string::npos) set(safety, word.substr(0, equals), word.substr(equals + 1));
        else plans.push_back(std::strtof(word.c_str(), nullptr));
    }
    const std::vector<std::string> kinds{"shape", "nonfinite", "stale", "plan", "range", "stuck", "late"};
    std::map<std::string, long> faults;
    safety.callback = [&](const ControlFault& fault) { ++faults[fault.kind]; };
    Mode mode{pipelined};
    if (anytime) mode.deadline_ms = 1000.0 * deadline_s;
    auto planner = std::make_unique<Scripted>(bundle);
    auto start = std::make_unique<Start>(bundle);
    auto refine = std::make_unique<Refine>(bundle);
    const std::vector<const Scripted*> scripts{planner.get(), start.get(), refine.get()};
    Graphs graphs;
    graphs["planner.onnx"] = std::move(planner);
    graphs["start.onnx"] = std::move(start);
    graphs["refine.onnx"] = std::move(refine);
    graphs["policy.onnx"] = std::make_unique<Policy>(bundle);
    const auto now = [] { return Moment(std::chrono::seconds(2 * deadline_s + seconds)); };
    Controller controller(bundle, std::move(graphs), mode, safety, now);
    hold(pipelined);
    float turn = 0;
    for (std::string line; std::getline(std::cin, line);) {
        if (line == "release") {
            hold(false);
            while (controller.planning()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
            hold(pipelined);
        } else if (line == "hold") {
            hold(true);
        } else if (line == "fail") {
            fails = true;
        } else if (line == "slow") {
            slow = true;
        } else if (line == "reset") {
            controller.reset(0);
        } else {
            turn += 1;
            const float value = line == "far" ? 1e9f : line == "nan" ? NAN : line == "move" ? 0.5f + turn / 1024 : 0.5f;
            Arrays readings;
            if (line != "miss")
                for (const auto& name : bundle.sensors) readings[name] = std::vector<float>(bundle.sizes.at(name), value);
            Moment released = Moment::max();
            if (line == "late") released = now() - std::chrono::seconds(deadline_s);
            if (line == "some") released = now() - std::chrono::seconds(deadline_s - 2500);
            try {
                for (float part : controller.act(readings, line == "old" ? 21 : 0, released)) std::cout << part << " ";
            } catch (const ControlFault&) {
                std::cout << "-99 -99 ";
            }
            std::cout << "| " << controller.late_plans() << " " << controller.ratio() << " ";
            for (const auto& kind : kinds) std::cout << faults[kind] << " ";
            std::cout << "|";
            for (const auto* script : scripts) std::cout << script->given_;
            std::cout << "\n";
        }
    }
}
