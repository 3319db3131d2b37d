// Checks of arguments: what an operator reads, writes or divides by, before it does. Exported programs and C++ call
// operators without the public functions, whose checks of values (levels that ascend) are not made here: tables are
// only read.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace pcsnn {

using OptionalTensor = std::optional<at::Tensor>;

constexpr int64_t kMaxTimesteps = 255;
constexpr int64_t kMostSide = std::numeric_limits<int32_t>::max();  // of windows and images: products do not overflow

inline void check_number(const char* name, int64_t value, int64_t low, int64_t high) {
  TORCH_CHECK(value >= low && value <= high, name, ": expected a value in ", low, "..", high, ", got ", value);
}

// A storage may have been resized since the tensor was made.
inline bool within_storage(const at::Tensor& value) {
  if (value.numel() == 0) return true;
  int64_t last = value.storage_offset();
  for (int64_t d = 0; d < value.dim(); ++d) last += (value.size(d) - 1) * value.stride(d);
  return (last + 1) * static_cast<int64_t>(value.element_size()) <= static_cast<int64_t>(value.storage().nbytes());
}

inline void check_cpu(const char* name, const at::Tensor& value) {
  TORCH_CHECK(value.device().is_cpu() && value.layout() == at::kStrided, name,
              ": expected a dense tensor on the CPU, got ", value.layout(), " on ", value.device());
  TORCH_CHECK(within_storage(value), name, ": expected a storage of all its elements ", value.sizes(), ", got ",
              value.storage().nbytes(), " bytes");
}

// For what is written over: sizes and strides that surely give each element a place of its own.
inline void check_apart(const char* name, const at::Tensor& value) {
  if (value.numel() == 0 || value.is_contiguous()) return;
  std::vector<int64_t> order(static_cast<size_t>(value.dim()));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return value.stride(a) < value.stride(b); });
  int64_t reach = 0;
  for (const int64_t d : order) {
    if (value.size(d) == 1) continue;
    TORCH_CHECK(value.stride(d) > reach, name, ": expected elements that do not overlap, got shape ", value.sizes(),
                " with strides ", value.strides());
    reach += (value.size(d) - 1) * value.stride(d);
  }
}

inline void check_rows(const char* name, const at::Tensor& table, at::IntArrayRef neurons) {
  TORCH_CHECK(neurons.size() >= 2 && table.size(0) == neurons[1], name,
              ": expected one row for each channel (dimension 1) of ", neurons, ", got shape ", table.sizes());
}

// Levels as an operator gets them; what the members mean is in pcsnn/operators/dispatch.py.
struct Levels {
  at::Tensor table;
  int64_t repeat;
  OptionalTensor line;
  int64_t reach;

  int64_t timesteps() const { return table.size(-1); }
  bool per_channel() const { return table.dim() == 2; }
};

inline void check_line(const Levels& levels, at::ScalarType dtype) {
  check_number("reach", levels.reach, 0, kMaxTimesteps);
  if (!levels.line) return;
  const at::Tensor& line = *levels.line;
  check_cpu("line", line);
  TORCH_CHECK(line.scalar_type() == dtype, "line: expected ", dtype, ", got ", line.scalar_type());
  const bool fits = line.dim() == levels.table.dim() && line.size(0) == 3 &&
                    (!levels.per_channel() || line.size(1) == levels.table.size(0));
  TORCH_CHECK(fits, "line: expected [3] with levels [T] and [3, C] with levels [C, T], got shape ", line.sizes(),
              " with levels ", levels.table.sizes());
}

// neurons: [N, C, ...]; current: what is compared, int32 of int8 weights.
inline void check_levels(const Levels& levels, at::IntArrayRef neurons, at::ScalarType current) {
  const at::Tensor& table = levels.table;
  check_cpu("levels", table);
  const at::ScalarType dtype = table.scalar_type(), wanted = current == at::kInt ? at::kInt : at::kFloat;
  TORCH_CHECK(dtype == wanted || (dtype == at::kDouble && current == at::kDouble), "levels: expected ", wanted,
              ", or float64 with a float64 current, got ", dtype);
  TORCH_CHECK(table.dim() == 1 || table.dim() == 2, "levels: expected [T] or [C, T], got shape ", table.sizes());
  const int64_t timesteps = levels.timesteps();
  TORCH_CHECK(timesteps >= 1 && timesteps <= kMaxTimesteps, "levels: expected 1..255 levels, got shape ",
              table.sizes());
  TORCH_CHECK(table.numel() <= std::numeric_limits<int32_t>::max(), "levels: too many channels, got shape ",
              table.sizes());
  if (levels.per_channel()) check_rows("levels", table, neurons);
  TORCH_CHECK(levels.repeat >= 0 && (levels.repeat == 0 || timesteps % levels.repeat == 0),
              "repeat: expected 0 or a divisor of ", timesteps, ", got ", levels.repeat);
  check_line(levels, wanted);
}

