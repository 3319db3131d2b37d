// A float32 synapse and the neurons behind it; pcsnn/cpu/synapses.py has other weights, and currents without neurons.

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "arguments.h"
#include "memory.h"
#include "rates.h"

namespace pcsnn {
namespace {

constexpr int64_t kCurrents = 1 << 20;  // that are made before their counts are taken

// Counts, or rates written over the fresh `current` [N, O, ...].
Tensor fire(const Tensor& current, const Levels& levels, const OptionalTensor& scale, const OptionalTensor& residual,
            const OptionalTensor& residual_scale) {
  if (!scale) return fire_counts(current, levels, residual, residual_scale);
  fire_rates_over(current, levels, *scale, residual, residual_scale);
  return current;
}

// What conv2d_fire takes, in its order.
struct Convolution {
  static constexpr const char* kElsewhere = "pcsnn::_conv2d_fire";

  Tensor counts, weight;
  OptionalTensor bias, levels, scale, residual, residual_scale;
  Shape stride, padding, dilation;
  int64_t groups, repeat, timesteps;
  OptionalTensor line;
  int64_t reach;
  std::optional<ScalarType> counts_dtype;

  Synapse synapse() const {
    return {counts,         weight, bias,      levels, scale, residual,
            residual_scale, repeat, timesteps, line,   reach, counts_dtype};
  }
  Window window() const {
    PCSNN_CHECK(weight.dim() == 4, "weight: expected [O, C / groups, R, S], got shape ", weight.sizes());
    return {weight.sizes().subspan(2), stride, padding, dilation};
  }
};
using Conv2dFire = Given(const Given&, const Given&, const OptionalGiven&, const OptionalGiven&, const OptionalGiven&,
                         const OptionalGiven&, const OptionalGiven&, const Sizes&, const Sizes&, const Sizes&, int64_t,
                         int64_t, int64_t, const OptionalGiven&, int64_t, std::optional<ScalarType>);

// What linear_fire takes, in its order.
struct Linear : Synapse {
  static constexpr const char* kElsewhere = "pcsnn::_linear_fire";
};
using LinearFire = Given(const Given&, const Given&, const OptionalGiven&, const OptionalGiven&, const OptionalGiven&,
                         const OptionalGiven&, const OptionalGiven&, int64_t, int64_t, const OptionalGiven&, int64_t,
                         std::optional<ScalarType>);

void check(const Convolution& given) {
  const Tensor &counts = given.counts, &weight = given.weight;
  const Window window = given.window();
  const int64_t groups = given.groups;
  check_window(counts, window);
  check_number("groups", groups, 1, kMostSide);
  PCSNN_CHECK(weight.numel() > 0 && weight.size(0) % groups == 0,
              "weight: expected [O, C / groups, R, S] with O a multiple of ", groups, " groups, got shape ",
              weight.sizes());
  PCSNN_CHECK(counts.size(1) % groups == 0 && counts.size(1) / groups == weight.size(1), "counts: expected ",
              weight.size(1), " channels in each of ", groups, " groups, got shape ", counts.sizes());
  check_fits(counts, window);
  check_synapse(given.synapse(),
                std::array{counts.size(0), weight.size(0), window.places(0, counts), window.places(1, counts)});
}

// [..., O]
std::vector<int64_t> result_shape(const Linear& given) {
  std::vector<int64_t> shape(given.counts.sizes().begin(), given.counts.sizes().end());
  shape.back() = given.weight.size(0);
  return shape;
}

void check(const Linear& given) {
  const Tensor &counts = given.counts, &weight = given.weight;
  PCSNN_CHECK(counts.dim() >= 1, "counts: expected at least 1 dimension, got shape ", counts.sizes());
  PCSNN_CHECK(weight.dim() == 2 && weight.numel() > 0 && weight.size(1) == counts.size(-1), "weight: expected [O, ",
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

// The float32 convolution and product of torch.
Tensor convolve(const Tensor& x, const Tensor& kernel, const Convolution& given) {
  AtenTensorHandle bias = given.bias ? given.bias->get() : nullptr, current = nullptr;
  const std::array<int64_t, 2> outside{};
  check_done(aoti_torch_cpu_convolution(x.get(), kernel.get(), given.bias ? &bias : nullptr, given.stride.data(), 2,
                                        given.padding.data(), 2, given.dilation.data(), 2, false, outside.data(), 2,
                                        given.groups, &current),
             "the convolution");
  return Tensor(current);
}

Tensor multiply(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  const Tensor out = empty_contiguous(std::array{x.size(0), weight.size(0)}, ScalarType::Float);
  const Tensor turned =
      weight.viewed(std::array{weight.size(1), weight.size(0)}, std::array{weight.stride(1), weight.stride(0)});
  check_done(bias ? aoti_torch_cpu_addmm_out(out.get(), bias->get(), x.get(), turned.get(), 1, 1)
                  : aoti_torch_cpu_mm_out(out.get(), x.get(), turned.get()),
             "the product");
  return out;
}

// `tensor`, contiguous, in another shape.
Tensor reshaped(const Tensor& tensor, Shape shape) {
  const Tensor from = contiguous(tensor);
  return from.viewed(shape, contiguous_strides(shape));
}

Tensor run(const Convolution& given) {
  const Tensor &counts = given.counts, &weight = given.weight;
  const OptionalTensor &scale = given.scale, &residual = given.residual, &residual_scale = given.residual_scale;
  const Levels levels = given.synapse().table();
  const Window window = given.window();
  const Tensor kernel = channels_last(weight);
  const OptionalTensor branch = residual ? OptionalTensor(channels_last(*residual)) : residual;
  const auto currents = [&](int64_t first, int64_t images) {
    const Tensor x = channels_last(converted(counts.narrowed(first, images), ScalarType::Float));
    return channels_last(convolve(x, kernel, given));
  };
  const int64_t batch = counts.size(0), rows = window.places(0, counts), columns = window.places(1, counts);
  const double image = static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(weight.size(0));
  const int64_t images = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(kCurrents) / image));
  if (scale || images >= batch) return channels_last(fire(currents(0, batch), levels, scale, branch, residual_scale));
  // Counts take a quarter of the memory of currents, which need not all be there at once.
  const Tensor out = empty_channels_last(std::array{batch, weight.size(0), rows, columns}, ScalarType::Byte);
  for (int64_t first = 0; first < batch; first += images) {
    const int64_t length = std::min(images, batch - first);
    const OptionalTensor part = branch ? OptionalTensor(branch->narrowed(first, length)) : branch;
    out.narrowed(first, length).copy_from(fire_counts(currents(first, length), levels, part, residual_scale));
  }
  return out;
}

Tensor run(const Linear& given) {
  const int64_t outputs = given.weight.size(0), inputs = given.weight.size(1), rows = given.counts.numel() / inputs;
  const Tensor x = reshaped(converted(given.counts, ScalarType::Float), std::array{rows, inputs});
  OptionalTensor branch = given.residual;
  if (branch) branch = reshaped(*branch, std::array{rows, outputs});
  const Tensor current = multiply(x, given.weight, given.bias);
  return reshaped(fire(current, given.table(), given.scale, branch, given.residual_scale), result_shape(given));
}

// The functions of an operator's signature: the operator, handed on to Python where it is not run here, and its check.
template <class Layer, class Signature>
struct Operator;
template <class Layer, class... Arguments>
struct Operator<Layer, Given(Arguments...)> {
  static Given fire(Arguments... arguments) {
    const Layer layer{arguments...};
    pcsnn::check(layer);  // before it is handed on too: words of errors do not come back from there
    if (layer.weight.scalar_type() == ScalarType::Float && layer.levels && runs_here(layer)) return run(layer);
    std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
    check_done(torch_call_dispatcher(Layer::kElsewhere, "", stack.data(), TORCH_ABI_VERSION), Layer::kElsewhere);
    return torch::stable::detail::to<Given>(stack[0]);
  }
  static void check(Arguments... arguments) { pcsnn::check(Layer{arguments...}); }
};

}  // namespace

// What `_conv2d_fire` and `_linear_fire`, which are Python, ask first.
STABLE_TORCH_LIBRARY_FRAGMENT(pcsnn, m) {
  m.def(
      "_check_conv2d_fire(Tensor counts, Tensor weight, Tensor? bias, Tensor? levels, Tensor? scale, "
      "Tensor? residual, Tensor? residual_scale, int[2] stride, int[2] padding, int[2] dilation, int groups, "
      "int repeat, int timesteps, Tensor? line=None, int reach=0, ScalarType? counts_dtype=None) -> ()");
  m.def(
      "_check_linear_fire(Tensor counts, Tensor weight, Tensor? bias, Tensor? levels, Tensor? scale, "
      "Tensor? residual, Tensor? residual_scale, int repeat, int timesteps, Tensor? line=None, int reach=0, "
      "ScalarType? counts_dtype=None) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(pcsnn, CPU, m) {
  m.impl("conv2d_fire", TORCH_BOX((&Operator<Convolution, Conv2dFire>::fire)));
  m.impl("linear_fire", TORCH_BOX((&Operator<Linear, LinearFire>::fire)));
  m.impl("_check_conv2d_fire", TORCH_BOX((&Operator<Convolution, Conv2dFire>::check)));
  m.impl("_check_linear_fire", TORCH_BOX((&Operator<Linear, LinearFire>::check)));
}

}  // namespace pcsnn
