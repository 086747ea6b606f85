// Arithmetic of HCCL's reductions.
#pragma once

#include <hccl/hccl.h>

#include <cstddef>

namespace cann_stub {

// Bytes of an element, 0 for a dtype that HCCL does not know.
size_t width_of(HcclDataType type);

// Whether HCCL can reduce this dtype: unsigned numbers, float64 and bool can
// only be moved.
bool can_reduce(HcclDataType type);

// target = target (op) source, element by element, rounded to the dtype.
void reduce(char *target, const char *source, size_t count,
            HcclDataType type, HcclReduceOp op);

}  // namespace cann_stub
