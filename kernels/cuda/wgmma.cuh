/* Hopper's products of four warps (a warpgroup: 128 threads, the first a multiple of 128), sm_90a alone: d (64, N) += a (64, 16)
 * b (16, N), b and mostly a read from shared memory while the threads go on. The fake gives the same functions in C++.
 *
 * Tiles in shared memory are panels of 64 columns: rows of 128 bytes, one behind the other, from a multiple of 1024 bytes on;
 * 16-byte chunk c of row r lies at c ^ (r % 8). Such a tile is an operand in two ways:
 *
 *   by rows      what is summed over (16 of it) are columns: a = tile (64 rows), or b = the transpose of tile (N rows).
 *                Steps of 16 columns within a panel are 32 bytes apart.
 *   by columns   what is summed over are 16 rows: b = tile (N columns, N / 64 panels), or a = the transpose of tile
 *                (64 columns). Steps of 16 rows are 2048 bytes apart.
 *
 * In the words of the PTX ISA these are the K-major and the MN-major layout with 128-byte swizzling.
 *
 * Order: wgmma_fence() after ordinary instructions touched d or a in registers; products; wgmma_commit(); nobody touches those
 * registers, or writes those tiles, until wgmma_wait<N>() says that at most N groups are unfinished. Who wrote a tile, by
 * stores or by cp.async that it has waited for, calls async_fence() before the barrier that lets others read it. */
#ifndef KERNELS_CUDA_WGMMA_CUH
#define KERNELS_CUDA_WGMMA_CUH

#include "kernels/cuda/ptx.cuh"

/* Whether this code is for a device that has them. On the host it is the device that must be asked. */
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_WGMMA 1
#else
#define HAS_WGMMA 0
#endif

/* Descriptors of an operand: where it begins in shared memory, bytes from panel to panel and from eight rows to the next. */
__device__ __forceinline__ uint64_t wgmma_operand(const void *tile, int panel)
{
	return (uint64_t)1 << 62 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)(panel >> 4) << 16 | (shared_address(tile) & 0x3ffff) >> 4;
}

/* The operand so many bytes further on. */
__device__ __forceinline__ uint64_t wgmma_at(uint64_t operand, int bytes)
{
	return operand + (uint64_t)(bytes >> 4);
}

#ifdef __CUDACC__

