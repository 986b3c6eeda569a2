/* A GPU as a device: everything runs on one stream, in order, and the host waits for it only where it must.
 *
 * Uploads are copied into a ring of pinned memory, from which the GPU fetches them by itself: so the caller may change
 * its buffer at once, and a step's few small uploads cost no wait. The ring is cut into slots; an event behind the last
 * copy out of a slot says when it may be filled again. Downloads use the same memory: all on one stream, they cannot
 * overtake an upload's copy.
 *
 * CUDA keeps a current device for each thread: every function here, and every launch, sets it (which costs nothing when it is
 * that one already), so that a device may be handed from thread to thread and a thread may use several. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/open.h"
#include "kernels/cuda/plan.h"

#define RING_SLOTS    4
#define RING_SLOT     ((size_t)8 << 20)
#define RING_ALIGN    256
#define SCRATCH_ALIGN ((size_t)1 << 20)
#define LEAST_MAJOR   8 /* compute capability: mma of bf16, cp.async */

struct allocation {
	void *p;
	size_t size;
};

struct recording {
	cudaGraphExec_t exec;
};

/* ---- failures ---- */

static const char fit_hint[] = "use a smaller batch, weights = \"nf4\", or a shorter max_length";

static int cuda_error(struct error *err, cudaError_t code, const char *what)
{
	return error_set(err, ERR_INFRA, "%s: %s (%s)", what, cudaGetErrorString(code),
			 cudaGetErrorName(code));
}

void cuda_note(struct device *base, cudaError_t code, const char *what)
{
	struct cuda_device *d = cuda_device(base);

	if (code == cudaSuccess || d->failure != cudaSuccess)
		return;
	d->failure = code;
	snprintf(d->failed_at, sizeof d->failed_at, "%s", what);
}

/* -1 with the first failure, if there was one. */
static int failure_tell(struct cuda_device *d, struct error *err)
{
	if (d->failure == cudaSuccess)
		return 0;
	cuda_error(err, d->failure, d->failed_at);
	if (d->failure == cudaErrorMemoryAllocation)
		return error_hint(err, "%s", fit_hint);
	return error_hint(
		err, "operations run behind the host: CUDA_LAUNCH_BLOCKING=1 in the environment shows which "
		     "one it was");
}

void cuda_use(struct device *d)
{
	cuda_note(d, cudaSetDevice(cuda_device(d)->ordinal), "choosing the GPU");
}

/* Before what would be wrong, or wrong at every replay, inside a recording. */
static bool recording_now(struct cuda_device *d)
{
	enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;

	cuda_note(&d->base, cudaStreamIsCapturing(d->stream, &status), "asking whether it records");
	return status != cudaStreamCaptureStatusNone;
}

/* ---- memory ---- */

/* "asked for 3.0 GiB, 1.2 GiB of 80 GiB are free" */
static void memory_text(size_t asked, char *out, size_t size)
{
	size_t now_free = 0, total = 0;
	char texts[3][16];

	(void)cudaMemGetInfo(&now_free, &total);
	format_bytes(asked, texts[0]);
	format_bytes(now_free, texts[1]);
	format_bytes(total, texts[2]);
	snprintf(out, size, "asked for %s, %s of %s are free", texts[0], texts[1], texts[2]);
}

static void account(struct cuda_device *d, size_t size)
{
	d->allocated += size;
	if (d->allocated > d->peak)
		d->peak = d->allocated;
}

static int device_memory_error(struct cuda_device *d, cudaError_t code, size_t size, struct error *err)
{
	char text[80];

	/* CUDA keeps it for whoever asks next, which would be another call. */
	(void)cudaGetLastError();
	if (code != cudaErrorMemoryAllocation)
		return cuda_error(err, code, "GPU memory");
	memory_text(size, text, sizeof text);
	error_set(err, ERR_INFRA, "GPU %d has too little memory: %s", d->ordinal, text);
	return error_hint(err, "%s", fit_hint);
}

static int cuda_alloc(struct device *base, size_t size, void **out, struct error *err)
{
	struct cuda_device *d = cuda_device(base);
	void *p = NULL;

	cuda_use(base);
	cudaError_t code = cudaMalloc(&p, size ? size : 1);
	if (code != cudaSuccess)
		return device_memory_error(d, code, size, err);
	grow(&d->allocations, &d->cap_allocations, d->n_allocations + 1, sizeof *d->allocations);
	d->allocations[d->n_allocations++] = (struct allocation){p, size};
	account(d, size);
	*out = p;
	return 0;
}

