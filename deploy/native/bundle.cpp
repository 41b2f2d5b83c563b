#include "bundle.hpp"

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace {

constexpr int format_version = 1;

std::string content(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + " cannot be read: copy the whole bundle again");
    return {std::istreambuf_iterator<char>(file), {}};
}

size_t whole(const Json& value, double least) {
    const double number = value.number();
    if (!(number >= least && number <= 1e9) || number != std::floor(number))
        throw std::runtime_error("expected a whole number of at least " + std::to_string(static_cast<int>(least)));
    return static_cast<size_t>(number);
}

size_t size(const Json& shape) {
    size_t product = 1;
    for (const auto& axis : shape.items()) product *= whole(axis, 0);
    return product;
}

Bundle parse(const std::string& folder, Json manifest) {
    const double version = manifest.at("format_version").number();
    if (version > format_version)
        throw std::runtime_error("it has format " + std::to_string(static_cast<int>(version)) + ", this program reads up to " +
                                 std::to_string(format_version) + ": build a newer one");
    Bundle bundle;
    bundle.folder = folder;
    for (const auto& sensor : manifest.at("observation").items()) {
        bundle.sensors.push_back(sensor.at("input").text());
        bundle.sizes[bundle.sensors.back()] = size(sensor.at("shape"));
    }
    for (const auto& [name, shape] : manifest.at("noise").at("inputs").members()) {
        bundle.noise.push_back(name);
        bundle.sizes[name] = size(shape);
    }
    if (manifest.at("action").items().size() != 1) throw std::runtime_error("action must be one item");
    const auto& action = manifest.at("action").items().front();
    for (const auto& bound : action.at("low").items()) bundle.low.push_back(static_cast<float>(bound.number()));
    for (const auto& bound : action.at("high").items()) bundle.high.push_back(static_cast<float>(bound.number()));
    if (bundle.low.size() != bundle.high.size()) throw std::runtime_error("action.low and action.high differ in length");
    bundle.sizes["previous_mean"] = whole(manifest.at("planner").at("horizon"), 1) * bundle.low.size();
    for (const auto& [component, macs] : manifest.at("macs").members()) bundle.macs += macs.number();
    for (const auto& [name, file] : manifest.at("files").members()) {
        const double bytes = file.at("bytes").number();
        if (content(bundle.file(name)).size() != bytes)
            throw std::runtime_error(name + " is not the file that was exported: copy the bundle again");
        if (name != "golden.bin") bundle.bytes += bytes;
    }
    bundle.manifest = std::move(manifest);
    return bundle;
}

Arrays take(const Json& layout, const std::string& bytes, size_t& at) {
    Arrays arrays;
    for (const auto& [name, shape] : layout.members()) {
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

Bundle read_bundle(const std::string& folder) {
    const std::string path = folder + "/manifest.json";
    try {
        return parse(folder, Json::parse(content(path)));
    } catch (const std::exception& error) {
        throw std::runtime_error(folder + " is no bundle that can be used: " + error.what());
    }
}

std::vector<GoldenPlan> read_golden(const Bundle& bundle) {
    try {
        const auto& layout = bundle.manifest.at("golden");
        const std::string bytes = content(bundle.file("golden.bin"));
        const Json* tolerance = layout.find("tolerance");  // older bundles have none
        std::vector<GoldenPlan> plans;
        size_t at = 0;
        for (size_t number = 0, count = whole(layout.at("plans"), 1); number < count; ++number) {
            GoldenPlan plan;
            plan.inputs = take(layout.at("inputs"), bytes, at);
            plan.outputs = take(layout.at("outputs"), bytes, at);
            if (tolerance != nullptr) {
                if (tolerance->items().size() != count) throw std::runtime_error("golden.tolerance needs an item for each plan");
                plan.action = tolerance->items()[number].at("action").number();
                plan.value = tolerance->items()[number].at("value").number();
            }
            plans.push_back(std::move(plan));
        }
        return plans;
    } catch (const std::exception& error) {
        throw std::runtime_error(bundle.folder + " has no golden plans that can be used: " + error.what());
    }
}
