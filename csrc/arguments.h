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

// Levels as an operator gets them; what the members mean is in pcsnn/ops.py.
struct Levels {
  at::Tensor table;
  int64_t repeat;
  OptionalTensor line;
  int64_t reach;

  int64_t timesteps() const { return table.size(-1); }
  bool per_channel() const { return table.dim() == 2; }
};

inline void check_line(const Levels& levels) {
  TORCH_CHECK(levels.reach >= 0, "reach: expected 0 or more, got ", levels.reach);
  if (!levels.line) return;
  const at::Tensor& line = *levels.line;
  check_cpu("line", line);
  TORCH_CHECK(line.scalar_type() == at::kFloat, "line: expected float32, got ", line.scalar_type());
  const bool fits = line.dim() == levels.table.dim() && line.size(0) == 3 &&
                    (!levels.per_channel() || line.size(1) == levels.table.size(0));
  TORCH_CHECK(fits, "line: expected [3] with levels [T] and [3, C] with levels [C, T], got shape ", line.sizes(),
              " with levels ", levels.table.sizes());
}

inline void check_levels(const Levels& levels, at::IntArrayRef neurons) {
  const at::Tensor& table = levels.table;
  check_cpu("levels", table);
  TORCH_CHECK(table.scalar_type() == at::kFloat || table.scalar_type() == at::kDouble,
              "levels: expected float32 or float64, got ", table.scalar_type());
  TORCH_CHECK(table.dim() == 1 || table.dim() == 2, "levels: expected [T] or [C, T], got shape ", table.sizes());
  const int64_t timesteps = levels.timesteps();
  TORCH_CHECK(timesteps >= 1 && timesteps <= kMaxTimesteps, "levels: expected 1..255 levels, got shape ",
              table.sizes());
  TORCH_CHECK(table.numel() <= std::numeric_limits<int32_t>::max(), "levels: too many channels, got shape ",
              table.sizes());
  if (levels.per_channel()) check_rows("levels", table, neurons);
  TORCH_CHECK(levels.repeat >= 0 && (levels.repeat == 0 || timesteps % levels.repeat == 0),
              "repeat: expected 0 or a divisor of ", timesteps, ", got ", levels.repeat);
  check_line(levels);
}

inline void check_balance(int64_t turn, int64_t low, int64_t timesteps) {
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

inline void check_mean_arguments(const at::Tensor& current, const Levels& levels, const OptionalTensor& residual,
                                 const OptionalTensor& residual_scale) {
  check_cpu("current", current);
  check_levels(levels, current.sizes());
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