static void cuda_free(struct device *base, void *p)
{
	struct cuda_device *d = cuda_device(base);
	size_t i = d->n_allocations;

	if (!p)
		return;
	while (i > 0 && d->allocations[i - 1].p != p)
		i--;
	if (!i) {
		cuda_note(base, cudaErrorInvalidDevicePointer, "freeing memory");
		return;
	}
	cuda_use(base);
	cuda_note(base, cudaFree(p), "freeing memory");
	d->allocated -= d->allocations[i - 1].size;
	d->allocations[i - 1] = d->allocations[--d->n_allocations];
}

static void cuda_memory_used(const struct device *base, uint64_t *now, uint64_t *peak)
{
	const struct cuda_device *d = (const struct cuda_device *)base;

	*now = d->allocated;
	*peak = d->peak;
}

static size_t round_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

/* Replaces the scratch block by one of this size. */
static cudaError_t scratch_make(struct cuda_device *d, size_t size)
{
	void *p = NULL;
	cudaError_t code = cudaMalloc(&p, size);

	if (code != cudaSuccess) {
		(void)cudaGetLastError();
		return code;
	}
	if (d->scratch) {
		d->old_scratch = xreallocarray(d->old_scratch, (size_t)d->n_old_scratch + 1,
					       sizeof *d->old_scratch);
		d->old_scratch[d->n_old_scratch++] = d->scratch;
	}
	d->scratch = p;
	d->scratch_size = size;
	account(d, size);
	return cudaSuccess;
}

void *cuda_scratch(struct device *base, size_t size)
{
	struct cuda_device *d = cuda_device(base);
	size_t least = round_up(size ? size : 1, SCRATCH_ALIGN);
	size_t wanted = least > 2 * d->scratch_size ? least : 2 * d->scratch_size;

	if (size <= d->scratch_size && d->scratch)
		return d->scratch;
	if (d->failure != cudaSuccess)
		return NULL;
	cuda_use(base);
	if (recording_now(d)) {
		cuda_note(base, cudaErrorStreamCaptureUnsupported, "more scratch memory while recording");
		return NULL;
	}
	cudaError_t code = scratch_make(d, wanted);
	if (code == cudaErrorMemoryAllocation && wanted > least)
		code = scratch_make(d, least);
	if (code == cudaSuccess)
		return d->scratch;

	char text[80], what[sizeof d->failed_at];
	memory_text(least, text, sizeof text);
	snprintf(what, sizeof what, "scratch memory: %s", text);
	cuda_note(base, code, what);
	return NULL;
}

static int cuda_reserve(struct device *base, size_t size, struct error *err)
{
	struct cuda_device *d = cuda_device(base);

	if (size <= d->scratch_size)
		return 0;
	cuda_use(base);
	cudaError_t code = scratch_make(d, round_up(size, SCRATCH_ALIGN));
	return code == cudaSuccess ? 0 : device_memory_error(d, code, size, err);
}

/* ---- copies ---- */

static void cuda_upload(struct device *base, void *to, const void *from, size_t size)
{
	struct cuda_device *d = cuda_device(base);

	cuda_use(base);
	if (recording_now(d))
		cuda_note(base, cudaErrorStreamCaptureUnsupported, "upload while recording");
	while (size && d->failure == cudaSuccess) {
		size_t slot = d->ring_at / RING_SLOT, left = RING_SLOT - d->ring_at % RING_SLOT;
		size_t m = size < left ? size : left;

		if (left == RING_SLOT)
			cuda_note(base, cudaEventSynchronize(d->ring_events[slot]), "upload");
		memcpy(d->ring + d->ring_at, from, m);
		cuda_note(base,
			  cudaMemcpyAsync(to, d->ring + d->ring_at, m, cudaMemcpyHostToDevice, d->stream),
			  "upload");
		d->behind_next = false;
		d->ring_at += round_up(m, RING_ALIGN);
		if (d->ring_at % RING_SLOT == 0)
			cuda_note(base, cudaEventRecord(d->ring_events[slot], d->stream), "upload");
		d->ring_at %= d->ring_size;
		to = (char *)to + m;
		from = (const char *)from + m;
		size -= m;
	}
}

static void cuda_copy(struct device *base, void *to, const void *from, size_t size)
{
	struct cuda_device *d = cuda_device(base);

	if (!size)
		return;
	cuda_use(base);
	cuda_note(base, cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, d->stream), "copy");
	d->behind_next = false;
}

