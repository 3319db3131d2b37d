// A float32 synapse and the neurons behind it; pcsnn/cpu/synapses.py has other weights, and currents without neurons.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "arguments.h"
#include "memory.h"
#include "rates.h"

namespace pcsnn {
namespace {

constexpr int64_t kCurrents = 1 << 20;  // that are made before their counts are taken

// Counts, or rates written over the fresh `current` [N, O, ...].
at::Tensor fire(const at::Tensor& current, const Levels& levels, const OptionalTensor& scale,
                const OptionalTensor& residual, const OptionalTensor& residual_scale) {
  if (!scale) return fire_counts(current, levels, residual, residual_scale);
  fire_rates_(current, levels, *scale, residual, residual_scale);
  return current;
}

void check_convolution(const Synapse& given, const Window& window, int64_t groups) {
  const at::Tensor &counts = given.counts, &weight = given.weight;
  check_window(counts, window);
  check_number("groups", groups, 1, kMostSide);
  TORCH_CHECK(weight.numel() > 0 && weight.size(0) % groups == 0,
              "weight: expected [O, C / groups, R, S] with O a multiple of ", groups, " groups, got shape ",
              weight.sizes());
  TORCH_CHECK(counts.size(1) % groups == 0 && counts.size(1) / groups == weight.size(1), "counts: expected ",
              weight.size(1), " channels in each of ", groups, " groups, got shape ", counts.sizes());
  check_fits(counts, window);
  check_synapse(given, {counts.size(0), weight.size(0), window.places(0, counts), window.places(1, counts)});
}

Window window_of(const at::Tensor& weight, at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  TORCH_CHECK(weight.dim() == 4, "weight: expected [O, C / groups, R, S], got shape ", weight.sizes());
  return {weight.sizes().slice(2), stride, padding, dilation};
}

// [..., O]
std::vector<int64_t> check_linear(const Synapse& given) {
  const at::Tensor &counts = given.counts, &weight = given.weight;
  TORCH_CHECK(counts.dim() >= 1, "counts: expected at least 1 dimension, got shape ", counts.sizes());
  TORCH_CHECK(weight.dim() == 2 && weight.numel() > 0 && weight.size(1) == counts.size(-1), "weight: expected [O, ",
              counts.size(-1), "] for counts ", counts.sizes(), ", got shape ", weight.sizes());
  std::vector<int64_t> shape = counts.sizes().vec();
  shape.back() = weight.size(0);
  check_synapse(given, shape);
  return shape;
}

// Convolutions of channels-last images in which some windows see nothing but padding are pcsnn/cpu/synapses.py's:
// oneDNN's own crashes where such windows are more than one place apart.
bool beyond_borders(const Window& window) {
  const auto beyond = [&](int64_t d) { return window.stride[d] > 1 && window.padding[d] >= window.extent(d); };
  return beyond(0) || beyond(1);
}

bool runs_here(const Synapse& given) { return given.weight.scalar_type() == at::kFloat && given.levels.has_value(); }

using Conv2dFire = at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&, const OptionalTensor&,
                              const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, at::IntArrayRef,
                              at::IntArrayRef, at::IntArrayRef, int64_t, int64_t, int64_t, const OptionalTensor&,
                              int64_t, std::optional<at::ScalarType>);
using LinearFire = at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&, const OptionalTensor&,
                              const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, int64_t, int64_t,
                              const OptionalTensor&, int64_t, std::optional<at::ScalarType>);

at::Tensor conv2d_fire(const at::Tensor& counts, const at::Tensor& weight, const OptionalTensor& bias,
                       const OptionalTensor& levels, const OptionalTensor& scale, const OptionalTensor& residual,
                       const OptionalTensor& residual_scale, at::IntArrayRef stride, at::IntArrayRef padding,
                       at::IntArrayRef dilation, int64_t groups, int64_t repeat, int64_t timesteps,
                       const OptionalTensor& line, int64_t reach, std::optional<at::ScalarType> counts_dtype) {
  const Synapse given{counts,         weight, bias,      levels, scale, residual,
                      residual_scale, repeat, timesteps, line,   reach, counts_dtype};
  const Window window = window_of(weight, stride, padding, dilation);
  if (runs_here(given)) check_convolution(given, window, groups);
  if (!runs_here(given) || beyond_borders(window)) {
    static auto others = c10::Dispatcher::singleton().findSchemaOrThrow("pcsnn::_conv2d_fire", "").typed<Conv2dFire>();
    return others.call(counts, weight, bias, levels, scale, residual, residual_scale, stride, padding, dilation, groups,
                       repeat, timesteps, line, reach, counts_dtype);
  }
  const at::Tensor kernel = channels_last(weight);
  const OptionalTensor branch = residual ? OptionalTensor(channels_last(*residual)) : residual;
  const auto currents = [&](int64_t first, int64_t images) {
    const at::Tensor x = channels_last(counts.narrow(0, first, images).to(at::kFloat));
    return at::conv2d(x, kernel, bias, stride, padding, dilation, groups).contiguous(at::MemoryFormat::ChannelsLast);
  };
  const int64_t batch = counts.size(0), rows = window.places(0, counts), columns = window.places(1, counts);
  const double image = static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(weight.size(0));
  const int64_t images = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(kCurrents) / image));
  at::Tensor out;
  if (scale || images >= batch) {
    out = fire(currents(0, batch), given.table(), scale, branch, residual_scale);
  } else {  // counts take a quarter of the memory of currents, which need not all be there at once
    out = at::empty({batch, weight.size(0), rows, columns}, counts.options().dtype(at::kByte),
                    at::MemoryFormat::ChannelsLast);
    for (int64_t first = 0; first < batch; first += images) {
      const int64_t length = std::min(images, batch - first);
      const OptionalTensor part = branch ? OptionalTensor(branch->narrow(0, first, length)) : branch;
      out.narrow(0, first, length).copy_(fire_counts(currents(first, length), given.table(), part, residual_scale));
    }
  }
  return channels_last(out);
}

