/* Products of fp32 blocks on one thread: b is copied into panels of a register tile's width and a into panels
 * of its height, 256 steps of k at a time, so that the inner loop reads both in order from the first- and
 * second-level cache (Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication"). */
#include <pthread.h>
#include <string.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/simd.h"

#define KC 256 /* k to a panel: NR * KC floats stay in the first-level cache */
#define MC                                                                                                   \
	192 /* rows of a packed together: MC * KC floats stay in the second-level cache; a multiple of every \
	       MR */
#define NC 512 /* columns of b packed together */

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAVE_SHUFFLE 1
#endif
#endif

#if defined(__x86_64__)
#define NAME(x) x##_avx512
#define TARGET  __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma,avx2")))
#define VL      16
#define MR      12
#define NV      2
#include "kernels/cpu/gemm_kernel.h"
#undef NAME
#undef TARGET
#undef VL
#undef MR
#undef NV
#define NAME(x) x##_avx2
#define TARGET  __attribute__((target("avx2,fma")))
#define VL      8
#define MR      6
#define NV      2
#include "kernels/cpu/gemm_kernel.h"
#undef NAME
#undef TARGET
#undef VL
#undef MR
#undef NV
#endif

/* Every machine: 16 vector registers of 4 floats, or 32 of them on arm64. */
#define NAME(x) x##_any
#define TARGET
#define VL 4
#if defined(__aarch64__)
#define MR 8
#define NV 3
#else
#define MR 6
#define NV 2
#endif
#include "kernels/cpu/gemm_kernel.h"

static struct {
	void (*gemm)(const struct gemm *g);
	void (*gemm_dot)(int m, int n, int k, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb,
			 float *c, ptrdiff_t ldc, bool add);
} chosen = {gemm_any, gemm_dot_any};
static pthread_once_t chosen_once = PTHREAD_ONCE_INIT;

static void choose(void)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
	    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
	    __builtin_cpu_supports("fma")) {
		chosen.gemm = gemm_avx512;
		chosen.gemm_dot = gemm_dot_avx512;
	} else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
		chosen.gemm = gemm_avx2;
		chosen.gemm_dot = gemm_dot_avx2;
	}
#endif
}

void gemm(const struct gemm *g)
{
	pthread_once(&chosen_once, choose);
	chosen.gemm(g);
}

void gemm_dot(int m, int n, int k, const float *a, ptrdiff_t lda, const float *b, ptrdiff_t ldb, float *c,
	      ptrdiff_t ldc, bool add)
{
	pthread_once(&chosen_once, choose);
	chosen.gemm_dot(m, n, k, a, lda, b, ldb, c, ldc, add);
}
