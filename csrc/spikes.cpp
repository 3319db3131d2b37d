// fire_spikes and expand_spikes: spike trains.

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "neurons.h"

namespace pcsnn {
namespace {

// Writes what a step sends of counts.
class SpikeWriter {
 public:
  virtual ~SpikeWriter() = default;
  // Whether a block is written in one go, whatever its channels.
  virtual bool shared() const = 0;
  // One step of n neurons whose values start at `offset`: of each count what is above `silent`.
  virtual void write(const uint8_t* counts, int64_t silent, int64_t offset, int64_t n, char* out) const = 0;
};

// Spikes 0 or 1: what a neuron's output holds without and with one, as bit patterns.
class BinaryWriter final : public SpikeWriter {
 public:
  BinaryWriter(const Channels& channels, const OptionalTensor& amplitude, ScalarType dtype)
      : size_(static_cast<int64_t>(aoti_torch_dtype_element_size(number_of(dtype)))),
        each_(amplitude && channels.each()),
        shared_(!amplitude) {
    if (shared_) {
      const uint64_t one = bits_of_one(dtype);
      on_.resize(static_cast<size_t>(size_));
      std::memcpy(on_.data(), &one, on_.size());
      off_.resize(on_.size());
      return;
    }
    const Tensor on = contiguous(converted(*amplitude, dtype));
    const Tensor off = dtype == ScalarType::Double ? nothing_of<double>(on) : nothing_of<float>(on);
    if (size_ == 2) {
      spread<uint16_t>(channels, off, on);
    } else if (size_ == 4) {
      spread<uint32_t>(channels, off, on);
    } else {
      spread<uint64_t>(channels, off, on);
    }
  }

  bool shared() const override { return shared_; }

  void write(const uint8_t* counts, int64_t silent, int64_t offset, int64_t n, char* out) const override {
    const char* off = off_.data() + offset * size_;
    const char* on = silent >= kMaxTimesteps ? off : on_.data() + offset * size_;
    const int threshold = static_cast<int>(silent) + 1;
    primitives().spikes[__builtin_ctz(static_cast<unsigned>(size_))](counts, threshold, off, on, each_, n, out);
  }

 private:
  // On a processor whose bytes begin with the lowest.
  static uint64_t bits_of_one(ScalarType dtype) {
    switch (dtype) {
      case ScalarType::Float: return 0x3f800000;
      case ScalarType::Half: return 0x3c00;
      case ScalarType::BFloat16: return 0x3f80;
      case ScalarType::Double: return 0x3ff0000000000000;
      default: return 1;
    }
  }

  // Amplitudes times 0, which is -0.0 or NaN for some.
  template <class F>
  static Tensor nothing_of(const Tensor& on) {
    const Tensor values = copied(converted(on, dtype_of<F>));
    F* data = values.mutable_data_ptr<F>();
    for (int64_t i = 0; i < values.numel(); ++i) data[i] *= 0;
    return converted(values, on.scalar_type());
  }

