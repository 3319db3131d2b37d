// The search in vectors of eight float32 currents. Part of the primitives.
#pragma once

#include "search.h"

namespace pcsnn {
namespace {
namespace PCSNN_ISA {

// Neurons are handled 32 at a time, so that the loads of four vectors overlap.
constexpr int kVectors = 4;

inline __m256 reached(__m256 mean, __m256 level) { return _mm256_cmp_ps(mean, level, _CMP_GE_OQ); }

// As guess_one. A gather of levels would cost more than all the rest.
template <bool each, bool sums>
struct Guess {
  explicit Guess(const Search<float>& table)
      : table(table),
        last(_mm256_set1_ps(static_cast<float>(table.count - 1))),
        weight(_mm256_set1_epi32(table.weight)),
        steps(_mm256_set1_ps(static_cast<float>(table.steps))),
        per_step(_mm256_set1_ps(1 / static_cast<float>(table.steps))),
        first(_mm256_set1_ps(*table.first)),
        step(_mm256_set1_ps(*table.step)),
        inverse(_mm256_set1_ps(*table.inverse)) {}

  void operator()(const __m256 (&value)[kVectors], int64_t i, __m256i (&count)[kVectors]) const {
    for (int v = 0; v < kVectors; ++v)
      count[v] = each ? eight(value[v], _mm256_loadu_ps(table.first + i + 8 * v),
                              _mm256_loadu_ps(table.step + i + 8 * v), _mm256_loadu_ps(table.inverse + i + 8 * v))
                      : eight(value[v], first, step, inverse);
  }

  __m256i eight(__m256 value, __m256 first, __m256 step, __m256 inverse) const {
    const __m256 mean = sums ? _mm256_mul_ps(value, per_step) : value;
    const __m256 start = _mm256_min_ps(first, _mm256_set1_ps(kMost<float>));
    const __m256 position = _mm256_mul_ps(_mm256_sub_ps(mean, start), inverse);
    const __m256 inside = _mm256_min_ps(_mm256_max_ps(position, _mm256_setzero_ps()), last);  // NaN becomes 0
    const __m256i guess = _mm256_cvtps_epi32(inside);
    const __m256 level = _mm256_fmadd_ps(_mm256_cvtepi32_ps(guess), step, first);
    const __m256 above = reached(value, sums ? _mm256_mul_ps(level, steps) : level);
    // Counts fit in 16 bits, whose product is the faster one.
    return _mm256_mullo_epi16(_mm256_sub_epi32(guess, _mm256_castps_si256(above)), weight);
  }

  Search<float> table;
  __m256 last;
  __m256i weight;
  __m256 steps, per_step, first, step, inverse;
};

// As bisect_one.
template <bool each>
struct Bisect {
  explicit Bisect(const Search<float>& table) : table(table), half(half_range(table.count)) {}

  void operator()(const __m256 (&mean)[kVectors], int64_t i, __m256i (&count)[kVectors]) const {
    __m256i row[kVectors];
    const int32_t start = table.count - half;
    for (int v = 0; v < kVectors; ++v) {
      row[v] = each ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table.row + i + 8 * v))
                    : _mm256_set1_epi32(*table.row);
      const __m256 level = each ? _mm256_i32gather_ps(table.levels + start, row[v], 4)
                                : _mm256_set1_ps(table.levels[*table.row + start]);
      count[v] = _mm256_and_si256(_mm256_castps_si256(reached(mean[v], level)), _mm256_set1_epi32(start + 1));
    }
    for (int32_t step = half / 2; step >= 1; step /= 2)
      for (int v = 0; v < kVectors; ++v) {
        const __m256 level = _mm256_i32gather_ps(table.levels + (step - 1), _mm256_add_epi32(row[v], count[v]), 4);
        const __m256i more = _mm256_and_si256(_mm256_castps_si256(reached(mean[v], level)), _mm256_set1_epi32(step));
        count[v] = _mm256_add_epi32(count[v], more);
      }
  }

