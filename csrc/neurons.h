// Levels, scales and mean currents of neurons, in the form of the primitives.
#pragma once

#include <algorithm>
#include <optional>
#include <type_traits>
#include <vector>

#include "arguments.h"
#include "channels.h"
#include "dispatch.h"
#include "memory.h"

namespace pcsnn {

// So many levels are compared one after the other where a search would have to gather each.
constexpr int64_t kFewLevels = 48;

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
      source_.emplace(contiguous(*levels.line));
      const float* line = source_->const_data_ptr<float>();
      first_ = Spread<float>(channels, line, rows > 1);
      step_ = Spread<float>(channels, line + rows, rows > 1);
      inverse_ = Spread<float>(channels, line + 2 * rows, rows > 1);
      each_ = first_.each();
      return;
    }
    source_.emplace(contiguous(converted(levels.table, dtype_of<F>)));
    const F* data = source_->const_data_ptr<F>();
    const int64_t apart = distinct ? repeat : 1;
    count_ = levels.timesteps() / apart;
    if (apart > 1 || steps > 1) {
      own_.resize(static_cast<size_t>(rows * count_));
      for (int64_t x = 0; x < rows * count_; ++x) own_[x] = data[(x + 1) * apart - 1] * static_cast<F>(steps);
      data = own_.data();
    }
    levels_ = data;
    starts_.resize(static_cast<size_t>(rows));
    for (int64_t r = 0; r < rows; ++r) starts_[r] = static_cast<int32_t>(r * count_);
    row_ = Spread<int32_t>(channels, starts_.data(), rows > 1);
    each_ = row_.each();
    if (std::is_same_v<F, float> && each_ && count_ <= kFewLevels && channels.few(count_)) {
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
    Search<F> search{.count = static_cast<int32_t>(count_),
                     .weight = static_cast<int32_t>(weight_),
                     .steps = static_cast<int32_t>(steps_),
                     .each = each_,
                     .balance = balance_};
    if (starts_.empty()) {
      search.first = first_.at(offset);
      search.step = step_.at(offset);
      search.inverse = inverse_.at(offset);
      return search;
    }
    search.levels = levels_;
    search.row = row_.at(offset);
    if (!columns_.empty()) search.columns = columns_.data() + offset;
    search.columns_stride = columns_stride_;
    return search;
  }

 private:
  int64_t steps_;
  Balance balance_;
  int64_t count_, weight_ = 1;
  OptionalTensor source_;  // the line, or the table
  std::vector<F> own_;     // of a table that is searched otherwise than it was given
  const F* levels_ = nullptr;
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
  ChannelValues(const Channels& channels, const Tensor& values)
      : source_(contiguous(converted(values, dtype_of<F>))),
        spread_(channels, source_.template const_data_ptr<F>(), source_.numel() > 1) {}
  Values<F> at(int64_t offset) const { return {spread_.at(offset), spread_.each()}; }

 private:
  Tensor source_;
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
  Mean(const Channels& channels, const Tensor& current, const OptionalTensor& residual, const OptionalTensor& scale)
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
