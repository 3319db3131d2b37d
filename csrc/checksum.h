// A checksum of what a tensor holds.
#pragma once

#include <cstdint>
#include <span>

namespace pcsnn {

// Where elements lie, strides in elements.
struct Bytes {
  const char* data;
  int64_t element_size;
  int dtype;  // any number that tells one from another
  std::span<const int64_t> sizes, strides;

  int64_t count() const;   // of bytes that are elements
  int64_t extent() const;  // bytes from the first element to behind the last
  // Whether reading all that lies between the first and the last element reads no more than all elements would be.
  bool in_one_piece() const { return extent() <= count(); }
};

// 64 bits of the `length` bytes at `values`, which hold every element, and of dtype, sizes and strides: one word that
// changes changes the result.
uint64_t checksum(const Bytes& bytes, const char* values, int64_t length);

}  // namespace pcsnn
