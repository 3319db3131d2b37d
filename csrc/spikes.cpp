// fire_spikes and expand_spikes: spike trains.
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <utility>
#include <vector>

#include "neurons.h"

namespace pcsnn {
namespace {

// What a neuron's output holds without and with a spike, as bit patterns.
class Amplitude {
 public:
  Amplitude(const Channels& channels, const OptionalTensor& amplitude, at::ScalarType dtype)
      : size_(static_cast<int64_t>(c10::elementSize(dtype))), each_(amplitude && channels.each()), shared_(!amplitude) {
    const at::Tensor on = amplitude ? amplitude->to(dtype).contiguous() : at::ones({}, dtype);
    const at::Tensor off = amplitude ? on.mul(0) : at::zeros({}, dtype);  // -0.0 or NaN for some amplitudes
    // Without an amplitude the block is written in one go, whatever its channels.
    if (shared_) {
      on_.assign(bytes_of(on), bytes_of(on) + size_);
      off_.assign(bytes_of(off), bytes_of(off) + size_);
    } else if (size_ == 2) {
      spread<uint16_t>(channels, off, on);
    } else if (size_ == 4) {
      spread<uint32_t>(channels, off, on);
    } else {
      spread<uint64_t>(channels, off, on);
    }
  }

  bool shared() const { return shared_; }
  int64_t size() const { return size_; }

  // Writes step after step of a block's neurons. A threshold above 255 is never reached.
  void write(const uint8_t* counts, int threshold, int64_t offset, int64_t n, char* out) const {
    const char* off = off_.data() + offset * size_;
    const char* on = threshold > kMaxTimesteps ? off : on_.data() + offset * size_;
    primitives().spikes[__builtin_ctz(static_cast<unsigned>(size_))](counts, threshold, off, on, each_, n, out);
  }

 private:
  template <class Bits>
  void spread(const Channels& channels, const at::Tensor& off, const at::Tensor& on) {
    const auto copy = [&](const at::Tensor& values, std::vector<char>& to) {
      const auto all = channels.spread(static_cast<const Bits*>(values.const_data_ptr()), values.numel() > 1);
      const char* data = reinterpret_cast<const char*>(all.data());
      to.assign(data, data + all.size() * sizeof(Bits));
    };
    copy(off, off_);
    copy(on, on_);
  }

  int64_t size_;
  bool each_, shared_;
  std::vector<char> off_, on_;
};

// Writes the spikes of a block, neurons begin..end, for all steps. thresholds [T]: the count from which a step has a
// spike.
class Train {
 public:
  Train(const Channels& channels, const OptionalTensor& amplitude, const at::Tensor& out, std::vector<int> thresholds)
      : channels_(channels),
        amplitude_(channels, amplitude, out.scalar_type()),
        out_(mutable_bytes_of(out)),
        neurons_(out.stride(0)),
        stream_(out.numel() * out.element_size() >= kLarge),
        thresholds_(std::move(thresholds)) {}

  void write(const uint8_t* counts, int64_t begin, int64_t end) const {
    alignas(64) char buffer[kBlock * 8];
    const int64_t size = amplitude_.size();
    char* step = out_ + begin * size;
    for (const int threshold : thresholds_) {
      char* target = stream_ ? buffer : step;
      if (amplitude_.shared()) {
        amplitude_.write(counts, threshold, 0, end - begin, target);
      } else {
        channels_.runs(begin, end, [&](int64_t start, int64_t length, int64_t offset) {
          amplitude_.write(counts + (start - begin), threshold, offset, length, target + (start - begin) * size);
        });
      }
      if (stream_) primitives().stream(buffer, (end - begin) * size, step);
      step += neurons_ * size;
    }
  }

