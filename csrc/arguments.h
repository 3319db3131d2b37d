// Checks of arguments: what an operator reads, writes or divides by, before it does. Exported programs and C++ call
// operators without the public functions, whose checks of values (levels that ascend) are not made here: tables are
// only read.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "tensor.h"

namespace pcsnn {

constexpr int64_t kMaxTimesteps = 255;
constexpr int64_t kMostSide = std::numeric_limits<int32_t>::max();  // of windows and images: products do not overflow

inline void check_number(const char* name, int64_t value, int64_t low, int64_t high) {
  PCSNN_CHECK(value >= low && value <= high, name, ": expected a value in ", low, "..", high, ", got ", value);
}

// A storage may have been resized since the tensor was made.
inline bool within_storage(const Tensor& value) {
  return value.numel() == 0 || (value.storage_offset() + value.reach()) * value.element_size() <= value.storage_bytes();
}

inline void check_cpu(const char* name, const Tensor& value) {
  PCSNN_CHECK(value.strided_on_cpu(), name, ": expected a dense tensor on the CPU, got another layout or device");
  PCSNN_CHECK(within_storage(value), name, ": expected a storage of all its elements ", value.sizes(), ", got ",
              value.storage_bytes(), " bytes");
}

// For what is written over: sizes and strides that surely give each element a place of its own.
inline void check_apart(const char* name, const Tensor& value) {
  if (value.numel() == 0 || value.is_contiguous()) return;
  std::vector<int64_t> order(static_cast<size_t>(value.dim()));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return value.stride(a) < value.stride(b); });
  int64_t reach = 0;
  for (const int64_t d : order) {
    if (value.size(d) == 1) continue;
    PCSNN_CHECK(value.stride(d) > reach, name, ": expected elements that do not overlap, got shape ", value.sizes(),
                " with strides ", value.strides());
    reach += (value.size(d) - 1) * value.stride(d);
  }
}

inline void check_rows(const char* name, const Tensor& table, Shape neurons) {
  PCSNN_CHECK(neurons.size() >= 2 && table.size(0) == neurons[1], name,
              ": expected one row for each channel (dimension 1) of ", neurons, ", got shape ", table.sizes());
}

// Levels as an operator gets them; what the members mean is in pcsnn/operators/dispatch.py.
struct Levels {
  Tensor table;
  int64_t repeat;
  OptionalTensor line;
  int64_t reach;

  int64_t timesteps() const { return table.size(-1); }
  bool per_channel() const { return table.dim() == 2; }
};

inline void check_line(const Levels& levels, ScalarType dtype) {
  check_number("reach", levels.reach, 0, kMaxTimesteps);
  if (!levels.line) return;
  const Tensor& line = *levels.line;
  check_cpu("line", line);
  PCSNN_CHECK(line.scalar_type() == dtype, "line: expected ", dtype, ", got ", line.scalar_type());
  const bool fits = line.dim() == levels.table.dim() && line.size(0) == 3 &&
                    (!levels.per_channel() || line.size(1) == levels.table.size(0));
  PCSNN_CHECK(fits, "line: expected [3] with levels [T] and [3, C] with levels [C, T], got shape ", line.sizes(),
              " with levels ", levels.table.sizes());
}

// neurons: [N, C, ...]; current: what is compared, int32 of int8 weights.
inline void check_levels(const Levels& levels, Shape neurons, ScalarType current) {
  const Tensor& table = levels.table;
  check_cpu("levels", table);
  const ScalarType dtype = table.scalar_type(),
                   wanted = current == ScalarType::Int ? ScalarType::Int : ScalarType::Float;
  PCSNN_CHECK(dtype == wanted || (dtype == ScalarType::Double && current == ScalarType::Double), "levels: expected ",
              wanted, ", or float64 with a float64 current, got ", dtype);
  PCSNN_CHECK(table.dim() == 1 || table.dim() == 2, "levels: expected [T] or [C, T], got shape ", table.sizes());
  const int64_t timesteps = levels.timesteps();
  PCSNN_CHECK(timesteps >= 1 && timesteps <= kMaxTimesteps, "levels: expected 1..255 levels, got shape ",
              table.sizes());
  PCSNN_CHECK(table.numel() <= std::numeric_limits<int32_t>::max(), "levels: too many channels, got shape ",
              table.sizes());
  if (levels.per_channel()) check_rows("levels", table, neurons);
  PCSNN_CHECK(levels.repeat >= 0 && (levels.repeat == 0 || timesteps % levels.repeat == 0),
              "repeat: expected 0 or a divisor of ", timesteps, ", got ", levels.repeat);
  check_line(levels, wanted);
}

