/* What the files of the fake share. */
#ifndef TESTS_FAKES_CUDA_INTERNAL_H
#define TESTS_FAKES_CUDA_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include <cuda_fake.h>
#include <cuda_runtime.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define CUDA_FAKE_ASAN 1
#else
#define CUDA_FAKE_ASAN                       0
#define ASAN_POISON_MEMORY_REGION(p, size)   ((void)(p), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(p, size) ((void)(p), (void)(size))
#endif

#define POISON 0xff /* what memory that nobody wrote holds: as floats, NaN */
#define CANARY 0xc5 /* what redzones hold without AddressSanitizer */

/* Limits of compute capability 9.0. */
#define MAX_THREADS     1024
#define SHARED_PLAIN    (48 * 1024)
#define SHARED_OPTIN    (227 * 1024)
#define MULTIPROCESSORS 132

/* One line on stderr, then abort(). */
[[noreturn]] void stop(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "name" of the function at p, demangled, in a buffer of this thread; "kernel 0x…" when it has no symbol. */
const char *function_name(const void *p);

/* ---- memory.cpp ---- */

/* The caller holds the lock of runtime.cpp for all but memory_check_range. */
cudaError_t memory_alloc(size_t size, void **out);
void memory_free(void *p);
void memory_free_all(void);
void memory_set_limit(uint64_t bytes);
uint64_t memory_limit(void);
uint64_t memory_used(void);
size_t memory_allocations(void);
/* Whether [p, p + size) lies within one live allocation, and whether p is anywhere in the device's range. */
bool memory_is_device(const void *p, size_t size);
bool memory_in_range(const void *p);
/* Between these (they nest) device memory can be touched. */
void memory_open(void);
void memory_close(void);
/* After a kernel: looks at the redzones, where AddressSanitizer does not. */
void memory_check(const void *kernel);

/* ---- block.cpp ---- */

struct kernel_launch {
	const void *kernel;
	void (*run)(const void *call);
	const void *call;
	dim3 grid, block;
	size_t shared;
	bool overlaps; /* starts before the kernel before it has ended: every thread has to wait for that */
	bool ahead;    /* it may read weights before that wait */
};
/* Whether all of its threads called grid_next. */
bool kernel_run(const struct kernel_launch *launch);

/* ---- runtime.cpp ---- */

/* The lock and the checks of a call that can fail. */
struct api {
	cudaError_t code; /* not cudaSuccess: return it */

	explicit api(bool needs_device = true);
	~api();
	api(const api &) = delete;
	/* Remembers a failure for cudaGetLastError, and returns it. */
	cudaError_t fail(cudaError_t code);
};

/* Does run(data) now, or keeps a copy of data (size bytes) to do it in each launch of the graph that the stream captures. */
cudaError_t stream_do(cudaStream_t stream, const char *what, void (*run)(const void *data), const void *data,
		      size_t size);

struct cuda_fake_counts &counts(void);

#endif
