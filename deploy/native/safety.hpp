// What a controller does while faults last and after them, and what it tells of them. As deploy/safety.py.
#pragma once

#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "bundle.hpp"

namespace tdmpc {

using Action = std::vector<float>;

// `prior` is the policy's action for the last good readings, `raise` throws a ControlFault.
enum class FaultPolicy { hold, zero, prior, raise };

struct ControlFault : std::runtime_error {
    ControlFault(std::string kind, std::string sensor, const std::string& message)
        : std::runtime_error(message), kind(std::move(kind)), sensor(std::move(sensor)) {}
    std::string kind;    // "shape", "nonfinite", "range", "stuck", "stale", "plan" or "late"
    std::string sensor;  // empty where it is not one sensor's
};

struct Safety {
    FaultPolicy on_fault = FaultPolicy::hold;
    double hold_ms = INFINITY;           // how long the fault policy goes on while every decision is faulty
    std::vector<float> on_hold_timeout;  // the action that follows then; nought, or the bound nearest to it, where empty
    double range_margin = INFINITY;      // widths of the range seen in training by which a reading may lie outside it
    double stuck_ms = INFINITY;          // how long a sensor may repeat a reading that never repeated in training
    double blend_ms = 0;                 // how long plans come in, in growing parts, after a start and after a fault
    double max_age_ms = INFINITY;        // of readings
    std::function<void(const ControlFault&)> callback;  // for each fault
    std::function<void(const std::string&)> log;        // a line; standard error where there is none
};

class Watch {
public:
    // Throws std::runtime_error where a setting is out of range, or is in time and the bundle does not tell its period.
    Watch(const Bundle& bundle, Safety settings);

    void reset();
    // Throws ControlFault.
    void examine(const Arrays& readings, double age_ms);
    Action applied(const Action& due, const Action* before, bool faulty);
    void tell(const std::vector<ControlFault>& found);
    void note(const std::string& key, const std::string& text);

    const Action& nought() const { return nought_; }
    FaultPolicy on_fault() const { return settings_.on_fault; }
    double ratio() const;  // part of the action that is the plan's

private:
    struct Last {
        std::vector<float> values;
        long count;
    };
    struct Told {
        double last, due, interval;
        long count;
    };

    double decisions(const char* name, double ms) const;
    void examine(const Sensor& sensor, const std::vector<float>& reading);

    const Bundle& bundle_;
    const Safety settings_;
    double hold_, stuck_, blend_;  // decisions
    Action nought_, safe_, origin_;
    long faulty_ = 0, good_ = 0;
    std::map<std::string, Last> last_;
    std::map<std::string, Told> told_;
};

}  // namespace tdmpc
