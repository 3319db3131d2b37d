// fire_counts, fire_rates and fire_rates_: neurons under a mean current.
#include <torch/library.h>

#include <type_traits>

#include "neurons.h"
#include "rates.h"

namespace pcsnn {
namespace {

template <class F>
void counts_into(const at::Tensor& out, const at::Tensor& current, const Levels& levels, const OptionalTensor& residual,
                 const OptionalTensor& residual_scale) {
  const Channels channels(current, per_channel(levels, residual_scale));
  const Table<F> table(channels, levels, 1, false);
  const Mean<F> mean(channels, current, residual, residual_scale);
  uint8_t* counts = out.mutable_data_ptr<uint8_t>();
  over_blocks(current.numel(), 1, [&](int64_t begin, int64_t end) {
    alignas(64) F buffer[kBlock];
    const F* means = mean.load(begin, end, buffer);
    channels.runs(begin, end, [&](int64_t start, int64_t length, int64_t offset) {
      kernels<F>().search(means + (start - begin), length, table.at(offset), counts + start);
    });
  });
}

}  // namespace

at::Tensor fire_counts(const at::Tensor& current, const Levels& levels, const OptionalTensor& residual,
                       const OptionalTensor& residual_scale) {
  const Type type = current_type(current);
  check_mean_arguments(current, levels, residual, residual_scale);
  at::Tensor out = at::empty_like(current, current.options().dtype(at::kByte));
  if (current.numel() == 0) return out;
  const auto run = type == kDouble ? counts_into<double> : counts_into<float>;
  run(out, to_dense(current), levels, residual, residual_scale);
  return out;
}

namespace {

// `out` may be `current`.
template <class F>
void rates_into(const at::Tensor& out, const at::Tensor& current, const Levels& levels, const at::Tensor& scale,
                const OptionalTensor& residual, const OptionalTensor& residual_scale, Balance balance) {
  const Channels channels(current, per_channel(levels, scale, residual_scale));
  const Table<F> table(channels, levels, 1, true, balance);
  const ChannelValues<F> scales(channels, scale);
  const Mean<F> mean(channels, current, residual, residual_scale);
  const Type type = current_type(current);
  const int64_t size = out.element_size();
  char* rates = mutable_bytes_of(out);
  over_blocks(current.numel(), 1, [&](int64_t begin, int64_t end) {
    alignas(64) F buffer[kBlock];
    if constexpr (std::is_same_v<F, float>) {
      if (type == kFloat && primitives().fused_rates) {
        const float* means = mean.trunk(begin, end, buffer);
        const float* more = reinterpret_cast<const float*>(mean.branch(begin));
        float* target = reinterpret_cast<float*>(rates) + begin;
        channels.runs(begin, end, [&](int64_t start, int64_t length, int64_t offset) {
          const int64_t i = start - begin;
          primitives().fused_rates(means + i, more ? more + i : nullptr, length, table.at(offset), scales.at(offset),
                                   target + i);
        });
        return;
      }
    }
    alignas(64) uint8_t counts[kBlock];
    const F* means = mean.load(begin, end, buffer);
    channels.runs(begin, end, [&](int64_t start, int64_t length, int64_t offset) {
      const int64_t i = start - begin;
      kernels<F>().search(means + i, length, table.at(offset), counts + i);
      kernels<F>().rates[type](counts + i, balance, scales.at(offset), length, rates + start * size);
    });
  });
}

void run_rates(const at::Tensor& out, const at::Tensor& current, const Levels& levels, const at::Tensor& scale,
               const OptionalTensor& residual, const OptionalTensor& residual_scale, int64_t turn, int64_t low) {
  const auto run = current_type(current) == kDouble ? rates_into<double> : rates_into<float>;
  const Balance balance{static_cast<int32_t>(turn), static_cast<int32_t>(low)};
  run(out, current, levels, scale, residual, residual_scale, balance);
}

at::Tensor fire_rates(const at::Tensor& current, const Levels& levels, const at::Tensor& scale,
                      const OptionalTensor& residual, const OptionalTensor& residual_scale, int64_t turn, int64_t low) {
  current_type(current);
  check_mean_arguments(current, levels, residual, residual_scale);
  check_channel_values("scale", scale, current.sizes());
  check_balance(turn, low, levels.timesteps());
  at::Tensor out = huge_pages(at::empty_like(current));
  if (current.numel()) run_rates(out, to_dense(current), levels, scale, residual, residual_scale, turn, low);
  return out;
}

// A residual may be `current` itself, but not a shifted view of it: that would be read after it is overwritten.
OptionalTensor kept(const OptionalTensor& residual, const at::Tensor& current) {
  if (!residual || !residual->is_alias_of(current)) return residual;
  const bool same = residual->const_data_ptr() == current.const_data_ptr() && residual->dtype() == current.dtype() &&
                    same_layout(*residual, current);
  return same ? residual : residual->clone();
}

// A table that may lie in the memory of `current`.
at::Tensor apart(const at::Tensor& table, const at::Tensor& current) {
  return table.is_alias_of(current) ? table.clone() : table;
}

OptionalTensor apart(const OptionalTensor& table, const at::Tensor& current) {
  return table ? OptionalTensor(apart(*table, current)) : table;
}

}  // namespace

void fire_rates_(const at::Tensor& current, const Levels& levels, const at::Tensor& scale,
                 const OptionalTensor& residual, const OptionalTensor& residual_scale, int64_t turn, int64_t low) {
  check_cpu("current", current);
  check_apart("current", current);
  if (!dense(current)) {
    current.copy_(fire_rates(current, levels, scale, residual, residual_scale, turn, low));
    return;
  }
  current_type(current);
  check_mean_arguments(current, levels, residual, residual_scale);
  check_channel_values("scale", scale, current.sizes());
  check_balance(turn, low, levels.timesteps());
  if (current.numel() == 0) return;
  const Levels kept_levels{apart(levels.table, current), levels.repeat, apart(levels.line, current), levels.reach};
  run_rates(current, current, kept_levels, apart(scale, current), kept(residual, current),
            apart(residual_scale, current), turn, low);
  if (!current.is_inference()) current.unsafeGetTensorImpl()->bump_version();
}

TORCH_LIBRARY_IMPL(pcsnn, CPU, m) {
  m.impl("fire_counts",
         [](const at::Tensor& current, const at::Tensor& levels, const OptionalTensor& residual,
            const OptionalTensor& residual_scale, int64_t repeat, const OptionalTensor& line,
            int64_t reach) { return fire_counts(current, {levels, repeat, line, reach}, residual, residual_scale); });
  m.impl("fire_rates", [](const at::Tensor& current, const at::Tensor& levels, const at::Tensor& scale,
                          const OptionalTensor& residual, const OptionalTensor& residual_scale, int64_t repeat,
                          int64_t turn, int64_t low, const OptionalTensor& line, int64_t reach) {
    return fire_rates(current, {levels, repeat, line, reach}, scale, residual, residual_scale, turn, low);
  });
  m.impl("fire_rates_", [](const at::Tensor& current, const at::Tensor& levels, const at::Tensor& scale,
                           const OptionalTensor& residual, const OptionalTensor& residual_scale, int64_t repeat,
                           int64_t turn, int64_t low, const OptionalTensor& line, int64_t reach) {
    fire_rates_(current, {levels, repeat, line, reach}, scale, residual, residual_scale, turn, low);
  });
}

}  // namespace pcsnn
