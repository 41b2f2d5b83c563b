#include "bundle.hpp"

#include <cstdint>
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

Bundle parse(const std::string& folder, Json manifest) {
    const double version = manifest.at("format_version").number();
    if (version > format_version)
        throw std::runtime_error("it has format " + std::to_string(static_cast<int>(version)) + ", this program reads up to " +
                                 std::to_string(format_version) + ": build a newer one");
    Bundle bundle;
    bundle.folder = folder;
    for (const auto& sensor : manifest.at("observation").items()) bundle.sensors.push_back(sensor.at("input").text());
    for (const auto& [name, shape] : manifest.at("noise").at("inputs").members()) bundle.noise.push_back(name);
    const auto& action = manifest.at("action").items().at(0);
    for (const auto& bound : action.at("low").items()) bundle.low.push_back(static_cast<float>(bound.number()));
    for (const auto& bound : action.at("high").items()) bundle.high.push_back(static_cast<float>(bound.number()));
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
        size_t size = 1;
        for (const auto& axis : shape.items()) size *= static_cast<size_t>(axis.number());
        if (at + 4 * size > bytes.size()) throw std::runtime_error("golden.bin is too short: copy the bundle again");
        std::vector<float> values(size);
        std::memcpy(values.data(), bytes.data() + at, 4 * size);  // little-endian, as every board this builds for
        arrays[name] = std::move(values);
        at += 4 * size;
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
    const auto& layout = bundle.manifest.at("golden");
    const std::string bytes = content(bundle.file("golden.bin"));
    std::vector<GoldenPlan> plans(static_cast<size_t>(layout.at("plans").number()));
    size_t at = 0;
    for (auto& plan : plans) {
        plan.inputs = take(layout.at("inputs"), bytes, at);
        plan.outputs = take(layout.at("outputs"), bytes, at);
    }
    return plans;
}
