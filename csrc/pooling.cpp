// The largest spike count, or the sum of the counts, of each window: channels last, neighbours of one pixel side by
// side in a register.

#include <algorithm>
#include <array>

#include "arguments.h"
#include "memory.h"
#include "parallel.h"

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
  template <class V>
  V operator()(V a, V b) const {
    return std::max(a, b);
  }
};
struct Sum {
  template <class V>
  V operator()(V a, V b) const {
    return static_cast<V>(a + b);
  }
};

template <class Join, class V>
inline void join(V* __restrict out, const V* __restrict in, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = Join()(out[i], in[i]);
}

template <class Join, class V>
void pool_into(const Tensor& out, const Tensor& from, const Window& window) {
  const int64_t channels = from.size(1), height = from.size(2), width = from.size(3);
  const Shape kernel = window.kernel, stride = window.stride;
  const Shape padding = window.padding, dilation = window.dilation;
  const V* source = from.const_data_ptr<V>();
  V* target = out.mutable_data_ptr<V>();
  const int64_t sizes[] = {out.size(2), out.size(3)};
  const int64_t row_bytes = sizes[1] * channels * static_cast<int64_t>(sizeof(V));
  const int64_t rows = out.size(0) * sizes[0];
  const auto body = [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const int64_t top = row % sizes[0] * stride[0] - padding[0];
      const Taps down(top, kernel[0], dilation[0], height);
      const V* image = source + row / sizes[0] * height * width * channels;
      for (int64_t column = 0; column < sizes[1]; ++column) {
        V* pixel = target + (row * sizes[1] + column) * channels;
        std::fill_n(pixel, channels, V{0});
        const int64_t left = column * stride[1] - padding[1];
        const Taps across(left, kernel[1], dilation[1], width);
        for (int64_t y = down.first; y < down.last; ++y)
          for (int64_t x = across.first; x < across.last; ++x)
            join<Join>(pixel, image + ((top + y * dilation[0]) * width + left + x * dilation[1]) * channels, channels);
      }
    }
  };
  parallel_for(0, rows, std::max<int64_t>(1, kBytesATask / row_bytes), body);
}

// The caller says whether the last window may reach over the border.
void check_sizes(const Tensor& counts, const Window& window, Shape sizes) {
  PCSNN_CHECK(sizes.size() == 2, "sizes: expected two values, got ", sizes);
  for (const int64_t d : {0, 1}) {
    const int64_t reach = window.reach(d, counts), step = window.stride[d];
    const int64_t most = (reach < 0 ? reach / step : (reach + step - 1) / step) + 1;
    PCSNN_CHECK(most >= 1, "counts: expected at least the size of the kernel ", window.kernel, ", got shape ",
                counts.sizes());
    check_number("sizes", sizes[d], std::max<int64_t>(window.places(d, counts), 1), most);
  }
}

// counts [N, C, H, W], out [N, C, rows, columns]: the sizes are the caller's; padding counts as no spike. Counts of
// half precision are joined in float32, which holds their sums.
template <class Join>
Given pool2d(const Given& given, const Sizes& kernel, const Sizes& stride, const Sizes& padding, const Sizes& dilation,
             const Sizes& sizes) {
  const Tensor counts = given;
  check_cpu("counts", counts);
  const ScalarType dtype = counts.scalar_type();
  PCSNN_CHECK(dtype == ScalarType::Byte || dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
              "counts: expected uint8, float16 or bfloat16, got ", dtype);
  const Window window{kernel, stride, padding, dilation};
  check_window(counts, window);
  check_sizes(counts, window, sizes);
  const bool bytes = dtype == ScalarType::Byte;
  const Tensor from = channels_last(converted(counts, bytes ? ScalarType::Byte : ScalarType::Float));
  const Tensor out =
      empty_channels_last(std::array{counts.size(0), counts.size(1), sizes[0], sizes[1]}, from.scalar_type());
  if (out.numel()) (bytes ? pool_into<Join, uint8_t> : pool_into<Join, float>)(out, from, window);
  return converted(out, dtype);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pcsnn, CPU, m) {
  m.impl("max_pool2d", TORCH_BOX(&pool2d<Larger>));
  m.impl("sum_pool2d", TORCH_BOX(&pool2d<Sum>));
}

}  // namespace pcsnn
