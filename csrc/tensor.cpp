#include "tensor.h"

#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <array>
#include <string>

// torch's own words on what went wrong, from 2.13 on; before, they are on standard error alone.
#if defined(__GNUC__) && !defined(_WIN32)
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();
#define PCSNN_WORDS_OF_TORCH 1
#endif

namespace pcsnn {

void fail(const char* function, const char* file, uint32_t line, const std::string& words) {
  aoti_torch_check(false, function, file, line, words.c_str());
  __builtin_unreachable();
}

void check_done(AOTITorchError error, const char* what) {
  if (error == TORCH_SUCCESS) [[likely]]
    return;
#ifdef PCSNN_WORDS_OF_TORCH
  if (torch_exception_get_what_without_backtrace) PCSNN_CHECK(false, torch_exception_get_what_without_backtrace());
#endif
  PCSNN_CHECK(false, what, " failed; torch has written why to standard error");
}

// ---- dtypes ---------------------------------------------------------------------------------------------------------
namespace {

struct Number {
  ScalarType dtype;
  int32_t number;
  const char* name;
};

const auto& numbers() {
  static const std::array all = {
      Number{ScalarType::Float, aoti_torch_dtype_float32(), "float32"},
      Number{ScalarType::Byte, aoti_torch_dtype_uint8(), "uint8"},
      Number{ScalarType::Int, aoti_torch_dtype_int32(), "int32"},
      Number{ScalarType::Char, aoti_torch_dtype_int8(), "int8"},
      Number{ScalarType::Half, aoti_torch_dtype_float16(), "float16"},
      Number{ScalarType::BFloat16, aoti_torch_dtype_bfloat16(), "bfloat16"},
      Number{ScalarType::Double, aoti_torch_dtype_float64(), "float64"},
      Number{ScalarType::Long, aoti_torch_dtype_int64(), "int64"},
      Number{ScalarType::Bool, aoti_torch_dtype_bool(), "bool"},
      Number{ScalarType::Short, aoti_torch_dtype_int16(), "int16"},
      Number{ScalarType::UInt16, aoti_torch_dtype_uint16(), "uint16"},
      Number{ScalarType::UInt32, aoti_torch_dtype_uint32(), "uint32"},
      Number{ScalarType::UInt64, aoti_torch_dtype_uint64(), "uint64"},
      Number{ScalarType::ComplexHalf, aoti_torch_dtype_complex32(), "complex32"},
      Number{ScalarType::ComplexFloat, aoti_torch_dtype_complex64(), "complex64"},
      Number{ScalarType::ComplexDouble, aoti_torch_dtype_complex128(), "complex128"},
      Number{ScalarType::Float8_e5m2, aoti_torch_dtype_float8_e5m2(), "float8_e5m2"},
      Number{ScalarType::Float8_e4m3fn, aoti_torch_dtype_float8_e4m3fn(), "float8_e4m3fn"},
      Number{ScalarType::Float8_e5m2fnuz, aoti_torch_dtype_float8_e5m2fnuz(), "float8_e5m2fnuz"},
      Number{ScalarType::Float8_e4m3fnuz, aoti_torch_dtype_float8_e4m3fnuz(), "float8_e4m3fnuz"},
  };
  return all;
}

}  // namespace

int32_t number_of(ScalarType dtype) {
  const auto& all = numbers();
  const auto found = std::ranges::find(all, dtype, &Number::dtype);
  PCSNN_CHECK(found != all.end(), "expected a dtype of torch's stable ABI, got ", dtype);
  return found->number;
}

void tell(std::ostream& out, ScalarType dtype) {
  const auto& all = numbers();
  const auto found = std::ranges::find(all, dtype, &Number::dtype);
  out << (found == all.end() ? "another dtype" : found->name);
}

ScalarType dtype_of_number(int32_t number) {
  const auto& all = numbers();
  const auto found = std::ranges::find(all, number, &Number::number);
  return found == all.end() ? ScalarType::Undefined : found->dtype;
}

// ---- tensors --------------------------------------------------------------------------------------------------------
Tensor::Tensor(Given given) : given_(std::move(given)) {
  const AtenTensorHandle handle = get();
  static const int32_t cpu = aoti_torch_device_type_cpu(), strided = aoti_torch_layout_strided();
  int32_t device = 0, layout = 0, number = 0;
  int64_t* sizes = nullptr;
  check_done(aoti_torch_get_device_type(handle, &device), "reading a tensor's device");
  check_done(aoti_torch_get_layout(handle, &layout), "reading a tensor's layout");
  check_done(aoti_torch_get_dtype(handle, &number), "reading a tensor's dtype");
  check_done(aoti_torch_get_dim(handle, &dim_), "reading a tensor's dimensions");
  check_done(aoti_torch_get_sizes(handle, &sizes), "reading a tensor's sizes");
  check_done(aoti_torch_get_numel(handle, &numel_), "reading a tensor's sizes");
  on_cpu_ = device == cpu;
  dtype_ = dtype_of_number(number);
  element_size_ = static_cast<int64_t>(aoti_torch_dtype_element_size(number));
  sizes_ = sizes;
  if (layout != strided) return;
  int64_t* strides = nullptr;
  check_done(aoti_torch_get_strides(handle, &strides), "reading a tensor's strides");
  strides_ = strides;
}

bool Tensor::is_contiguous() const {
  if (numel_ == 0) return true;
  int64_t expected = 1;
  for (int64_t d = dim_ - 1; d >= 0; --d) {
    if (sizes_[d] == 1) continue;
    if (strides_[d] != expected) return false;
    expected *= sizes_[d];
  }
  return true;
}

int64_t Tensor::storage_offset() const {
  int64_t offset = 0;
  check_done(aoti_torch_get_storage_offset(get(), &offset), "reading a tensor's storage");
  return offset;
}

int64_t Tensor::storage_bytes() const {
  int64_t bytes = 0;
  check_done(aoti_torch_get_storage_size(get(), &bytes), "reading a tensor's storage");
  return bytes;
}

const void* Tensor::const_data_ptr() const {
  const void* data = nullptr;
  check_done(torch_get_const_data_ptr(get(), &data), "reading a tensor's data");
  return data;
}

void* Tensor::mutable_data_ptr() const {
  void* data = nullptr;
  check_done(torch_get_mutable_data_ptr(get(), &data), "reading a tensor's data");
  return data;
}

Tensor Tensor::viewed(Shape sizes, Shape strides, int64_t offset) const {
  AtenTensorHandle view = nullptr;
  check_done(aoti_torch__reinterpret_tensor(get(), static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                            offset, &view),
             "viewing a tensor");
  return Tensor(view);
}

Tensor Tensor::narrowed(int64_t first, int64_t length) const {
  std::vector<int64_t> part(sizes().begin(), sizes().end());
  part.at(0) = length;
  return viewed(part, strides(), first * stride(0));
}

const Tensor& Tensor::copy_from(const Tensor& other) const {
  check_done(aoti_torch_copy_(get(), other.get(), 0), "copying a tensor");
  return *this;
}

Tensor empty_strided(Shape sizes, Shape strides, ScalarType dtype) {
  static const int32_t cpu = aoti_torch_device_type_cpu();
  AtenTensorHandle made = nullptr;
  check_done(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                      number_of(dtype), cpu, 0, &made),
             "making a tensor");
  return Tensor(made);
}

}  // namespace pcsnn
