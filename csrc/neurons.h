// Levels, scales and mean currents of neurons, in the form of the primitives.
#pragma once

#include <ATen/ATen.h>

#include <limits>
#include <optional>
#include <vector>

#include "arguments.h"
#include "channels.h"
#include "dispatch.h"
#include "memory.h"

namespace pcsnn {

// So many levels are compared one after the other where a search would have to gather each.
constexpr int64_t kFewLevels = 16;

template <class F>
class Table {
 public:
  Table(const Channels& channels, const at::Tensor& levels, int64_t repeat, bool distinct, Balance balance = {})
      : balance_(balance), levels_(levels.to(dtype_of<F>).contiguous()), each_(channels.each()) {
    const int64_t timesteps = levels_.size(-1);
    const int64_t rows = levels_.dim() == 2 ? levels_.size(0) : 1;
    const F* data = levels_.const_data_ptr<F>();
    std::vector<int32_t> row(static_cast<size_t>(rows));
    std::vector<F> first(static_cast<size_t>(rows)), inverse(static_cast<size_t>(rows));
    const F gaps = repeat ? static_cast<F>(timesteps / repeat - 1) : F{0};
    for (int64_t r = 0; r < rows; ++r) {
      const F low = data[r * timesteps], high = data[(r + 1) * timesteps - 1];
      const bool alive = high < std::numeric_limits<F>::infinity();
      row[r] = static_cast<int32_t>(r * timesteps);
      // A channel that never fires is guessed to have no spike, except under an infinite current.
      first[r] = alive ? low : std::numeric_limits<F>::max();
      inverse[r] = alive && gaps > 0 ? gaps / (high - low) : F{1};
    }
    row_ = channels.spread(row.data(), rows > 1);
    first_ = channels.spread(first.data(), rows > 1);
    inverse_ = channels.spread(inverse.data(), rows > 1);
    if (each_ && !repeat && rows > 1 && timesteps <= kFewLevels) {
      std::vector<F> column(static_cast<size_t>(rows));
      for (int64_t x = 0; x < timesteps; ++x) {
        for (int64_t r = 0; r < rows; ++r) column[r] = data[r * timesteps + x];
        const std::vector<F> spread = channels.spread(column.data(), true);
        columns_stride_ = static_cast<int64_t>(spread.size());
        columns_.insert(columns_.end(), spread.begin(), spread.end());
      }
    }
    timesteps_ = static_cast<int32_t>(timesteps);
    repeat_ = static_cast<int32_t>(repeat);
    weight_ = repeat && !distinct ? repeat_ : 1;
  }

  Search<F> at(int64_t offset) const {
    return {levels_.template const_data_ptr<F>(),
            row_.data() + offset,
            first_.data() + offset,
            inverse_.data() + offset,
            timesteps_,
            repeat_,
            weight_,
            each_,
            balance_,
            columns_.empty() ? nullptr : columns_.data() + offset,
            columns_stride_};
  }

 private:
  Balance balance_;
  at::Tensor levels_;
  bool each_;
  std::vector<int32_t> row_;
  std::vector<F> first_, inverse_, columns_;
  int64_t columns_stride_ = 0;
  int32_t timesteps_, repeat_, weight_;
};

template <class F>
class ChannelValues {
 public:
  ChannelValues(const Channels& channels, const at::Tensor& values) : each_(channels.each()) {
    const at::Tensor converted = values.to(dtype_of<F>).contiguous();
    values_ = channels.spread(converted.const_data_ptr<F>(), converted.numel() > 1);
  }
  Values<F> at(int64_t offset) const { return {values_.data() + offset, each_}; }

 private:
  bool each_;
  std::vector<F> values_;
};

// Currents as F: in `buffer`, or where they are if they are that already.
template <class F>
const F* widened(Type type, const char* currents, int64_t n, F* buffer) {
  if (type == kFloat || type == kDouble) return reinterpret_cast<const F*>(currents);
  kernels<F>().load[type](currents, n, buffer);
  return buffer;
}

// The mean current of a neuron, a residual added where there is one.
template <class F>
class Mean {
 public:
  Mean(const Channels& channels, const at::Tensor& current, const OptionalTensor& residual, const OptionalTensor& scale)
      : channels_(channels), current_(bytes_of(current)), type_(current_type(current)), size_(current.element_size()) {
    if (!residual) return;
    residual_ = to_layout_of(*residual, current);
    if (scale) scale_.emplace(channels, *scale);
  }

  // A residual of the currents' own type at neuron `begin`, or null.
  const char* branch(int64_t begin) const {
    return residual_ && !scale_ ? bytes_of(*residual_) + begin * size_ : nullptr;
  }

  // The current, with a residual of counts but without one of its own type.
  const F* trunk(int64_t begin, int64_t end, F* buffer) const {
    const F* means = widened<F>(type_, current_ + begin * size_, end - begin, buffer);
    if (!scale_) return means;
    const uint8_t* counts = residual_->const_data_ptr<uint8_t>();
    channels_.runs(begin, end, [&](int64_t start, int64_t length, int64_t offset) {
      const int64_t i = start - begin;
      kernels<F>().add_counts(means + i, counts + start, scale_->at(offset), length, buffer + i);
    });
    return buffer;
  }

  // Mean currents of neurons begin..end: in `buffer`, or where they already are.
  const F* load(int64_t begin, int64_t end, F* buffer) const {
    const F* means = trunk(begin, end, buffer);
    const char* more = branch(begin);
    if (!more) return means;
    kernels<F>().add[type_](means, more, 0, end - begin, buffer);
    return buffer;
  }

 private:
  const Channels& channels_;
  const char* current_;
  Type type_;
  int64_t size_;
  OptionalTensor residual_;
  std::optional<ChannelValues<F>> scale_;
};

inline bool per_channel(const at::Tensor& levels, const OptionalTensor& values,
                        const OptionalTensor& more = std::nullopt) {
  return levels.dim() == 2 || (values && values->dim() == 1) || (more && more->dim() == 1);
}

}  // namespace pcsnn
