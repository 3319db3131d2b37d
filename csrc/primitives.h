// What is done to a block of neurons, once for each instruction set. No torch here: the sources that include
// primitives_impl.h are compiled for other processors than the rest of the extension.
#pragma once

#include <cfloat>
#include <cstdint>

namespace pcsnn {

enum Type { kFloat, kHalf, kBFloat16, kDouble };

// Vector loads of per-neuron values may run this many entries past the last neuron: such arrays are padded.
constexpr int64_t kPadding = 32;

// Rows read side by side: as many streams keep the memory busier than one does.
constexpr int kRows = 4;

// One value for all neurons of a block, or one each.
template <class V>
struct Values {
  const V* data;
  bool each;
};

// A signed table (S1): k levels reached are |k - turn| - low spikes, those below zero counted negative.
struct Balance {
  int32_t turn;
  int32_t low;
  bool any() const { return turn || low; }
  int32_t operator()(int32_t count) const { return (count < turn ? turn - count : count - turn) - low; }
};

// The levels as the neurons of a block see them. `each` says whether per-neuron entries hold one a neuron (the channel
// changes from neuron to neuron) or a single one.
template <class F>
struct Search {
  int32_t count;   // levels
  int32_t weight;  // what each adds to the count of a neuron under a line
  int32_t steps;   // time-steps that what is searched is a sum over: it is compared with so many times a line's level
  bool each;
  Balance balance;  // of the rates
  // Per neuron, of a line (23); or null, and then the table below says what the levels are.
  const float* first = nullptr;
  const float* step = nullptr;
  const float* inverse = nullptr;
  const F* levels = nullptr;     // [rows, count]
  const int32_t* row = nullptr;  // per neuron: where its row starts in levels
  // Level x of neuron i at [x * columns_stride + i], or null: few levels of neighbours of other channels.
  const F* columns = nullptr;
  int64_t columns_stride = 0;
};

// A function for each type of currents that occurs with means of a type.
template <class Function>
struct ByType {
  Function* f32 = nullptr;
  Function* f16 = nullptr;
  Function* bf16 = nullptr;
  Function* f64 = nullptr;

  Function* operator[](Type type) const {
    return type == kFloat ? f32 : type == kHalf ? f16 : type == kBFloat16 ? bf16 : f64;
  }
};

// Means are of type F: float64 of float64 currents, float32 of all others.
template <class F>
struct Kernels {
  ByType<void(const void* in, int64_t n, F* mean)> load = {};  // of the types that are not F
  // mean = base + ..., where base may be mean itself; add_rows adds kRows rows, `stride` entries apart, one after the
  // other
  ByType<void(const F* base, const void* in, int64_t stride, int64_t n, F* mean)> add;
  ByType<void(const F* base, const void* in, int64_t stride, int64_t n, F* mean)> add_rows;
  void (*add_counts)(const F* base, const uint8_t* counts, Values<F> scale, int64_t n, F* mean);
  void (*search)(const F* mean, int64_t n, Search<F> table, uint8_t* counts);
  ByType<void(const uint8_t* counts, Balance balance, Values<F> scale, int64_t n, void* out)> rates;
};

// `off` and `on` are bit patterns of the output's width; a neuron spikes where its count reaches `threshold` (0..255).
using Spikes = void (*)(const uint8_t* counts, int threshold, const void* off, const void* on, bool each, int64_t n,
                        void* out);

// Spikes of several levels (22): what a step sends of each count, the part above `silent` (0..255) and at most `most`.
using IntegerSpikes = void (*)(const uint8_t* counts, int silent, int most, int64_t n, uint8_t* out);

struct Primitives {
  const char* name;
  Kernels<float> f32;
  Kernels<double> f64;
  Spikes spikes[4];  // by log2 of the output's width in bytes
  IntegerSpikes integer_spikes;
  // scale * count of mean + residual (which may be null) in one pass, for float32 through and through; out may be mean.
  // Null where search and rates one after the other are as fast.
  void (*fused_rates)(const float* mean, const float* residual, int64_t n, Search<float> table, Values<float> scale,
                      float* out) = nullptr;
  // out = gradient * slope of the current's interval [knots[i], knots[i + 1]), 0 outside of all `intervals`; the sums
  // of that, and of that times the current, are added to plain[i] and weighted[i]. For curves of few intervals.
  void (*transfer)(const float* current, const float* gradient, int64_t n, const float* knots, const float* slopes,
                   int64_t intervals, float* out, double* plain, double* weighted);
  // A copy that leaves the caches alone, where there is one; `fence` before another thread may read it.
  void (*stream)(const void* from, int64_t bytes, void* to);
  void (*fence)();
};

extern const Primitives kDefault;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define PCSNN_X86_DISPATCH 1
extern const Primitives kAvx2;
extern const Primitives kAvx512;
#endif

// Those of the best instruction set at hand, or of the lower one that the environment's PCSNN_CPU_CAPABILITY names.
const Primitives& primitives();

}  // namespace pcsnn
