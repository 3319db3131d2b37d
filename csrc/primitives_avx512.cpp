// For x86-64 processors with AVX-512: the same source, for the compiler to use more and wider registers.
#include "primitives.h"

#ifdef PCSNN_X86_DISPATCH
#include <immintrin.h>

#include <cstddef>
#include <type_traits>

#pragma GCC target("avx2,f16c,fma,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
#define PCSNN_ISA avx512
#define PCSNN_TABLE kAvx512
#define PCSNN_NAME "avx512"
#define PCSNN_AVX2 1
#include "primitives_impl.h"
#endif