  Search<float> table;
  int32_t half;
};

// Every level is compared: loads of neighbours cost less than the gathers of a bisection.
struct CountAll {
  explicit CountAll(const Search<float>& table) : table(table) {}

  void operator()(const __m256 (&mean)[kVectors], int64_t i, __m256i (&count)[kVectors]) const {
    for (int v = 0; v < kVectors; ++v) count[v] = _mm256_setzero_si256();
    for (int32_t x = 0; x < table.count; ++x)
      for (int v = 0; v < kVectors; ++v) {
        const __m256 level = _mm256_loadu_ps(table.columns + x * table.columns_stride + i + 8 * v);
        count[v] = _mm256_sub_epi32(count[v], _mm256_castps_si256(reached(mean[v], level)));
      }
  }

  Search<float> table;
};

// The same comparisons as a walk down a tree, for neurons that share a row: node h has the children 2h and 2h + 1, so
// that the first levels down are permutations of registers and not gathers.
struct Tree {
  explicit Tree(const Search<float>& table) : half(half_range(table.count)), most(table.count) {
    const float* levels = table.levels + *table.row;
    nodes[1] = levels[most - half];
    for (int32_t width = 2, step = half / 2; step >= 1; width *= 2, step /= 2)
      for (int32_t path = 0; path < width; ++path) {
        const int32_t upper = path >= width / 2;
        nodes[width + path] = levels[upper * (most - half + 1) + (path - upper * width / 2) * 2 * step + step - 1];
      }
  }

  void operator()(const __m256 (&mean)[kVectors], int64_t, __m256i (&count)[kVectors]) const {
    __m256i node[kVectors];
    for (int v = 0; v < kVectors; ++v) node[v] = _mm256_set1_epi32(1);
    for (int32_t width = 1; width <= half; width *= 2)
      for (int v = 0; v < kVectors; ++v) {
        const __m256 above =
            reached(mean[v], width <= 32 ? permuted(node[v], width) : _mm256_i32gather_ps(nodes, node[v], 4));
        node[v] = _mm256_sub_epi32(_mm256_add_epi32(node[v], node[v]), _mm256_castps_si256(above));
      }
    // A path of the upper half counts from most - half + 1, not from half.
    for (int v = 0; v < kVectors; ++v) {
      const __m256i path = _mm256_sub_epi32(node[v], _mm256_set1_epi32(2 * half));
      const __m256i upper = _mm256_cmpgt_epi32(path, _mm256_set1_epi32(half - 1));
      const __m256i excess = _mm256_and_si256(upper, _mm256_set1_epi32(2 * half - most - 1));
      count[v] = _mm256_sub_epi32(path, excess);
    }
  }

  __m256 permuted(__m256i node, int32_t width) const {
    if (width < 16) return eight(width & 8, node);
    const __m256 by_8 = _mm256_castsi256_ps(_mm256_slli_epi32(node, 28));
    if (width == 16) return _mm256_blendv_ps(eight(16, node), eight(24, node), by_8);
    const __m256 by_16 = _mm256_castsi256_ps(_mm256_slli_epi32(node, 27));
    return _mm256_blendv_ps(_mm256_blendv_ps(eight(32, node), eight(40, node), by_8),
                            _mm256_blendv_ps(eight(48, node), eight(56, node), by_8), by_16);
  }

  __m256 eight(int32_t start, __m256i node) const {
    return _mm256_permutevar8x32_ps(_mm256_load_ps(nodes + start), node);
  }

  // Building the tree must be little beside walking it.
  static bool pays(int64_t n, const Search<float>& table) { return !table.each && n >= 2 * table.count; }