inline void check_balance(int64_t turn, int64_t low, int64_t timesteps) {
  check_number("turn", turn, 0, timesteps);
  check_number("low", low, 0, timesteps);
}

inline void check_channel_values(const char* name, const Tensor& values, Shape neurons) {
  check_cpu(name, values);
  PCSNN_CHECK(is_floating(values.scalar_type()), name, ": expected a floating dtype, got ", values.scalar_type());
  PCSNN_CHECK(values.dim() <= 1, name, ": expected a scalar or [C], got shape ", values.sizes());
  if (values.dim() == 1) check_rows(name, values, neurons);
}

inline void check_mean_arguments(const Tensor& current, const Levels& levels, const OptionalTensor& residual,
                                 const OptionalTensor& residual_scale) {
  check_cpu("current", current);
  check_levels(levels, current.sizes(), current.scalar_type());
  PCSNN_CHECK(residual || !residual_scale, "residual_scale: expected None without a residual");
  if (!residual) return;
  check_cpu("residual", *residual);
  PCSNN_CHECK(same(residual->sizes(), current.sizes()), "residual: expected the shape of current ", current.sizes(),
              ", got ", residual->sizes());
  const bool counts = residual->scalar_type() == ScalarType::Byte;
  PCSNN_CHECK(counts || residual->scalar_type() == current.scalar_type(), "residual: expected uint8 or ",
              current.scalar_type(), ", got ", residual->scalar_type());
  PCSNN_CHECK(counts == residual_scale.has_value(), "residual_scale: expected with uint8 counts, and only with them");
  if (residual_scale) check_channel_values("residual_scale", *residual_scale, current.sizes());
}

// Counts of `timesteps` steps that send 0..spike_levels each are bytes.
inline void check_spike_levels(int64_t spike_levels, int64_t timesteps) {
  check_number("spike_levels", spike_levels, 1, kMaxTimesteps / timesteps);
}

inline void check_spikes(const char* name, ScalarType dtype, const OptionalTensor& amplitude, Shape neurons,
                         int64_t spike_levels) {
  const bool floating = dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16 ||
                        dtype == ScalarType::Double;
  PCSNN_CHECK(floating || dtype == ScalarType::Byte || dtype == ScalarType::Bool, name,
              ": expected uint8, bool, float32, float16, bfloat16 or float64, got ", dtype);
  PCSNN_CHECK(spike_levels == 1 || dtype != ScalarType::Bool, name,
              ": expected uint8 or a floating dtype of spikes up to ", spike_levels, ", got ", dtype);
  if (!amplitude) return;
  PCSNN_CHECK(floating, name, ": expected a floating dtype with an amplitude, got ", dtype);
  check_channel_values("amplitude", *amplitude, neurons);
}

// What slides over images [N, C, H, W]: two numbers each, for height and width.
struct Window {
  Shape kernel, stride, padding, dilation;

  int64_t extent(int64_t d) const { return dilation[d] * (kernel[d] - 1) + 1; }
  // How far its start moves, below zero where it does not fit.
  int64_t reach(int64_t d, const Tensor& images) const { return images.size(2 + d) + 2 * padding[d] - extent(d); }
  int64_t places(int64_t d, const Tensor& images) const {
    const int64_t distance = reach(d, images);
    return distance < 0 ? 0 : distance / stride[d] + 1;
  }
};

// A tensor [N, C, H, W] and a window in which nothing overflows.
inline void check_window(const Tensor& images, const Window& window) {
  PCSNN_CHECK(images.dim() == 4, "counts: expected [N, C, H, W], got shape ", images.sizes());
  for (const int64_t d : {2, 3})
    PCSNN_CHECK(images.size(d) <= kMostSide, "counts: expected at most ", kMostSide, " rows and columns, got shape ",
                images.sizes());
  for (const auto& [name, value, low] : {std::tuple{"kernel", window.kernel, 1},
                                         {"stride", window.stride, 1},
                                         {"padding", window.padding, 0},
                                         {"dilation", window.dilation, 1}}) {
    PCSNN_CHECK(value.size() == 2, name, ": expected two values, got ", value);
    for (const int64_t part : value) check_number(name, part, low, kMostSide);
  }
}

