#include <openvino/openvino.hpp>

#include <algorithm>
#include <map>
#include <stdexcept>

#include "graph.hpp"

namespace tdmpc {

namespace {

template <class Arrays>
auto& known(Arrays& arrays, const std::string& name, const std::string& path, const char* side) {
    const auto found = arrays.find(name);
    if (found == arrays.end()) throw std::runtime_error(path + " has no " + side + " '" + name + "'");
    return found->second;
}

class OpenVinoGraph : public Graph {
public:
    OpenVinoGraph(const std::string& path, const Runtime& runtime) : path_(path) {
        ov::Core core;
        const auto capabilities = core.get_property("CPU", ov::device::capabilities);
        const bool native = std::find(capabilities.begin(), capabilities.end(), "BF16") != capabilities.end();
        reduced_ = native && runtime.reduced;
        const auto model = core.read_model(path);
        if (model->has_rt_info("framework", "manifest")) manifest_ = model->get_rt_info<std::string>("framework", "manifest");
        auto compiled = core.compile_model(model, "CPU",
                                           ov::inference_num_threads(runtime.threads),
                                           ov::num_streams(1),
                                           ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                                           ov::hint::enable_cpu_pinning(false),
                                           ov::hint::inference_precision(reduced_ ? ov::element::bf16 : ov::element::f32));
        request_ = compiled.create_infer_request();
        // Ports by number: a compiled graph may have several names for one.
        for (size_t number = 0; number < model->inputs().size(); ++number) {
            const auto port = model->input(number);
            auto& values = inputs_[port.get_any_name()];
            values.resize(ov::shape_size(port.get_shape()));
            request_.set_input_tensor(number, ov::Tensor(ov::element::f32, port.get_shape(), values.data()));
        }
        for (size_t number = 0; number < model->outputs().size(); ++number) {
            const auto port = model->output(number);
            auto& values = outputs_[port.get_any_name()];
            values.resize(ov::shape_size(port.get_shape()));
            request_.set_output_tensor(number, ov::Tensor(ov::element::f32, port.get_shape(), values.data()));
        }
    }

    const std::map<std::string, std::vector<float>>& inputs() const override { return inputs_; }
    std::vector<float>& input(const std::string& name) override { return known(inputs_, name, path_, "input"); }
    void run() override { request_.infer(); }
    const std::vector<float>& output(const std::string& name) const override { return known(outputs_, name, path_, "output"); }
    std::string backend() const override { return "openvino"; }
    std::string precision() const override { return reduced_ ? "bfloat16" : "float32"; }
    std::string version() const override { return ov::get_openvino_version().buildNumber; }
    std::string manifest() const override { return manifest_; }

private:
    const std::string path_;
    std::map<std::string, std::vector<float>> inputs_, outputs_;  // the runtime reads and writes these in place
    std::string manifest_;
    ov::InferRequest request_;
    bool reduced_ = false;
};

}  // namespace

std::unique_ptr<Graph> load_graph(const std::string& path, const Runtime& runtime) {
    return std::make_unique<OpenVinoGraph>(path, runtime);
}

}  // namespace tdmpc
