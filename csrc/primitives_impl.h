// The primitives, compiled once for each instruction set: the including source sets PCSNN_ISA (a namespace),
// PCSNN_TABLE (the name of its table), PCSNN_NAME and PCSNN_AVX2 (0 or 1). Everything is local to that source: a
// function shared with code for older processors might be linked from the newer one.
#include "search.h"
#if PCSNN_AVX2
#include "search_avx2.h"
#endif

// `base` and `mean` may be one array, which the compiler would otherwise take for a dependence.
#if defined(__GNUC__) && !defined(__clang__)
#define PCSNN_INDEPENDENT _Pragma("GCC ivdep")
#else
#define PCSNN_INDEPENDENT
#endif

namespace pcsnn {
namespace {
namespace PCSNN_ISA {

template <class In, class F>
void load(const void* in, int64_t n, F* mean) {
  const In* from = static_cast<const In*>(in);
  int64_t i = 0;
#if PCSNN_AVX2
  if constexpr (std::is_same_v<In, Half>)
    for (; i + 8 <= n; i += 8)
      _mm256_storeu_ps(mean + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
#endif
  for (; i < n; ++i) mean[i] = widen(from[i]);
}

// mean = base + row 0 + row 1 + ..., in this order.
template <class In, class F, int rows>
void add(const F* base, const void* in, int64_t stride, int64_t n, F* mean) {
  const In* from = static_cast<const In*>(in);
  int64_t i = 0;
#if PCSNN_AVX2
  if constexpr (std::is_same_v<In, Half>)
    for (; i + 8 <= n; i += 8) {
      __m256 sum = _mm256_loadu_ps(base + i);
      for (int r = 0; r < rows; ++r)
        sum = _mm256_add_ps(sum,
                            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + r * stride + i))));
      _mm256_storeu_ps(mean + i, sum);
    }
#endif
  PCSNN_INDEPENDENT
  for (; i < n; ++i) {
    F sum = base[i];
    for (int r = 0; r < rows; ++r) sum += widen(from[r * stride + i]);
    mean[i] = sum;
  }
}

template <class F>
void add_counts(const F* base, const uint8_t* counts, Values<F> scale, int64_t n, F* mean) {
  if (scale.each) {
    PCSNN_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) mean[i] = base[i] + scale.data[i] * static_cast<F>(counts[i]);
  } else {
    const F factor = *scale.data;
    PCSNN_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) mean[i] = base[i] + factor * static_cast<F>(counts[i]);
  }
}

template <class Out, class F>
void rates(const uint8_t* counts, Balance balance, Values<F> scale, int64_t n, void* out) {
  Out* __restrict to = static_cast<Out*>(out);
  int64_t i = 0;
  if (balance.any()) {
    for (; i < n; ++i) narrow(scale.data[scale.each ? i : 0] * static_cast<F>(balance(counts[i])), to + i);
    return;
  }
#if PCSNN_AVX2
  if constexpr (std::is_same_v<Out, Half>)
    for (; i + 8 <= n; i += 8) {
      const __m256i count = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(counts + i)));
      const __m256 factor = scale.each ? _mm256_loadu_ps(scale.data + i) : _mm256_set1_ps(*scale.data);
      const __m128i half = _mm256_cvtps_ph(_mm256_mul_ps(factor, _mm256_cvtepi32_ps(count)), _MM_FROUND_TO_NEAREST_INT);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), half);
    }
#endif
  if (scale.each) {
    for (; i < n; ++i) narrow(scale.data[i] * static_cast<F>(counts[i]), to + i);
  } else {
    const F factor = *scale.data;
    for (; i < n; ++i) narrow(factor * static_cast<F>(counts[i]), to + i);
  }
}

template <class Bits>
void spikes(const uint8_t* counts, int threshold, const void* off, const void* on, bool each, int64_t n, void* out) {
  Bits* __restrict to = static_cast<Bits*>(out);
  const Bits* no = static_cast<const Bits*>(off);
  const Bits* yes = static_cast<const Bits*>(on);
  const uint8_t least = static_cast<uint8_t>(threshold);
  if (each) {
    for (int64_t i = 0; i < n; ++i) {
      const Bits low = no[i], high = yes[i];
      to[i] = counts[i] >= least ? high : low;
    }
  } else {
    const Bits low = *no, high = *yes;
    for (int64_t i = 0; i < n; ++i) to[i] = counts[i] >= least ? high : low;
  }
}

void integer_spikes(const uint8_t* counts, int silent, int most, int64_t n, uint8_t* out) {
  uint8_t* __restrict to = out;
  const uint8_t below = static_cast<uint8_t>(silent), full = static_cast<uint8_t>(most);
  for (int64_t i = 0; i < n; ++i) {
    const uint8_t least = counts[i] > below ? counts[i] : below;
    const uint8_t more = static_cast<uint8_t>(least - below);
    to[i] = more < full ? more : full;
  }
}

