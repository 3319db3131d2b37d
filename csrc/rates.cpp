// fire_counts, fire_rates and fire_rates_: neurons under a mean current.

#include <array>
#include <type_traits>

#include "neurons.h"
#include "rates.h"

namespace pcsnn {
namespace {

template <class F>
void counts_into(const Tensor& out, const Tensor& current, const Levels& levels, const OptionalTensor& residual,
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

Tensor fire_counts(const Tensor& current, const Levels& levels, const OptionalTensor& residual,
                   const OptionalTensor& residual_scale) {
  const Type type = current_type(current);
  check_mean_arguments(current, levels, residual, residual_scale);
  const Tensor out = empty_like(current, ScalarType::Byte);
  if (current.numel() == 0) return out;
  const auto run = type == kDouble ? counts_into<double> : counts_into<float>;
  run(out, to_dense(current), levels, residual, residual_scale);
  return out;
}

namespace {

// `out` may be `current`.
template <class F>
void rates_into(const Tensor& out, const Tensor& current, const Levels& levels, const Tensor& scale,
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

void rates_to(const Tensor& out, const Tensor& current, const Levels& levels, const Tensor& scale,
              const OptionalTensor& residual, const OptionalTensor& residual_scale, int64_t turn, int64_t low) {
  const auto run = current_type(current) == kDouble ? rates_into<double> : rates_into<float>;
  const Balance balance{static_cast<int32_t>(turn), static_cast<int32_t>(low)};
  run(out, current, levels, scale, residual, residual_scale, balance);
}

Tensor fire_rates(const Tensor& current, const Levels& levels, const Tensor& scale, const OptionalTensor& residual,
                  const OptionalTensor& residual_scale, int64_t turn, int64_t low) {
  current_type(current);
  check_mean_arguments(current, levels, residual, residual_scale);
  check_channel_values("scale", scale, current.sizes());
  check_balance(turn, low, levels.timesteps());
  const Tensor out = huge_pages(empty_like(current));
  if (current.numel()) rates_to(out, to_dense(current), levels, scale, residual, residual_scale, turn, low);
  return out;
}

// A residual may be `current` itself, but not a shifted view of it: that would be read after it is overwritten.
OptionalTensor kept(const OptionalTensor& residual, const Tensor& current) {
  if (!residual || !overlap(*residual, current)) return residual;
  const bool same = residual->const_data_ptr() == current.const_data_ptr() &&
                    residual->scalar_type() == current.scalar_type() && same_layout(*residual, current);
  return same ? residual : copied(*residual);
}

// A table that may lie in the memory of `current`.
Tensor apart(const Tensor& table, const Tensor& current) { return overlap(table, current) ? copied(table) : table; }

OptionalTensor apart(const OptionalTensor& table, const Tensor& current) {
  return table ? OptionalTensor(apart(*table, current)) : table;
}

}  // namespace

void fire_rates_over(const Tensor& current, const Levels& levels, const Tensor& scale, const OptionalTensor& residual,
                     const OptionalTensor& residual_scale, int64_t turn, int64_t low) {
  current_type(current);
  check_mean_arguments(current, levels, residual, residual_scale);
  check_channel_values("scale", scale, current.sizes());
  check_balance(turn, low, levels.timesteps());
  if (current.numel() == 0) return;
  const Levels kept_levels{apart(levels.table, current), levels.repeat, apart(levels.line, current), levels.reach};
  rates_to(current, current, kept_levels, apart(scale, current), kept(residual, current),
           apart(residual_scale, current), turn, low);
}

namespace {

// Tells autograd that `current` was written to: of a copy to itself torch does nothing else.
void bump_version(const Given& current) {
  std::array<StableIValue, 1> inference{torch::stable::detail::from(current)};
  check_done(torch_call_dispatcher("aten::is_inference", "", inference.data(), TORCH_ABI_VERSION), "is_inference");
  if (!torch::stable::detail::to<bool>(inference[0]))
    check_done(aoti_torch_copy_(current.get(), current.get(), 0), "copy_");
}

void fire_rates_(const Tensor& current, const Levels& levels, const Tensor& scale, const OptionalTensor& residual,
                 const OptionalTensor& residual_scale, int64_t turn, int64_t low) {
  check_cpu("current", current);
  check_apart("current", current);
  if (!dense(current)) {
    current.copy_from(fire_rates(current, levels, scale, residual, residual_scale, turn, low));
    return;
  }
  fire_rates_over(current, levels, scale, residual, residual_scale, turn, low);
  if (current.numel()) bump_version(current);
}

Given run_counts(const Given& current, const Given& levels, const OptionalGiven& residual,
                 const OptionalGiven& residual_scale, int64_t repeat, const OptionalGiven& line, int64_t reach) {
  return fire_counts(current, {levels, repeat, line, reach}, residual, residual_scale);
}

Given run_rates(const Given& current, const Given& levels, const Given& scale, const OptionalGiven& residual,
                const OptionalGiven& residual_scale, int64_t repeat, int64_t turn, int64_t low,
                const OptionalGiven& line, int64_t reach) {
  return fire_rates(current, {levels, repeat, line, reach}, scale, residual, residual_scale, turn, low);
}

void run_rates_(const Given& current, const Given& levels, const Given& scale, const OptionalGiven& residual,
                const OptionalGiven& residual_scale, int64_t repeat, int64_t turn, int64_t low,
                const OptionalGiven& line, int64_t reach) {
  fire_rates_(current, {levels, repeat, line, reach}, scale, residual, residual_scale, turn, low);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pcsnn, CPU, m) {
  m.impl("fire_counts", TORCH_BOX(&run_counts));
  m.impl("fire_rates", TORCH_BOX(&run_rates));
  m.impl("fire_rates_", TORCH_BOX(&run_rates_));
}

}  // namespace pcsnn
