// A convolution of counts with int8 weights, counts taken where a line gives them: pcsnn/cpu/synapses.py calls it.

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <vector>

#include "arguments.h"
#include "memory.h"
#include "parallel.h"
#include "primitives.h"
#include "products.h"

namespace pcsnn {
namespace {

constexpr int64_t kPadded = 1 << 17;  // bytes of a task's input, which stay in its core's cache
constexpr int64_t kTasks = 4;         // a thread
constexpr double kScratch = 1 << 30;  // bytes of the rows under one window, padding included

struct Geometry : Window {
  int64_t channels, height, width, outputs, rows, columns;
  bool padded() const { return padding[0] > 0 || padding[1] > 0; }
  int64_t input_rows(int64_t out_rows) const { return (out_rows - 1) * stride[0] + extent(0); }
  int64_t padded_width() const { return width + 2 * padding[1]; }
};

// Rows `top`.. of an image, which reach over its borders, with silent pixels around.
void pad(const Geometry& at, const uint8_t* image, int64_t top, int64_t rows, uint8_t* out) {
  const int64_t side = at.padding[1] * at.channels, inside = at.width * at.channels;
  for (int64_t row = 0; row < rows; ++row, out += inside + 2 * side) {
    const int64_t y = top + row;
    if (y < 0 || y >= at.height) {
      std::memset(out, 0, inside + 2 * side);
      continue;
    }
    std::memset(out, 0, side);
    std::memcpy(out + side, image + y * inside, inside);
    std::memset(out + side + inside, 0, side);
  }
}

void check(const Tensor& counts, const Tensor& weights, const OptionalTensor& factor, const OptionalTensor& start,
           int64_t outputs, const Window& window, int64_t most, int64_t depth) {
  check_cpu("counts", counts);
  check_cpu("weights", weights);
  PCSNN_CHECK(counts.scalar_type() == ScalarType::Byte, "counts: expected uint8, got ", counts.scalar_type());
  check_window(counts, window);
  check_fits(counts, window);
  check_number("outputs", outputs, 1, kMostSide);
  check_number("most", most, 0, kMaxTimesteps);
  PCSNN_CHECK(primitives().name != std::string_view("default"), "weights: this processor has no AVX2");
  PCSNN_CHECK(depth == 4 || depth == 8, "depth: expected 4 or 8, got ", depth);
  const int64_t channels = counts.size(1);
  PCSNN_CHECK(channels > 0 && channels <= kMostSide && channels % (depth * kQuad) == 0 && outputs % kOutputs == 0,
              "weights: expected multiples of ", depth * kQuad, " inputs and ", kOutputs, " outputs, got ", channels,
              " and ", outputs);
  const std::array packed = {outputs / kOutputs, window.kernel[0], window.kernel[1], channels / kQuad, kOutputs, kQuad};
  const bool fits = weights.is_contiguous() && same(weights.sizes(), packed);
  PCSNN_CHECK(weights.scalar_type() == ScalarType::Char && fits, "weights: expected packed int8 ", Shape(packed),
              ", got ", weights.scalar_type(), " ", weights.sizes());
  const double row = static_cast<double>(counts.size(3) + 2 * window.padding[1]) * static_cast<double>(channels);
  const double height = static_cast<double>(counts.size(2) + 2 * window.padding[0]);
  PCSNN_CHECK(row * static_cast<double>(window.extent(0)) <= kScratch && row * height < 0x1p62,
              "padding: expected at most ", kScratch, " bytes under a window, got ", window.padding, " for counts ",
              counts.sizes(), " and dilation ", window.dilation);
  PCSNN_CHECK(factor.has_value() == start.has_value(), "start: expected with factor");
  for (const auto& [name, value] : {std::pair{"factor", &factor}, {"start", &start}}) {
    if (!*value) continue;
    check_dtype(name, *value, ScalarType::Float);
    PCSNN_CHECK((*value)->is_contiguous() && (*value)->dim() == 1 && (*value)->size(0) == outputs, name,
                ": expected contiguous [", outputs, "], got shape ", (*value)->sizes());
  }
}

// counts uint8 [N, C, H, W]; weights int8 [O / 16, R, S, C / 4, 16, 4]; factor, start float32 [O] or None. Sums float32
// [N, O, H', W'], or where there is a factor round(factor * sum + start) within 0..most, uint8.
Given products(const Given& given, const Given& packed, const OptionalGiven& factors, const OptionalGiven& starts,
               int64_t outputs, const Sizes& kernel, const Sizes& stride, const Sizes& padding, const Sizes& dilation,
               int64_t most, int64_t depth) {
  const Tensor counts = given, weights = packed;
  const OptionalTensor factor = factors, start = starts;
  const Window window{kernel, stride, padding, dilation};
  check(counts, weights, factor, start, outputs, window, most, depth);
  const Geometry at{window,  counts.size(1),           counts.size(2),          counts.size(3),
                    outputs, window.places(0, counts), window.places(1, counts)};
  const Tensor from = channels_last(counts);
  const Tensor out = empty_channels_last(std::array{counts.size(0), outputs, at.rows, at.columns},
                                         factor ? ScalarType::Byte : ScalarType::Float);
  if (out.numel() == 0) return out;
  const uint8_t* source = from.const_data_ptr<uint8_t>();
  const int8_t* kernels = weights.const_data_ptr<int8_t>();
  const float* factor_of = factor ? factor->const_data_ptr<float>() : nullptr;
  const float* start_of = start ? start->const_data_ptr<float>() : nullptr;
  void* target = out.mutable_data_ptr();
  const int64_t taps = kernel[0] * kernel[1], image = at.height * at.width * at.channels;
  const int64_t width = at.padded() ? at.padded_width() : at.width, row_bytes = width * at.channels;

  const int64_t wanted = threads() == 1 ? 1 : kTasks * threads();
  int64_t rows = at.rows;
  while (rows > 1 && at.input_rows(rows) * row_bytes > kPadded) rows = (rows + 1) / 2;
  while (rows > 1 && rows * at.columns > 8 * kPixels && counts.size(0) * ((at.rows + rows - 1) / rows) < wanted)
    rows = (rows + 1) / 2;
  const int64_t strips = (at.rows + rows - 1) / rows, parts = counts.size(0) * strips;
  const int64_t blocks = outputs / kOutputs;
  const int64_t shares = std::clamp<int64_t>((wanted + parts - 1) / parts, 1, blocks);

  std::vector<int64_t> offsets;
  for (int64_t y = 0; y < kernel[0]; ++y)
    for (int64_t x = 0; x < kernel[1]; ++x)
      offsets.push_back((y * dilation[0] * width + x * dilation[1]) * at.channels);

  parallel_for(0, parts * shares, 1, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> scratch;
    std::vector<const uint8_t*> pixels;
    int64_t prepared = -1;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / shares, share = task % shares, n = part / strips, top = part % strips * rows;
      const int64_t height = std::min(rows, at.rows - top);
      if (part != prepared) {
        const uint8_t* base = source + n * image + (top * stride[0]) * row_bytes;
        if (at.padded()) {
          scratch.resize(at.input_rows(height) * row_bytes);
          pad(at, source + n * image, top * stride[0] - padding[0], at.input_rows(height), scratch.data());
          base = scratch.data();
        }
        pixels.clear();
        for (int64_t y = 0; y < height; ++y)
          for (int64_t x = 0; x < at.columns; ++x)
            pixels.push_back(base + y * stride[0] * row_bytes + x * stride[1] * at.channels);
        prepared = part;
      }
      const int64_t place = (n * at.rows + top) * at.columns * outputs;
      for (int64_t block = blocks * share / shares; block < blocks * (share + 1) / shares; ++block) {
        const int64_t output = block * kOutputs;
        ProductWork work{.pixels = pixels.data(),
                         .count = static_cast<int64_t>(pixels.size()),
                         .taps = offsets.data(),
                         .tap_count = taps,
                         .quads = at.channels / kQuad,
                         .weights = kernels + block * taps * at.channels * kOutputs,
                         .depth = depth,
                         .stride = outputs,
                         .most = static_cast<float>(most)};
        if (factor) {
          work.bytes = static_cast<uint8_t*>(target) + place + output;
          work.factor = factor_of + output;
          work.start = start_of + output;
        } else {
          work.sums = static_cast<float*>(target) + place + output;
        }
#ifdef PCSNN_X86_DISPATCH
        products_avx2(work);
#endif
      }
    }
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pcsnn, m) {
  m.def(
      "_products(Tensor counts, Tensor weights, Tensor? factor, Tensor? start, int outputs, int[2] kernel, "
      "int[2] stride, int[2] padding, int[2] dilation, int most, int depth) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pcsnn, CPU, m) { m.impl("_products", TORCH_BOX(&products)); }

}  // namespace pcsnn