inline void check_balance(int64_t turn, int64_t low, int64_t timesteps) {
  check_number("turn", turn, 0, timesteps);
  check_number("low", low, 0, timesteps);
}

inline void check_channel_values(const char* name, const at::Tensor& values, at::IntArrayRef neurons) {
  check_cpu(name, values);
  TORCH_CHECK(at::isFloatingType(values.scalar_type()), name, ": expected a floating dtype, got ",
              values.scalar_type());
  TORCH_CHECK(values.dim() <= 1, name, ": expected a scalar or [C], got shape ", values.sizes());
  if (values.dim() == 1) check_rows(name, values, neurons);
}

inline void check_mean_arguments(const at::Tensor& current, const Levels& levels, const OptionalTensor& residual,
                                 const OptionalTensor& residual_scale) {
  check_cpu("current", current);
  check_levels(levels, current.sizes(), current.scalar_type());
  TORCH_CHECK(residual || !residual_scale, "residual_scale: expected None without a residual");
  if (!residual) return;
  check_cpu("residual", *residual);
  TORCH_CHECK(residual->sizes() == current.sizes(), "residual: expected the shape of current ", current.sizes(),
              ", got ", residual->sizes());
  const bool counts = residual->scalar_type() == at::kByte;
  TORCH_CHECK(counts || residual->scalar_type() == current.scalar_type(), "residual: expected uint8 or ",
              current.scalar_type(), ", got ", residual->scalar_type());
  TORCH_CHECK(counts == residual_scale.has_value(), "residual_scale: expected with uint8 counts, and only with them");
  if (residual_scale) check_channel_values("residual_scale", *residual_scale, current.sizes());
}

// Counts of `timesteps` steps that send 0..spike_levels each are bytes.
inline void check_spike_levels(int64_t spike_levels, int64_t timesteps) {
  check_number("spike_levels", spike_levels, 1, kMaxTimesteps / timesteps);
}

inline void check_spikes(const char* name, at::ScalarType dtype, const OptionalTensor& amplitude,
                         at::IntArrayRef neurons, int64_t spike_levels) {
  const bool floating = dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kDouble;
  TORCH_CHECK(floating || dtype == at::kByte || dtype == at::kBool, name,
              ": expected uint8, bool, float32, float16, bfloat16 or float64, got ", dtype);
  TORCH_CHECK(spike_levels == 1 || dtype != at::kBool, name, ": expected uint8 or a floating dtype of spikes up to ",
              spike_levels, ", got ", dtype);
  if (!amplitude) return;
  TORCH_CHECK(floating, name, ": expected a floating dtype with an amplitude, got ", dtype);
  check_channel_values("amplitude", *amplitude, neurons);
}

// What slides over images [N, C, H, W]: two numbers each, for height and width.
struct Window {
  at::IntArrayRef kernel, stride, padding, dilation;

  int64_t extent(int64_t d) const { return dilation[d] * (kernel[d] - 1) + 1; }
  // How far its start moves, below zero where it does not fit.
  int64_t reach(int64_t d, const at::Tensor& images) const { return images.size(2 + d) + 2 * padding[d] - extent(d); }
  int64_t places(int64_t d, const at::Tensor& images) const {
    const int64_t distance = reach(d, images);
    return distance < 0 ? 0 : distance / stride[d] + 1;
  }
};

// A tensor [N, C, H, W] and a window in which nothing overflows.
inline void check_window(const at::Tensor& images, const Window& window) {
  TORCH_CHECK(images.dim() == 4, "counts: expected [N, C, H, W], got shape ", images.sizes());
  for (const int64_t d : {2, 3})
    TORCH_CHECK(images.size(d) <= kMostSide, "counts: expected at most ", kMostSide, " rows and columns, got shape ",
                images.sizes());
  for (const auto& [name, value, low] : {std::tuple{"kernel", window.kernel, 1},
                                         {"stride", window.stride, 1},
                                         {"padding", window.padding, 0},
                                         {"dilation", window.dilation, 1}}) {
    TORCH_CHECK(value.size() == 2, name, ": expected two values, got ", value);
    for (const int64_t part : value) check_number(name, part, low, kMostSide);
  }
}