__device__ __forceinline__ void wgmma_fence()
{
#if HAS_WGMMA
	asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void wgmma_commit()
{
#if HAS_WGMMA
	asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

template <int N> __device__ __forceinline__ void wgmma_wait()
{
#if HAS_WGMMA
	asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#endif
}

__device__ __forceinline__ void async_fence()
{
#if HAS_WGMMA
	asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* Keeps the compiler from moving uses of registers that products write over a wait. */
template <int N> __device__ __forceinline__ void wgmma_registers(float (&d)[N][4])
{
#pragma unroll
	for (int n = 0; n < N; n++)
		asm volatile("" : "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])::"memory");
}

/* d (64, N), N / 8 tiles of 8 columns: warp w of the warpgroup and its lanes hold rows 16 w … 16 w + 15 of each as mma_16816's
 * d; likewise a in registers. add: false overwrites d. */
template <typename T, int N> struct wgmma_of;

#define WGMMA_TEN(t)                                                                                                   \
	"%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9"
#define WGMMA_NAMES_32 WGMMA_TEN() "," WGMMA_TEN(1) "," WGMMA_TEN(2) ",%30,%31"
#define WGMMA_NAMES_40 WGMMA_TEN() "," WGMMA_TEN(1) "," WGMMA_TEN(2) "," WGMMA_TEN(3)
#define WGMMA_NAMES_64 WGMMA_NAMES_40 "," WGMMA_TEN(4) "," WGMMA_TEN(5) ",%60,%61,%62,%63"
#define WGMMA_NAMES_128                                                                                                \
	WGMMA_NAMES_40 "," WGMMA_TEN(4) "," WGMMA_TEN(5) "," WGMMA_TEN(6) "," WGMMA_TEN(7) "," WGMMA_TEN(8) ","        \
		WGMMA_TEN(9) "," WGMMA_TEN(10) "," WGMMA_TEN(11) ",%120,%121,%122,%123,%124,%125,%126,%127"

#define WGMMA_D(n)   "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define WGMMA_D4(n)  WGMMA_D(n), WGMMA_D(n + 1), WGMMA_D(n + 2), WGMMA_D(n + 3)
#define WGMMA_OUT_32 WGMMA_D4(0), WGMMA_D4(4)
#define WGMMA_OUT_40 WGMMA_OUT_32, WGMMA_D(8), WGMMA_D(9)
#define WGMMA_OUT_64 WGMMA_OUT_32, WGMMA_D4(8), WGMMA_D4(12)
#define WGMMA_OUT_128                                                                                                  \
	WGMMA_OUT_64, WGMMA_D4(16), WGMMA_D4(20), WGMMA_D4(24), WGMMA_D4(28)

/* The numbers of the operands after the R registers of d: r0 = R, r1 = R + 1 … */
#define WGMMA_DEFINE(T, type, N, R, r0, r1, r2, r3, r4, r5, r6)                                                        \
	template <> struct wgmma_of<T, N> {                                                                            \
		template <bool A_COLUMNS, bool B_COLUMNS>                                                              \
		static __device__ __forceinline__ void shared(float (&d)[N / 8][4], uint64_t a, uint64_t b, bool add)  \
		{                                                                                                      \
			asm volatile("{.reg .pred p; setp.ne.b32 p, %" #r2 ", 0;\n"                                    \
				     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #type "." #type                 \
				     " {" WGMMA_NAMES_##R "}, %" #r0 ", %" #r1 ", p, 1, 1, %" #r3 ", %" #r4 ";}"       \
				     : WGMMA_OUT_##R                                                                   \
				     : "l"(a), "l"(b), "r"((int)add), "n"((int)A_COLUMNS), "n"((int)B_COLUMNS));       \
		}                                                                                                      \
		template <bool B_COLUMNS>                                                                              \
		static __device__ __forceinline__ void registers(float (&d)[N / 8][4], const uint32_t (&a)[4],         \
								 uint64_t b, bool add)                                 \
		{                                                                                                      \
			asm volatile("{.reg .pred p; setp.ne.b32 p, %" #r5 ", 0;\n"                                    \
				     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #type "." #type                 \
				     " {" WGMMA_NAMES_##R "}, {%" #r0 ",%" #r1 ",%" #r2 ",%" #r3 "}, %" #r4            \
				     ", p, 1, 1, %" #r6 ";}"                                                           \
				     : WGMMA_OUT_##R                                                                   \
				     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add),              \
				       "n"((int)B_COLUMNS));                                                           \
		}                                                                                                      \
	};

#if HAS_WGMMA
WGMMA_DEFINE(__nv_bfloat16, bf16, 64, 32, 32, 33, 34, 35, 36, 37, 38)
WGMMA_DEFINE(__nv_bfloat16, bf16, 80, 40, 40, 41, 42, 43, 44, 45, 46)
WGMMA_DEFINE(__nv_bfloat16, bf16, 128, 64, 64, 65, 66, 67, 68, 69, 70)
WGMMA_DEFINE(__nv_bfloat16, bf16, 256, 128, 128, 129, 130, 131, 132, 133, 134)
WGMMA_DEFINE(__half, f16, 64, 32, 32, 33, 34, 35, 36, 37, 38)
WGMMA_DEFINE(__half, f16, 80, 40, 40, 41, 42, 43, 44, 45, 46)
WGMMA_DEFINE(__half, f16, 128, 64, 64, 65, 66, 67, 68, 69, 70)
WGMMA_DEFINE(__half, f16, 256, 128, 128, 129, 130, 131, 132, 133, 134)
#endif

/* a and b from shared memory. */
template <typename T, bool A_COLUMNS, bool B_COLUMNS, int TILES>
__device__ __forceinline__ void wgmma(float (&d)[TILES][4], uint64_t a, uint64_t b, bool add)
{
#if HAS_WGMMA
	wgmma_of<T, 8 * TILES>::template shared<A_COLUMNS, B_COLUMNS>(d, a, b, add);
#endif
}

/* a from registers. */
template <typename T, bool B_COLUMNS, int TILES>
__device__ __forceinline__ void wgmma(float (&d)[TILES][4], const uint32_t (&a)[4], uint64_t b, bool add)
{
#if HAS_WGMMA
	wgmma_of<T, 8 * TILES>::template registers<B_COLUMNS>(d, a, b, add);
#endif
}

#endif
#endif
