// Loops over torch's own threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

namespace pcsnn {

inline int64_t threads() { return torch::stable::get_num_threads(); }

// body(first, last) for shares of [begin, end) of at least `grain`.
template <class Body>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Body& body) {
  torch::stable::parallel_for(begin, end, grain, body);
}

}  // namespace pcsnn
