#include "contract.hpp"

#include <stdexcept>

namespace tdmpc {

namespace {

using Sizes = std::map<std::string, size_t>;

struct Interface {
    Sizes inputs, outputs;  // as far as the manifest tells them
};

Interface interface_of(const Bundle& bundle, const std::string& name) {
    const size_t actions = bundle.low.size(), plan = bundle.horizon * actions;
    Interface told{bundle.sizes, {{"action", actions}, {"new_mean", plan}, {"value", 1}}};
    if (name == "start.onnx") {
        told.inputs.erase("noise_samples");
        told.outputs = {{"mean", plan}, {"std", plan}};
    } else if (name == "refine.onnx") {
        const auto noise = bundle.sizes.find("noise_samples");
        told.inputs = {{"mean", plan}, {"std", plan}, {"noise", noise == bundle.sizes.end() ? 0 : noise->second / bundle.iterations}};
        told.outputs["new_std"] = plan;
    } else if (name == "policy.onnx") {
        told = {{}, {{"action", actions}}};
        for (const auto& sensor : bundle.sensors) told.inputs[sensor] = bundle.sizes.at(sensor);
    }
    return told;
}

// Names, sizes, and everything that the graph was exported with.
void check(const Bundle& bundle, const std::string& name, Graph& graph) {
    const std::string cause = bundle.file("manifest.json") + " does not fit " + name + ": ";
    const Interface told = interface_of(bundle, name);
    const auto compare = [&](const std::string& port, size_t size, size_t found) {
        if (size != found)
            throw std::runtime_error(cause + port + " has " + std::to_string(size) + " numbers in the manifest and " +
                                     std::to_string(found) + " in the graph");
    };
    for (const auto& [port, size] : told.inputs) compare("input '" + port + "'", size, graph.input(port).size());
    for (const auto& [port, size] : told.outputs) compare("output '" + port + "'", size, graph.output(port).size());
    for (const auto& [port, values] : graph.inputs())
        if (name != "refine.onnx" && told.inputs.count(port) == 0)
            throw std::runtime_error(cause + "it says nothing of input '" + port + "'");
    if (graph.manifest().empty()) return;
    const Json carried = read_json(graph.manifest());
    for (const auto& [item, value] : carried.items())
        if (nlohmann::json(part(bundle.manifest, item)) != nlohmann::json(value))  // whatever the order of members
            throw std::runtime_error(cause + "the graph was exported with another '" + item + "'. Copy the bundle again");
}

}  // namespace

Graphs load_graphs(const Bundle& bundle, const std::vector<std::string>& names, const Runtime& runtime) {
    Graphs graphs;
    for (const auto& name : names) {
        const bool in_parts = name == "start.onnx" || name == "refine.onnx";
        if (!part(bundle.manifest, "files").contains(name))
            throw std::runtime_error(bundle.folder + " holds no " + name + ": " +
                                     (in_parts ? "export with --noise input to plan within deadlines" : "export it again"));
        graphs[name] = load_graph(bundle.file(name), runtime);
        check(bundle, name, *graphs[name]);
    }
    return graphs;
}

}  // namespace tdmpc
