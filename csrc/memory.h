// Tensors as dense memory, walked in the same order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tensor.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace pcsnn {

constexpr int64_t kLarge = int64_t{8} << 20;  // bytes of an output that would only push others out of the caches

// Whether elements lie side by side, each in a place of its own, in whatever order of the dimensions.
bool dense(const Tensor& tensor);

// An empty tensor laid out like `tensor` if that is dense, and as torch would lay it out if not.
Tensor empty_like(const Tensor& tensor, ScalarType dtype);
inline Tensor empty_like(const Tensor& tensor) { return empty_like(tensor, tensor.scalar_type()); }
std::vector<int64_t> contiguous_strides(Shape sizes);
Tensor empty_contiguous(Shape sizes, ScalarType dtype);
Tensor empty_channels_last(Shape sizes, ScalarType dtype);

inline Tensor copied(const Tensor& tensor) { return empty_like(tensor).copy_from(tensor); }
inline Tensor converted(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : empty_like(tensor, dtype).copy_from(tensor);
}
inline Tensor contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : empty_contiguous(tensor.sizes(), tensor.scalar_type()).copy_from(tensor);
}

// `tensor` in the layout that an output of its shape gets.
inline Tensor to_dense(const Tensor& tensor) { return dense(tensor) ? tensor : copied(tensor); }

inline bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

inline Tensor to_layout_of(const Tensor& tensor, const Tensor& like) {
  if (dense(tensor) && same_layout(tensor, like)) return tensor;
  return empty_strided(like.sizes(), like.strides(), tensor.scalar_type()).copy_from(tensor);
}

// `tensor` [N, C, H, W] with its channels last, and strides that say so even where a size of 1 would let them say
// otherwise: oneDNN misreads weights of groups whose strides do not.
Tensor channels_last(const Tensor& tensor);

// Whether the memory of two tensors has a byte in common.
bool overlap(const Tensor& a, const Tensor& b);

// Large outputs are often fresh from the system, and the faults of small pages then cost more than the kernel.
inline Tensor huge_pages(Tensor output) {
#ifdef __linux__
  if (output.nbytes() >= kLarge) {
    constexpr uintptr_t kPage = uintptr_t{2} << 20;
    const uintptr_t begin = reinterpret_cast<uintptr_t>(output.mutable_data_ptr());
    const uintptr_t end = begin + static_cast<uintptr_t>(output.nbytes());
    const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = end / kPage * kPage;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#endif
  return output;
}

// An empty [T, N, ...] whose every step is laid out like `step`.
Tensor steps_like(const Tensor& step, int64_t timesteps, ScalarType dtype);

inline const char* bytes_of(const Tensor& tensor) { return tensor.const_data_ptr<char>(); }
inline char* mutable_bytes_of(const Tensor& tensor) { return tensor.mutable_data_ptr<char>(); }

}  // namespace pcsnn