void check_conv2d_fire(const at::Tensor& counts, const at::Tensor& weight, const OptionalTensor& bias,
                       const OptionalTensor& levels, const OptionalTensor& scale, const OptionalTensor& residual,
                       const OptionalTensor& residual_scale, at::IntArrayRef stride, at::IntArrayRef padding,
                       at::IntArrayRef dilation, int64_t groups, int64_t repeat, int64_t timesteps,
                       const OptionalTensor& line, int64_t reach, std::optional<at::ScalarType> counts_dtype) {
  const Synapse given{counts,         weight, bias,      levels, scale, residual,
                      residual_scale, repeat, timesteps, line,   reach, counts_dtype};
  check_convolution(given, window_of(weight, stride, padding, dilation), groups);
}

at::Tensor linear_fire(const at::Tensor& counts, const at::Tensor& weight, const OptionalTensor& bias,
                       const OptionalTensor& levels, const OptionalTensor& scale, const OptionalTensor& residual,
                       const OptionalTensor& residual_scale, int64_t repeat, int64_t timesteps,
                       const OptionalTensor& line, int64_t reach, std::optional<at::ScalarType> counts_dtype) {
  const Synapse given{counts,         weight, bias,      levels, scale, residual,
                      residual_scale, repeat, timesteps, line,   reach, counts_dtype};
  if (!runs_here(given)) {
    static auto others = c10::Dispatcher::singleton().findSchemaOrThrow("pcsnn::_linear_fire", "").typed<LinearFire>();
    return others.call(counts, weight, bias, levels, scale, residual, residual_scale, repeat, timesteps, line, reach,
                       counts_dtype);
  }
  const std::vector<int64_t> shape = check_linear(given);
  const int64_t outputs = weight.size(0), inputs = weight.size(1), rows = counts.numel() / inputs;
  const at::Tensor x = counts.to(at::kFloat).reshape({rows, inputs});
  const at::Tensor current = at::linear(x, weight, bias).contiguous();
  const OptionalTensor branch = residual ? OptionalTensor(residual->reshape({rows, outputs}).contiguous()) : residual;
  return fire(current, given.table(), scale, branch, residual_scale).reshape(shape);
}

void check_linear_fire(const at::Tensor& counts, const at::Tensor& weight, const OptionalTensor& bias,
                       const OptionalTensor& levels, const OptionalTensor& scale, const OptionalTensor& residual,
                       const OptionalTensor& residual_scale, int64_t repeat, int64_t timesteps,
                       const OptionalTensor& line, int64_t reach, std::optional<at::ScalarType> counts_dtype) {
  check_linear(
      {counts, weight, bias, levels, scale, residual, residual_scale, repeat, timesteps, line, reach, counts_dtype});
}

}  // namespace

// What `_conv2d_fire` and `_linear_fire`, which are Python, ask first.
TORCH_LIBRARY_FRAGMENT(pcsnn, m) {
  m.def(
      "_check_conv2d_fire(Tensor counts, Tensor weight, Tensor? bias, Tensor? levels, Tensor? scale, "
      "Tensor? residual, Tensor? residual_scale, int[2] stride, int[2] padding, int[2] dilation, int groups, "
      "int repeat, int timesteps, Tensor? line=None, int reach=0, ScalarType? counts_dtype=None) -> ()");
  m.def(
      "_check_linear_fire(Tensor counts, Tensor weight, Tensor? bias, Tensor? levels, Tensor? scale, "
      "Tensor? residual, Tensor? residual_scale, int repeat, int timesteps, Tensor? line=None, int reach=0, "
      "ScalarType? counts_dtype=None) -> ()");
}

TORCH_LIBRARY_IMPL(pcsnn, CPU, m) {
  m.impl("conv2d_fire", &conv2d_fire);
  m.impl("linear_fire", &linear_fire);
  m.impl("_check_conv2d_fire", &check_conv2d_fire);
  m.impl("_check_linear_fire", &check_linear_fire);
}

}  // namespace pcsnn
