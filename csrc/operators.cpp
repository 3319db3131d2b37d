// The operators for the CPU: arguments to dense memory, one parallel region over blocks of neurons, the primitives of this
// processor inside. Values are checked in Python; here only what could read or write out of bounds is.

#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "channels.h"
#include "primitives.h"

namespace pcsnn {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

constexpr int64_t kMaxTimesteps = 255;
constexpr int64_t kThreadWork = 16384;           // elements that are worth a thread
constexpr int64_t kStreamBytes = int64_t{8} << 20;  // larger outputs would only push others out of the caches

const Primitives& pick() {
  const char* wish = std::getenv("PCSNN_CPU_CAPABILITY");
  const std::string most = wish ? wish : "avx512";
  TORCH_CHECK(most == "avx512" || most == "avx2" || most == "default",
              "PCSNN_CPU_CAPABILITY: expected avx512, avx2 or default, got ", most);
#ifdef PCSNN_X86_DISPATCH
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && most == "avx512") return kAvx512;
  if (avx2 && most != "default") return kAvx2;
#endif
  return kDefault;
}

const Primitives& primitives() {
  static const Primitives& picked = pick();
  return picked;
}

template <class F>
const Kernels<F>& kernels();
template <>
const Kernels<float>& kernels<float>() {
  return primitives().f32;
}
template <>
const Kernels<double>& kernels<double>() {
  return primitives().f64;
}

template <class F>
constexpr at::ScalarType dtype_of = std::is_same_v<F, double> ? at::kDouble : at::kFloat;

Type current_type(const at::Tensor& current) {
  switch (current.scalar_type()) {
    case at::kFloat:
      return kFloat;
    case at::kHalf:
      return kHalf;
    case at::kBFloat16:
      return kBFloat16;
    case at::kDouble:
      return kDouble;
    default:
      TORCH_CHECK(false, "current: expected float32, float16, bfloat16 or float64, got ", current.scalar_type());
  }
}

// ---- arguments ----

void check_cpu(const char* name, const at::Tensor& value) {
  TORCH_CHECK(value.device().is_cpu() && value.layout() == at::kStrided, name, ": expected a dense tensor on the CPU, got ",
              value.layout(), " on ", value.device());
}

void check_rows(const char* name, const at::Tensor& table, at::IntArrayRef neurons) {
  TORCH_CHECK(neurons.size() >= 2 && table.size(0) == neurons[1], name, ": expected one row for each channel (dimension 1) of ",
              neurons, ", got shape ", table.sizes());
}

void check_levels(const at::Tensor& levels, at::IntArrayRef neurons, int64_t repeat) {
  check_cpu("levels", levels);
  TORCH_CHECK(levels.scalar_type() == at::kFloat || levels.scalar_type() == at::kDouble,
              "levels: expected float32 or float64, got ", levels.scalar_type());
  TORCH_CHECK(levels.dim() == 1 || levels.dim() == 2, "levels: expected [T] or [C, T], got shape ", levels.sizes());
  const int64_t timesteps = levels.size(-1);
  TORCH_CHECK(timesteps >= 1 && timesteps <= kMaxTimesteps, "levels: expected 1..255 levels, got shape ", levels.sizes());
  TORCH_CHECK(levels.numel() <= std::numeric_limits<int32_t>::max(), "levels: too many channels, got shape ", levels.sizes());
  if (levels.dim() == 2) check_rows("levels", levels, neurons);
  TORCH_CHECK(repeat >= 0 && (repeat == 0 || timesteps % repeat == 0), "repeat: expected 0 or a divisor of ", timesteps,
              ", got ", repeat);
}

void check_channel_values(const char* name, const at::Tensor& values, at::IntArrayRef neurons) {
  check_cpu(name, values);
  TORCH_CHECK(at::isFloatingType(values.scalar_type()), name, ": expected a floating dtype, got ", values.scalar_type());
  TORCH_CHECK(values.dim() <= 1, name, ": expected a scalar or [C], got shape ", values.sizes());
  if (values.dim() == 1) check_rows(name, values, neurons);
}

