// A control loop: decides at the bundle's period, and ends safely where its sensors do. `sense` and `actuate` are the robot's.
//     loop BUNDLE [DECISIONS]
#include <chrono>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <thread>

#include <tdmpc/controller.hpp>

namespace {

// Readings by graph input: `observation/joint` for the sensor `joint`. Here all are nought.
tdmpc::Arrays sense(const tdmpc::Bundle& bundle) {
    tdmpc::Arrays readings;
    for (const auto& input : bundle.sensors) readings[input] = std::vector<float>(bundle.sizes.at(input));
    return readings;
}

void actuate(const tdmpc::Action& action) {
    for (float part : action) std::cout << part << " ";
    std::cout << "\n";
}

int control(const std::string& folder, long decisions) {
    const tdmpc::Bundle bundle = tdmpc::read_bundle(folder);
    tdmpc::Safety safety;
    safety.range_margin = 1;
    if (bundle.period_ms > 0) safety.hold_ms = 10 * bundle.period_ms, safety.blend_ms = 10 * bundle.period_ms;
    tdmpc::Controller controller(bundle, tdmpc::Runtime{}, {bundle.delay > 0}, safety);
    const auto period = std::chrono::duration<double, std::milli>(bundle.period_ms > 0 ? bundle.period_ms : 20);
    auto release = std::chrono::steady_clock::now();
    for (long decision = 0; decision < decisions; ++decision) {
        actuate(controller.act(sense(bundle)));
        release += std::chrono::duration_cast<std::chrono::steady_clock::duration>(period);
        std::this_thread::sleep_until(release);
    }
    std::cerr << controller.faults() << " faults, " << controller.late_plans() << " late plans\n";
    return 0;
}

}  // namespace

int main(int count, char** words) {
    try {
        if (count > 1) return control(words[1], count > 2 ? std::atol(words[2]) : 100);
        std::cerr << "error: which bundle?\n";
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << "\n";
    }
    return 2;
}
