// float16 and bfloat16 to float32 and back, rounded to nearest even as torch does. Part of the primitives.
#pragma once

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

}  // namespace PCSNN_ISA
}  // namespace
}  // namespace pcsnn
