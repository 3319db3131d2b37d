// Tells whether a tensor still holds what it held.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>

namespace pcsnn {

// 64 bits of a tensor's bytes, dtype, sizes and strides; nothing for tensors whose bytes are not to be had on the CPU.
std::optional<uint64_t> checksum(const at::Tensor& tensor);

}  // namespace pcsnn
