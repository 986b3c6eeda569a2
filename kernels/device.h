/* Where numbers live and are worked on: the CPU, or one GPU. A device owns memory of its own, runs the operations of
 * ops.h on it in the order in which they are asked for, and remembers the first failure until somebody waits for it. One
 * thread at a time uses a device. */
#ifndef KERNELS_DEVICE_H
#define KERNELS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/matrix.h"

#ifdef __cplusplus
extern "C" {
#endif

struct error;
struct kernels;
struct recording;

enum device_kind { DEVICE_CPU, DEVICE_CUDA };

struct device {
	enum device_kind kind;
	/* Of activations: what operations read and write through void pointers. The CPU knows DTYPE_F32, a GPU that,
	 * DTYPE_BF16 and DTYPE_F16. */
	enum dtype act;
	const struct kernels *ops;
	const struct device_methods *methods; /* what differs from kind to kind; use the functions below */
};

/* The CPU: always there, never closed. Its memory is the host's. */
extern struct device device_cpu;

/* What a GPU is, for choosing one, for messages and for `anneal doctor`. */
struct device_info {
	char name[128];   /* "NVIDIA H200" */
	int major, minor; /* compute capability */
	int multiprocessors;
	uint64_t memory, free_memory; /* bytes */
	uint64_t bandwidth;           /* of its memory, bytes a second by clock and bus width; 0: not known */
	int driver,
		runtime; /* CUDA versions as 1000 * major + 10 * minor: what the driver can, what this was built with */
};

/* The number of GPUs that this build can use here. 0 with *why filled in when there is none: no CUDA in this build, no
 * driver, a driver that is too old, no device (each with what was found and what is needed). why may be NULL. */
int device_cuda_count(struct error *why);
/* Which one: 0 <= ordinal < device_cuda_count. ERR_INFRA when it cannot be asked. */
int device_cuda_info(int ordinal, struct device_info *out, struct error *err);

/* Opens a device; act as in struct device (DEVICE_CPU: DTYPE_F32). ERR_USAGE when this build or machine has no such
 * device, ERR_INFRA when it is there and cannot be used. */
int device_open(enum device_kind kind, int ordinal, enum dtype act, struct device **out, struct error *err);
/* Everything allocated from it is gone afterwards. The CPU and NULL are fine. */
void device_close(struct device *d);

/* Bytes of one activation. */
size_t device_act_size(const struct device *d);

/* Memory of the device, aligned to 256 bytes, not initialised. ERR_INFRA when there is not so much: how much was asked
 * for, free and there in all. */
int device_alloc(struct device *d, size_t size, void **out, struct error *err);
void device_free(struct device *d, void *p); /* NULL is fine */
/* Bytes now allocated by device_alloc and for operations' scratch, and the largest that this has been. */
void device_memory_used(const struct device *d, uint64_t *now, uint64_t *peak);

/* In order with operations: size bytes from the host (which may change them as soon as this returns), within the device,
 * and zeros. */
void device_upload(struct device *d, void *to, const void *from, size_t size);
void device_copy(struct device *d, void *to, const void *from, size_t size);
void device_zero(struct device *d, void *p, size_t size);
/* Waits for all that was asked for, then copies to the host. -1 with the first failure of any operation since the
 * device was opened: ERR_INFRA, and the device is of no more use. */
int device_download(struct device *d, void *to, const void *from, size_t size, struct error *err);
int device_wait(struct device *d, struct error *err);

/* What operations need beside the caller's buffers. A device's operations share one scratch buffer, which grows when one
 * of them needs more; device_reserve makes it large enough for all passes of a shape beforehand (0 on the CPU, whose
 * threads have scratch of their own). */
struct pass_shape {
	int tokens, sequences; /* packed */
	int hidden, intermediate, vocab;
	int heads, kv_heads, head_dim;
	int max_keys; /* of one sequence */
	int logits;   /* rows of logits at once */
	int rank;     /* of adapters; 0: none */
	bool train;   /* and back */
	bool full;    /* and every weight's gradient */
	enum dtype weights;
};
size_t device_scratch_for(const struct device *d, const struct pass_shape *shape);
int device_reserve(struct device *d, size_t size, struct error *err);

/* Recording: what is asked of the device between begin and end is not done but kept (on CUDA as a graph), to be done by
 * every device_replay, with the same buffers and sizes and whatever they hold then. Uploads, downloads and waits do not
 * belong inside, nor operations that were not done before with the same sizes (they may need scratch).
 * false: this device does not record (the CPU). */
bool device_records(const struct device *d);
int device_record_begin(struct device *d, struct error *err);
int device_record_end(struct device *d, struct recording **out, struct error *err);
void device_replay(struct device *d, struct recording *r);
void recording_free(struct device *d, struct recording *r); /* NULL is fine */

/* A kind of device; device.c calls these. */
struct device_methods {
	void (*close)(struct device *d);
	int (*alloc)(struct device *d, size_t size, void **out, struct error *err);
	void (*free)(struct device *d, void *p);
	void (*memory_used)(const struct device *d, uint64_t *now, uint64_t *peak);
	void (*upload)(struct device *d, void *to, const void *from, size_t size);
	void (*copy)(struct device *d, void *to, const void *from, size_t size);
	void (*zero)(struct device *d, void *p, size_t size);
	int (*download)(struct device *d, void *to, const void *from, size_t size, struct error *err);
	int (*wait)(struct device *d, struct error *err);
	size_t (*scratch_for)(const struct device *d, const struct pass_shape *shape);
	int (*reserve)(struct device *d, size_t size, struct error *err);
	int (*record_begin)(struct device *d, struct error *err); /* NULL: does not record */
	int (*record_end)(struct device *d, struct recording **out, struct error *err);
	void (*replay)(struct device *d, struct recording *r);
	void (*recording_free)(struct device *d, struct recording *r);
};

#ifdef __cplusplus
}
#endif
#endif