void check_mean_arguments(const at::Tensor& current, const at::Tensor& levels, const OptionalTensor& residual,
                          const OptionalTensor& residual_scale, int64_t repeat) {
  check_cpu("current", current);
  check_levels(levels, current.sizes(), repeat);
  TORCH_CHECK(residual || !residual_scale, "residual_scale: expected None without a residual");
  if (!residual) return;
  check_cpu("residual", *residual);
  TORCH_CHECK(residual->sizes() == current.sizes(), "residual: expected the shape of current ", current.sizes(), ", got ",
              residual->sizes());
  const bool counts = residual->scalar_type() == at::kByte;
  TORCH_CHECK(counts || residual->scalar_type() == current.scalar_type(), "residual: expected uint8 or ",
              current.scalar_type(), ", got ", residual->scalar_type());
  TORCH_CHECK(counts == residual_scale.has_value(), "residual_scale: expected with uint8 counts, and only with them");
  if (residual_scale) check_channel_values("residual_scale", *residual_scale, current.sizes());
}

// ---- memory ----

bool dense(const at::Tensor& tensor) { return tensor.is_non_overlapping_and_dense(); }

// `tensor` in the layout that an output of its shape gets.
at::Tensor to_dense(const at::Tensor& tensor) { return dense(tensor) ? tensor : at::empty_like(tensor).copy_(tensor); }

bool same_layout(const at::Tensor& a, const at::Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

at::Tensor to_layout_of(const at::Tensor& tensor, const at::Tensor& like) {
  if (dense(tensor) && same_layout(tensor, like)) return tensor;
  return at::empty_strided(like.sizes(), like.strides(), tensor.options()).copy_(tensor);
}

// Large outputs are often fresh from the system, and the faults of small pages then cost more than the kernel.
at::Tensor huge_pages(at::Tensor output) {
#ifdef __linux__
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(output.mutable_data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = (begin + output.nbytes()) / kPage * kPage;
  if (output.nbytes() >= static_cast<size_t>(kStreamBytes)) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return output;
}

// An empty [T, N, ...] whose every step is laid out like `step`.
at::Tensor steps_like(const at::Tensor& step, int64_t timesteps, at::ScalarType dtype) {
  const at::Tensor layout = at::empty_like(step, step.options().dtype(dtype));
  std::vector<int64_t> sizes = {timesteps}, strides = {std::max<int64_t>(layout.numel(), 1)};
  sizes.insert(sizes.end(), layout.sizes().begin(), layout.sizes().end());
  strides.insert(strides.end(), layout.strides().begin(), layout.strides().end());
  return huge_pages(at::empty_strided(sizes, strides, layout.options()));
}

const char* bytes_of(const at::Tensor& tensor) { return static_cast<const char*>(tensor.const_data_ptr()); }
char* mutable_bytes_of(const at::Tensor& tensor) { return static_cast<char*>(tensor.mutable_data_ptr()); }

// body(begin, end) for blocks of [0, neurons), over the threads. `work` is what a neuron costs, in loaded or stored elements.
template <class Body>
void over_blocks(int64_t neurons, int64_t work, const Body& body) {
  const int64_t blocks = (neurons + kBlock - 1) / kBlock;
  const int64_t grain = std::max<int64_t>(1, kThreadWork / (kBlock * work));
  at::parallel_for(0, blocks, grain, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block)
      body(block * kBlock, std::min(neurons, (block + 1) * kBlock));
    primitives().fence();
  });
}

// ---- per-channel values in the form of the primitives ----

template <class F>
class Table {
 public:
  Table(const Channels& channels, const at::Tensor& levels, int64_t repeat, bool distinct)
      : levels_(levels.to(dtype_of<F>).contiguous()), each_(channels.each()) {
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
    timesteps_ = static_cast<int32_t>(timesteps);
    repeat_ = static_cast<int32_t>(repeat);
    weight_ = repeat && !distinct ? repeat_ : 1;
  }

  Search<F> at(int64_t offset) const {
    return {levels_.template const_data_ptr<F>(), row_.data() + offset, first_.data() + offset, inverse_.data() + offset,
            timesteps_, repeat_, weight_, each_};
  }

