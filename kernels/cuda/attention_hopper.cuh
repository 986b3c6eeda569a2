/* Attention on Hopper's products of warpgroups (wgmma.cuh): what its kernels share, and how they are reached.
 *
 * Rows, sequences and blocks are those of attention.cuh. A block has two warpgroups with 64 rows each. Tiles in shared memory
 * are panels of 64 columns, as wgmma.cuh describes them: head_dim is 64, 128 or 256. */
#ifndef KERNELS_CUDA_ATTENTION_HOPPER_CUH
#define KERNELS_CUDA_ATTENTION_HOPPER_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/wgmma.cuh"

#define HOPPER_ROWS    128
#define HOPPER_THREADS 256

/* Bytes that a block may lose until its tiles begin at a multiple of 1024. */
#define HOPPER_ALIGN (1024 - 128)

/* Whether this device and this build have these kernels, and they are for such sequences. */
static inline bool attention_is_hopper(const struct cuda_device *d, const struct attention *s)
{
#if defined(ANNEAL_SM90A) || !defined(__CUDACC__)
	return d->major == 9 && d->minor == 0 &&
	       (s->head_dim == 64 || s->head_dim == 128 || s->head_dim == 256) &&
	       s->max_q * (s->heads / s->kv_heads) > HOPPER_ROWS;
#else
	(void)d;
	(void)s;
	return false;
#endif
}

template <typename T>
void attention_hopper(struct device *d, const struct attention *s, const T *q, const T *k, const T *v, T *out,
		      float *lse);

/* Gradients. delta is scratch, aligned to 256. When attention_hopper_makes_dq says no, delta is there already, and so is dq. */
bool attention_hopper_makes_dq(const struct attention *s);
size_t attention_hopper_grad_scratch(const struct cuda_device *d, const struct attention *s);
template <typename T>
void attention_hopper_grad(struct device *d, const struct attention *s, const T *q, const T *k, const T *v,
			   const T *out, const float *lse, const T *dout, T *dq, T *dk, T *dv, float *delta);

/* dk and dv from parts of both, fp32 (2, parts, queries, kv_heads, head_dim) (attention_grad.cu). */
template <typename T>
void attention_grad_add(struct device *d, const struct attention *s, int parts, const float *from, T *dk,
			T *dv);

/* As tile_find (attention.cuh), the first tiles first; and the sequence's number. */
__device__ __forceinline__ bool tile_number(const struct attention &s, int group, int rows, int block,
					    struct sequence *sequence, int *number, int *first)
{
	int i = sequence_search(s.cu_q, s.sequences, group, rows, 1, block);

	*number = i;
	*sequence = sequence_at(s, i);
	*first = (block - (sequence->token * group / rows + i)) * rows;
	return *first < sequence->queries * group;
}

/* Which warpgroup of the block this is: the same for a warp, and the compiler can see it. */
__device__ __forceinline__ int warpgroup_index()
{
	return __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
}

/* ---- tiles ---- */

template <typename T> __device__ __forceinline__ T *tile_begin(T *memory)
{
	return memory + (1024 - shared_address(memory) % 1024) % 1024 / sizeof(T);
}

/* 16-byte chunk `chunk` of row `row` of a tile of `rows` rows. */
template <typename T> __device__ __forceinline__ T *panel_at(T *tile, int rows, int row, int chunk)
{
	return tile + (chunk / 8 * rows + row) * 64 + ((chunk ^ row) & 7) * 8;
}

/* Starts copying rows [first, first + ROWS) of x to a tile, zeros from row `end` on. */
template <int D, int ROWS, typename T>
__device__ __forceinline__ void panels_load(T *tile, const T *x, ptrdiff_t stride, int first, int end,
					    int thread)
{
	const int chunks = D / 8, step = HOPPER_THREADS / chunks;
	static_assert(step % 8 == 0 && ROWS % step == 0, "a thread stays in its column and its place there");
	int row = thread / chunks, chunk = thread % chunks;
	T *to = panel_at(tile, ROWS, row, chunk);

	x += (first + row) * stride + chunk * 8;
	end -= first + row;
	UNROLL
	for (int i = 0; i < ROWS; i += step) {
		cp_async_16(to + i * 64, x, i < end);
		x += step * stride;
	}
}

/* The same with rows that are queries and heads: x is the first query's first head of the group. */
template <int D, int ROWS, typename T>
__device__ __forceinline__ void panels_load_heads(T *tile, const T *x, ptrdiff_t stride, int group, int first,
						  int end, int thread)
{
	const int chunks = D / 8, step = HOPPER_THREADS / chunks;
	static_assert(step % 8 == 0 && ROWS % step == 0, "a thread stays in its column and its place there");
	int row = thread / chunks, chunk = thread % chunks;
	T *to = panel_at(tile, ROWS, row, chunk);

	row += first;

	/* One division, then steps: so many queries and heads on, and over the end of a group to the next query. */
	int head = row % group, heads = step % group;
	ptrdiff_t on = step / group * stride + heads * D, over = stride - group * D;

	x += row / group * stride + head * D + chunk * 8;
	UNROLL
	for (int i = 0; i < ROWS; i += step) {
		cp_async_16(to + i * 64, x, row + i < end);
		x += on;
		head += heads;
		if (head >= group) {
			head -= group;
			x += over;
		}
	}
}

/* ---- products of a warpgroup; to be committed and waited for ---- */

/* x (64, 8 N) = a b^T over D columns: 64 rows from a on, in a tile of A_ROWS rows, and all 8 N rows of b. */
template <int D, int A_ROWS, int N, typename T>
__device__ __forceinline__ void panels_scores(float (&x)[N][4], const T *a, const T *b)
{
	uint64_t left = wgmma_operand(a, 0), right = wgmma_operand(b, 0);

	UNROLL
	for (int k = 0; k < D / 16; k++)
		wgmma<T, false, false>(x, wgmma_at(left, k / 4 * A_ROWS * 128 + k % 4 * 32),
				       wgmma_at(right, k / 4 * N * 8 * 128 + k % 4 * 32), k > 0);
}

/* o (64, D) = p b, or o + p b: p (64, 8 N) as tiles_pack makes it, b of 8 N rows. */
template <int D, int N, typename T>
__device__ __forceinline__ void panels_sums(float (&o)[D / 8][4], const uint32_t (&p)[N / 2][4], const T *b,
					    bool add)
{
	uint64_t right = wgmma_operand(b, N * 8 * 128);

	UNROLL
	for (int k = 0; k < N / 2; k++)
		wgmma<T, true>(o, p[k], wgmma_at(right, k * 2048), add || k > 0);
}

#endif
