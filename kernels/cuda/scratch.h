/* Bounds of the scratch memory (cuda_scratch) of operations: enough for these sizes and for all smaller ones. */
#ifndef KERNELS_CUDA_SCRATCH_H
#define KERNELS_CUDA_SCRATCH_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_device;

/* lora and lora_grad; rows: of the largest part */
size_t lora_scratch_bound(const struct cuda_device *d, int n, int rows, int cols, int rank, int parts);
size_t cross_entropy_scratch_bound(const struct cuda_device *d, int n, int vocab);
/* whatever n */
size_t sum_squares_scratch_bound(void);
/* rmsnorm_grad with dweight */
size_t rmsnorm_scratch_bound(int n, int dim);

#ifdef __cplusplus
}
#endif
#endif
