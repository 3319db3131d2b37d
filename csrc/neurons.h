// Levels, scales and mean currents of neurons, in the form of the primitives.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "arguments.h"
#include "channels.h"
#include "dispatch.h"
#include "memory.h"

namespace pcsnn {

// So many levels are compared one after the other where a search would have to gather each.
constexpr int64_t kFewLevels = 16;

// Values of all neurons, or of each channel, as the primitives read them: one a neuron where neighbours differ.
template <class V>
class Spread {
 public:
  Spread() = default;
  Spread(const Channels& channels, const V* values, bool per_channel)
      : per_channel_(per_channel && channels.count() > 1), each_(per_channel_ && channels.each()), values_(values) {
    if (each_) spread_ = channels.spread(values, true);
  }

  bool each() const { return each_; }
  const V* at(int64_t offset) const { return (each_ ? spread_.data() : values_) + (per_channel_ ? offset : 0); }

 private:
  bool per_channel_ = false, each_ = false;
  const V* values_ = nullptr;
  std::vector<V> spread_;
};

template <class F>
class Table {
 public:
  // steps: of the sums that are searched, 1 for means; distinct: counts are those of distinct levels.
  Table(const Channels& channels, const Levels& levels, int64_t steps, bool distinct, Balance balance = {})
      : steps_(steps), balance_(balance) {
    const int64_t repeat = std::max<int64_t>(levels.repeat, 1);
    const int64_t rows = levels.per_channel() ? levels.table.size(0) : 1;
    if (levels.line && levels.reach == 0) {
      count_ = levels.timesteps() / repeat;
      weight_ = distinct ? 1 : repeat;
      source_ = levels.line->contiguous();
      const float* line = source_.const_data_ptr<float>();
      first_ = Spread<float>(channels, line, rows > 1);
      step_ = Spread<float>(channels, line + rows, rows > 1);
      inverse_ = Spread<float>(channels, line + 2 * rows, rows > 1);
      each_ = first_.each();
      return;
    }
    at::Tensor table = levels.table.to(dtype_of<F>);
    if (distinct && repeat > 1) table = table.slice(-1, repeat - 1, std::nullopt, repeat);
    if (steps > 1) table = table.mul(static_cast<double>(steps));
    source_ = table.contiguous();
    count_ = source_.size(-1);
    const F* data = source_.const_data_ptr<F>();
    starts_.resize(static_cast<size_t>(rows));
    for (int64_t r = 0; r < rows; ++r) starts_[r] = static_cast<int32_t>(r * count_);
    row_ = Spread<int32_t>(channels, starts_.data(), rows > 1);
    each_ = row_.each();
    if (each_ && count_ <= kFewLevels) {
      std::vector<F> column(static_cast<size_t>(rows));
      for (int64_t x = 0; x < count_; ++x) {
        for (int64_t r = 0; r < rows; ++r) column[r] = data[r * count_ + x];
        const std::vector<F> spread = channels.spread(column.data(), true);
        columns_stride_ = static_cast<int64_t>(spread.size());
        columns_.insert(columns_.end(), spread.begin(), spread.end());
      }
    }
  }

  Search<F> at(int64_t offset) const {
    const bool line = starts_.empty();
    return {line ? first_.at(offset) : nullptr,
            line ? step_.at(offset) : nullptr,
            line ? inverse_.at(offset) : nullptr,
            static_cast<int32_t>(count_),
            static_cast<int32_t>(weight_),
            static_cast<int32_t>(steps_),
            each_,
            balance_,
            line ? nullptr : source_.template const_data_ptr<F>(),
            line ? nullptr : row_.at(offset),
            columns_.empty() ? nullptr : columns_.data() + offset,
            columns_stride_};
  }

 private:
  int64_t steps_;
  Balance balance_;
  int64_t count_, weight_ = 1;
  at::Tensor source_;  // the line, or the table as it is searched
  bool each_;
  Spread<float> first_, step_, inverse_;
  std::vector<int32_t> starts_;  // of the rows of a table
  Spread<int32_t> row_;
  std::vector<F> columns_;
  int64_t columns_stride_ = 0;
};

template <class F>
class ChannelValues {
 public:
  ChannelValues(const Channels& channels, const at::Tensor& values)
      : source_(values.to(dtype_of<F>).contiguous()),
        spread_(channels, source_.template const_data_ptr<F>(), source_.numel() > 1) {}
  Values<F> at(int64_t offset) const { return {spread_.at(offset), spread_.each()}; }

 private:
  at::Tensor source_;
  Spread<F> spread_;
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

inline bool per_channel(const Levels& levels, const OptionalTensor& values, const OptionalTensor& more = std::nullopt) {
  return levels.per_channel() || (values && values->dim() == 1) || (more && more->dim() == 1);
}

}  // namespace pcsnn
