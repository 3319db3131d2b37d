// The largest spike count, or the sum of the counts, of each window: bytes, channels last, neighbours of one pixel side by side in a register.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>

#include "arguments.h"
#include "memory.h"

namespace pcsnn {
namespace {

constexpr int64_t kBytesATask = 1 << 15;

// The taps of a window that lie within 0..size - 1: first and behind the last.
struct Taps {
  int64_t first, last;
  Taps(int64_t start, int64_t taps, int64_t dilation, int64_t size)
      : first(start < 0 ? (-start + dilation - 1) / dilation : 0),
        last(std::min(taps, size > start ? (size - start + dilation - 1) / dilation : 0)) {}
};

struct Larger {
  uint8_t operator()(uint8_t a, uint8_t b) const { return std::max(a, b); }
};
struct Sum {
  uint8_t operator()(uint8_t a, uint8_t b) const { return static_cast<uint8_t>(a + b); }
};

template <class Join>
inline void join(uint8_t* __restrict out, const uint8_t* __restrict in, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = Join()(out[i], in[i]);
}

// counts uint8 [N, C, H, W], out [N, C, rows, columns]: the sizes are the caller's; padding counts as no spike.
template <class Join>
at::Tensor pool2d(const at::Tensor& counts, at::IntArrayRef kernel, at::IntArrayRef stride, at::IntArrayRef padding,
                  at::IntArrayRef dilation, at::IntArrayRef sizes) {
  check_cpu("counts", counts);
  TORCH_CHECK(counts.scalar_type() == at::kByte && counts.dim() == 4, "counts: expected uint8 [N, C, H, W], got ",
              counts.scalar_type(), " ", counts.sizes());
  for (const auto& [name, value, low] : {std::tuple{"kernel", kernel, 1}, {"stride", stride, 1}, {"padding", padding, 0},
                                         {"dilation", dilation, 1}, {"sizes", sizes, 1}})
    TORCH_CHECK(value.size() == 2 && value[0] >= low && value[1] >= low, name, ": expected two values from ", low,
                ", got ", value);
  const at::Tensor from = counts.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t channels = counts.size(1), height = counts.size(2), width = counts.size(3);
  at::Tensor out = at::empty({counts.size(0), channels, sizes[0], sizes[1]}, counts.options(),
                             at::MemoryFormat::ChannelsLast);
  const uint8_t* source = from.const_data_ptr<uint8_t>();
  uint8_t* target = out.mutable_data_ptr<uint8_t>();
  const int64_t row_bytes = sizes[1] * channels;
  const int64_t rows = out.size(0) * sizes[0];
  at::parallel_for(0, rows, std::max<int64_t>(1, kBytesATask / std::max<int64_t>(row_bytes, 1)), [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t top = row % sizes[0] * stride[0] - padding[0];
      const Taps down(top, kernel[0], dilation[0], height);
      const uint8_t* image = source + row / sizes[0] * height * width * channels;
      for (int64_t column = 0; column < sizes[1]; ++column) {
        uint8_t* pixel = target + (row * sizes[1] + column) * channels;
        std::memset(pixel, 0, channels);
        const int64_t left = column * stride[1] - padding[1];
        const Taps across(left, kernel[1], dilation[1], width);
        for (int64_t y = down.first; y < down.last; ++y)
          for (int64_t x = across.first; x < across.last; ++x)
            join<Join>(pixel, image + ((top + y * dilation[0]) * width + left + x * dilation[1]) * channels, channels);
      }
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(pcsnn, CPU, m) {
  m.impl("max_pool2d", &pool2d<Larger>);
  m.impl("sum_pool2d", &pool2d<Sum>);
}

}  // namespace pcsnn