  template <class Bits>
  void spread(const Channels& channels, const Tensor& off, const Tensor& on) {
    const auto copy = [&](const Tensor& values, std::vector<char>& to) {
      const auto all = channels.spread(values.const_data_ptr<Bits>(), values.numel() > 1);
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

// Spikes 0..most (22): bytes, or numbers times an amplitude.
class IntegerWriter final : public SpikeWriter {
 public:
  IntegerWriter(const Channels& channels, const OptionalTensor& amplitude, const Tensor& out, int64_t most)
      : most_(static_cast<int>(most)), shared_(!amplitude || amplitude->dim() == 0) {
    const ScalarType dtype = out.scalar_type();
    if (dtype == ScalarType::Byte) return;
    type_ = current_type(out);
    if (type_ == kDouble) {
      f64_.emplace(channels, amplitude ? converted(*amplitude, dtype) : one<double>());
    } else {
      f32_.emplace(channels, amplitude ? converted(*amplitude, dtype) : one<float>());
    }
  }

  bool shared() const override { return shared_; }

  void write(const uint8_t* counts, int64_t silent, int64_t offset, int64_t n, char* out) const override {
    alignas(64) uint8_t buffer[kBlock];
    uint8_t* spikes = f32_ || f64_ ? buffer : reinterpret_cast<uint8_t*>(out);
    if (silent < 0) {
      std::fill_n(spikes, n, static_cast<uint8_t>(most_));
    } else {
      const int least = static_cast<int>(std::min(silent, kMaxTimesteps));
      primitives().integer_spikes(counts, least, most_, n, spikes);
    }
    if (f32_) kernels<float>().rates[type_](spikes, Balance{}, f32_->at(offset), n, out);
    if (f64_) kernels<double>().rates[type_](spikes, Balance{}, f64_->at(offset), n, out);
  }

 private:
  template <class F>
  static Tensor one() {
    const Tensor value = empty_contiguous({}, dtype_of<F>);
    *value.mutable_data_ptr<F>() = 1;
    return value;
  }

  int most_;
  bool shared_;
  Type type_ = kFloat;
  std::optional<ChannelValues<float>> f32_;
  std::optional<ChannelValues<double>> f64_;
};

std::unique_ptr<const SpikeWriter> writer_of(const Channels& channels, const OptionalTensor& amplitude,
                                             const Tensor& out, int64_t spike_levels) {
  if (spike_levels == 1) return std::make_unique<BinaryWriter>(channels, amplitude, out.scalar_type());
  return std::make_unique<IntegerWriter>(channels, amplitude, out, spike_levels);
}

// The count above which step x has a spike: what the steps behind it send at most, (T - 1 - place) spike_levels with
// place = order[x] or x. Below 0 the step is always full, from 255 on never anything else than silent.
std::vector<int64_t> silent_counts(int64_t timesteps, int64_t spike_levels, const int64_t* order = nullptr) {
  std::vector<int64_t> silent;
  for (int64_t x = 0; x < timesteps; ++x) {
    const int64_t place = std::clamp(order ? order[x] : x, timesteps - 1 - kMaxTimesteps, timesteps);
    silent.push_back((timesteps - 1 - place) * spike_levels);
  }
  return silent;
}

// Writes the spikes of a block, neurons begin..end, for all steps. silent [T]: of `silent_counts`.
class Train {
 public:
  Train(const Channels& channels, const OptionalTensor& amplitude, const Tensor& out, int64_t spike_levels,
        std::vector<int64_t> silent)
      : channels_(channels),
        writer_(writer_of(channels, amplitude, out, spike_levels)),
        out_(mutable_bytes_of(out)),
        size_(out.element_size()),
        neurons_(out.stride(0)),
        stream_(out.numel() * out.element_size() >= kLarge),
        silent_(std::move(silent)) {}

  void write(const uint8_t* counts, int64_t begin, int64_t end) const {
    alignas(64) char buffer[kBlock * 8];
    char* step = out_ + begin * size_;
    for (const int64_t silent : silent_) {
      char* target = stream_ ? buffer : step;
      if (writer_->shared()) {
        writer_->write(counts, silent, 0, end - begin, target);
      } else {
        channels_.runs(begin, end, [&](int64_t start, int64_t length, int64_t offset) {
          writer_->write(counts + (start - begin), silent, offset, length, target + (start - begin) * size_);
        });
      }
      if (stream_) primitives().stream(buffer, (end - begin) * size_, step);
      step += neurons_ * size_;
    }
  }

 private:
  const Channels& channels_;
  std::unique_ptr<const SpikeWriter> writer_;
  char* out_;
  int64_t size_, neurons_;
  bool stream_;
  std::vector<int64_t> silent_;
};

template <class F>
void spikes_into(const Tensor& out, const Tensor& current, const Levels& levels, const OptionalTensor& amplitude,
                 int64_t spike_levels) {
  const Tensor neurons = current.first_entry();
  const int64_t timesteps = current.size(0);
  const Channels channels(neurons, per_channel(levels, amplitude));
  const Table<F> table(channels, levels, timesteps, false);
  const Train train(channels, amplitude, out, spike_levels, silent_counts(timesteps, spike_levels));
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

Given fire_spikes(const Given& given, const Given& table, const OptionalGiven& worth, ScalarType out_dtype,
                  int64_t repeat, const OptionalGiven& line, int64_t reach, int64_t spike_levels) {
  const Tensor current = given;
  const OptionalTensor amplitude = worth;
  const Levels levels{table, repeat, line, reach};
  const Type type = current_type(current);
  check_cpu("current", current);
  PCSNN_CHECK(current.dim() >= 1 && current.size(0) >= 1 && current.size(0) <= kMaxTimesteps,
              "current: expected [T, N, ...] with 1..255 time-steps, got shape ", current.sizes());
  check_spike_levels(spike_levels, current.size(0));
  check_levels(levels, current.sizes().subspan(1), current.scalar_type());
  PCSNN_CHECK(levels.timesteps() == current.size(0) * spike_levels, "levels: expected ", current.size(0) * spike_levels,
              " levels, ", spike_levels, " for each time-step of current, got shape ", levels.table.sizes());
  check_spikes("out_dtype", out_dtype, amplitude, current.sizes().subspan(1), spike_levels);
  const Tensor step = current.first_entry();
  const Tensor out = steps_like(step, current.size(0), out_dtype);
  if (current.numel() == 0) return out;
  const Tensor steps =
      dense(step) ? current : steps_like(step, current.size(0), current.scalar_type()).copy_from(current);
  const auto run = type == kDouble ? spikes_into<double> : spikes_into<float>;
  run(out, steps, levels, amplitude, spike_levels);
  return out;
}

Given expand_spikes(const Given& given, int64_t timesteps, const OptionalGiven& permutation, ScalarType dtype,
                    const OptionalGiven& worth, int64_t spike_levels) {
  const Tensor counts = given;
  OptionalTensor order = permutation;
  const OptionalTensor amplitude = worth;
  check_cpu("counts", counts);
  PCSNN_CHECK(counts.scalar_type() == ScalarType::Byte, "counts: expected uint8, got ", counts.scalar_type());
  PCSNN_CHECK(timesteps >= 1 && timesteps <= kMaxTimesteps, "timesteps: expected 1..255, got ", timesteps);
  check_spike_levels(spike_levels, timesteps);
  check_spikes("dtype", dtype, amplitude, counts.sizes(), spike_levels);
  if (order) {
    check_cpu("order", *order);
    PCSNN_CHECK(order->scalar_type() == ScalarType::Long && order->dim() == 1 && order->size(0) == timesteps,
                "order: expected int64 [", timesteps, "], got ", order->scalar_type(), " ", order->sizes());
    order = contiguous(*order);
  }
  const Tensor out = steps_like(counts, timesteps, dtype);
  if (counts.numel() == 0) return out;
  const Tensor packed = to_dense(counts);
  const Channels channels(packed, amplitude && amplitude->dim() == 1);
  const int64_t* shown = order ? order->const_data_ptr<int64_t>() : nullptr;
  const Train train(channels, amplitude, out, spike_levels, silent_counts(timesteps, spike_levels, shown));
  const uint8_t* data = packed.const_data_ptr<uint8_t>();
  over_blocks(packed.numel(), timesteps, [&](int64_t begin, int64_t end) { train.write(data + begin, begin, end); });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pcsnn, CPU, m) {
  m.impl("fire_spikes", TORCH_BOX(&fire_spikes));
  m.impl("expand_spikes", TORCH_BOX(&expand_spikes));
}

}  // namespace pcsnn