static void cuda_zero(struct device *base, void *p, size_t size)
{
	struct cuda_device *d = cuda_device(base);

	if (!size)
		return;
	cuda_use(base);
	cuda_note(base, cudaMemsetAsync(p, 0, size, d->stream), "zeroing memory");
	d->behind_next = false;
}

static int cuda_wait(struct device *base, struct error *err)
{
	struct cuda_device *d = cuda_device(base);

	cuda_use(base);
	if (d->failure == cudaSuccess)
		cuda_note(base, cudaStreamSynchronize(d->stream), "waiting for the GPU");
	return failure_tell(d, err);
}

/* As many pieces as there are slots are on their way while the oldest is copied out. */
static int cuda_download(struct device *base, void *to, const void *from, size_t size, struct error *err)
{
	struct cuda_device *d = cuda_device(base);

	if (!size)
		return cuda_wait(base, err);
	cuda_use(base);
	for (size_t done = 0, asked = 0; done < size && d->failure == cudaSuccess;) {
		for (; asked < size && asked < done + d->ring_size && d->failure == cudaSuccess;
		     asked += RING_SLOT) {
			size_t m = size - asked < RING_SLOT ? size - asked : RING_SLOT;

			cuda_note(base,
				  cudaMemcpyAsync(d->ring + asked % d->ring_size, (const char *)from + asked,
						  m, cudaMemcpyDeviceToHost, d->stream),
				  "download");
			d->behind_next = false;
			cuda_note(base,
				  cudaEventRecord(d->ring_events[asked / RING_SLOT % RING_SLOTS], d->stream),
				  "download");
		}
		size_t m = size - done < RING_SLOT ? size - done : RING_SLOT;
		if (d->failure == cudaSuccess)
			cuda_note(base, cudaEventSynchronize(d->ring_events[done / RING_SLOT % RING_SLOTS]),
				  "download");
		if (d->failure == cudaSuccess)
			memcpy((char *)to + done, d->ring + done % d->ring_size, m);
		done += m;
	}
	d->ring_at = 0;
	return failure_tell(d, err);
}

/* ---- recording ---- */

static int cuda_record_begin(struct device *base, struct error *err)
{
	struct cuda_device *d = cuda_device(base);

	cuda_use(base);
	d->behind_next = false;
	if (d->failure == cudaSuccess)
		cuda_note(base, cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal),
			  "recording");
	return failure_tell(d, err);
}

static int cuda_record_end(struct device *base, struct recording **out, struct error *err)
{
	struct cuda_device *d = cuda_device(base);
	cudaGraph_t graph = NULL;
	cudaGraphExec_t exec = NULL;

	cuda_use(base);
	cuda_note(base, cudaStreamEndCapture(d->stream, &graph), "recording");
	d->behind_next = false;
	if (d->failure == cudaSuccess)
		cuda_note(base, cudaGraphInstantiate(&exec, graph, 0), "making a recording");
	if (graph)
		cuda_note(base, cudaGraphDestroy(graph), "making a recording");
	if (d->failure != cudaSuccess) {
		if (exec)
			(void)cudaGraphExecDestroy(exec);
		return failure_tell(d, err);
	}
	*out = xmalloc(sizeof **out);
	(*out)->exec = exec;
	return 0;
}

static void cuda_replay(struct device *base, struct recording *r)
{
	struct cuda_device *d = cuda_device(base);

	cuda_use(base);
	cuda_note(base, cudaGraphLaunch(r->exec, d->stream), "replay");
	d->behind_next = false;
}

static void cuda_recording_free(struct device *base, struct recording *r)
{
	if (!r)
		return;
	cuda_use(base);
	cuda_note(base, cudaGraphExecDestroy(r->exec), "freeing a recording");
	free(r);
}

/* ---- opening and closing ---- */

static void cuda_close(struct device *base)
{
	struct cuda_device *d = cuda_device(base);

	(void)cudaSetDevice(d->ordinal);
	if (d->stream)
		(void)cudaStreamSynchronize(d->stream);
	cuda_products_close(d);
	for (size_t i = 0; i < d->n_allocations; i++)
		(void)cudaFree(d->allocations[i].p);
	for (int i = 0; i < d->n_old_scratch; i++)
		(void)cudaFree(d->old_scratch[i]);
	(void)cudaFree(d->scratch);
	for (int i = 0; i < d->ring_slots; i++)
		(void)cudaEventDestroy(d->ring_events[i]);
	(void)cudaFreeHost(d->ring);
	if (d->stream)
		(void)cudaStreamDestroy(d->stream);
	free(d->ring_events);
	free(d->old_scratch);
	free(d->allocations);
	free(d);
}

