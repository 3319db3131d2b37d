// Sums of counts times int8 weights for processors whose widest product adds pairs of bytes in 16 bits.
#pragma once

#include <cstdint>

namespace pcsnn {

constexpr int64_t kOutputs = 16;  // of a block of weights
constexpr int64_t kQuad = 4;      // input channels side by side in a block
constexpr int64_t kPixels = 6;    // whose sums stay in registers

// A block of outputs for pixels that follow each other in memory.
struct ProductWork {
  const uint8_t* const* pixels;  // where the first tap of each lies; the others lie `taps` behind
  int64_t count;
  const int64_t* taps;
  int64_t tap_count, quads;  // quads: of the input channels, a multiple of depth
  const int8_t* weights;     // [taps][quads][kOutputs][kQuad]
  int64_t depth;             // quads whose sums 16 bits hold: 4 or 8
  int64_t stride;            // outputs from one pixel to the next
  float* sums = nullptr;     // either these
  uint8_t* bytes = nullptr;  // or round(factor * sum + start) within 0..most
  const float* factor = nullptr;
  const float* start = nullptr;
  float most;
};

void products_avx2(const ProductWork& work);

}  // namespace pcsnn
