/* What kernels/cuda/ptx.cuh and wgmma.cuh declare, in C++; part of the fake, see cuda_fake.h. */
#ifndef TESTS_FAKES_CUDA_PTX_FAKE_H
#define TESTS_FAKES_CUDA_PTX_FAKE_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

extern "C" {
uint32_t cuda_fake_shared_address(const void *p);
void cuda_fake_mma_bf16(float *d, const uint32_t *a, const uint32_t *b);
void cuda_fake_mma_f16(float *d, const uint32_t *a, const uint32_t *b);
void cuda_fake_ldmatrix(uint32_t *r, const void *row, bool transposed);
void cuda_fake_cp_async(void *shared, const void *global, int size, bool keep);
void cuda_fake_cp_async_commit(void);
void cuda_fake_cp_async_wait(int groups);
void cuda_fake_grid_wait(void);
void cuda_fake_grid_next(void);
void cuda_fake_grid_ahead(void);
/* d: 4 floats for each of `tiles` tiles of 8 columns; a: four registers, or NULL: a_operand describes it. */
void cuda_fake_wgmma(bool bf16, float *d, int tiles, const uint32_t *a, uint64_t a_operand,
		     uint64_t b_operand, bool a_columns, bool b_columns, bool add);
void cuda_fake_wgmma_fence(void);
void cuda_fake_wgmma_commit(void);
void cuda_fake_wgmma_wait(int groups);
void cuda_fake_async_fence(void);
}

static inline uint32_t shared_address(const void *p)
{
	return cuda_fake_shared_address(p);
}

template <typename T> static inline void mma_16816(float d[4], const uint32_t a[4], const uint32_t b[2]);

template <> inline void mma_16816<__nv_bfloat16>(float d[4], const uint32_t a[4], const uint32_t b[2])
{
	cuda_fake_mma_bf16(d, a, b);
}

template <> inline void mma_16816<__half>(float d[4], const uint32_t a[4], const uint32_t b[2])
{
	cuda_fake_mma_f16(d, a, b);
}

static inline void ldmatrix_x4(uint32_t r[4], const void *row)
{
	cuda_fake_ldmatrix(r, row, false);
}

static inline void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
	cuda_fake_ldmatrix(r, row, true);
}

static inline uint4 load_once(const uint4 *p, bool inside)
{
	return inside ? *p : make_uint4(0, 0, 0, 0);
}

static inline void grid_wait()
{
	cuda_fake_grid_wait();
}

static inline void grid_next()
{
	cuda_fake_grid_next();
}

static inline void grid_next_small()
{
	cuda_fake_grid_next();
}

static inline void grid_ahead()
{
	cuda_fake_grid_ahead();
}

static inline void cp_async_16(void *shared, const void *global, bool keep)
{
	cuda_fake_cp_async(shared, global, 16, keep);
}

static inline void cp_async_4(void *shared, const void *global, bool keep)
{
	cuda_fake_cp_async(shared, global, 4, keep);
}

static inline void cp_async_commit()
{
	cuda_fake_cp_async_commit();
}

template <int N> static inline void cp_async_wait()
{
	static_assert(N >= 0, "a number of groups");
	cuda_fake_cp_async_wait(N);
}

template <typename T> static inline uint32_t pack2(float lo, float hi);

template <> inline uint32_t pack2<__nv_bfloat16>(float lo, float hi)
{
	return cuda_fake_bf16_bits(lo) | (uint32_t)cuda_fake_bf16_bits(hi) << 16;
}

template <> inline uint32_t pack2<__half>(float lo, float hi)
{
	return cuda_fake_f16_bits(lo) | (uint32_t)cuda_fake_f16_bits(hi) << 16;
}

/* ---- wgmma.cuh ---- */

static inline void wgmma_fence()
{
	cuda_fake_wgmma_fence();
}

static inline void wgmma_commit()
{
	cuda_fake_wgmma_commit();
}

template <int N> static inline void wgmma_wait()
{
	static_assert(N >= 0 && N < 8, "a number of groups");
	cuda_fake_wgmma_wait(N);
}

static inline void async_fence()
{
	cuda_fake_async_fence();
}

template <int N> static inline void wgmma_registers(float (&)[N][4])
{
}

template <typename T> constexpr bool cuda_fake_is_bf16 = false;
template <> inline constexpr bool cuda_fake_is_bf16<__nv_bfloat16> = true;

template <typename T, bool A_COLUMNS, bool B_COLUMNS, int TILES>
static inline void wgmma(float (&d)[TILES][4], uint64_t a, uint64_t b, bool add)
{
	static_assert(TILES >= 1 && TILES <= 32, "N is 8 to 256");
	cuda_fake_wgmma(cuda_fake_is_bf16<T>, d[0], TILES, NULL, a, b, A_COLUMNS, B_COLUMNS, add);
}

template <typename T, bool B_COLUMNS, int TILES>
static inline void wgmma(float (&d)[TILES][4], const uint32_t (&a)[4], uint64_t b, bool add)
{
	static_assert(TILES >= 1 && TILES <= 32, "N is 8 to 256");
	cuda_fake_wgmma(cuda_fake_is_bf16<T>, d[0], TILES, a, 0, b, false, B_COLUMNS, add);
}

/* Subnormal arguments and results are zeros. */
static inline float exp2_fast(float x)
{
	float y = exp2f(fabsf(x) < FLT_MIN ? 0.0f : x);

	return y < FLT_MIN ? 0.0f : y;
}

#endif
