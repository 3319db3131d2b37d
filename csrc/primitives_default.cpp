// For every processor.
#include "primitives.h"

#include <cstddef>
#include <type_traits>

#define PCSNN_ISA baseline
#define PCSNN_TABLE kDefault
#define PCSNN_NAME "default"
#define PCSNN_AVX2 0
#include "primitives_impl.h"
