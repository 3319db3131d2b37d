// A float32 synapse and the neurons behind it; other weights, and currents without neurons, are pcsnn/onednn.py's.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/MemoryFormat.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "arguments.h"
#include "rates.h"

namespace pcsnn {
namespace {

constexpr auto kLayout = at::MemoryFormat::ChannelsLast;
constexpr int64_t kCurrents = 1 << 20;  // that are made before their counts are taken

bool runs_here(const at::Tensor& weight, const OptionalTensor& levels) {
  return weight.scalar_type() == at::kFloat && levels.has_value();
}

// Counts, or rates written over the fresh `current` [N, O, ...].
at::Tensor fire(const at::Tensor& current, const Levels& levels, const OptionalTensor& scale,
                const OptionalTensor& residual, const OptionalTensor& residual_scale) {
  if (!scale) return fire_counts(current, levels, residual, residual_scale);
  fire_rates_(current, levels, *scale, residual, residual_scale);
  return current;
}

void check_counts_dtype(std::optional<at::ScalarType> counts_dtype) {
  TORCH_CHECK(!counts_dtype || *counts_dtype == at::kByte, "counts_dtype: expected uint8 with float32 weights, got ",
              *counts_dtype);
}

using Conv2dFire = at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&, const OptionalTensor&,
                              const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, at::IntArrayRef,
                              at::IntArrayRef, at::IntArrayRef, int64_t, int64_t, int64_t, const OptionalTensor&, int64_t,
                              std::optional<at::ScalarType>);
using LinearFire = at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&, const OptionalTensor&,
                              const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, int64_t, int64_t,
                              const OptionalTensor&, int64_t, std::optional<at::ScalarType>);

at::Tensor conv2d_fire(const at::Tensor& counts, const at::Tensor& weight, const OptionalTensor& bias,
                       const OptionalTensor& levels, const OptionalTensor& scale, const OptionalTensor& residual,
                       const OptionalTensor& residual_scale, at::IntArrayRef stride, at::IntArrayRef padding,
                       at::IntArrayRef dilation, int64_t groups, int64_t repeat, int64_t timesteps,
                       const OptionalTensor& line, int64_t reach, std::optional<at::ScalarType> counts_dtype) {
  if (!runs_here(weight, levels)) {
    static auto others = c10::Dispatcher::singleton().findSchemaOrThrow("pcsnn::_conv2d_fire", "").typed<Conv2dFire>();
    return others.call(counts, weight, bias, levels, scale, residual, residual_scale, stride, padding, dilation, groups,
                       repeat, timesteps, line, reach, counts_dtype);
  }
  const Levels table{*levels, repeat, line, reach};
  check_levels(table, {counts.size(0), weight.size(0)});
  check_counts_dtype(counts_dtype);
  const OptionalTensor branch = residual ? OptionalTensor(residual->contiguous(kLayout)) : residual;
  const auto currents = [&](int64_t first, int64_t images) {
    const at::Tensor x = counts.narrow(0, first, images).to(at::kFloat).contiguous(kLayout);
    return at::conv2d(x, weight, bias, stride, padding, dilation, groups).contiguous(kLayout);
  };
  const int64_t batch = counts.size(0);
  const int64_t pixels = counts.size(2) * counts.size(3) / (stride[0] * stride[stride.size() - 1]);
  const int64_t images = std::max<int64_t>(1, kCurrents / std::max<int64_t>(1, weight.size(0) * pixels));
  at::Tensor out;
  if (scale || images >= batch) {
    out = fire(currents(0, batch), table, scale, branch, residual_scale);
  } else {  // counts take a quarter of the memory of currents, which need not all be there at once
    for (int64_t first = 0; first < batch; first += images) {
      const int64_t length = std::min(images, batch - first);
      const at::Tensor current = currents(first, length);
      if (!out.defined())
        out = at::empty({batch, current.size(1), current.size(2), current.size(3)}, current.options().dtype(at::kByte), kLayout);
      const OptionalTensor part = branch ? OptionalTensor(branch->narrow(0, first, length)) : branch;
      out.narrow(0, first, length).copy_(fire_counts(current, table, part, residual_scale));
    }
  }
  return out.as_strided(out.sizes(), c10::get_channels_last_strides_2d(out.sizes()));  // ambiguous where a size is 1
}

at::Tensor linear_fire(const at::Tensor& counts, const at::Tensor& weight, const OptionalTensor& bias,
                       const OptionalTensor& levels, const OptionalTensor& scale, const OptionalTensor& residual,
                       const OptionalTensor& residual_scale, int64_t repeat, int64_t timesteps,
                       const OptionalTensor& line, int64_t reach, std::optional<at::ScalarType> counts_dtype) {
  if (!runs_here(weight, levels)) {
    static auto others = c10::Dispatcher::singleton().findSchemaOrThrow("pcsnn::_linear_fire", "").typed<LinearFire>();
    return others.call(counts, weight, bias, levels, scale, residual, residual_scale, repeat, timesteps, line, reach,
                       counts_dtype);
  }
  const Levels table{*levels, repeat, line, reach};
  check_levels(table, {1, weight.size(0)});
  check_counts_dtype(counts_dtype);
  const int64_t outputs = weight.size(0);
  std::vector<int64_t> shape = counts.sizes().vec();
  shape.back() = outputs;
  const int64_t rows = counts.numel() / std::max<int64_t>(counts.size(-1), 1);
  const at::Tensor x = counts.to(at::kFloat).reshape({rows, counts.size(-1)});
  const at::Tensor current = at::linear(x, weight, bias).contiguous();
  const OptionalTensor branch = residual ? OptionalTensor(residual->reshape({rows, outputs}).contiguous()) : residual;
  return fire(current, table, scale, branch, residual_scale).reshape(shape);
}

}  // namespace

TORCH_LIBRARY_IMPL(pcsnn, CPU, m) {
  m.impl("conv2d_fire", &conv2d_fire);
  m.impl("linear_fire", &linear_fire);
}

}  // namespace pcsnn
