// Spike counts and firing rates under a mean current (10): the operators of rates.cpp, for those that make the current.
#pragma once

#include "arguments.h"

namespace pcsnn {

Tensor fire_counts(const Tensor& current, const Levels& levels, const OptionalTensor& residual,
                   const OptionalTensor& residual_scale);

// Written over `current`, whose version stays.
void fire_rates_over(const Tensor& current, const Levels& levels, const Tensor& scale, const OptionalTensor& residual,
                     const OptionalTensor& residual_scale, int64_t turn = 0, int64_t low = 0);

}  // namespace pcsnn
