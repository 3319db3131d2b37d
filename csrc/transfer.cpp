// The gradient of calibration: a staircase of spikes counts as the piecewise linear curve through its knots.
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "memory.h"
#include "primitives.h"

namespace pcsnn {
namespace {

// Sums are taken in so many parts, added in order: their value does not depend on the number of threads.
constexpr int64_t kParts = 8;

// Neurons of a channel side by side, and intervals, for which a pass for each interval is faster than a search for each
// neuron.
constexpr int64_t kLongRun = 16, kFewIntervals = 20;

// The interval knots[i] <= value < knots[i + 1], -1 below all and `count` - 1 above.
inline int64_t interval(const float* knots, int64_t count, float value) {
  const float* base = knots;
  for (int64_t left = count; left > 1;) {
    const int64_t half = left / 2;
    base = base[half] <= value ? base + half : base;
    left -= half;
  }
  return base - knots - (*base <= value ? 0 : 1);
}

// The curves of all channels, and sums for each of their intervals.
struct Curves {
  const float *knots, *slopes;  // [C, intervals + 1], [C, intervals]
  int64_t channels, intervals;
};

struct Sums {
  double *plain, *weighted;  // [C, intervals]
};

void pass(const float* current, const float* gradient, int64_t run, const Curves& curves, int64_t channel, float* out,
          const Sums& sums) {
  const int64_t row = channel * curves.intervals;
  primitives().transfer(current, gradient, run, curves.knots + row + channel, curves.slopes + row, curves.intervals,
                        out, sums.plain + row, sums.weighted + row);
}

// [neurons, C], as channels last have them: tiles are turned, so that the neurons of a channel lie side by side.
void pass_turned(const float* current, const float* gradient, int64_t neurons, const Curves& curves, float* out,
                 const Sums& sums) {
  constexpr int64_t kNeurons = 256, kChannels = 16, kRow = kNeurons + 16;  // rows of one tile share no set of a cache
  float zs[kChannels * kRow], gs[kChannels * kRow], passed[kChannels * kRow];
  for (int64_t n = 0; n < neurons; n += kNeurons)
    for (int64_t c = 0; c < curves.channels; c += kChannels) {
      const int64_t run = std::min(kNeurons, neurons - n), rows = std::min(kChannels, curves.channels - c);
      for (int64_t i = 0; i < run; ++i) {
        const int64_t at = (n + i) * curves.channels + c;
        for (int64_t r = 0; r < rows; ++r) zs[r * kRow + i] = current[at + r];
        for (int64_t r = 0; r < rows; ++r) gs[r * kRow + i] = gradient[at + r];
      }
      for (int64_t r = 0; r < rows; ++r)
        pass(zs + r * kRow, gs + r * kRow, run, curves, c + r, passed + r * kRow, sums);
      for (int64_t i = 0; i < run; ++i) {
        float* to = out + (n + i) * curves.channels + c;
        for (int64_t r = 0; r < rows; ++r) to[r] = passed[r * kRow + i];
      }
    }
}

// gradient, current [N, C, ...]; knots [C, K] or [K], slopes [C, K - 1] or [K - 1], all float32 ->
// gradient * slope of the current's interval (0 outside), and for each interval the sums over neurons of that and of
// that times the current, float64 [C, K - 1] each or [K - 1].
std::tuple<at::Tensor, at::Tensor, at::Tensor> transfer_gradient(const at::Tensor& gradient, const at::Tensor& current,
                                                                 const at::Tensor& knots, const at::Tensor& slopes) {
  for (const auto& [name, value] :
       {std::pair{"gradient", gradient}, {"current", current}, {"knots", knots}, {"slopes", slopes}}) {
    check_cpu(name, value);
    TORCH_CHECK(value.scalar_type() == at::kFloat, name, ": expected float32, got ", value.scalar_type());
  }
  TORCH_CHECK(gradient.sizes() == current.sizes(), "gradient: expected the shape of current ", current.sizes(),
              ", got ", gradient.sizes());
  TORCH_CHECK(knots.dim() == 1 || knots.dim() == 2, "knots: expected [K] or [C, K], got shape ", knots.sizes());
  if (knots.dim() == 2) check_rows("knots", knots, current.sizes());
  const int64_t count = knots.size(-1), intervals = count - 1;
  TORCH_CHECK(count >= 2 && slopes.dim() == knots.dim() && slopes.size(-1) == intervals &&
                  slopes.numel() == knots.numel() / count * intervals,
              "slopes: expected one less than knots ", knots.sizes(), ", got shape ", slopes.sizes());
  const at::Tensor z = to_dense(current), g = to_layout_of(gradient, z);
  at::Tensor out = at::empty_like(z);
  const int64_t channels = knots.dim() == 2 ? knots.size(0) : 1;
  const int64_t entries = channels * intervals;
  const auto sizes = slopes.sizes();
  at::Tensor sums = at::zeros({kParts, 2, entries}, slopes.options().dtype(at::kDouble));
  const at::Tensor table = knots.contiguous(), steep = slopes.contiguous();
  const float* zs = z.const_data_ptr<float>();
  const float* gs = g.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  double* totals = sums.mutable_data_ptr<double>();
  const Curves curves{table.const_data_ptr<float>(), steep.const_data_ptr<float>(), channels, intervals};
  const int64_t total = z.numel();
  const int64_t inner = channels > 1 ? z.stride(1) : std::max<int64_t>(total, 1);
  const bool few = intervals <= kFewIntervals, side_by_side = few && inner >= kLongRun;
  const bool turned = few && inner == 1 && total >= kParts * kLongRun * channels;
  const int64_t grain = turned ? channels : 1;  // turned, a part has whole neurons of all channels
  const int64_t grains = total / grain;
  at::parallel_for(0, kParts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      double* plain = totals + part * 2 * entries;
      double* weighted = plain + entries;
      const int64_t begin = grains * part / kParts * grain, end = grains * (part + 1) / kParts * grain;
      if (turned) {
        pass_turned(zs + begin, gs + begin, (end - begin) / channels, curves, to + begin, {plain, weighted});
        continue;
      }
      int64_t channel = begin / inner % channels;
      int64_t left = inner - begin % inner;
      int64_t i = begin;
      while (side_by_side && i < end) {
        const int64_t run = std::min(left, end - i);
        pass(zs + i, gs + i, run, curves, channel, to + i, {plain, weighted});
        i += run;
        left = inner;
        channel = channel + 1 == channels ? 0 : channel + 1;
      }
      for (; i < end; ++i) {
        const float value = zs[i];
        const int64_t place = interval(curves.knots + channel * count, count, value);
        float passed = 0;
        if (place >= 0 && place < intervals) {
          const int64_t entry = channel * intervals + place;
          passed = gs[i] * curves.slopes[entry];
          plain[entry] += passed;
          weighted[entry] += static_cast<double>(passed) * value;
        }
        to[i] = passed;
        if (--left == 0) {
          left = inner;
          channel = channel + 1 == channels ? 0 : channel + 1;
        }
      }
    }
  });
  const at::Tensor result = sums.sum(0);
  return {out, result[0].view(sizes), result[1].view(sizes)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pcsnn, m) {
  m.def("transfer_gradient(Tensor gradient, Tensor current, Tensor knots, Tensor slopes) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(pcsnn, CPU, m) { m.impl("transfer_gradient", &transfer_gradient); }

}  // namespace pcsnn