inline void check_fits(const at::Tensor& images, const Window& window) {
  TORCH_CHECK(window.reach(0, images) >= 0 && window.reach(1, images) >= 0,
              "counts: expected at least the size of the kernel ", window.kernel, " with padding ", window.padding,
              " and dilation ", window.dilation, ", got shape ", images.sizes());
}

// What conv2d_fire and linear_fire take beside a window.
struct Synapse {
  const at::Tensor &counts, &weight;
  const OptionalTensor &bias, &levels, &scale, &residual, &residual_scale;
  int64_t repeat, timesteps;
  const OptionalTensor& line;
  int64_t reach;
  std::optional<at::ScalarType> counts_dtype;

  bool whole() const { return weight.scalar_type() == at::kChar; }
  Levels table() const { return {*levels, repeat, line, reach}; }
};

inline void check_dtype(const char* name, const OptionalTensor& value, at::ScalarType dtype) {
  if (!value) return;
  check_cpu(name, *value);
  TORCH_CHECK(value->scalar_type() == dtype, name, ": expected ", dtype, ", got ", value->scalar_type());
}

// [] or [O].
inline void check_output_values(const char* name, const OptionalTensor& value, at::ScalarType dtype, int64_t outputs) {
  check_dtype(name, value, dtype);
  TORCH_CHECK(!value || value->dim() == 0 || (value->dim() == 1 && value->size(0) == outputs), name,
              ": expected a scalar or [", outputs, "], got shape ", value->sizes());
}

// shape: of the result.
inline void check_residual(const Synapse& given, at::IntArrayRef shape) {
  TORCH_CHECK(given.residual || !given.residual_scale, "residual_scale: expected None without a residual");
  if (!given.residual) return;
  const at::ScalarType dtype = given.residual->scalar_type();
  const at::ScalarType own = given.whole() ? at::kInt : given.weight.scalar_type();
  check_cpu("residual", *given.residual);
  TORCH_CHECK(dtype == at::kByte || dtype == own, "residual: expected uint8 or ", own, ", got ", dtype);
  TORCH_CHECK(given.residual->sizes() == shape, "residual: expected the shape of the result ", shape, ", got ",
              given.residual->sizes());
  const bool either = dtype == at::kHalf || dtype == at::kBFloat16;  // counts, or a current
  TORCH_CHECK(either || (dtype == at::kByte) == given.residual_scale.has_value(),
              "residual_scale: expected with uint8 counts, and only with them");
  check_output_values("residual_scale", given.residual_scale, given.whole() ? at::kInt : at::kFloat,
                      given.weight.size(0));
}

// All but what the synapse's own shapes have to be; shape: of the result.
inline void check_synapse(const Synapse& given, at::IntArrayRef shape) {
  const at::ScalarType dtype = given.weight.scalar_type(), in = given.counts.scalar_type();
  check_cpu("counts", given.counts);
  check_cpu("weight", given.weight);
  const bool half = dtype == at::kHalf || dtype == at::kBFloat16;
  TORCH_CHECK(given.whole() || half || dtype == at::kFloat, "weight: expected float32, bfloat16, float16 or int8, got ",
              dtype);
  TORCH_CHECK(in == at::kByte || (in == dtype && !given.whole()), "counts: expected uint8 or, of floating weights, ",
              dtype, ", got ", in);
  const int64_t outputs = given.weight.size(0);
  check_number("timesteps", given.timesteps, 1, kMaxTimesteps);
  check_dtype("bias", given.bias, given.whole() ? at::kInt : dtype);
  TORCH_CHECK(!given.bias || (given.bias->dim() == 1 && given.bias->size(0) == outputs), "bias: expected [", outputs,
              "], got shape ", given.bias->sizes());
  if (given.levels) check_levels(given.table(), {1, outputs}, given.whole() ? at::kInt : at::kFloat);
  check_output_values("scale", given.scale, at::kFloat, outputs);
  check_residual(given, shape);
  TORCH_CHECK(!given.counts_dtype || *given.counts_dtype == at::kByte || (half && *given.counts_dtype == dtype),
              "counts_dtype: expected uint8, or the dtype of half precision weights, got ", *given.counts_dtype);
}

}  // namespace pcsnn
