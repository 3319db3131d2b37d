// Importing pcsnn._C registers the operators; what is called too often to go through the dispatcher is a function of
// its own.
#include <torch/csrc/autograd/python_variable.h>

#include "checksum.h"

namespace {

PyObject* checksum(PyObject*, PyObject* tensor) {
  if (!THPVariable_Check(tensor))
    return PyErr_Format(PyExc_TypeError, "tensor: expected a tensor, got %s", Py_TYPE(tensor)->tp_name);
  try {
    const std::optional<uint64_t> sum = pcsnn::checksum(THPVariable_Unpack(tensor));
    if (!sum) Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(*sum);
  } catch (const std::exception& error) {
    return PyErr_Format(PyExc_RuntimeError, "checksum: %s", error.what());
  }
}

PyMethodDef functions[] = {{"checksum", checksum, METH_O,
                            "64 bits of what a tensor on the CPU holds, by which a change is told; None of any other."},
                           {nullptr, nullptr, 0, nullptr}};

}  // namespace

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, functions, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
