/* Devices by their kind, and the CPU as one: its memory is the host's, its operations are done when they return and cannot
 * fail. */
#include "kernels/device.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/str.h"
#include "kernels/kernels.h"
#ifdef ANNEAL_CUDA
#include "kernels/cuda/open.h"
#endif

/* ---- the CPU ---- */

#define ALIGNMENT 256

/* Stands before what cpu_alloc gives. */
struct header {
	_Alignas(ALIGNMENT) size_t size;
};

/* The CPU is one device for all threads of the process. */
static _Atomic uint64_t cpu_used, cpu_peak;

static uint64_t pages(int name)
{
	long count = sysconf(name), size = sysconf(_SC_PAGESIZE);

	return count > 0 && size > 0 ? (uint64_t)count * (uint64_t)size : 0;
}

static int cpu_alloc(struct device *d, size_t size, void **out, struct error *err)
{
	size_t rounded = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + sizeof(struct header);
	struct header *h = rounded > size ? aligned_alloc(ALIGNMENT, rounded) : NULL;

	if (!h) {
		char asked[16], free_now[16], all[16];

		format_bytes(size, asked);
		format_bytes(pages(_SC_AVPHYS_PAGES), free_now);
		format_bytes(pages(_SC_PHYS_PAGES), all);
		return error_set(err, ERR_INFRA, "not enough memory: %s asked for, %s of %s free", asked,
				 free_now, all);
	}
	h->size = size;
	*out = h + 1;
	uint64_t now = atomic_fetch_add(&cpu_used, size) + size, peak = atomic_load(&cpu_peak);

	while (now > peak && !atomic_compare_exchange_weak(&cpu_peak, &peak, now))
		;
	return 0;
}

static void cpu_free(struct device *d, void *p)
{
	struct header *h = p;

	if (!h)
		return;
	atomic_fetch_sub(&cpu_used, h[-1].size);
	free(h - 1);
}

static void cpu_memory_used(const struct device *d, uint64_t *now, uint64_t *peak)
{
	*now = atomic_load(&cpu_used);
	*peak = atomic_load(&cpu_peak);
}

static void cpu_copy(struct device *d, void *to, const void *from, size_t size)
{
	if (size)
		memcpy(to, from, size);
}

static void cpu_zero(struct device *d, void *p, size_t size)
{
	if (size)
		memset(p, 0, size);
}

static int cpu_download(struct device *d, void *to, const void *from, size_t size, struct error *err)
{
	cpu_copy(d, to, from, size);
	return 0;
}

static int cpu_wait(struct device *d, struct error *err)
{
	return 0;
}

/* Each thread's scratch grows by itself. */
static size_t cpu_scratch_for(const struct device *d, const struct pass_shape *shape)
{
	return 0;
}

static int cpu_reserve(struct device *d, size_t size, struct error *err)
{
	return 0;
}

static void cpu_close(struct device *d)
{
}

static const struct device_methods cpu_methods = {
	.close = cpu_close,
	.alloc = cpu_alloc,
	.free = cpu_free,
	.memory_used = cpu_memory_used,
	.upload = cpu_copy,
	.copy = cpu_copy,
	.zero = cpu_zero,
	.download = cpu_download,
	.wait = cpu_wait,
	.scratch_for = cpu_scratch_for,
	.reserve = cpu_reserve,
};

struct device device_cpu = {
	.kind = DEVICE_CPU,
	.act = DTYPE_F32,
	.ops = &kernels_cpu,
	.methods = &cpu_methods,
};

/* ---- finding and opening ---- */

#ifndef ANNEAL_CUDA
static int no_cuda(struct error *err)
{
	error_set(err, ERR_USAGE, "this build has no CUDA");
	return error_hint(err, "build with -DANNEAL_CUDA=ON (cmake --preset cuda), or use device = \"cpu\"");
}
#endif

int device_cuda_count(struct error *why)
{
#ifdef ANNEAL_CUDA
	return cuda_count(why);
#else
	no_cuda(why);
	return 0;
#endif
}

int device_cuda_info(int ordinal, struct device_info *out, struct error *err)
{
#ifdef ANNEAL_CUDA
	return cuda_info(ordinal, out, err);
#else
	return no_cuda(err);
#endif
}

int device_open(enum device_kind kind, int ordinal, enum dtype act, struct device **out, struct error *err)
{
	if (kind == DEVICE_CUDA) {
#ifdef ANNEAL_CUDA
		return cuda_open(ordinal, act, out, err);
#else
		return no_cuda(err);
#endif
	}
	if (act != DTYPE_F32)
		return error_set(err, ERR_USAGE, "the CPU's activations are fp32");
	*out = &device_cpu;
	return 0;
}

void device_close(struct device *d)
{
	if (d)
		d->methods->close(d);
}

/* ---- what every device does ---- */

size_t device_act_size(const struct device *d)
{
	return matrix_data_size(d->act, 1, 1);
}

int device_alloc(struct device *d, size_t size, void **out, struct error *err)
{
	return d->methods->alloc(d, size, out, err);
}

void device_free(struct device *d, void *p)
{
	d->methods->free(d, p);
}

void device_memory_used(const struct device *d, uint64_t *now, uint64_t *peak)
{
	d->methods->memory_used(d, now, peak);
}

void device_upload(struct device *d, void *to, const void *from, size_t size)
{
	d->methods->upload(d, to, from, size);
}

void device_copy(struct device *d, void *to, const void *from, size_t size)
{
	d->methods->copy(d, to, from, size);
}

void device_zero(struct device *d, void *p, size_t size)
{
	d->methods->zero(d, p, size);
}

int device_download(struct device *d, void *to, const void *from, size_t size, struct error *err)
{
	return d->methods->download(d, to, from, size, err);
}

int device_wait(struct device *d, struct error *err)
{
	return d->methods->wait(d, err);
}

size_t device_scratch_for(const struct device *d, const struct pass_shape *shape)
{
	return d->methods->scratch_for(d, shape);
}

int device_reserve(struct device *d, size_t size, struct error *err)
{
	return d->methods->reserve(d, size, err);
}

bool device_records(const struct device *d)
{
	return d->methods->record_begin;
}

int device_record_begin(struct device *d, struct error *err)
{
	return d->methods->record_begin(d, err);
}

int device_record_end(struct device *d, struct recording **out, struct error *err)
{
	return d->methods->record_end(d, out, err);
}

void device_replay(struct device *d, struct recording *r)
{
	d->methods->replay(d, r);
}

void recording_free(struct device *d, struct recording *r)
{
	if (r)
		d->methods->recording_free(d, r);
}
