// Loads a bundle, checks its golden plans, and times it by the protocol of `tdmpc latency`. What it measured is a JSON list
// on standard output; `tdmpc native rows` makes percentiles and bounds of it.
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "controller.hpp"
#include "timing.hpp"

using namespace tdmpc;

namespace {

const char* usage =
    "usage: tdmpc_controller DIR [--check] [--threads 1] [--precision float32|auto] [--cores 0,1] [--priority 2..99]\n"
    "                        [--awake] [--calls 1000] [--seconds 10] [--period-ms MS] [--periods 3000]\n"
    "                        [--deadline-ms MS] [--pipelined]\n\n"
    "Checks the golden plans of a bundle and times its decisions; with --check it only checks them.\n"
    "With --period-ms it also decides at that period; with --pipelined, too, it answers at once there and plans in a thread.\n"
    "With --deadline-ms it answers within this time, with as many planner iterations as fit.\n"
    "--precision auto is bfloat16 where the processor has it.\n";

struct Arguments {
    std::string folder;
    Runtime runtime;
    Mode mode;
    bool check_only = false, awake = false;
    std::vector<int> cores;
    int calls = 1000, periods = 3000, priority = 0;
    double seconds = 10, period_ms = 0;
};

double number(const std::string& option, const std::string& text) {
    size_t used = 0;
    double value = NAN;
    try {
        value = std::stod(text, &used);
    } catch (const std::exception&) {
        used = 0;
    }
    if (used == 0 || used != text.size() || !std::isfinite(value))
        throw std::invalid_argument(option + " must be a number, got " + text);
    return value;
}

int whole(const std::string& option, const std::string& text, int least) {
    const double value = number(option, text);
    if (value != std::floor(value) || value < least || value > 1e9)
        throw std::invalid_argument(option + " must be a whole number of at least " + std::to_string(least) + ", got " + text);
    return static_cast<int>(value);
}

std::vector<int> core_list(const std::string& option, const std::string& text) {
    std::vector<int> cores;
    std::istringstream list(text + ",");  // so that nothing behind a last comma is seen, too
    for (std::string core; std::getline(list, core, ',');) cores.push_back(whole(option, core, 0));
    return cores;
}

bool is_reduced(const std::string& precision) {
    if (precision != "float32" && precision != "auto")
        throw std::invalid_argument("--precision must be float32 or auto, got " + precision);
    return precision == "auto";
}

Arguments parse(int count, char** words) {
    Arguments arguments;
    for (int index = 1; index < count; ++index) {
        const std::string word = words[index];
        const auto value = [&]() -> std::string {
            if (index + 1 == count) throw std::invalid_argument(word + " needs a value");
            return words[++index];
        };
        if (word == "--check") arguments.check_only = true;
        else if (word == "--awake") arguments.awake = true;
        else if (word == "--pipelined") arguments.mode.pipelined = true;
        else if (word == "--threads") arguments.runtime.threads = whole(word, value(), 1);
        else if (word == "--precision") arguments.runtime.reduced = is_reduced(value());
        else if (word == "--cores") arguments.cores = core_list(word, value());
        else if (word == "--priority") arguments.priority = whole(word, value(), 1);
        else if (word == "--calls") arguments.calls = whole(word, value(), 1);
        else if (word == "--seconds") arguments.seconds = number(word, value());
        else if (word == "--period-ms") arguments.period_ms = number(word, value());
        else if (word == "--deadline-ms") arguments.mode.deadline_ms = number(word, value());
        else if (word == "--periods") arguments.periods = whole(word, value(), 1);
        else if (word.rfind("--", 0) == 0 || !arguments.folder.empty()) throw std::invalid_argument("unknown argument " + word);
        else arguments.folder = word;
    }
    if (arguments.folder.empty()) throw std::invalid_argument("which bundle?");
    if (arguments.seconds < 0 || arguments.period_ms < 0)
        throw std::invalid_argument("--seconds and --period-ms must not be negative");
    if (arguments.mode.deadline_ms <= 0) throw std::invalid_argument("--deadline-ms must be positive");
    if (arguments.mode.pipelined && arguments.period_ms <= 0)
        throw std::invalid_argument("a pipelined controller plans from one release to the next: give --period-ms, too");
    return arguments;
}

void pin(const std::vector<int>& cores) {
    if (cores.empty()) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int core : cores) CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) throw std::runtime_error("there are no such cores");
}

