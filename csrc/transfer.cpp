// The gradient of calibration: a staircase of spikes counts as the piecewise linear curve through its knots.

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "memory.h"
#include "parallel.h"
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
std::tuple<Given, Given, Given> transfer_gradient(const Given& given_gradient, const Given& given_current,
                                                  const Given& given_knots, const Given& given_slopes) {
  const Tensor gradient = given_gradient, current = given_current, knots = given_knots, slopes = given_slopes;
  for (const auto& [name, value] :
       {std::pair{"gradient", &gradient}, {"current", &current}, {"knots", &knots}, {"slopes", &slopes}})
    check_dtype(name, *value, ScalarType::Float);
  PCSNN_CHECK(same(gradient.sizes(), current.sizes()), "gradient: expected the shape of current ", current.sizes(),
              ", got ", gradient.sizes());
  PCSNN_CHECK(knots.dim() == 1 || knots.dim() == 2, "knots: expected [K] or [C, K], got shape ", knots.sizes());
  if (knots.dim() == 2) check_rows("knots", knots, current.sizes());
  const int64_t count = knots.size(-1), intervals = count - 1;
  PCSNN_CHECK(count >= 2 && slopes.dim() == knots.dim() && slopes.size(-1) == intervals &&
                  slopes.numel() == knots.numel() / count * intervals,
              "slopes: expected one less than knots ", knots.sizes(), ", got shape ", slopes.sizes());
  const Tensor z = to_dense(current), g = to_layout_of(gradient, z);
  const Tensor out = empty_like(z);
  const int64_t channels = knots.dim() == 2 ? knots.size(0) : 1;
  const int64_t entries = channels * intervals;
  std::vector<double> sums(static_cast<size_t>(kParts * 2 * entries));
  const Tensor table = contiguous(knots), steep = contiguous(slopes);
  const float* zs = z.const_data_ptr<float>();
  const float* gs = g.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  double* totals = sums.data();
  const Curves curves{table.const_data_ptr<float>(), steep.const_data_ptr<float>(), channels, intervals};
  const int64_t total = z.numel();
  const int64_t inner = channels > 1 ? z.stride(1) : std::max<int64_t>(total, 1);
  const bool few = intervals <= kFewIntervals, side_by_side = few && inner >= kLongRun;
  const bool turned = few && inner == 1 && total >= kParts * kLongRun * channels;
  const int64_t grain = turned ? channels : 1;  // turned, a part has whole neurons of all channels
  const int64_t grains = total / grain;
  parallel_for(0, kParts, 1, [&](int64_t first, int64_t last) {
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
  const Tensor plain = empty_contiguous(slopes.sizes(), ScalarType::Double), weighted = empty_like(plain);
  const std::array results = {plain.mutable_data_ptr<double>(), weighted.mutable_data_ptr<double>()};
  for (int64_t which = 0; which < 2; ++which)
    for (int64_t entry = 0; entry < entries; ++entry) {
      double sum = 0;
      for (int64_t part = 0; part < kParts; ++part) sum += totals[(2 * part + which) * entries + entry];
      results[which][entry] = sum;
    }
  return {out, plain, weighted};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pcsnn, m) {
  m.def("transfer_gradient(Tensor gradient, Tensor current, Tensor knots, Tensor slopes) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(pcsnn, CPU, m) { m.impl("transfer_gradient", TORCH_BOX(&transfer_gradient)); }

}  // namespace pcsnn