inline void check_fits(const Tensor& images, const Window& window) {
  PCSNN_CHECK(window.reach(0, images) >= 0 && window.reach(1, images) >= 0,
              "counts: expected at least the size of the kernel ", window.kernel, " with padding ", window.padding,
              " and dilation ", window.dilation, ", got shape ", images.sizes());
}

// What conv2d_fire and linear_fire take beside a window.
struct Synapse {
  Tensor counts, weight;
  OptionalTensor bias, levels, scale, residual, residual_scale;
  int64_t repeat, timesteps;
  OptionalTensor line;
  int64_t reach;
  std::optional<ScalarType> counts_dtype;

  bool whole() const { return weight.scalar_type() == ScalarType::Char; }
  Levels table() const { return {*levels, repeat, line, reach}; }
};

inline void check_dtype(const char* name, const OptionalTensor& value, ScalarType dtype) {
  if (!value) return;
  check_cpu(name, *value);
  PCSNN_CHECK(value->scalar_type() == dtype, name, ": expected ", dtype, ", got ", value->scalar_type());
}

// [] or [O].
inline void check_output_values(const char* name, const OptionalTensor& value, ScalarType dtype, int64_t outputs) {
  check_dtype(name, value, dtype);
  PCSNN_CHECK(!value || value->dim() == 0 || (value->dim() == 1 && value->size(0) == outputs), name,
              ": expected a scalar or [", outputs, "], got shape ", value->sizes());
}

// shape: of the result.
inline void check_residual(const Synapse& given, Shape shape) {
  PCSNN_CHECK(given.residual || !given.residual_scale, "residual_scale: expected None without a residual");
  if (!given.residual) return;
  const ScalarType dtype = given.residual->scalar_type();
  const ScalarType own = given.whole() ? ScalarType::Int : given.weight.scalar_type();
  check_cpu("residual", *given.residual);
  PCSNN_CHECK(dtype == ScalarType::Byte || dtype == own, "residual: expected uint8 or ", own, ", got ", dtype);
  PCSNN_CHECK(same(given.residual->sizes(), shape), "residual: expected the shape of the result ", shape, ", got ",
              given.residual->sizes());
  const bool either = dtype == ScalarType::Half || dtype == ScalarType::BFloat16;  // counts, or a current
  PCSNN_CHECK(either || (dtype == ScalarType::Byte) == given.residual_scale.has_value(),
              "residual_scale: expected with uint8 counts, and only with them");
  check_output_values("residual_scale", given.residual_scale, given.whole() ? ScalarType::Int : ScalarType::Float,
                      given.weight.size(0));
}

// All but what the synapse's own shapes have to be; shape: of the result.
inline void check_synapse(const Synapse& given, Shape shape) {
  const ScalarType dtype = given.weight.scalar_type(), in = given.counts.scalar_type();
  check_cpu("counts", given.counts);
  check_cpu("weight", given.weight);
  const bool half = dtype == ScalarType::Half || dtype == ScalarType::BFloat16;
  PCSNN_CHECK(given.whole() || half || dtype == ScalarType::Float,
              "weight: expected float32, bfloat16, float16 or int8, got ", dtype);
  PCSNN_CHECK(in == ScalarType::Byte || (in == dtype && !given.whole()),
              "counts: expected uint8 or, of floating weights, ", dtype, ", got ", in);
  const int64_t outputs = given.weight.size(0);
  check_number("timesteps", given.timesteps, 1, kMaxTimesteps);
  check_dtype("bias", given.bias, given.whole() ? ScalarType::Int : dtype);
  PCSNN_CHECK(!given.bias || (given.bias->dim() == 1 && given.bias->size(0) == outputs), "bias: expected [", outputs,
              "], got shape ", given.bias->sizes());
  if (given.levels)
    check_levels(given.table(), std::array{int64_t{1}, outputs}, given.whole() ? ScalarType::Int : ScalarType::Float);
  check_output_values("scale", given.scale, ScalarType::Float, outputs);
  check_residual(given, shape);
  PCSNN_CHECK(!given.counts_dtype || *given.counts_dtype == ScalarType::Byte || (half && *given.counts_dtype == dtype),
              "counts_dtype: expected uint8, or the dtype of half precision weights, got ", *given.counts_dtype);
}

}  // namespace pcsnn
