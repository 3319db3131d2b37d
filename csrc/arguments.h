// Checks of arguments. Their values are checked in Python; here only what could read or write out of bounds is.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <limits>
#include <optional>

namespace pcsnn {

using OptionalTensor = std::optional<at::Tensor>;

constexpr int64_t kMaxTimesteps = 255;

inline void check_cpu(const char* name, const at::Tensor& value) {
  TORCH_CHECK(value.device().is_cpu() && value.layout() == at::kStrided, name,
              ": expected a dense tensor on the CPU, got ", value.layout(), " on ", value.device());
}

inline void check_rows(const char* name, const at::Tensor& table, at::IntArrayRef neurons) {
  TORCH_CHECK(neurons.size() >= 2 && table.size(0) == neurons[1], name,
              ": expected one row for each channel (dimension 1) of ", neurons, ", got shape ", table.sizes());
}

inline void check_levels(const at::Tensor& levels, at::IntArrayRef neurons, int64_t repeat) {
  check_cpu("levels", levels);
  TORCH_CHECK(levels.scalar_type() == at::kFloat || levels.scalar_type() == at::kDouble,
              "levels: expected float32 or float64, got ", levels.scalar_type());
  TORCH_CHECK(levels.dim() == 1 || levels.dim() == 2, "levels: expected [T] or [C, T], got shape ", levels.sizes());
  const int64_t timesteps = levels.size(-1);
  TORCH_CHECK(timesteps >= 1 && timesteps <= kMaxTimesteps, "levels: expected 1..255 levels, got shape ",
              levels.sizes());
  TORCH_CHECK(levels.numel() <= std::numeric_limits<int32_t>::max(), "levels: too many channels, got shape ",
              levels.sizes());
  if (levels.dim() == 2) check_rows("levels", levels, neurons);
  TORCH_CHECK(repeat >= 0 && (repeat == 0 || timesteps % repeat == 0), "repeat: expected 0 or a divisor of ", timesteps,
              ", got ", repeat);
}

inline void check_balance(int64_t turn, int64_t low, const at::Tensor& levels) {
  const int64_t timesteps = levels.size(-1);
  TORCH_CHECK(turn >= 0 && turn <= timesteps, "turn: expected 0..", timesteps, ", got ", turn);
  TORCH_CHECK(low >= 0 && low <= timesteps, "low: expected 0..", timesteps, ", got ", low);
}

inline void check_channel_values(const char* name, const at::Tensor& values, at::IntArrayRef neurons) {
  check_cpu(name, values);
  TORCH_CHECK(at::isFloatingType(values.scalar_type()), name, ": expected a floating dtype, got ",
              values.scalar_type());
  TORCH_CHECK(values.dim() <= 1, name, ": expected a scalar or [C], got shape ", values.sizes());
  if (values.dim() == 1) check_rows(name, values, neurons);
}

inline void check_mean_arguments(const at::Tensor& current, const at::Tensor& levels, const OptionalTensor& residual,
                                 const OptionalTensor& residual_scale, int64_t repeat) {
  check_cpu("current", current);
  check_levels(levels, current.sizes(), repeat);
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

inline void check_spikes(const char* name, at::ScalarType dtype, const OptionalTensor& amplitude,
                         at::IntArrayRef neurons) {
  const bool floating = dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kDouble;
  TORCH_CHECK(floating || dtype == at::kByte || dtype == at::kBool, name,
              ": expected uint8, bool, float32, float16, bfloat16 or float64, got ", dtype);
  if (!amplitude) return;
  TORCH_CHECK(floating, name, ": expected a floating dtype with an amplitude, got ", dtype);
  check_channel_values("amplitude", *amplitude, neurons);
}

}  // namespace pcsnn
