// The primitives, compiled once for each instruction set: the including source sets PCSNN_ISA (a namespace),
// PCSNN_TABLE (the name of its table), PCSNN_NAME and PCSNN_AVX2 (0 or 1). Everything is local to that source: a
// function shared with code for older processors might be linked from the newer one.

// `base` and `mean` may be one array, which the compiler would otherwise take for a dependence.
#if defined(__GNUC__) && !defined(__clang__)
#define PCSNN_INDEPENDENT _Pragma("GCC ivdep")
#else
#define PCSNN_INDEPENDENT
#endif

namespace pcsnn {
namespace {
namespace PCSNN_ISA {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline float as_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t as_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline uint64_t as_bits(double value) {
  uint64_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline double as_double(uint64_t bits) {
  double value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline float widen(BFloat16 value) { return as_float(uint32_t{value.bits} << 16); }
inline float widen(Half value) {
  const uint32_t sign = uint32_t{value.bits} >> 15 << 31;
  const uint32_t magnitude = value.bits & 0x7fffu;
  // Subnormals are counted in units of 2^-24; the others move to the exponent range of float.
  const uint32_t subnormal = as_bits(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  const uint32_t normal = (magnitude << 13) + (magnitude < 0x7c00u ? 112u << 23 : 224u << 23);
  return as_float(sign | (magnitude < 0x400u ? subnormal : normal));
}

// Rounding to nearest even, as torch does.
inline void narrow(float value, float* out) { *out = value; }
inline void narrow(double value, double* out) { *out = value; }
inline void narrow(float value, BFloat16* out) {
  const uint32_t bits = as_bits(value);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  out->bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
inline void narrow(float value, Half* out) {
  const uint32_t bits = as_bits(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  // Adding 0.5, whose last place is 2^-24, rounds to a multiple of the smallest subnormal.
  const uint32_t subnormal = as_bits(as_float(magnitude) + 0.5f) - as_bits(0.5f);
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  out->bits =
      static_cast<uint16_t>(bits >> 16 & 0x8000u) | static_cast<uint16_t>(magnitude >= 0x477ff000u ? special : finite);
}

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
inline uint8_t guess_one(F value, float first, float step, float inverse, F last, F steps, F share, int32_t weight) {
  const F start = first;
  F position = (value * share - (start < kMost<F> ? start : kMost<F>)) * static_cast<F>(inverse);
  position = position > 0 ? position : 0;  // NaN too
  position = position < last ? position : last;
  const int32_t guess = static_cast<int32_t>(position + static_cast<F>(0.5));
  const F level = level_on(guess, step, first);
  return static_cast<uint8_t>((guess + (value >= level * steps)) * weight);
}

template <class F>
void guess_all(const F* value, int64_t n, const Search<F>& table, uint8_t* counts) {
  const F last = static_cast<F>(table.count - 1), steps = static_cast<F>(table.steps), share = 1 / steps;
  const float *first = table.first, *step = table.step, *inverse = table.inverse;
  const int32_t weight = table.weight;
  if (table.each) {
    for (int64_t i = 0; i < n; ++i)
      counts[i] = guess_one(value[i], first[i], step[i], inverse[i], last, steps, share, weight);
  } else {
    const float start = *first, distance = *step, density = *inverse;
    for (int64_t i = 0; i < n; ++i)
      counts[i] = guess_one(value[i], start, distance, density, last, steps, share, weight);
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

#if PCSNN_AVX2

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
        share(_mm256_set1_ps(1 / static_cast<float>(table.steps))),
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
    const __m256 mean = sums ? _mm256_mul_ps(value, share) : value;
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
  __m256 steps, share, first, step, inverse;
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

}  // namespace PCSNN_ISA
}  // namespace

const Primitives PCSNN_TABLE = {
    PCSNN_NAME,
    {{nullptr, PCSNN_ISA::load<PCSNN_ISA::Half, float>, PCSNN_ISA::load<PCSNN_ISA::BFloat16, float>, nullptr},
     {PCSNN_ISA::add<float, float, 1>, PCSNN_ISA::add<PCSNN_ISA::Half, float, 1>,
      PCSNN_ISA::add<PCSNN_ISA::BFloat16, float, 1>, nullptr},
     {PCSNN_ISA::add<float, float, kRows>, PCSNN_ISA::add<PCSNN_ISA::Half, float, kRows>,
      PCSNN_ISA::add<PCSNN_ISA::BFloat16, float, kRows>, nullptr},
     PCSNN_ISA::add_counts<float>,
     PCSNN_ISA::search<float>,
     {PCSNN_ISA::rates<float, float>, PCSNN_ISA::rates<PCSNN_ISA::Half, float>,
      PCSNN_ISA::rates<PCSNN_ISA::BFloat16, float>, nullptr}},
    {{nullptr, nullptr, nullptr, nullptr},
     {nullptr, nullptr, nullptr, PCSNN_ISA::add<double, double, 1>},
     {nullptr, nullptr, nullptr, PCSNN_ISA::add<double, double, kRows>},
     PCSNN_ISA::add_counts<double>,
     PCSNN_ISA::search<double>,
     {nullptr, nullptr, nullptr, PCSNN_ISA::rates<double, double>}},
    {PCSNN_ISA::spikes<uint8_t>, PCSNN_ISA::spikes<uint16_t>, PCSNN_ISA::spikes<uint32_t>, PCSNN_ISA::spikes<uint64_t>},
#if PCSNN_AVX2
    PCSNN_ISA::fused_rates,
#else
    nullptr,
#endif
    PCSNN_ISA::stream,
    PCSNN_ISA::fence};

}  // namespace pcsnn
