#include "checksum.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "parallel.h"

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
  parallel_for(0, static_cast<int64_t>(sums.size()), 2, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) sums[i] = sum_up(bytes + i * kPiece, std::min(kPiece, count - i * kPiece));
  });
  return sum_up(reinterpret_cast<const char*>(sums.data()), static_cast<int64_t>(sums.size() * sizeof(uint64_t)));
}

}  // namespace

int64_t Bytes::count() const {
  int64_t elements = 1;
  for (const int64_t size : sizes) elements *= size;
  return elements * element_size;
}

int64_t Bytes::extent() const {
  int64_t last = 0;
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == 0) return 0;
    last += (sizes[d] - 1) * strides[d];
  }
  return (last + 1) * element_size;
}

uint64_t checksum(const Bytes& bytes, const char* values, int64_t length) {
  uint64_t sum = static_cast<uint64_t>(bytes.dtype);
  for (size_t d = 0; d < bytes.sizes.size(); ++d)
    sum = mixed(mixed(sum, static_cast<uint64_t>(bytes.sizes[d])), static_cast<uint64_t>(bytes.strides[d]));
  return length == 0 ? sum : mixed(sum, sum_of_pieces(values, length));
}

}  // namespace pcsnn
