// Feeds the controller of a bundle normal and hostile readings; a line for each decision that breaks the law.
//     tdmpc_attack BUNDLE SEED CALLS [DEADLINE_MS]
#include <cmath>
#include <exception>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "controller.hpp"

using namespace tdmpc;

namespace {

using Dice = std::mt19937_64;

size_t below(Dice& dice, size_t end) { return dice() % end; }

const std::vector<float> bad = {NAN,     INFINITY, -INFINITY, std::numeric_limits<float>::max(), std::numeric_limits<float>::lowest(),
                                1e-40f, -0.0f};

// A sensor's numbers, or what a broken bus makes of them.
std::vector<float> reading(size_t size, Dice& dice) {
    std::normal_distribution<float> normal;
    std::vector<float> values(size);
    const float scale = std::vector<float>{1, 1, 1, 1e-30f, 1e6f, 1e30f}[below(dice, 6)];
    for (auto& value : values) value = scale * normal(dice);
    switch (below(dice, 12)) {
        case 0: values.pop_back(); break;
        case 1: values.push_back(0); break;
        case 2: values.clear(); break;
        case 3: values[below(dice, size)] = bad[below(dice, bad.size())]; break;
        case 4: values.assign(10000, 1.0f); break;
        default: break;
    }
    return values;
}

std::string fault(const std::vector<float>& action, const Bundle& bundle) {
    if (action.size() != bundle.low.size()) return "it has " + std::to_string(action.size()) + " numbers";
    for (size_t index = 0; index < action.size(); ++index) {
        const float value = action[index];
        if (!std::isfinite(value)) return "it is not finite";
        if (value < bundle.low[index] || value > bundle.high[index]) return "it is beyond the bounds: " + std::to_string(value);
    }
    return "";
}

}  // namespace

int main(int count, char** words) {
    if (count < 4 || count > 5) return 2;
    const Bundle bundle = read_bundle(words[1]);
    const auto golden = read_golden(bundle);
    Controller controller(bundle, Runtime{}, count == 5 ? Mode{false, std::stod(words[4])} : Mode{});
    Dice dice(std::stoull(words[2]));
    const long calls = std::stol(words[3]);
    for (long call = 0; call < calls; ++call) {
        if (below(dice, 50) == 0) controller.reset(below(dice, 3));
        Arrays readings;
        for (const auto& name : bundle.sensors)
            if (below(dice, 20) != 0) readings[name] = reading(golden.at(0).inputs.at(name).size(), dice);
        if (below(dice, 20) == 0) readings["previous_mean"] = readings["noise_samples"] = {NAN};  // nobody's to give
        std::string what;
        try {
            what = fault(controller.act(readings), bundle);
        } catch (const std::exception& error) {
            what = std::string("it throws: ") + error.what();
        }
        if (!what.empty()) std::cout << "call " << call << ": " << what << "\n";
    }
    std::cout << "faults counted: " << controller.faults() << "\n";
    return 0;
}
