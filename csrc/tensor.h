// Tensors through LibTorch's stable ABI, which one build shares with every later torch: nothing of ATen or c10 here.
// What is asked of a tensor is read once, since each question is a call into torch.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace pcsnn {

using torch::headeronly::ScalarType;
using Given = torch::stable::Tensor;  // what torch hands to an operator and takes from it
using OptionalGiven = std::optional<Given>;
using Shape = std::span<const int64_t>;
using Sizes = std::vector<int64_t>;  // as it hands over a list of numbers

inline bool same(Shape a, Shape b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

// ---- messages -------------------------------------------------------------------------------------------------------
template <class Part>
void tell(std::ostream& out, const Part& part) {
  out << part;
}
inline void tell(std::ostream& out, Shape part) {
  out << '[';
  for (size_t i = 0; i < part.size(); ++i) out << (i ? ", " : "") << part[i];
  out << ']';
}

void tell(std::ostream& out, ScalarType dtype);  // by its name in Python

// RuntimeError in Python, of these words alone.
[[noreturn]] void fail(const char* function, const char* file, uint32_t line, const std::string& words);

template <class... Parts>
[[noreturn, gnu::noinline, gnu::cold]] void fail_with(const char* function, const char* file, uint32_t line,
                                                      const Parts&... parts) {
  std::ostringstream words;
  (tell(words, parts), ...);
  fail(function, file, line, words.str());
}

#define PCSNN_CHECK(condition, ...)                                                         \
  do {                                                                                      \
    if (!(condition)) [[unlikely]]                                                          \
      ::pcsnn::fail_with(__func__, __FILE__, static_cast<uint32_t>(__LINE__), __VA_ARGS__); \
  } while (false)

// What a function of torch's C interface returned.
void check_done(AOTITorchError error, const char* what);

// ---- dtypes ---------------------------------------------------------------------------------------------------------
// torch's own number of a dtype, which need not be that of the headers it was built with, and back; Undefined: of those
// that no operator takes.
int32_t number_of(ScalarType dtype);
ScalarType dtype_of_number(int32_t number);

inline bool is_floating(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
    case ScalarType::Half:
    case ScalarType::BFloat16:
    case ScalarType::Double:
    case ScalarType::Float8_e5m2:
    case ScalarType::Float8_e4m3fn:
    case ScalarType::Float8_e5m2fnuz:
    case ScalarType::Float8_e4m3fnuz: return true;
    default: return false;
  }
}

// ---- tensors --------------------------------------------------------------------------------------------------------
class Tensor {
 public:
  Tensor(Given given);  // NOLINT: what an operator is given is a tensor here
  explicit Tensor(AtenTensorHandle owned) : Tensor(Given(owned)) {}
  operator const Given&() const { return given_; }  // NOLINT

  AtenTensorHandle get() const { return given_.get(); }
  ScalarType scalar_type() const { return dtype_; }
  int64_t element_size() const { return element_size_; }
  int64_t dim() const { return dim_; }
  int64_t numel() const { return numel_; }
  int64_t nbytes() const { return numel_ * element_size_; }
  Shape sizes() const { return {sizes_, static_cast<size_t>(dim_)}; }
  Shape strides() const { return {strides_, static_cast<size_t>(dim_)}; }
  int64_t size(int64_t d) const { return sizes_[place(d)]; }
  int64_t stride(int64_t d) const { return strides_[place(d)]; }
  // Elements from the first to behind the last one in memory.
  int64_t reach() const {
    if (numel_ == 0) return 0;
    int64_t last = 0;
    for (int64_t d = 0; d < dim_; ++d) last += (sizes_[d] - 1) * strides_[d];
    return last + 1;
  }
  bool strided_on_cpu() const { return strides_ != nullptr && on_cpu_; }
  bool is_contiguous() const;
  int64_t storage_offset() const;
  int64_t storage_bytes() const;

  const void* const_data_ptr() const;
  void* mutable_data_ptr() const;
  template <class V>
  const V* const_data_ptr() const {
    return static_cast<const V*>(const_data_ptr());
  }
  template <class V>
  V* mutable_data_ptr() const {
    return static_cast<V*>(mutable_data_ptr());
  }

  // These bytes under other sizes and strides, `offset` elements further on.
  Tensor viewed(Shape sizes, Shape strides, int64_t offset = 0) const;
  // Dimension 0: `length` entries from `first` on; or one of them, without the dimension.
  Tensor narrowed(int64_t first, int64_t length) const;
  Tensor first_entry() const { return viewed(sizes().subspan(1), strides().subspan(1)); }
  const Tensor& copy_from(const Tensor& other) const;

 private:
  int64_t place(int64_t d) const {
    PCSNN_CHECK(d >= -dim_ && d < dim_, "expected a dimension within ", -dim_, "..", dim_ - 1, ", got ", d);
    return d < 0 ? d + dim_ : d;
  }

  Given given_;
  const int64_t *sizes_ = nullptr, *strides_ = nullptr;
  int64_t dim_ = 0, numel_ = 0, element_size_ = 0;
  ScalarType dtype_ = ScalarType::Undefined;
  bool on_cpu_ = false;
};

using OptionalTensor = std::optional<Tensor>;

Tensor empty_strided(Shape sizes, Shape strides, ScalarType dtype);

}  // namespace pcsnn
