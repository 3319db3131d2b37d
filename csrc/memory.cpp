#include "memory.h"

#include <torch/csrc/stable/ops.h>

#include <array>
#include <numeric>

namespace pcsnn {
namespace {

std::array<int64_t, 4> channels_last_strides(Shape sizes) {
  PCSNN_CHECK(sizes.size() == 4, "expected [N, C, H, W], got shape ", sizes);
  const int64_t pixel = sizes[1], row = pixel * sizes[3];
  return {row * sizes[2], 1, row, pixel};
}

// What torch takes for channels last, whatever the strides of dimensions of size 1.
bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4) return false;
  int64_t expected = 1;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (tensor.size(d) == 1) continue;
    if (tensor.stride(d) != expected) return false;
    expected *= tensor.size(d);
  }
  return true;
}

// First byte and behind the last.
std::pair<uintptr_t, uintptr_t> extent(const Tensor& tensor) {
  if (tensor.numel() == 0) return {0, 0};
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  return {begin, begin + static_cast<uintptr_t>(tensor.reach() * tensor.element_size())};
}

}  // namespace

std::vector<int64_t> contiguous_strides(Shape sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= std::max<int64_t>(sizes[d], 1);
  }
  return strides;
}

bool dense(const Tensor& tensor) {
  if (tensor.is_contiguous() || is_channels_last(tensor)) return true;
  std::vector<int64_t> order;
  for (int64_t d = 0; d < tensor.dim(); ++d)
    if (tensor.size(d) != 1) order.push_back(d);
  std::ranges::sort(order, {}, [&](int64_t d) { return tensor.stride(d); });
  int64_t expected = 1;
  for (const int64_t d : order) {
    if (tensor.stride(d) != expected) return false;
    expected *= tensor.size(d);
  }
  return true;
}

Tensor empty_like(const Tensor& tensor, ScalarType dtype) {
  if (dense(tensor)) return empty_strided(tensor.sizes(), tensor.strides(), dtype);
  const Tensor layout = torch::stable::empty_like(tensor);
  return dtype == tensor.scalar_type() ? layout : empty_strided(layout.sizes(), layout.strides(), dtype);
}

Tensor empty_contiguous(Shape sizes, ScalarType dtype) {
  return empty_strided(sizes, contiguous_strides(sizes), dtype);
}

Tensor empty_channels_last(Shape sizes, ScalarType dtype) {
  return empty_strided(sizes, channels_last_strides(sizes), dtype);
}

Tensor channels_last(const Tensor& tensor) {
  const std::array<int64_t, 4> strides = channels_last_strides(tensor.sizes());
  if (same(tensor.strides(), strides)) return tensor;
  if (is_channels_last(tensor)) return tensor.viewed(tensor.sizes(), strides);
  return empty_strided(tensor.sizes(), strides, tensor.scalar_type()).copy_from(tensor);
}

bool overlap(const Tensor& a, const Tensor& b) {
  const auto [first, last] = extent(a);
  const auto [begin, end] = extent(b);
  return first < end && begin < last;
}

Tensor steps_like(const Tensor& step, int64_t timesteps, ScalarType dtype) {
  std::vector<int64_t> sizes = {timesteps}, strides = {std::max<int64_t>(step.numel(), 1)};
  sizes.insert(sizes.end(), step.sizes().begin(), step.sizes().end());
  if (dense(step)) {
    strides.insert(strides.end(), step.strides().begin(), step.strides().end());
  } else {
    const Tensor layout = empty_like(step);
    strides.insert(strides.end(), layout.strides().begin(), layout.strides().end());
  }
  return huge_pages(empty_strided(sizes, strides, dtype));
}

}  // namespace pcsnn
