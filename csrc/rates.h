// Spike counts and firing rates under a mean current (10): the operators of rates.cpp, for those that make the current.
#pragma once

#include <ATen/core/Tensor.h>

#include "arguments.h"

namespace pcsnn {

at::Tensor fire_counts(const at::Tensor& current, const Levels& levels, const OptionalTensor& residual,
                       const OptionalTensor& residual_scale);

void fire_rates_(const at::Tensor& current, const Levels& levels, const at::Tensor& scale,
                 const OptionalTensor& residual, const OptionalTensor& residual_scale, int64_t turn = 0,
                 int64_t low = 0);

}  // namespace pcsnn
