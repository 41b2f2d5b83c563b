// The graphs of a bundle, held against its manifest: what it says of them is what they are. As deploy/contract.py.
#pragma once

#include <string>
#include <vector>

#include "bundle.hpp"
#include "graph.hpp"

namespace tdmpc {

// Throws std::runtime_error where the bundle has no such file, or the manifest describes another graph.
Graphs load_graphs(const Bundle& bundle, const std::vector<std::string>& names, const Runtime& runtime);

}  // namespace tdmpc