static const struct device_methods cuda_methods = {
	.close = cuda_close,
	.alloc = cuda_alloc,
	.free = cuda_free,
	.memory_used = cuda_memory_used,
	.upload = cuda_upload,
	.copy = cuda_copy,
	.zero = cuda_zero,
	.download = cuda_download,
	.wait = cuda_wait,
	.scratch_for = cuda_scratch_for,
	.reserve = cuda_reserve,
	.record_begin = cuda_record_begin,
	.record_end = cuda_record_end,
	.replay = cuda_replay,
	.recording_free = cuda_recording_free,
};

/* "13.0" of 13000 */
static const char *version_text(int version, char out[16])
{
	snprintf(out, 16, "%d.%d", version / 1000, version % 1000 / 10);
	return out;
}

/* Why there is no driver that this build can use. Drivers of the same major version run what any minor one built. */
static void driver_error(int driver, int runtime, struct error *why)
{
	char found[16], needed[16];

	if (!driver) {
		error_set(why, ERR_USAGE,
			  "there is no NVIDIA driver on this machine; this build needs one for CUDA %s",
			  version_text(runtime, needed));
		error_hint(why, "install the driver (in a container: start it with the host's GPUs, for "
				"example docker run "
				"--gpus all), or use device = \"cpu\"");
		return;
	}
	error_set(why, ERR_USAGE, "the NVIDIA driver supports CUDA %s, this build needs %s",
		  version_text(driver, found), version_text(runtime, needed));
	error_hint(why, "install a newer driver, or a build of anneal for CUDA %d, or use device = \"cpu\"",
		   driver / 1000);
}

static void count_error(cudaError_t code, struct error *why)
{
	const char *visible = getenv("CUDA_VISIBLE_DEVICES");
	char text[16];
	int driver = 0, runtime = CUDART_VERSION;

	(void)cudaDriverGetVersion(&driver);
	(void)cudaRuntimeGetVersion(&runtime);
	if (code == cudaErrorInsufficientDriver || (code == cudaErrorNoDevice && !driver)) {
		driver_error(driver, runtime, why);
	} else if ((code == cudaErrorNoDevice || code == cudaSuccess) && visible) {
		error_set(why, ERR_USAGE, "no GPU is visible: CUDA_VISIBLE_DEVICES is \"%.200s\"", visible);
		error_hint(why, "unset it, or name GPUs as nvidia-smi -L does, or use device = \"cpu\"");
	} else if (code == cudaErrorNoDevice || code == cudaSuccess) {
		error_set(why, ERR_USAGE, "there is an NVIDIA driver (CUDA %s), but no GPU",
			  version_text(driver, text));
		error_hint(why, "nvidia-smi -L lists what the driver sees (in a container: start it with the "
				"host's GPUs, for "
				"example docker run --gpus all); or use device = \"cpu\"");
	} else {
		error_set(why, ERR_USAGE, "the NVIDIA driver cannot be used: %s (%s)",
			  cudaGetErrorString(code), cudaGetErrorName(code));
		error_hint(why, "see whether nvidia-smi works on this machine, or use device = \"cpu\"");
	}
}

/* Fails when the GPU is too old for the kernels. */
static int capability_check(int ordinal, struct error *why)
{
	struct cudaDeviceProp p;
	cudaError_t code = cudaGetDeviceProperties(&p, ordinal);

	if (code != cudaSuccess)
		return cuda_error(why, code, "asking for the GPU's properties");
	if (p.major >= LEAST_MAJOR)
		return 0;
	error_set(why, ERR_USAGE, "GPU %d (%s) has compute capability %d.%d, this build needs %d.0", ordinal,
		  p.name, p.major, p.minor, LEAST_MAJOR);
	return error_hint(why,
			  "use a GPU of the Ampere generation (A100, RTX 30) or later, or device = \"cpu\"");
}

/* GPUs that are too old are counted when others are not, so that ordinals are CUDA's; to open one fails. */
int cuda_count(struct error *why)
{
	int n = 0, usable = 0;
	cudaError_t code = cudaGetDeviceCount(&n);

	if (code != cudaSuccess || n == 0) {
		(void)cudaGetLastError();
		count_error(code, why);
		return 0;
	}
	for (int i = 0; i < n; i++)
		usable += capability_check(i, NULL) == 0;
	if (!usable)
		capability_check(0, why);
	return usable ? n : 0;
}

