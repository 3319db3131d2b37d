// The search for a mean current's count, on every processor. Part of the primitives.
#pragma once

#include "half.h"

namespace pcsnn {
namespace {
namespace PCSNN_ISA {

template <class F>
constexpr F kMost = std::is_same_v<F, double> ? DBL_MAX : FLT_MAX;

// Level x, counted from 0, of a line (23): x * step + first, rounded once.
inline float level_on(int32_t x, float step, float first) {
#if PCSNN_AVX2 || defined(__FP_FAST_FMAF)
  return __builtin_fmaf(static_cast<float>(x), step, first);
#else
  // The product is exact; where the sum is not, rounding it to odd leaves the rounding to float right. In bits, since
  // not every processor has vectors of such comparisons.
  const double product = static_cast<double>(x) * step, start = first, total = product + start;
  const double part = total - product, error = (product - (total - part)) + (start - part);
  const uint64_t bits = as_bits(total), lost = as_bits(error);
  const uint64_t nonzero = (lost << 1 | (0 - (lost << 1))) >> 63, infinite = ((lost >> 52 & 0x7ff) + 1) >> 11;
  const uint64_t away = nonzero & ~infinite & ~bits & 1, less = (lost ^ bits) >> 63;
  return static_cast<float>(as_double(bits + away - ((away & less) << 1)));
#endif
}

// The level nearest to a mean is guessed, and a guess is off by less than half a level (pcsnn.tensors.checks.level_line
// sees to it), so that one comparison settles it. A channel that never fires is guessed to have no spike, except under
// an infinite current: its `first` is infinite, and finite for the guess.
template <class F>
inline uint8_t guess_one(F value, float first, float step, float inverse, F last, F steps, F per_step, int32_t weight) {
  const F start = first;
  F position = (value * per_step - (start < kMost<F> ? start : kMost<F>)) * static_cast<F>(inverse);
  position = position > 0 ? position : 0;  // NaN too
  position = position < last ? position : last;
  const int32_t guess = static_cast<int32_t>(position + static_cast<F>(0.5));
  const F level = level_on(guess, step, first);
  return static_cast<uint8_t>((guess + (value >= level * steps)) * weight);
}

template <class F>
void guess_all(const F* value, int64_t n, const Search<F>& table, uint8_t* counts) {
  const F last = static_cast<F>(table.count - 1), steps = static_cast<F>(table.steps), per_step = 1 / steps;
  const float *first = table.first, *step = table.step, *inverse = table.inverse;
  const int32_t weight = table.weight;
  if (table.each) {
    for (int64_t i = 0; i < n; ++i)
      counts[i] = guess_one(value[i], first[i], step[i], inverse[i], last, steps, per_step, weight);
  } else {
    const float start = *first, distance = *step, density = *inverse;
    for (int64_t i = 0; i < n; ++i)
      counts[i] = guess_one(value[i], start, distance, density, last, steps, per_step, weight);
  }
}

// The count lies in 0..most < 2 * half: the first comparison leaves `half` candidates, each further one half of them.
inline int32_t half_range(int32_t most) {
  int32_t half = 1;
  while (2 * half <= most) half *= 2;
  return half;
}

template <class F>
int32_t bisect_one(F mean, const Search<F>& table, int64_t i) {
  const F* levels = table.levels + table.row[i];
  const int32_t half = half_range(table.count);
  int32_t count = mean >= levels[table.count - half] ? table.count - half + 1 : 0;
  for (int32_t step = half / 2; step >= 1; step /= 2) count += mean >= levels[count + step - 1] ? step : 0;
  return count;
}

template <class F>
void search(const F* mean, int64_t n, Search<F> table, uint8_t* counts) {
  if (table.first) return guess_all(mean, n, table, counts);
  for (int64_t i = 0; i < n; ++i) counts[i] = static_cast<uint8_t>(bisect_one(mean[i], table, table.each ? i : 0));
}

}  // namespace PCSNN_ISA
}  // namespace
}  // namespace pcsnn
