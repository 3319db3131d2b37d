// Which channel a neuron belongs to, for a dense tensor [N, C, ...] walked in memory order, and per-channel values in
// the form that the primitives read.
#pragma once

#include <algorithm>
#include <vector>

#include "primitives.h"
#include "tensor.h"

namespace pcsnn {

// Neurons per step of the inner loops: their mean currents and counts stay in the first-level cache.
constexpr int64_t kBlock = 4096;

class Channels {
 public:
  // `neurons` is dense, so that its channel is (i / stride(1)) % size(1) at place i in memory.
  Channels(const Tensor& neurons, bool per_channel) {
    if (!per_channel || neurons.size(1) <= 1) return;
    count_ = neurons.size(1);
    inner_ = neurons.stride(1);
    form_ = inner_ < kShortRun ? kEach : kRuns;
    period_ = inner_ * count_;
    neurons_ = neurons.numel();
  }

  // Whether neighbours differ in channel, so that per-channel values are spread to one a neuron.
  bool each() const { return form_ == kEach; }
  // Whether so many values a channel, spread, are few beside the neurons that read them.
  bool few(int64_t values) const { return 2 * values * spread_size() <= 3 * neurons_; }
  int64_t count() const { return count_; }

  // [C], or [] for all, -> values to be indexed by the offset that `runs` gives.
  template <class V>
  std::vector<V> spread(const V* values, bool per_channel) const {
    if (form_ != kEach) {
      if (per_channel) return std::vector<V>(values, values + count_);
      return std::vector<V>(static_cast<size_t>(count_), *values);
    }
    const int64_t size = spread_size();
    std::vector<V> result(static_cast<size_t>(size));
    V* to = result.data();
    for (int64_t c = 0; c < count_; ++c) std::fill_n(to + c * inner_, inner_, values[per_channel ? c : 0]);
    for (int64_t filled = period_; filled < size; filled *= 2)
      std::copy_n(to, std::min(filled, size - filled), to + filled);
    return result;
  }

  // Calls body(begin, length, offset) for the parts of [begin, end), a block, that share one set of per-channel values.
  template <class Body>
  void runs(int64_t begin, int64_t end, const Body& body) const {
    if (form_ == kOne) return body(begin, end - begin, 0);
    if (form_ == kEach) {
      for (int64_t offset = begin % period_; begin < end; begin += kPart, offset = (offset + kPart) % period_)
        body(begin, std::min(kPart, end - begin), offset);
      return;
    }
    int64_t channel = begin / inner_ % count_;
    int64_t left = inner_ - begin % inner_;
    while (begin < end) {
      const int64_t length = std::min(left, end - begin);
      body(begin, length, channel);
      begin += length;
      left = inner_;
      channel = channel + 1 == count_ ? 0 : channel + 1;
    }
  }

 private:
  enum Form { kOne, kRuns, kEach };
  static constexpr int64_t kShortRun = 16;
  static constexpr int64_t kPart = 512;  // spread values beyond the period: few, to leave room in the cache

  int64_t spread_size() const { return period_ + kPart + kPadding; }

  Form form_ = kOne;
  int64_t neurons_ = 0;
  int64_t count_ = 1;
  int64_t inner_ = 1;
  int64_t period_ = 1;
};

}  // namespace pcsnn
