// Tensors as dense memory, walked in the same order.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/MemoryFormat.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace pcsnn {

constexpr int64_t kLarge = int64_t{8} << 20;  // bytes of an output that would only push others out of the caches

inline bool dense(const at::Tensor& tensor) { return tensor.is_non_overlapping_and_dense(); }

// `tensor` in the layout that an output of its shape gets.
inline at::Tensor to_dense(const at::Tensor& tensor) {
  return dense(tensor) ? tensor : at::empty_like(tensor).copy_(tensor);
}

inline bool same_layout(const at::Tensor& a, const at::Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

inline at::Tensor to_layout_of(const at::Tensor& tensor, const at::Tensor& like) {
  if (dense(tensor) && same_layout(tensor, like)) return tensor;
  return at::empty_strided(like.sizes(), like.strides(), tensor.options()).copy_(tensor);
}

// `tensor` [N, C, H, W] with its channels last, and strides that say so even where a size of 1 would let them say
// otherwise: oneDNN misreads weights of groups whose strides do not.
inline at::Tensor channels_last(const at::Tensor& tensor) {
  const at::Tensor last = tensor.contiguous(at::MemoryFormat::ChannelsLast);
  const std::vector<int64_t> strides = c10::get_channels_last_strides_2d(last.sizes());
  return last.strides() == at::IntArrayRef(strides) ? last : last.as_strided(last.sizes(), strides);
}

// Large outputs are often fresh from the system, and the faults of small pages then cost more than the kernel.
inline at::Tensor huge_pages(at::Tensor output) {
#ifdef __linux__
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(output.mutable_data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = (begin + output.nbytes()) / kPage * kPage;
  if (output.nbytes() >= static_cast<size_t>(kLarge))
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return output;
}

// An empty [T, N, ...] whose every step is laid out like `step`.
inline at::Tensor steps_like(const at::Tensor& step, int64_t timesteps, at::ScalarType dtype) {
  const at::Tensor layout = at::empty_like(step, step.options().dtype(dtype));
  std::vector<int64_t> sizes = {timesteps}, strides = {std::max<int64_t>(layout.numel(), 1)};
  sizes.insert(sizes.end(), layout.sizes().begin(), layout.sizes().end());
  strides.insert(strides.end(), layout.strides().begin(), layout.strides().end());
  return huge_pages(at::empty_strided(sizes, strides, layout.options()));
}

inline const char* bytes_of(const at::Tensor& tensor) { return static_cast<const char*>(tensor.const_data_ptr()); }
inline char* mutable_bytes_of(const at::Tensor& tensor) { return static_cast<char*>(tensor.mutable_data_ptr()); }

}  // namespace pcsnn
