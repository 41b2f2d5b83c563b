#include "safety.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <sstream>

namespace tdmpc {

namespace {

constexpr double first_s = 1, longest_s = 60;  // between lines about a fault that goes on

double now_s() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Watch::Watch(const Bundle& bundle, Safety settings) : bundle_(bundle), settings_(std::move(settings)) {
    hold_ = decisions("hold_ms", settings_.hold_ms);
    stuck_ = decisions("stuck_ms", settings_.stuck_ms);
    blend_ = decisions("blend_ms", settings_.blend_ms);
    if (!(settings_.range_margin >= 0)) throw std::runtime_error("range_margin must be 0 or more");
    for (size_t index = 0; index < bundle.low.size(); ++index)
        nought_.push_back(std::min(std::max(0.0f, bundle.low[index]), bundle.high[index]));
    safe_ = settings_.on_hold_timeout.empty() ? nought_ : settings_.on_hold_timeout;
    bool fits = safe_.size() == bundle.low.size();
    for (size_t index = 0; fits && index < safe_.size(); ++index)
        fits = safe_[index] >= bundle.low[index] && safe_[index] <= bundle.high[index];
    if (!fits) throw std::runtime_error("on_hold_timeout must be a number for each actuator, within its bounds");
    reset();
}

double Watch::decisions(const char* name, double ms) const {
    if (!(ms >= 0)) throw std::runtime_error(std::string(name) + " must be 0 or more");
    if (ms == 0 || std::isinf(ms)) return ms;
    if (!(bundle_.period_ms > 0))
        throw std::runtime_error(std::string(name) + " is in milliseconds, and " + bundle_.folder +
                                 " does not say how long a decision lasts");
    return std::ceil(ms / bundle_.period_ms - 1e-9);
}

void Watch::reset() {
    faulty_ = good_ = 0;
    origin_ = safe_;
    last_.clear();
}

void Watch::examine(const Arrays& readings, double age_ms) {
    if (!(age_ms <= settings_.max_age_ms))  // NaN is stale too
        throw ControlFault("stale", "", "the readings are " + std::to_string(age_ms) + " ms old");
    for (size_t index = 0; index < bundle_.sensors.size(); ++index) {
        const auto &input = bundle_.sensors[index], &name = bundle_.described[index].name;
        const auto reading = readings.find(input);
        if (reading == readings.end()) throw ControlFault("shape", name, "the readings have no sensor '" + name + "'");
        if (reading->second.size() != bundle_.sizes.at(input))
            throw ControlFault("shape", name, "sensor '" + name + "' must have " + std::to_string(bundle_.sizes.at(input)) +
                                                  " numbers, got " + std::to_string(reading->second.size()));
        if (!std::all_of(reading->second.begin(), reading->second.end(), [](float value) { return std::isfinite(value); }))
            throw ControlFault("nonfinite", name, "sensor '" + name + "' is not finite");
    }
    for (size_t index = 0; index < bundle_.sensors.size(); ++index)
        examine(bundle_.described[index], readings.at(bundle_.sensors[index]));
}

void Watch::examine(const Sensor& sensor, const std::vector<float>& reading) {
    if (std::isfinite(settings_.range_margin) && !sensor.seen_low.empty())
        for (size_t at = 0; at < reading.size(); ++at) {
            const float low = sensor.seen_low[at], high = sensor.seen_high[at];
            const float room = static_cast<float>(settings_.range_margin) * (high - low);
            if (reading[at] >= low - room && reading[at] <= high + room) continue;
            std::ostringstream text;
            text << "sensor '" << sensor.name << "', number " << at << ", reads " << reading[at] << ", in training it read "
                 << low << " to " << high;
            throw ControlFault("range", sensor.name, text.str());
        }
    if (std::isinf(stuck_) || sensor.repeats) return;
    auto& last = last_[sensor.name];
    last.count = last.values == reading ? last.count + 1 : 0;
    last.values = reading;
    if (last.count > 0 && static_cast<double>(last.count) >= stuck_)
        throw ControlFault("stuck", sensor.name, "sensor '" + sensor.name + "' has given the same in " +
                                                     std::to_string(last.count + 1) + " decisions: is it stuck?");
}

double Watch::ratio() const {
    if (blend_ == 0) return good_ > 0 ? 1 : 0;
    return std::min(static_cast<double>(good_) / blend_, 1.0);
}

Action Watch::applied(const Action& due, const Action* before, bool faulty) {
    if (faulty) {
        ++faulty_;
        good_ = 0;
        return static_cast<double>(faulty_) > hold_ ? safe_ : due;
    }
    if (good_ == 0) origin_ = before ? *before : safe_;
    faulty_ = 0;
    ++good_;
    Action action = due;
    if (ratio() < 1)
        for (size_t index = 0; index < action.size(); ++index)
            action[index] = origin_[index] + static_cast<float>(ratio()) * (due[index] - origin_[index]);
    return action;
}

void Watch::tell(const std::vector<ControlFault>& found) {
    for (const auto& fault : found) {
        note(fault.kind + " " + fault.sensor, fault.what());
        if (!settings_.callback) continue;
        try {
            settings_.callback(fault);
        } catch (const std::exception& error) {  // a robot goes on whatever its log keeper does
            note("callback", std::string("the callback on faults failed: ") + error.what());
        }
    }
}

void Watch::note(const std::string& key, const std::string& text) {
    const double now = now_s();
    auto& told = told_.emplace(key, Told{-INFINITY, 0, first_s, 0}).first->second;
    if (now - told.last > longest_s) told = {now, now, first_s, 0};  // it was over
    told.last = now;
    ++told.count;
    if (now < told.due) return;
    const std::string line = text + (told.count > 1 ? " (" + std::to_string(told.count) + " times so far)" : "");
    if (settings_.log) settings_.log(line);
    else std::cerr << line << "\n";
    told.due = now + told.interval;
    told.interval = std::min(2 * told.interval, longest_s);
}

}  // namespace tdmpc
