/* A strict fake of the CUDA runtime and of cuBLASLt, and what only tests may ask of it.
 *
 * With this folder first in the include path, the .cu files of kernels/cuda compile as plain C++17 (g++ -x c++) and its .c
 * files as plain C, on a machine that has neither CUDA nor a GPU. Kernels then run on the CPU: the threads of a block are
 * fibers of one operating-system thread, which switch where threads wait for each other. Anything that is not here does
 * not compile, and anything that a GPU would silently get wrong ends the program: one line on stderr that begins with
 * "cuda fake:", then abort(). It is strict about
 *
 *   - barriers and warp operations: every thread of the block, or of the mask, reaches them, of the same kind, before it
 *     ends; else the line names the kernel, the block, the threads and what they wait for. Masks name only lanes that
 *     the block has. A lane that is read from but is not in the mask gives 0xff bytes.
 *   - the order of threads, which a GPU does not promise: the environment's CUDA_FAKE_ORDER is forward (the default),
 *     reverse, or shuffle[:seed]. Results that differ between them come from a barrier that is not there. Blocks follow
 *     the same order. CUDA_FAKE_THREADS (1) is how many operating-system threads blocks are spread over.
 *   - shared memory: dynamic shared memory has exactly the size of the launch and begins as 0xff bytes (NaN) in each
 *     block; a byte beyond it is caught by AddressSanitizer, or after the block where it was written to. It is aligned
 *     to 128 bytes and no more. Static arrays keep what the last block left. At most 48 KiB, or what was opted in to with
 *     cudaFuncSetAttribute, at most 227 KiB.
 *   - cp.async: the bytes arrive when the thread waits for their group, and until then the destination holds 0xff.
 *   - products of warpgroups (wgmma.cuh): they are done when they are waited for, from what shared memory holds then; until then
 *     their results are 0xff bytes and their left operands in registers must not change. Descriptors are read as the PTX ISA
 *     defines them. wgmma_fence after each wait, and async_fence between cp.async and a barrier, must not be missing.
 *   - device memory: aligned to 256 bytes, filled with 0xff bytes at cudaMalloc (both ends of large blocks) and at cudaFree, between redzones
 *     (AddressSanitizer knows them; else they are looked at after each kernel), and it cannot be touched at all while no kernel,
 *     copy or product runs: host code that reads or writes through a device pointer faults, at once in short programs and now and
 *     then in long ones. Copies lie within one
 *     allocation, and are what their kind says.
 *   - launches: grid, block and shared memory within the limits of compute capability 9.0; every thread of a kernel that may
 *     overlap the one before it (programmatic stream serialization) waits for that before it ends. What lets the next one begin
 *     (grid_next) comes after that wait or after grid_ahead; and grid_ahead, behind which weights are read before the wait, comes
 *     only where the work directly before is a kernel all of whose threads call grid_next.
 *   - capture: what the host waits for, and cudaMalloc and cudaFree, fail and end the capture. Kernels, copies and products
 *     are kept with their arguments and done by each cudaGraphLaunch. Outside captures work is done where it is asked for.
 *   - cuBLASLt: layouts that fit each other, pointers as aligned as the heuristics were told (256 bytes unless they were
 *     told less), an algorithm used for the problem that it was made for, and a workspace that is the device's, whose
 *     beginning is overwritten.
 *
 * It does not find races that the order of threads does not show, nor host pointers that a kernel follows. */
#ifndef TESTS_FAKES_CUDA_CUDA_FAKE_H
#define TESTS_FAKES_CUDA_CUDA_FAKE_H

#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Devices that there are: 1, or the environment's CUDA_FAKE_DEVICES. */
void cuda_fake_set_device_count(int n);
/* What cudaDriverGetVersion tells: 1000 * major + 10 * minor, 0 for a machine without a driver. Calls fail with
 * cudaErrorInsufficientDriver when it is older than the runtime's major version. */
void cuda_fake_set_driver(int version);
/* Compute capability: 9.0, or the environment's CUDA_FAKE_CAPABILITY (80: 8.0). */
void cuda_fake_set_capability(int major, int minor);
/* Bytes of device memory: 8 GiB by default. */
void cuda_fake_set_memory(uint64_t bytes);
/* The n-th call from now (1: the next) of a function of the runtime or cuBLASLt that can fail does nothing and returns code
 * (cuBLASLt: the status nearest to it). n = 0: none does. */
void cuda_fake_fail_after(int n, cudaError_t code);
/* Forgets everything above; memory stays. */
void cuda_fake_reset(void);

struct cuda_fake_counts {
	uint64_t calls;              /* of functions that can fail, since the program began */
	uint64_t launches;           /* kernels run, by cudaLaunchKernelEx or in graphs */
	uint64_t products;           /* cublasLtMatmul, likewise */
	uint64_t allocations, bytes; /* of cudaMalloc, live now */
	uint64_t pinned, streams, events, graphs, execs, lt_objects; /* live now */
};
struct cuda_fake_counts cuda_fake_count(void);

#ifdef __cplusplus
}
#endif
#endif
