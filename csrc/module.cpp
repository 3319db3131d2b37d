// Importing pcsnn._C registers the operators; the checksum, which is taken too often to go through the dispatcher, is a
// function of the module. Python's stable ABI, and torch's tensors as DLPack hands them over.
#include <Python.h>

#include <limits>
#include <optional>
#include <string>

#include "checksum.h"
#include "primitives.h"
#include "tensor.h"

#undef TORCH_TARGET_VERSION  // torch keeps the header of DLPack, whose ABI is stable too, from those who target a
                             // version
#include <ATen/dlpack.h>

namespace pcsnn {
namespace {

// What is asked of tensors, looked up once.
struct Asked {
  const DLPackExchangeAPI* exchange;
  PyObject *plain, *untyped_storage, *nbytes, *storage_offset, *is_neg, *detach, *contiguous;
};
Asked asked;

PyObject* call(PyObject* method, PyObject* self) { return PyObject_CallFunctionObjArgs(method, self, nullptr); }

std::optional<int64_t> number(PyObject* method, PyObject* self) {
  PyObject* result = call(method, self);
  if (result == nullptr) return std::nullopt;
  const long long value = PyLong_AsLongLong(result);
  Py_DECREF(result);
  if (value == -1 && PyErr_Occurred()) return std::nullopt;
  return value;
}

// A storage may have been resized since the tensor was made.
std::optional<bool> within_storage(PyObject* tensor, Bytes bytes) {
  PyObject* storage = call(asked.untyped_storage, tensor);
  if (storage == nullptr) return std::nullopt;
  const std::optional<int64_t> size = number(asked.nbytes, storage);
  Py_DECREF(storage);
  const std::optional<int64_t> offset = number(asked.storage_offset, tensor);
  if (!size || !offset) return std::nullopt;
  return *offset * bytes.element_size + bytes.extent() <= *size;
}

// nullptr with an exception, or None: of bytes that are not to be had, or not the values.
PyObject* checksum_of_plain(PyObject* tensor) {
  DLTensor view;
  if (asked.exchange->dltensor_from_py_object_no_sync(tensor, &view) != 0) return nullptr;
  const int code = view.dtype.code;
  if (view.device.device_type != kDLCPU || code == kDLComplex) Py_RETURN_NONE;
  if (code != kDLInt && code != kDLUInt && code != kDLBool) {
    PyObject* negative = call(asked.is_neg, tensor);
    if (negative == nullptr) return nullptr;
    Py_DECREF(negative);
    if (negative == Py_True) Py_RETURN_NONE;
  }
  const size_t dimensions = static_cast<size_t>(view.ndim);
  const int64_t bits = int64_t{view.dtype.bits} * view.dtype.lanes;
  const Bytes bytes{static_cast<const char*>(view.data) + view.byte_offset,
                    (bits + 7) / 8,
                    code << 16 | static_cast<int>(bits),
                    {view.shape, dimensions},
                    {view.strides, dimensions}};
  if (bytes.count() != 0) {
    const std::optional<bool> within = within_storage(tensor, bytes);
    if (!within) return nullptr;
    if (!*within) Py_RETURN_NONE;
  }
  if (bytes.in_one_piece()) return PyLong_FromUnsignedLongLong(checksum(bytes, bytes.data, bytes.extent()));
  PyObject* detached = call(asked.detach, tensor);
  PyObject* values = detached ? call(asked.contiguous, detached) : nullptr;
  Py_XDECREF(detached);
  DLTensor packed;
  PyObject* result = nullptr;
  if (values != nullptr && asked.exchange->dltensor_from_py_object_no_sync(values, &packed) == 0)
    result = PyLong_FromUnsignedLongLong(
        checksum(bytes, static_cast<const char*>(packed.data) + packed.byte_offset, bytes.count()));
  Py_XDECREF(values);
  return result;
}

// Whether torch itself, and no class of Python, says what operators do with a tensor of this type; nothing, with an
// exception, of what is no tensor.
std::optional<bool> is_plain(PyObject* tensor) {
  static PyTypeObject* last = nullptr;
  PyTypeObject* type = Py_TYPE(tensor);
  if (type == last) return true;
  PyObject* dispatch = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__torch_dispatch__");
  if (dispatch == nullptr) {
    PyErr_Format(PyExc_TypeError, "tensor: expected a tensor, got %R", type);
    return std::nullopt;
  }
  Py_DECREF(dispatch);
  if (dispatch != asked.plain) return false;
  Py_INCREF(type);  // so that no other type gets its address
  last = type;
  return true;
}

PyObject* checksum_of(PyObject*, PyObject* tensor) {
  const std::optional<bool> plain = is_plain(tensor);
  if (!plain) return nullptr;
  if (!*plain) Py_RETURN_NONE;
  PyObject* result = checksum_of_plain(tensor);
  if (result == nullptr && PyErr_ExceptionMatches(PyExc_Exception)) {  // a tensor without a storage, say
    PyErr_Clear();
    Py_RETURN_NONE;
  }
  return result;
}

PyObject* attribute(PyObject* object, const char* name) {
  return object ? PyObject_GetAttrString(object, name) : nullptr;
}

bool look_up() {
  PyObject* torch = PyImport_ImportModule("torch");
  PyObject* tensor = attribute(torch, "Tensor");
  PyObject* storage = attribute(torch, "UntypedStorage");
  PyObject* exchange = attribute(tensor, "__dlpack_c_exchange_api__");
  asked.plain = attribute(tensor, "__torch_dispatch__");
  asked.untyped_storage = attribute(tensor, "untyped_storage");
  asked.storage_offset = attribute(tensor, "storage_offset");
  asked.is_neg = attribute(tensor, "is_neg");
  asked.detach = attribute(tensor, "detach");
  asked.contiguous = attribute(tensor, "contiguous");
  asked.nbytes = attribute(storage, "nbytes");
  if (exchange)
    asked.exchange = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(exchange, "dlpack_exchange_api"));
  Py_XDECREF(torch);
  Py_XDECREF(tensor);
  Py_XDECREF(storage);
  Py_XDECREF(exchange);
  if (PyErr_Occurred()) return false;
  if (asked.exchange->header.version.major == DLPACK_MAJOR_VERSION && asked.exchange->dltensor_from_py_object_no_sync)
    return true;
  PyErr_Format(PyExc_ImportError, "expected a torch whose tensors speak DLPack %d, got %u", DLPACK_MAJOR_VERSION,
               asked.exchange->header.version.major);
  return false;
}

PyMethodDef functions[] = {{"checksum", checksum_of, METH_O,
                            "64 bits of what a tensor on the CPU holds, by which a change is told; None of any other."},
                           {nullptr, nullptr, 0, nullptr}};

std::string cpu_capability() { return primitives().name; }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pcsnn, m) { m.def("cpu_capability() -> str"); }
STABLE_TORCH_LIBRARY_IMPL(pcsnn, CompositeImplicitAutograd, m) { m.impl("cpu_capability", TORCH_BOX(&cpu_capability)); }

}  // namespace pcsnn

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, pcsnn::functions, nullptr, nullptr, nullptr, nullptr};
  return pcsnn::look_up() ? PyModule_Create(&definition) : nullptr;
}