 private:
  const Channels& channels_;
  Amplitude amplitude_;
  char* out_;
  int64_t neurons_;
  bool stream_;
  std::vector<int> thresholds_;
};

// Step x has a spike where the count reaches T - place, place = order[x] or x: 0 always, 256 never.
int spike_threshold(int64_t place, int64_t timesteps) {
  if (place >= timesteps) return 0;
  if (place < timesteps - kMaxTimesteps) return static_cast<int>(kMaxTimesteps) + 1;
  return static_cast<int>(timesteps - place);
}

template <class F>
void spikes_into(const at::Tensor& out, const at::Tensor& current, const Levels& levels,
                 const OptionalTensor& amplitude) {
  const at::Tensor neurons = current.select(0, 0);
  const int64_t timesteps = current.size(0);
  const Channels channels(neurons, per_channel(levels, amplitude));
  const Table<F> table(channels, levels, timesteps, false);
  std::vector<int> thresholds;
  for (int64_t x = 0; x < timesteps; ++x) thresholds.push_back(spike_threshold(x, timesteps));
  const Train train(channels, amplitude, out, std::move(thresholds));
  const Type type = current_type(current);
  const char* currents = bytes_of(current);
  const int64_t size = current.element_size(), stride = current.stride(0);
  over_blocks(neurons.numel(), 2 * timesteps, [&](int64_t begin, int64_t end) {
    alignas(64) F sums[kBlock];
    alignas(64) uint8_t counts[kBlock];
    const char* step = currents + begin * size;
    const F* sum = widened<F>(type, step, end - begin, sums);
    for (int64_t t = 1; t < timesteps;) {
      const bool rows = t + kRows <= timesteps;
      const auto add = rows ? kernels<F>().add_rows[type] : kernels<F>().add[type];
      add(sum, step + t * stride * size, stride, end - begin, sums);
      sum = sums;
      t += rows ? kRows : 1;
    }
    channels.runs(begin, end, [&](int64_t start, int64_t length, int64_t offset) {
      kernels<F>().search(sum + (start - begin), length, table.at(offset), counts + (start - begin));
    });
    train.write(counts, begin, end);
  });
}

at::Tensor fire_spikes(const at::Tensor& current, const at::Tensor& table, const OptionalTensor& amplitude,
                       at::ScalarType out_dtype, int64_t repeat, const OptionalTensor& line, int64_t reach) {
  const Levels levels{table, repeat, line, reach};
  const Type type = current_type(current);
  check_cpu("current", current);
  TORCH_CHECK(current.dim() >= 1 && current.size(0) >= 1 && current.size(0) <= kMaxTimesteps,
              "current: expected [T, N, ...] with 1..255 time-steps, got shape ", current.sizes());
  check_levels(levels, current.sizes().slice(1), current.scalar_type());
  TORCH_CHECK(levels.timesteps() == current.size(0), "levels: expected ", current.size(0),
              " levels, one for each time-step of current, got shape ", table.sizes());
  check_spikes("out_dtype", out_dtype, amplitude, current.sizes().slice(1));
  const at::Tensor step = current.select(0, 0);
  at::Tensor out = steps_like(step, current.size(0), out_dtype);
  if (current.numel() == 0) return out;
  const at::Tensor steps =
      dense(step) ? current : steps_like(step, current.size(0), current.scalar_type()).copy_(current);
  const auto run = type == kDouble ? spikes_into<double> : spikes_into<float>;
  run(out, steps, levels, amplitude);
  return out;
}

at::Tensor expand_spikes(const at::Tensor& counts, int64_t timesteps, const OptionalTensor& order, at::ScalarType dtype,
                         const OptionalTensor& amplitude) {
  check_cpu("counts", counts);
  TORCH_CHECK(counts.scalar_type() == at::kByte, "counts: expected uint8, got ", counts.scalar_type());
  TORCH_CHECK(timesteps >= 1 && timesteps <= kMaxTimesteps, "timesteps: expected 1..255, got ", timesteps);
  check_spikes("dtype", dtype, amplitude, counts.sizes());
  std::vector<int> thresholds;
  if (order) {
    check_cpu("order", *order);
    TORCH_CHECK(order->scalar_type() == at::kLong && order->dim() == 1 && order->size(0) == timesteps,
                "order: expected int64 [", timesteps, "], got ", order->scalar_type(), " ", order->sizes());
    const auto places = order->accessor<int64_t, 1>();
    for (int64_t x = 0; x < timesteps; ++x) thresholds.push_back(spike_threshold(places[x], timesteps));
  } else {
    for (int64_t x = 0; x < timesteps; ++x) thresholds.push_back(spike_threshold(x, timesteps));
  }
  at::Tensor out = steps_like(counts, timesteps, dtype);
  if (counts.numel() == 0) return out;
  const at::Tensor packed = to_dense(counts);
  const Channels channels(packed, amplitude && amplitude->dim() == 1);
  const Train train(channels, amplitude, out, std::move(thresholds));
  const uint8_t* data = packed.const_data_ptr<uint8_t>();
  over_blocks(packed.numel(), timesteps, [&](int64_t begin, int64_t end) { train.write(data + begin, begin, end); });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(pcsnn, CPU, m) {
  m.impl("fire_spikes", &fire_spikes);
  m.impl("expand_spikes", &expand_spikes);
}

}  // namespace pcsnn
