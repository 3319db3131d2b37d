// For x86-64 processors with AVX2, F16C and FMA.
#include "primitives.h"

#ifdef PCSNN_X86_DISPATCH
#include <immintrin.h>

#include <cstddef>
#include <type_traits>

#pragma GCC target("avx2,f16c,fma")  // up to the end of the file, where templates are instantiated
#define PCSNN_ISA avx2
#define PCSNN_TABLE kAvx2
#define PCSNN_NAME "avx2"
#define PCSNN_AVX2 1
#include "primitives_impl.h"
#endif
