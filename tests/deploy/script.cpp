// The controller in C++ on a script, a word a line: `act`, `miss` (an observation that does not come), `reset`, and `release`,
// which lets a pipeline's plan through. Plan k is the numbers after the first two arguments, from k * H * A on.
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <sstream>
#include <thread>

#include "controller.hpp"

namespace {

std::mutex mutex;
std::condition_variable changed;
bool held = false;
std::vector<float> plans;

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
        for (const auto& [name, size] : bundle.sizes) inputs_[name].resize(size);
        outputs_["action"].resize(bundle.low.size());
        outputs_["new_mean"].resize(bundle.sizes.at("previous_mean"));
        outputs_["value"].resize(1);
    }
    const std::map<std::string, std::vector<float>>& inputs() const override { return inputs_; }
    std::vector<float>& input(const std::string& name) override { return inputs_.at(name); }
    const std::vector<float>& output(const std::string& name) const override { return outputs_.at(name); }
    void run() override {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [] { return !held; });
        std::ostringstream given;
        for (const char* name : {"previous_mean", "committed"})
            if (inputs_.count(name))
                for (float value : inputs_.at(name)) given << " " << value;
        given_ = given.str();
        auto& mean = outputs_.at("new_mean");
        for (size_t index = 0; index < mean.size(); ++index) mean[index] = plans[(turn_ * mean.size() + index) % plans.size()];
        ++turn_;
    }
    std::string backend() const override { return "script"; }
    std::string precision() const override { return "float32"; }
    std::string version() const override { return "0"; }
    std::string manifest() const override { return ""; }
    std::string given_;

private:
    std::map<std::string, std::vector<float>> inputs_, outputs_;
    size_t turn_ = 0;
};

}  // namespace

std::unique_ptr<Graph> load_graph(const std::string&, const Runtime&) { return nullptr; }

int main(int count, char** words) {
    if (count < 3) return 2;
    const Bundle bundle = read_bundle(words[1]);
    const bool pipelined = std::string(words[2]) == "pipelined";
    for (int index = 3; index < count; ++index) plans.push_back(std::strtof(words[index], nullptr));
    auto graph = std::make_unique<Scripted>(bundle);
    const Scripted& script = *graph;
    Controller controller(bundle, std::move(graph), pipelined);
    hold(pipelined);
    Arrays readings;
    for (const auto& name : bundle.sensors) readings[name] = std::vector<float>(bundle.sizes.at(name), 0.5f);
    for (std::string line; std::getline(std::cin, line);) {
        if (line == "release") {
            hold(false);
            while (controller.planning()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
            hold(pipelined);
        } else if (line == "reset") {
            controller.reset(0);
        } else {
            for (float value : controller.act(line == "miss" ? Arrays() : readings)) std::cout << value << " ";
            std::cout << "| " << controller.late_plans() << " " << controller.faults() << " |" << script.given_ << "\n";
        }
    }
}
