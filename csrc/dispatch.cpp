// The choice of the instruction set.

#include <cstdlib>
#include <string>

#include "primitives.h"
#include "tensor.h"

namespace pcsnn {
namespace {

const Primitives& pick() {
  const char* wish = std::getenv("PCSNN_CPU_CAPABILITY");
  const std::string most = wish ? wish : "avx512";
  PCSNN_CHECK(most == "avx512" || most == "avx2" || most == "default",
              "PCSNN_CPU_CAPABILITY: expected avx512, avx2 or default, got ", most);
#ifdef PCSNN_X86_DISPATCH
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && most == "avx512") return kAvx512;
  if (avx2 && most != "default") return kAvx2;
#endif
  return kDefault;
}

}  // namespace

const Primitives& primitives() {
  static const Primitives& picked = pick();
  return picked;
}

}  // namespace pcsnn
