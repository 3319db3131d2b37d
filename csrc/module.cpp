// Importing pcsnn._C registers the operators; the checksum, which is taken too often to go through the dispatcher, is a
// function of the module.
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/library.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "arguments.h"
#include "memory.h"
#include "primitives.h"

namespace pcsnn {
namespace {

constexpr int64_t kLanes = 8;                     // products under way at a time
constexpr int64_t kPiece = 1 << 18;               // bytes that a thread sums up
constexpr uint64_t kFactor = 0x9e3779b97f4a7c15;  // odd, so that no product loses anything

// For every `word` a one-to-one function of `sum`, and for every `sum` one of `word`: one word that changes changes the
// result.
inline uint64_t mixed(uint64_t sum, uint64_t word) { return std::rotl(sum ^ word, 29) * kFactor; }

uint64_t sum_up(const char* bytes, int64_t count) {
  uint64_t lanes[kLanes] = {1, 2, 3, 4, 5, 6, 7, 8}, words[kLanes];
  int64_t i = 0;
  for (; i + static_cast<int64_t>(sizeof words) <= count; i += sizeof words) {
    std::memcpy(words, bytes + i, sizeof words);
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] = mixed(lanes[l], words[l]);
  }
  std::fill_n(words, kLanes, 0);
  std::memcpy(words, bytes + i, static_cast<size_t>(count - i));
  uint64_t sum = static_cast<uint64_t>(count);
  for (int64_t l = 0; l < kLanes; ++l) sum = mixed(mixed(sum, lanes[l]), words[l]);
  return sum;
}

uint64_t sum_of_pieces(const char* bytes, int64_t count) {
  if (count <= kPiece) return sum_up(bytes, count);
  std::vector<uint64_t> sums(static_cast<size_t>((count + kPiece - 1) / kPiece));
  at::parallel_for(0, static_cast<int64_t>(sums.size()), 2, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) sums[i] = sum_up(bytes + i * kPiece, std::min(kPiece, count - i * kPiece));
  });
  return sum_up(reinterpret_cast<const char*>(sums.data()), static_cast<int64_t>(sums.size() * sizeof(uint64_t)));
}

// 64 bits of a tensor's bytes, dtype, sizes and strides, which tell whether it still holds what it held; nothing for
// tensors whose bytes are not to be had on the CPU.
std::optional<uint64_t> checksum(const at::Tensor& tensor) {
  const c10::DispatchKeySet other({c10::DispatchKey::Python, c10::DispatchKey::Conjugate, c10::DispatchKey::Negative});
  if (tensor.key_set().has_any(other) || !tensor.unsafeGetTensorImpl()->has_storage() || !tensor.device().is_cpu() ||
      tensor.layout() != at::kStrided || tensor.is_quantized() || !within_storage(tensor))
    return std::nullopt;
  at::AutoDispatchBelowADInplaceOrView plain;  // a tensor that requires a gradient is read like any other
  const at::Tensor values = dense(tensor) ? tensor : tensor.contiguous();
  uint64_t sum = static_cast<uint64_t>(tensor.scalar_type());
  for (int64_t d = 0; d < tensor.dim(); ++d)
    sum = mixed(mixed(sum, static_cast<uint64_t>(tensor.size(d))), static_cast<uint64_t>(tensor.stride(d)));
  if (values.numel() == 0) return sum;
  return mixed(sum, sum_of_pieces(bytes_of(values), static_cast<int64_t>(values.nbytes())));
}

PyObject* checksum_of(PyObject*, PyObject* tensor) {
  if (!THPVariable_Check(tensor))
    return PyErr_Format(PyExc_TypeError, "tensor: expected a tensor, got %s", Py_TYPE(tensor)->tp_name);
  try {
    const std::optional<uint64_t> sum = checksum(THPVariable_Unpack(tensor));
    if (!sum) Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(*sum);
  } catch (const std::exception& error) {
    return PyErr_Format(PyExc_RuntimeError, "checksum: %s", error.what());
  }
}

PyMethodDef functions[] = {{"checksum", checksum_of, METH_O,
                            "64 bits of what a tensor on the CPU holds, by which a change is told; None of any other."},
                           {nullptr, nullptr, 0, nullptr}};

}  // namespace

TORCH_LIBRARY_FRAGMENT(pcsnn, m) {
  m.def("cpu_capability() -> str", [] { return std::string(primitives().name); });
}

}  // namespace pcsnn

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, pcsnn::functions, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
