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

// What conv2d_fire takes, in its order.
struct Convolution {
  static constexpr const char* kElsewhere = "pcsnn::_conv2d_fire";

  const at::Tensor &counts, &weight;
  const OptionalTensor &bias, &levels, &scale, &residual, &residual_scale;
  at::IntArrayRef stride, padding, dilation;
  int64_t groups, repeat, timesteps;
  const OptionalTensor& line;
  int64_t reach;
  std::optional<at::ScalarType> counts_dtype;

  Synapse synapse() const {
    return {counts,         weight, bias,      levels, scale, residual,
            residual_scale, repeat, timesteps, line,   reach, counts_dtype};
  }
  Window window() const {
    TORCH_CHECK(weight.dim() == 4, "weight: expected [O, C / groups, R, S], got shape ", weight.sizes());
    return {weight.sizes().slice(2), stride, padding, dilation};
  }
};
using Conv2dFire = at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&, const OptionalTensor&,
                              const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, at::IntArrayRef,
                              at::IntArrayRef, at::IntArrayRef, int64_t, int64_t, int64_t, const OptionalTensor&,
                              int64_t, std::optional<at::ScalarType>);

// What linear_fire takes, in its order.
struct Linear : Synapse {
  static constexpr const char* kElsewhere = "pcsnn::_linear_fire";
};
using LinearFire = at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&, const OptionalTensor&,
                              const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, int64_t, int64_t,
                              const OptionalTensor&, int64_t, std::optional<at::ScalarType>);

void check(const Convolution& given) {
  const at::Tensor &counts = given.counts, &weight = given.weight;
  const Window window = given.window();
  const int64_t groups = given.groups;
  check_window(counts, window);
  check_number("groups", groups, 1, kMostSide);
  TORCH_CHECK(weight.numel() > 0 && weight.size(0) % groups == 0,
              "weight: expected [O, C / groups, R, S] with O a multiple of ", groups, " groups, got shape ",
              weight.sizes());
  TORCH_CHECK(counts.size(1) % groups == 0 && counts.size(1) / groups == weight.size(1), "counts: expected ",
              weight.size(1), " channels in each of ", groups, " groups, got shape ", counts.sizes());
  check_fits(counts, window);
  check_synapse(given.synapse(), {counts.size(0), weight.size(0), window.places(0, counts), window.places(1, counts)});
}

// [..., O]
std::vector<int64_t> result_shape(const Linear& given) {
  std::vector<int64_t> shape = given.counts.sizes().vec();
  shape.back() = given.weight.size(0);
  return shape;
}

void check(const Linear& given) {
  const at::Tensor &counts = given.counts, &weight = given.weight;
  TORCH_CHECK(counts.dim() >= 1, "counts: expected at least 1 dimension, got shape ", counts.sizes());
  TORCH_CHECK(weight.dim() == 2 && weight.numel() > 0 && weight.size(1) == counts.size(-1), "weight: expected [O, ",
              counts.size(-1), "] for counts ", counts.sizes(), ", got shape ", weight.sizes());
  check_synapse(given, result_shape(given));
}

// Convolutions of channels-last images in which some windows see nothing but padding are pcsnn/cpu/synapses.py's:
// oneDNN's own crashes where such windows are more than one place apart.
bool runs_here(const Convolution& given) {
  const Window window = given.window();
  const auto beyond = [&](int64_t d) { return window.stride[d] > 1 && window.padding[d] >= window.extent(d); };
  return !beyond(0) && !beyond(1);
}

bool runs_here(const Linear&) { return true; }

at::Tensor run(const Convolution& given) {
  const at::Tensor &counts = given.counts, &weight = given.weight;
  const OptionalTensor &scale = given.scale, &residual = given.residual, &residual_scale = given.residual_scale;
  const Levels levels = given.synapse().table();
  const Window window = given.window();
  const at::Tensor kernel = channels_last(weight);
  const OptionalTensor branch = residual ? OptionalTensor(channels_last(*residual)) : residual;
  const auto currents = [&](int64_t first, int64_t images) {
    const at::Tensor x = channels_last(counts.narrow(0, first, images).to(at::kFloat));
    return at::conv2d(x, kernel, given.bias, given.stride, given.padding, given.dilation, given.groups)
        .contiguous(at::MemoryFormat::ChannelsLast);
  };
  const int64_t batch = counts.size(0), rows = window.places(0, counts), columns = window.places(1, counts);
  const double image = static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(weight.size(0));
  const int64_t images = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(kCurrents) / image));
  at::Tensor out;
  if (scale || images >= batch) {
    out = fire(currents(0, batch), levels, scale, branch, residual_scale);
  } else {  // counts take a quarter of the memory of currents, which need not all be there at once
    out = at::empty({batch, weight.size(0), rows, columns}, counts.options().dtype(at::kByte),
                    at::MemoryFormat::ChannelsLast);
    for (int64_t first = 0; first < batch; first += images) {
      const int64_t length = std::min(images, batch - first);
      const OptionalTensor part = branch ? OptionalTensor(branch->narrow(0, first, length)) : branch;
      out.narrow(0, first, length).copy_(fire_counts(currents(first, length), levels, part, residual_scale));
    }
  }
  return channels_last(out);
}

at::Tensor run(const Linear& given) {
  const int64_t outputs = given.weight.size(0), inputs = given.weight.size(1), rows = given.counts.numel() / inputs;
  const at::Tensor x = given.counts.to(at::kFloat).reshape({rows, inputs});
  const at::Tensor current = at::linear(x, given.weight, given.bias).contiguous();
  OptionalTensor branch = given.residual;
  if (branch) branch = branch->reshape({rows, outputs}).contiguous();
  return fire(current, given.table(), given.scale, branch, given.residual_scale).reshape(result_shape(given));
}

// The functions of an operator's signature: the operator, handed on to Python where it is not run here, and its check.
template <class Given, class Signature>
struct Operator;
template <class Given, class... Arguments>
struct Operator<Given, at::Tensor(Arguments...)> {
  static at::Tensor fire(Arguments... arguments) {
    const Given given{arguments...};
    const bool floating = given.weight.scalar_type() == at::kFloat && given.levels.has_value();
    if (floating) pcsnn::check(given);
    if (floating && runs_here(given)) return run(given);
    static auto others = c10::Dispatcher::singleton()
                             .findSchemaOrThrow(Given::kElsewhere, "")
                             .template typed<at::Tensor(Arguments...)>();
    return others.call(arguments...);
  }
  static void check(Arguments... arguments) { pcsnn::check(Given{arguments...}); }
};

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
  m.impl("conv2d_fire", &Operator<Convolution, Conv2dFire>::fire);
  m.impl("linear_fire", &Operator<Linear, LinearFire>::fire);
  m.impl("_check_conv2d_fire", &Operator<Convolution, Conv2dFire>::check);
  m.impl("_check_linear_fire", &Operator<Linear, LinearFire>::check);
}

}  // namespace pcsnn