int cuda_info(int ordinal, struct device_info *out, struct error *err)
{
	struct cudaDeviceProp p;
	size_t now_free = 0, total = 0;
	int clock = 0, width = 0, current = 0;
	cudaError_t code = cudaGetDevice(&current);

	*out = (struct device_info){0};
	if (code == cudaSuccess)
		code = cudaGetDeviceProperties(&p, ordinal);
	if (code == cudaSuccess)
		code = cudaSetDevice(ordinal);
	if (code == cudaSuccess)
		code = cudaMemGetInfo(&now_free, &total);
	(void)cudaSetDevice(current);
	if (code != cudaSuccess) {
		(void)cudaGetLastError();
		return cuda_error(err, code, "asking for the GPU's properties");
	}
	snprintf(out->name, sizeof out->name, "%.*s", (int)sizeof out->name - 1, p.name);
	out->major = p.major;
	out->minor = p.minor;
	out->multiprocessors = p.multiProcessorCount;
	out->memory = p.totalGlobalMem;
	out->free_memory = now_free;
	/* kHz and bits; two transfers a clock. Newer drivers tell neither. */
	if (cudaDeviceGetAttribute(&clock, cudaDevAttrMemoryClockRate, ordinal) == cudaSuccess && clock > 0 &&
	    cudaDeviceGetAttribute(&width, cudaDevAttrGlobalMemoryBusWidth, ordinal) == cudaSuccess &&
	    width > 0)
		out->bandwidth = 2000 * (uint64_t)clock * (uint64_t)width / 8;
	(void)cudaDriverGetVersion(&out->driver);
	(void)cudaRuntimeGetVersion(&out->runtime);
	return 0;
}

static const struct kernels *table_of(enum dtype act)
{
	switch (act) {
	case DTYPE_F32: return &kernels_cuda_f32;
	case DTYPE_BF16: return &kernels_cuda_bf16;
	case DTYPE_F16: return &kernels_cuda_f16;
	case DTYPE_NF4: break;
	}
	return NULL;
}

/* What can fail, in order; the caller closes a half-made device. */
static cudaError_t device_make(struct cuda_device *d, struct error *err)
{
	struct cudaDeviceProp p;
	void *ring = NULL;
	cudaError_t code = cudaSetDevice(d->ordinal);

	if (code == cudaSuccess)
		code = cudaGetDeviceProperties(&p, d->ordinal);
	if (code == cudaSuccess)
		code = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
	if (code == cudaSuccess)
		code = cudaMallocHost(&ring, d->ring_size);
	d->ring = ring;
	while (code == cudaSuccess && d->ring_slots < RING_SLOTS) {
		code = cudaEventCreateWithFlags(&d->ring_events[d->ring_slots], cudaEventDisableTiming);
		d->ring_slots += code == cudaSuccess;
	}
	if (code != cudaSuccess) {
		(void)cudaGetLastError();
		return cuda_error(err, code, "opening the GPU");
	}
	d->major = p.major;
	d->minor = p.minor;
	d->multiprocessors = p.multiProcessorCount;
	d->shared_per_block = (int)p.sharedMemPerBlockOptin;
	d->l2_bytes = p.l2CacheSize;
	d->memory = p.totalGlobalMem;
	return cuda_products_open(d) ? failure_tell(d, err) : 0;
}

int cuda_open(int ordinal, enum dtype act, struct device **out, struct error *err)
{
	int n = cuda_count(err);

	if (!n)
		return -1;
	if (ordinal < 0 || ordinal >= n) {
		error_set(err, ERR_USAGE, "there is no GPU %d: %s", ordinal,
			  n == 1 ? "this machine has one, GPU 0" : "the last one here has a smaller number");
		return error_hint(err, "GPUs are numbered from 0 to %d", n - 1);
	}
	if (!table_of(act))
		return error_set(err, ERR_USAGE, "activations on a GPU are fp32, bf16 or fp16");
	if (capability_check(ordinal, err))
		return -1;

	struct cuda_device *d = xcalloc(1, sizeof *d);
	d->base = (struct device){DEVICE_CUDA, act, table_of(act), &cuda_methods};
	d->ordinal = ordinal;
	d->ring_size = RING_SLOTS * RING_SLOT;
	d->ring_events = xcalloc(RING_SLOTS, sizeof *d->ring_events);
	if (device_make(d, err)) {
		error_context(err, "GPU %d", ordinal);
		cuda_close(&d->base);
		return -1;
	}
	*out = &d->base;
	return 0;
}
