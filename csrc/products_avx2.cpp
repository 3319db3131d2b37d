// For x86-64 processors with AVX2.
#include "products.h"

#include "primitives.h"

#ifdef PCSNN_X86_DISPATCH
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#pragma GCC target("avx2")  // up to the end of the file, where templates are instantiated

namespace pcsnn {
namespace {

inline __m256i quad(const uint8_t* counts) {
  int32_t value;
  std::memcpy(&value, counts, sizeof value);
  return _mm256_set1_epi32(value);
}

// Keeps a value in a register and its place among the others: left to itself the compiler loads the counts of all
// pixels ahead, runs out of registers, and keeps the sums in memory, at half the speed.
inline void stay(__m256i& value) { asm volatile("" : "+x"(value)); }

// Sums in 16 bits are widened every `Depth` quads only: counts are small, so that they fit.
template <int Pixels, int Depth>
[[gnu::always_inline]] inline void sum(const ProductWork& work, const uint8_t* const* pixels,
                                       __m256i (&total)[Pixels][2]) {
  const __m256i ones = _mm256_set1_epi16(1);
  const int8_t* weights = work.weights;
  for (int p = 0; p < Pixels; ++p) total[p][0] = total[p][1] = _mm256_setzero_si256();
  for (int64_t tap = 0; tap < work.tap_count; ++tap) {
    const uint8_t* counts[Pixels];
    for (int p = 0; p < Pixels; ++p) counts[p] = pixels[p] + work.taps[tap];
    for (int64_t first = 0; first < work.quads; first += Depth) {
      __m256i part[Pixels][2];
#pragma GCC unroll 8
      for (int d = 0; d < Depth; ++d, weights += kOutputs * kQuad) {
        const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
        const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + 32));
#pragma GCC unroll 8
        for (int p = 0; p < Pixels; ++p) {
          __m256i x = quad(counts[p] + kQuad * d);
          stay(x);
          const __m256i a = _mm256_maddubs_epi16(x, low), b = _mm256_maddubs_epi16(x, high);
          part[p][0] = d == 0 ? a : _mm256_add_epi16(part[p][0], a);
          part[p][1] = d == 0 ? b : _mm256_add_epi16(part[p][1], b);
          stay(part[p][0]);
          stay(part[p][1]);
        }
      }
#pragma GCC unroll 8
      for (int p = 0; p < Pixels; ++p) {
        counts[p] += kQuad * Depth;
        total[p][0] = _mm256_add_epi32(total[p][0], _mm256_madd_epi16(part[p][0], ones));
        total[p][1] = _mm256_add_epi32(total[p][1], _mm256_madd_epi16(part[p][1], ones));
      }
    }
  }
}

inline __m256i count_spikes(__m256i total, const float* factor, const float* start, __m256 most) {
  const __m256 value =
      _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(total), _mm256_loadu_ps(factor)), _mm256_loadu_ps(start));
  return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(value, _mm256_setzero_ps()), most));
}

inline void store(const ProductWork& work, const __m256i (&total)[2], int64_t pixel) {
  if (work.sums != nullptr) {
    float* out = work.sums + pixel * work.stride;
    for (int half = 0; half < 2; ++half) _mm256_storeu_ps(out + 8 * half, _mm256_cvtepi32_ps(total[half]));
    return;
  }
  const __m256 most = _mm256_set1_ps(work.most);
  const __m256i low = count_spikes(total[0], work.factor, work.start, most);
  const __m256i high = count_spikes(total[1], work.factor + 8, work.start + 8, most);
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0b11011000);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(work.bytes + pixel * work.stride),
                   _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

template <int Pixels, int Depth>
void some(const ProductWork& work, int64_t first) {
  __m256i total[Pixels][2];
  sum<Pixels, Depth>(work, work.pixels + first, total);
  for (int p = 0; p < Pixels; ++p) store(work, total[p], first + p);
}

template <int Depth>
void all(const ProductWork& work) {
  int64_t first = 0;
  for (; first + kPixels <= work.count; first += kPixels) some<kPixels, Depth>(work, first);
  switch (work.count - first) {
    case 5: return some<5, Depth>(work, first);
    case 4: return some<4, Depth>(work, first);
    case 3: return some<3, Depth>(work, first);
    case 2: return some<2, Depth>(work, first);
    case 1: return some<1, Depth>(work, first);
  }
}

}  // namespace

void products_avx2(const ProductWork& work) { work.depth == 8 ? all<8>(work) : all<4>(work); }

}  // namespace pcsnn
#endif
