/* What host code asks of the attention of the CUDA backend. */
#ifndef KERNELS_CUDA_ATTENTION_H
#define KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Up to so many queries of each sequence are decoding: they are cut along the keys. */
#define ATTENTION_FEW 8

/* The most scratch, in bytes, that attention and attention_grad take for these bounds (the arrays of s are not read); the latter
 * only when training. */
size_t attention_scratch_bound(const struct cuda_device *d, const struct attention *s, bool train);

#ifdef __cplusplus
}
#endif
#endif