// A real-time priority for this thread and those that it starts.
void prioritise(int priority) {
    if (priority == 0) return;
    sched_param wanted{};
    wanted.sched_priority = priority;
    if (sched_setscheduler(0, SCHED_FIFO, &wanted) != 0)
        throw std::runtime_error("cannot run at this real-time priority: 2 to 99 are to be had with CAP_SYS_NICE or ulimit -r");
}

// All cores answer at once until this program ends: the system forgets the wish when the file is closed.
void stay_awake() {
    const int file = open("/dev/cpu_dma_latency", O_WRONLY);  // stays open
    const int32_t microseconds = 0;
    if (file < 0 || write(file, &microseconds, sizeof microseconds) != sizeof microseconds)
        throw std::runtime_error("cannot keep the cores awake: this takes the right to write to /dev/cpu_dma_latency");
}

void print(const Json& value) { std::cout << value.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n"; }

int run(const Arguments& arguments) {
    pin(arguments.cores);
    // The planner's threads one below: who answers is woken in time even where all share a single core.
    const bool threaded = arguments.mode.pipelined || arguments.mode.has_deadline();
    prioritise(threaded && arguments.priority > 1 ? arguments.priority - 1 : arguments.priority);
    if (arguments.awake) stay_awake();
    const Bundle bundle = read_bundle(arguments.folder);
    const auto golden = read_golden(bundle);
    const double entered = seconds_now();
    Controller controller(bundle, arguments.runtime, arguments.mode);
    prioritise(arguments.priority);
    const double load_s = seconds_now() - entered;
    const auto [deviation, holds] = controller.replay(golden);
    const Graph& graph = controller.graph();
    const std::string precision = bundle.precision == "float32" ? graph.precision() : bundle.precision;
    if (precision == "float32" && !holds) {
        std::cerr << "error: the golden plans come out otherwise, actions by up to " << deviation << " half ranges: "
                  << "rounding does not explain it\n";
        return 1;
    }
    const Json facts = {{"bundle", bundle.folder}, {"backend", graph.backend()}, {"language", "c++"}, {"precision", precision},
                        {"threads", arguments.runtime.threads}, {"deadline_ms", arguments.mode.deadline_ms},  // null where infinite
                        {"pipelined", arguments.mode.pipelined}, {"macs", bundle.macs},
                        {"bytes", bundle.bytes}, {"load_s", load_s}, {"golden_deviation", deviation},
                        {"return_mean", part(part(bundle.manifest, "training"), "return_mean")},
                        {"versions", {{graph.backend(), graph.version()}}}};
    if (arguments.check_only) {
        print(facts);
        return 0;
    }
    size_t turn = 0;
    const Timed subject{[&](Moment released) { controller.act(golden[turn++ % golden.size()].inputs, 0, released); },
                        [&] { return controller.late_plans(); }};
    const auto measured = [&](const Json& period_ms, const std::function<Json()>& measure) {
        const Before begun = before();
        const Json times = measure();
        Json machine = machine_facts(begun);
        machine["awake"] = arguments.awake;
        return Json{{"facts", facts}, {"period_ms", period_ms}, {"times", times}, {"machine", machine}};
    };
    Json list = Json::array();
    if (!arguments.mode.pipelined)
        list.push_back(measured(nullptr, [&] { return single_stream(subject, arguments.calls, arguments.seconds); }));
    if (arguments.period_ms > 0)
        list.push_back(measured(arguments.period_ms,
                                [&] { return periodic(subject, arguments.period_ms / 1000, arguments.periods); }));
    print(list);
    return 0;
}

}  // namespace

int main(int count, char** words) {
    try {
        if (count > 1 && (std::strcmp(words[1], "--help") == 0 || std::strcmp(words[1], "-h") == 0)) {
            std::cout << usage;
            return 0;
        }
        return run(parse(count, words));
    } catch (const std::invalid_argument& error) {
        std::cerr << "error: " << error.what() << "\n" << usage;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << "\n";
    }
    return 2;
}
