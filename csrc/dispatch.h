// Primitives by dtype, and blocks of neurons over the threads.
#pragma once

#include <algorithm>
#include <type_traits>

#include "channels.h"
#include "parallel.h"
#include "primitives.h"

namespace pcsnn {

template <class F>
const Kernels<F>& kernels();
template <>
inline const Kernels<float>& kernels<float>() {
  return primitives().f32;
}
template <>
inline const Kernels<double>& kernels<double>() {
  return primitives().f64;
}

template <class F>
constexpr ScalarType dtype_of = std::is_same_v<F, double> ? ScalarType::Double : ScalarType::Float;

inline Type current_type(const Tensor& current) {
  switch (current.scalar_type()) {
    case ScalarType::Float: return kFloat;
    case ScalarType::Half: return kHalf;
    case ScalarType::BFloat16: return kBFloat16;
    case ScalarType::Double: return kDouble;
    default: break;
  }
  PCSNN_CHECK(false, "current: expected float32, float16, bfloat16 or float64, got ", current.scalar_type());
  return kFloat;
}

constexpr int64_t kThreadWork = 16384;  // elements that are worth a thread

// body(begin, end) for blocks of [0, neurons), over the threads. `work` is what a neuron costs, in loaded or stored
// elements.
template <class Body>
void over_blocks(int64_t neurons, int64_t work, const Body& body) {
  const int64_t share = (neurons / threads() + 63) / 64 * 64;  // whole lines of the cache, of bytes too
  const int64_t size = std::clamp<int64_t>(share, 64, kBlock);
  const int64_t blocks = (neurons + size - 1) / size;
  const int64_t grain = std::max<int64_t>(1, kThreadWork / (size * work));
  parallel_for(0, blocks, grain, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) body(block * size, std::min(neurons, (block + 1) * size));
    primitives().fence();
  });
}

}  // namespace pcsnn
