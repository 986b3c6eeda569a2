/* What device_scratch_for answers for a GPU. */
#ifndef KERNELS_CUDA_PLAN_H
#define KERNELS_CUDA_PLAN_H

#include "kernels/cuda/cuda.h"

size_t cuda_scratch_for(const struct device *d, const struct pass_shape *shape);

#endif
