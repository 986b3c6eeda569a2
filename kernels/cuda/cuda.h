/* Inside the CUDA backend: what host code in C and launchers in CUDA C++ share.
 *
 * Host code (device.c, cublas.c, product.c …) is C over the CUDA runtime's C interface. Kernels stand in .cu files, which
 * end in launchers: functions of ops.h in three versions, one per dtype of activations (kernel.cuh says how). The same
 * .cu files also compile as plain C++ against tests/fakes/cuda, which runs kernels on the CPU, thread by thread: so they
 * keep to what that understands (kernel.cuh). */
#ifndef KERNELS_CUDA_CUDA_H
#define KERNELS_CUDA_CUDA_H

#include <cuda_runtime_api.h>

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cublas; /* cublas.h */

struct cuda_device {
	struct device base;
	int ordinal;
	int major, minor; /* compute capability */
	int multiprocessors;
	int shared_per_block; /* bytes of shared memory that a block may opt in to */
	int l2_bytes;
	uint64_t memory;       /* bytes in all */
	cudaStream_t stream;   /* everything runs here, in order */
	bool behind_next;      /* the last work there is a kernel that calls grid_next (kernel.cuh) */
	struct cublas *cublas; /* handle, workspace and chosen algorithms */

	/* Scratch of operations: one block, used from its beginning by one operation at a time. A block that became too
	 * small is kept until the device is closed, since recordings may use it. */
	void *scratch;
	size_t scratch_size;
	void **old_scratch;
	int n_old_scratch;

	/* Uploads go through a ring of pinned memory. */
	char *ring;
	size_t ring_size, ring_at;
	cudaEvent_t *ring_events;
	int ring_slots;

	uint64_t allocated, peak; /* bytes */
	struct allocation *allocations;
	size_t n_allocations, cap_allocations;

	/* The first failure: told by the next wait or download. */
	cudaError_t failure;
	char failed_at[96]; /* which operation */
};

static inline struct cuda_device *cuda_device(struct device *d)
{
	return (struct cuda_device *)d;
}

/* Makes it the calling thread's current device, on which CUDA launches kernels: a thread may use several. */
void cuda_use(struct device *d);
/* Remembers that `what` failed with code, unless something did before or code is cudaSuccess. */
void cuda_note(struct device *d, cudaError_t code, const char *what);
/* size bytes of scratch, aligned to 256, valid until the next call for this device. NULL, with the failure noted, when
 * there is no memory: the operation then returns without doing anything. */
void *cuda_scratch(struct device *d, size_t size);

/* Prototypes of every operation: cuda_f32_rmsnorm, cuda_bf16_rmsnorm, cuda_f16_rmsnorm … */
#define OP(name) void cuda_f32_##name
#include "kernels/ops.h"
#undef OP
#define OP(name) void cuda_bf16_##name
#include "kernels/ops.h"
#undef OP
#define OP(name) void cuda_f16_##name
#include "kernels/ops.h"
#undef OP

#ifdef __cplusplus
}
#endif
#endif