 private:
  at::Tensor levels_;
  bool each_;
  std::vector<int32_t> row_;
  std::vector<F> first_, inverse_;
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

bool per_channel(const at::Tensor& levels, const OptionalTensor& values, const OptionalTensor& more = std::nullopt) {
  return levels.dim() == 2 || (values && values->dim() == 1) || (more && more->dim() == 1);
}

// ---- counts and rates ----

template <class F>
void counts_into(const at::Tensor& out, const at::Tensor& current, const at::Tensor& levels, const OptionalTensor& residual,
                 const OptionalTensor& residual_scale, int64_t repeat) {
  const Channels channels(current, per_channel(levels, residual_scale));
  const Table<F> table(channels, levels, repeat, false);
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

at::Tensor fire_counts(const at::Tensor& current, const at::Tensor& levels, const OptionalTensor& residual,
                       const OptionalTensor& residual_scale, int64_t repeat) {
  const Type type = current_type(current);
  check_mean_arguments(current, levels, residual, residual_scale, repeat);
  at::Tensor out = at::empty_like(current, current.options().dtype(at::kByte));
  if (current.numel() == 0) return out;
  const auto run = type == kDouble ? counts_into<double> : counts_into<float>;
  run(out, to_dense(current), levels, residual, residual_scale, repeat);
  return out;
}

// `out` may be `current`.
template <class F>
void rates_into(const at::Tensor& out, const at::Tensor& current, const at::Tensor& levels, const at::Tensor& scale,
                const OptionalTensor& residual, const OptionalTensor& residual_scale, int64_t repeat) {
  const Channels channels(current, per_channel(levels, scale, residual_scale));
  const Table<F> table(channels, levels, repeat, true);
  const ChannelValues<F> scales(channels, scale);
  const Mean<F> mean(channels, current, residual, residual_scale);
  const Type type = current_type(current);
  const int64_t size = out.element_size();
  char* rates = mutable_bytes_of(out);
  over_blocks(current.numel(), 1, [&](int64_t begin, int64_t end) {
    alignas(64) F buffer[kBlock];
    if constexpr (std::is_same_v<F, float>) {
      if (type == kFloat) {
        const float* means = mean.trunk(begin, end, buffer);
        const float* more = reinterpret_cast<const float*>(mean.branch(begin));
        float* target = reinterpret_cast<float*>(rates) + begin;
        channels.runs(begin, end, [&](int64_t start, int64_t length, int64_t offset) {
          const int64_t i = start - begin;
          primitives().fused_rates(means + i, more ? more + i : nullptr, length, table.at(offset), scales.at(offset), target + i);
        });
        return;
      }
    }
    alignas(64) uint8_t counts[kBlock];
    const F* means = mean.load(begin, end, buffer);
    channels.runs(begin, end, [&](int64_t start, int64_t length, int64_t offset) {
      const int64_t i = start - begin;
      kernels<F>().search(means + i, length, table.at(offset), counts + i);
      kernels<F>().rates[type](counts + i, scales.at(offset), length, rates + start * size);
    });
  });
}

void run_rates(const at::Tensor& out, const at::Tensor& current, const at::Tensor& levels, const at::Tensor& scale,
               const OptionalTensor& residual, const OptionalTensor& residual_scale, int64_t repeat) {
  const auto run = current_type(current) == kDouble ? rates_into<double> : rates_into<float>;
  run(out, current, levels, scale, residual, residual_scale, repeat);
}

at::Tensor fire_rates(const at::Tensor& current, const at::Tensor& levels, const at::Tensor& scale,
                      const OptionalTensor& residual, const OptionalTensor& residual_scale, int64_t repeat) {
  current_type(current);
  check_mean_arguments(current, levels, residual, residual_scale, repeat);
  check_channel_values("scale", scale, current.sizes());
  at::Tensor out = huge_pages(at::empty_like(current));
  if (current.numel()) run_rates(out, to_dense(current), levels, scale, residual, residual_scale, repeat);
  return out;
}

// A residual may be `current` itself, but not a shifted view of it: that would be read after it is overwritten.
OptionalTensor kept(const OptionalTensor& residual, const at::Tensor& current) {
  if (!residual || !residual->is_alias_of(current)) return residual;
  const bool same = residual->const_data_ptr() == current.const_data_ptr() && residual->dtype() == current.dtype() &&
                    same_layout(*residual, current);
  return same ? residual : residual->clone();
}

void fire_rates_(const at::Tensor& current, const at::Tensor& levels, const at::Tensor& scale, const OptionalTensor& residual,
                 const OptionalTensor& residual_scale, int64_t repeat) {
  at::assert_no_internal_overlap(current);
  if (!dense(current)) {
    current.copy_(fire_rates(current, levels, scale, residual, residual_scale, repeat));
    return;
  }
  current_type(current);
  check_mean_arguments(current, levels, residual, residual_scale, repeat);
  check_channel_values("scale", scale, current.sizes());
  if (current.numel() == 0) return;
  const at::Tensor table = levels.is_alias_of(current) ? levels.clone() : levels;
  run_rates(current, current, table, scale, kept(residual, current), residual_scale, repeat);
}

// ---- spikes ----

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

// Writes the spikes of a block, neurons begin..end, for all steps. thresholds [T]: the count from which a step has a spike.
class Train {
 public:
  Train(const Channels& channels, const OptionalTensor& amplitude, const at::Tensor& out, std::vector<int> thresholds)
      : channels_(channels),
        amplitude_(channels, amplitude, out.scalar_type()),
        out_(mutable_bytes_of(out)),
        neurons_(out.stride(0)),
        stream_(out.numel() * out.element_size() >= kStreamBytes),
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

void check_spikes(const char* name, at::ScalarType dtype, const OptionalTensor& amplitude, at::IntArrayRef neurons) {
  const bool floating = dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kDouble;
  TORCH_CHECK(floating || dtype == at::kByte || dtype == at::kBool, name,
              ": expected uint8, bool, float32, float16, bfloat16 or float64, got ", dtype);
  if (!amplitude) return;
  TORCH_CHECK(floating, name, ": expected a floating dtype with an amplitude, got ", dtype);
  check_channel_values("amplitude", *amplitude, neurons);
}

// Step x has a spike where the count reaches T - place, place = order[x] or x: 0 always, 256 never.
int spike_threshold(int64_t place, int64_t timesteps) {
  if (place >= timesteps) return 0;
  if (place < timesteps - kMaxTimesteps) return static_cast<int>(kMaxTimesteps) + 1;
  return static_cast<int>(timesteps - place);
}

template <class F>
void spikes_into(const at::Tensor& out, const at::Tensor& current, const at::Tensor& levels, const OptionalTensor& amplitude,
                 int64_t repeat) {
  const at::Tensor neurons = current.select(0, 0);
  const int64_t timesteps = current.size(0);
  const Channels channels(neurons, per_channel(levels, amplitude));
  const Table<F> table(channels, levels.to(dtype_of<F>).mul(static_cast<double>(timesteps)), repeat, false);
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

at::Tensor fire_spikes(const at::Tensor& current, const at::Tensor& levels, const OptionalTensor& amplitude,
                       at::ScalarType out_dtype, int64_t repeat) {
  const Type type = current_type(current);
  check_cpu("current", current);
  TORCH_CHECK(current.dim() >= 1 && current.size(0) >= 1 && current.size(0) <= kMaxTimesteps,
              "current: expected [T, N, ...] with 1..255 time-steps, got shape ", current.sizes());
  check_levels(levels, current.sizes().slice(1), repeat);
  TORCH_CHECK(levels.size(-1) == current.size(0), "levels: expected ", current.size(0), " levels, one for each time-step of ",
              "current, got shape ", levels.sizes());
  check_spikes("out_dtype", out_dtype, amplitude, current.sizes().slice(1));
  const at::Tensor step = current.select(0, 0);
  at::Tensor out = steps_like(step, current.size(0), out_dtype);
  if (current.numel() == 0) return out;
  const at::Tensor steps = dense(step) ? current : steps_like(step, current.size(0), current.scalar_type()).copy_(current);
  const auto run = type == kDouble ? spikes_into<double> : spikes_into<float>;
  run(out, steps, levels, amplitude, repeat);
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

std::string cpu_capability() { return primitives().name; }

}  // namespace

TORCH_LIBRARY_FRAGMENT(pcsnn, m) { m.def("cpu_capability() -> str", &cpu_capability); }

TORCH_LIBRARY_IMPL(pcsnn, CPU, m) {
  m.impl("fire_counts", &fire_counts);
  m.impl("fire_rates", &fire_rates);
  m.impl("fire_rates_", &fire_rates_);
  m.impl("fire_spikes", &fire_spikes);
  m.impl("expand_spikes", &expand_spikes);
}

}  // namespace pcsnn
