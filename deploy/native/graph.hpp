// A loaded ONNX graph. All that this program asks of a runtime; everything is single precision, all shapes are fixed.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace tdmpc {

struct Runtime {
    int threads = 1;
    bool reduced = false;  // bfloat16, where the processor multiplies it natively
};

class Graph {
public:
    virtual ~Graph() = default;
    virtual const std::map<std::string, std::vector<float>>& inputs() const = 0;
    // To be filled before a run; never resized. Both throw std::runtime_error where there is no such name.
    virtual std::vector<float>& input(const std::string& name) = 0;
    virtual void run() = 0;
    virtual const std::vector<float>& output(const std::string& name) const = 0;
    virtual std::string backend() const = 0;
    virtual std::string precision() const = 0;  // "float32" or "bfloat16"
    virtual std::string version() const = 0;
    virtual std::string manifest() const = 0;  // what the file says of itself, as JSON; empty where it says nothing
};

using Graphs = std::map<std::string, std::unique_ptr<Graph>>;  // by file name

std::unique_ptr<Graph> load_graph(const std::string& path, const Runtime& runtime);

}  // namespace tdmpc
