/* The PTX instructions that kernels use, sm_80 and later. The fake gives the same functions in C++ (ptx_fake.h). */
#ifndef KERNELS_CUDA_PTX_CUH
#define KERNELS_CUDA_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#ifndef __CUDACC__
#include <ptx_fake.h>
#else

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
	return (uint32_t)__cvta_generic_to_shared(p);
}

/* d (16, 8) += a (16, 16) b (16, 8), fp32 sums, all 32 lanes of a warp together. With g = lane / 4 and c = lane % 4, a lane
 * holds
 *   a[0] = A[g][2c, 2c + 1]   a[1] = A[g + 8][2c, 2c + 1]   a[2] = A[g][2c + 8, 2c + 9]   a[3] = A[g + 8][2c + 8, 2c + 9]
 *   b[0] = B[2c, 2c + 1][g]   b[1] = B[2c + 8, 2c + 9][g]
 *   d[0, 1] = D[g][2c, 2c + 1]   d[2, 3] = D[g + 8][2c, 2c + 1]
 * two values to a register, the first one in the lower half. T is the type of a and b. */
template <typename T>
__device__ __forceinline__ void mma_16816(float d[4], const uint32_t a[4], const uint32_t b[2]);

template <>
__device__ __forceinline__ void mma_16816<__nv_bfloat16>(float d[4], const uint32_t a[4], const uint32_t b[2])
{
	asm volatile(
		"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
		"{%0,%1,%2,%3};"
		: "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ __forceinline__ void mma_16816<__half>(float d[4], const uint32_t a[4], const uint32_t b[2])
{
	asm volatile(
		"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
		"{%0,%1,%2,%3};"
		: "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8 x 8 matrices of 16-bit values from shared memory: lane l gives the address (aligned to 16) of row l % 8 of matrix
 * l / 8; register i holds of matrix i the elements [g][2c, 2c + 1], or, transposed, [2c, 2c + 1][g]. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(shared_address(row)));
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(shared_address(row)));
}

/* Programmatic dependent launch, from sm_90 on: waits until all kernels before this one have ended and what they wrote can be
 * read. */
__device__ __forceinline__ void grid_wait()
{
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The kernel behind this one may come onto the GPU when every block has got here or has ended; without this, when all have
 * ended. For where multiprocessors are free: else the next kernel's blocks crowd on the few that are done first. After
 * grid_wait or grid_ahead, by all threads, and only in kernels that write no weights (cuda_launch_next). */
__device__ __forceinline__ void grid_next()
{
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* The same at the beginning of a kernel: it does so when its blocks leave most multiprocessors free. */
#define GRID_SMALL 32

__device__ __forceinline__ void grid_next_small()
{
#if __CUDA_ARCH__ >= 900
	if (gridDim.x * gridDim.y * gridDim.z <= GRID_SMALL)
		grid_next();
#endif
}

/* Says that weights are read, or that the next kernel may begin, before grid_wait (cuda_launch_ahead). Only the fake looks at
 * it. */
__device__ __forceinline__ void grid_ahead()
{
}

/* 16 bytes (p aligned to 16) that no kernel writes which may still run, and that are read once: they stay out of L1, and L2 gets
 * 128 bytes at a time. Zeros, and nothing is read, when inside is false. */
__device__ __forceinline__ uint4 load_once(const uint4 *p, bool inside)
{
	uint4 r;

	asm volatile(
		"{ .reg .pred q; setp.ne.u32 q, %5, 0; mov.b32 %0, 0; mov.b32 %1, 0; mov.b32 %2, 0; "
		"mov.b32 %3, 0; @q ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4]; }"
		: "=&r"(r.x), "=&r"(r.y), "=&r"(r.z), "=&r"(r.w)
		: "l"(p), "r"((uint32_t)inside));
	return r;
}

/* Copies 16 bytes (both addresses aligned to 16) from global to shared memory behind the thread's back; zeros, and
 * nothing is read, when keep is false. Complete after cp_async_wait and, for other threads, a barrier. */
__device__ __forceinline__ void cp_async_16(void *shared, const void *global, bool keep)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
		     "l"(global), "r"(keep ? 16 : 0)
		     : "memory");
}

/* The same for 4 bytes. */
__device__ __forceinline__ void cp_async_4(void *shared, const void *global, bool keep)
{
	asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)),
		     "l"(global), "r"(keep ? 4 : 0)
		     : "memory");
}

/* Ends a group of copies. */
__device__ __forceinline__ void cp_async_commit()
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most N groups of this thread are unfinished. */
template <int N> __device__ __forceinline__ void cp_async_wait()
{
	asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* lo in the lower half, hi in the upper, both rounded to nearest even. */
template <typename T> __device__ __forceinline__ uint32_t pack2(float lo, float hi);

template <> __device__ __forceinline__ uint32_t pack2<__nv_bfloat16>(float lo, float hi)
{
	uint32_t r;

	asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
	return r;
}

template <> __device__ __forceinline__ uint32_t pack2<__half>(float lo, float hi)
{
	uint32_t r;

	asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
	return r;
}

/* Without the polynomial of expf: 2 ulp of 2^x, ex2.approx.ftz. */
__device__ __forceinline__ float exp2_fast(float x)
{
	float r;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
	return r;
}

#endif
#endif
