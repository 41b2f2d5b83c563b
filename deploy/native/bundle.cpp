#include "bundle.hpp"

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace tdmpc {

namespace {

constexpr int format_version = 3;

std::string content(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + " cannot be read: copy the whole bundle again");
    return {std::istreambuf_iterator<char>(file), {}};
}

// What an error says, without the place in the JSON library that it comes from.
std::string plain(const std::exception& error) {
    const std::string said = error.what();
    return said.rfind("[json", 0) == 0 ? said.substr(said.find("] ") + 2) : said;
}

size_t whole(const Json& value, double least) {
    const double number = value.get<double>();
    if (!(number >= least && number <= 1e9) || number != std::floor(number))
        throw std::runtime_error("expected a whole number of at least " + std::to_string(static_cast<int>(least)));
    return static_cast<size_t>(number);
}

size_t size(const Json& shape) {
    size_t product = 1;
    for (const auto& axis : shape) product *= whole(axis, 0);
    return product;
}

void flatten(const Json& value, std::vector<float>& numbers) {
    if (!value.is_array()) numbers.push_back(value.get<float>());
    else
        for (const auto& each : value) flatten(each, numbers);
}

Sensor described(const Json& item, size_t numbers) {
    Sensor sensor{part(item, "name").get<std::string>(), {}, {}, item.value("repeats", true)};
    if (!item.contains("seen_low")) return sensor;
    flatten(part(item, "seen_low"), sensor.seen_low);
    flatten(part(item, "seen_high"), sensor.seen_high);
    if (sensor.seen_low.size() != numbers || sensor.seen_high.size() != numbers)
        throw std::runtime_error("the range seen of '" + sensor.name + "' does not fit its shape");
    return sensor;
}

Bundle parse(const std::string& folder, Json manifest) {
    const double version = part(manifest, "format_version").get<double>();
    if (version > format_version)
        throw std::runtime_error("it has format " + std::to_string(static_cast<int>(version)) + ", this program reads up to " +
                                 std::to_string(format_version) + ": build a newer one");
    Bundle bundle;
    bundle.folder = folder;
    for (const auto& sensor : part(manifest, "observation")) {
        bundle.sensors.push_back(part(sensor, "input").get<std::string>());
        bundle.sizes[bundle.sensors.back()] = size(part(sensor, "shape"));
        bundle.described.push_back(described(sensor, bundle.sizes[bundle.sensors.back()]));
    }
    for (const auto& [name, shape] : part(part(manifest, "noise"), "inputs").items()) {
        bundle.noise.push_back(name);
        bundle.sizes[name] = size(shape);
    }
    const auto& actions = part(manifest, "action");
    if (!actions.is_array() || actions.size() != 1) throw std::runtime_error("action must be one item");
    bundle.low = part(actions[0], "low").get<std::vector<float>>();
    bundle.high = part(actions[0], "high").get<std::vector<float>>();
    if (bundle.low.size() != bundle.high.size()) throw std::runtime_error("action.low and action.high differ in length");
    const auto& planner = part(manifest, "planner");
    bundle.horizon = whole(part(planner, "horizon"), 1);
    bundle.iterations = whole(part(planner, "iterations"), 1);
    bundle.sizes["previous_mean"] = bundle.horizon * bundle.low.size();
    // Formats before 3 have neither.
    bundle.delay = whole(part(manifest, "environment").value("delay", Json(0)), 0);
    const Json period = part(manifest, "environment").value("control_period_ms", Json());
    if (!period.is_null()) bundle.period_ms = period.get<double>();
    const Json limit = planner.value("max_change", Json());
    if (!limit.is_null()) bundle.max_change = limit.get<double>();
    if (bundle.takes_committed()) bundle.sizes["committed"] = (bundle.delay + 1) * bundle.low.size();
    bundle.precision = part(manifest, "precision").get<std::string>();
    if (bundle.precision == "fp32") bundle.precision = "float32";  // so in format 1, which tells no macs as_run either
    const auto& macs = part(manifest.contains("as_run") ? part(manifest, "as_run") : manifest, "macs");
    for (const auto& component : macs) bundle.macs += component.get<long long>();
    for (const auto& [name, file] : part(manifest, "files").items()) {
        const size_t bytes = content(bundle.file(name)).size();
        if (bytes != part(file, "bytes").get<double>())
            throw std::runtime_error(name + " is not the file that was exported: copy the bundle again");
        if (name.size() > 5 && name.substr(name.size() - 5) == ".onnx") bundle.bytes += static_cast<long long>(bytes);
    }
    bundle.manifest = std::move(manifest);
    return bundle;
}

Arrays take(const Json& layout, const std::string& bytes, size_t& at) {
    Arrays arrays;
    for (const auto& [name, shape] : layout.items()) {
        const size_t count = size(shape);
        if (at + 4 * count > bytes.size()) throw std::runtime_error("golden.bin is too short: copy the bundle again");
        std::vector<float> values(count);
        std::memcpy(values.data(), bytes.data() + at, 4 * count);  // little-endian, as every board this builds for
        arrays[name] = std::move(values);
        at += 4 * count;
    }
    return arrays;
}

}  // namespace

Json read_json(const std::string& text) {
    try {
        return Json::parse(text);
    } catch (const Json::exception& error) {
        throw std::runtime_error("damaged JSON: " + plain(error));
    }
}

const Json& part(const Json& whole, const std::string& name) {
    if (!whole.is_object()) throw std::runtime_error("expected an object with '" + name + "'");
    if (!whole.contains(name)) throw std::runtime_error("there is no '" + name + "'");
    return whole.at(name);
}

Bundle read_bundle(const std::string& folder) {
    const std::string path = folder + "/manifest.json";
    try {
        return parse(folder, read_json(content(path)));
    } catch (const std::exception& error) {
        throw std::runtime_error(folder + " is no bundle that can be used: " + plain(error));
    }
}

std::vector<GoldenPlan> read_golden(const Bundle& bundle) {
    try {
        const auto& layout = part(bundle.manifest, "golden");
        const std::string bytes = content(bundle.file("golden.bin"));
        const size_t count = whole(part(layout, "plans"), 1);
        const Json tolerance = layout.value("tolerance", Json());  // older bundles have none
        if (!tolerance.is_null() && tolerance.size() != count)
            throw std::runtime_error("golden.tolerance needs an item for each plan");
        std::vector<GoldenPlan> plans;
        for (size_t number = 0, at = 0; number < count; ++number) {
            GoldenPlan plan;
            plan.inputs = take(part(layout, "inputs"), bytes, at);
            plan.outputs = take(part(layout, "outputs"), bytes, at);
            if (!tolerance.is_null()) {
                plan.action = part(tolerance[number], "action").get<double>();
                plan.value = part(tolerance[number], "value").get<double>();
            }
            plans.push_back(std::move(plan));
        }
        return plans;
    } catch (const std::exception& error) {
        throw std::runtime_error(bundle.folder + " has no golden plans that can be used: " + plain(error));
    }
}

}  // namespace tdmpc