// Floats of one register. The compiler makes no vectors of sums over part of the values.
#ifdef __AVX512F__
using Floats [[gnu::vector_size(64)]] = float;
#elif PCSNN_AVX2
using Floats [[gnu::vector_size(32)]] = float;
#else
using Floats [[gnu::vector_size(16)]] = float;
#endif

// One pass over a block for each interval. Lanes have sums of their own, added in one order on every processor.
void transfer(const float* current, const float* gradient, int64_t n, const float* knots, const float* slopes,
              int64_t intervals, float* out, double* plain, double* weighted) {
  constexpr int64_t block = 256, lanes = 16, width = sizeof(Floats) / sizeof(float);
  float z[block], passed[block], added[lanes];
  for (int64_t start = 0; start < n; start += block) {
    const int64_t some = n - start < block ? n - start : block;
    const int64_t whole = (some + lanes - 1) / lanes * lanes;
    for (int64_t i = 0; i < some; ++i) z[i] = current[start + i];
    for (int64_t i = some; i < whole; ++i) z[i] = knots[intervals];  // in no interval
    for (int64_t i = 0; i < whole; ++i) passed[i] = 0;
    for (int64_t k = 0; k < intervals; ++k) {
      const float low = knots[k], high = knots[k + 1], slope = slopes[k];
      for (int64_t i = 0; i < whole; ++i) passed[i] = (z[i] >= low) & (z[i] < high) ? slope : passed[i];
    }
    for (int64_t i = 0; i < some; ++i) passed[i] *= gradient[start + i];
    for (int64_t i = 0; i < some; ++i) out[start + i] = passed[i];
    for (int64_t k = 0; k < intervals; ++k) {
      const float low = knots[k], high = knots[k + 1];
      Floats sums[lanes / width] = {}, products[lanes / width] = {};
      for (int64_t i = 0; i < whole; i += lanes)
        for (int64_t j = 0; j < lanes / width; ++j) {
          Floats value, share;
          __builtin_memcpy(&value, z + i + j * width, sizeof value);
          __builtin_memcpy(&share, passed + i + j * width, sizeof share);
          const auto inside = (value >= low) & (value < high);
          sums[j] += inside ? share : Floats{};
          products[j] += inside ? share * value : Floats{};
        }
      __builtin_memcpy(added, sums, sizeof added);
      for (int64_t j = 0; j < lanes; ++j) plain[k] += added[j];
      __builtin_memcpy(added, products, sizeof added);
      for (int64_t j = 0; j < lanes; ++j) weighted[k] += added[j];
    }
  }
}

#if PCSNN_AVX2

void stream(const void* from, int64_t bytes, void* to) {
  const char* source = static_cast<const char*>(from);
  char* target = static_cast<char*>(to);
  int64_t head = -reinterpret_cast<intptr_t>(target) & 63;
  head = head < bytes ? head : bytes;
  __builtin_memcpy(target, source, static_cast<size_t>(head));
  int64_t i = head;
  for (; i + 64 <= bytes; i += 64) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i + 32));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(target + i), low);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(target + i + 32), high);
  }
  __builtin_memcpy(target + i, source + i, static_cast<size_t>(bytes - i));
}

void fence() { _mm_sfence(); }

#else

void stream(const void* from, int64_t bytes, void* to) { __builtin_memcpy(to, from, static_cast<size_t>(bytes)); }
void fence() {}

#endif

constexpr Primitives kTable = {
    .name = PCSNN_NAME,
    .f32 = {.load = {.f16 = load<Half, float>, .bf16 = load<BFloat16, float>},
            .add = {.f32 = add<float, float, 1>, .f16 = add<Half, float, 1>, .bf16 = add<BFloat16, float, 1>},
            .add_rows = {.f32 = add<float, float, kRows>,
                         .f16 = add<Half, float, kRows>,
                         .bf16 = add<BFloat16, float, kRows>},
            .add_counts = add_counts<float>,
            .search = search<float>,
            .rates = {.f32 = rates<float, float>, .f16 = rates<Half, float>, .bf16 = rates<BFloat16, float>}},
    .f64 = {.add = {.f64 = add<double, double, 1>},
            .add_rows = {.f64 = add<double, double, kRows>},
            .add_counts = add_counts<double>,
            .search = search<double>,
            .rates = {.f64 = rates<double, double>}},
    .spikes = {spikes<uint8_t>, spikes<uint16_t>, spikes<uint32_t>, spikes<uint64_t>},
    .integer_spikes = integer_spikes,
#if PCSNN_AVX2
    .fused_rates = fused_rates,
#endif
    .transfer = transfer,
    .stream = stream,
    .fence = fence};

}  // namespace PCSNN_ISA
}  // namespace

const Primitives PCSNN_TABLE = PCSNN_ISA::kTable;

}  // namespace pcsnn