  int32_t half, most;
  alignas(32) float nodes[256] = {};
};

// use(find) with the search that suits the table and the number of neurons.
template <class Use>
void with_find(int64_t n, const Search<float>& table, const Use& use) {
  if (table.first && table.steps > 1)
    table.each ? use(Guess<true, true>(table)) : use(Guess<false, true>(table));
  else if (table.first)
    table.each ? use(Guess<true, false>(table)) : use(Guess<false, false>(table));
  else if (table.columns)
    use(CountAll(table));
  else if (Tree::pays(n, table))
    use(Tree(table));
  else
    table.each ? use(Bisect<true>(table)) : use(Bisect<false>(table));
}

template <class Find>
[[gnu::always_inline]] inline __m256i find32(const float* mean, int64_t i, const Find& find) {
  const __m256 means[kVectors] = {_mm256_loadu_ps(mean), _mm256_loadu_ps(mean + 8), _mm256_loadu_ps(mean + 16),
                                  _mm256_loadu_ps(mean + 24)};
  __m256i count[kVectors];
  find(means, i, count);
  const __m256i bytes =
      _mm256_packus_epi16(_mm256_packs_epi32(count[0], count[1]), _mm256_packs_epi32(count[2], count[3]));
  return _mm256_permutevar8x32_epi32(bytes,
                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));  // packing works within 128 bits
}

template <>
void search<float>(const float* mean, int64_t n, Search<float> table, uint8_t* counts) {
  with_find(n, table, [=](const auto& find) {
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) _mm256_storeu_si256(reinterpret_cast<__m256i*>(counts + i), find32(mean + i, i, find));
    if (i == n) return;
    alignas(32) float rest[32] = {};
    alignas(32) uint8_t found[32];
    __builtin_memcpy(rest, mean + i, static_cast<size_t>(n - i) * sizeof(float));
    _mm256_store_si256(reinterpret_cast<__m256i*>(found), find32(rest, i, find));
    __builtin_memcpy(counts + i, found, static_cast<size_t>(n - i));
  });
}

template <class Find>
[[gnu::always_inline]] inline void rate32(const float* mean, const float* residual, int64_t i, const Find& find,
                                          Balance balance, Values<float> scale, float* out) {
  __m256 means[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    means[v] = _mm256_loadu_ps(mean + 8 * v);
    if (residual) means[v] = _mm256_add_ps(means[v], _mm256_loadu_ps(residual + 8 * v));
  }
  __m256i count[kVectors];
  find(means, i, count);
  if (balance.any()) {
    const __m256i turn = _mm256_set1_epi32(balance.turn), low = _mm256_set1_epi32(balance.low);
    for (int v = 0; v < kVectors; ++v)
      count[v] = _mm256_sub_epi32(_mm256_abs_epi32(_mm256_sub_epi32(count[v], turn)), low);
  }
  for (int v = 0; v < kVectors; ++v) {
    const __m256 factor = scale.each ? _mm256_loadu_ps(scale.data + i + 8 * v) : _mm256_set1_ps(*scale.data);
    _mm256_storeu_ps(out + 8 * v, _mm256_mul_ps(factor, _mm256_cvtepi32_ps(count[v])));
  }
}

void fused_rates(const float* mean, const float* residual, int64_t n, Search<float> table, Values<float> scale,
                 float* out) {
  with_find(n, table, [=](const auto& find) {
    int64_t i = 0;
    for (; i + 32 <= n; i += 32)
      rate32(mean + i, residual ? residual + i : nullptr, i, find, table.balance, scale, out + i);
    if (i == n) return;
    alignas(32) float rest[32] = {}, more[32] = {}, found[32];
    const size_t bytes = static_cast<size_t>(n - i) * sizeof(float);
    __builtin_memcpy(rest, mean + i, bytes);
    if (residual) __builtin_memcpy(more, residual + i, bytes);
    rate32(rest, residual ? more : nullptr, i, find, table.balance, scale, found);
    __builtin_memcpy(out + i, found, bytes);
  });
}

}  // namespace PCSNN_ISA
}  // namespace
}  // namespace pcsnn
