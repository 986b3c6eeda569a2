/* Pieces of the attention kernels on tensor cores, all in the manner of FlashAttention-2 (Dao 2023, arXiv:2307.08691).
 *
 * Rows. The G query heads that share a kv head are worked on together: row R of a sequence and kv head is query R / G in head
 * R % G of the group. So a tile of rows reads keys and values once for the whole group, and short sequences of
 * multi-query models fill tiles that single heads would not.
 *
 * Tiles in shared memory are rows of D 16-bit values, D the head_dim padded with zeros. ldmatrix reads 16 bytes of eight
 * rows at a time: chunk c of row r lies at c ^ (r % 8), so that these are in different banks; where a row is no multiple
 * of 128 bytes, it is made longer by 16 instead, which does the same.
 *
 * Blocks. The lengths of sequences are known on the device only. Sequence s gets the blocks from cu[s] * G / rows + s on: at
 * least as many as it has tiles of `rows` rows, and one more at most. So a block finds its sequence by searching cu,
 * and the grid depends on the number of rows and sequences alone. */
#ifndef KERNELS_CUDA_ATTENTION_CUH
#define KERNELS_CUDA_ATTENTION_CUH

#include <math.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/kernel.cuh"
#include "kernels/cuda/ptx.cuh"

#ifdef __CUDACC__
#define UNROLL   _Pragma("unroll")
#define UNROLL_2 _Pragma("unroll 2")
#define UNROLL_4 _Pragma("unroll 4")
#define UNROLL_8 _Pragma("unroll 8")
#else
#define UNROLL
#define UNROLL_2
#define UNROLL_4
#define UNROLL_8
#endif

#define LOG2E 1.4426950408889634f
#define LN2   0.6931471805599453f

/* ---- sequences ---- */

struct sequence {
	int token, queries; /* its first query among all, and how many */
	int key, keys;      /* its first row of k and v, and how many */
	int before;         /* keys - queries: query i sees keys 0 … before + i */
};

__device__ __forceinline__ struct sequence sequence_at(const struct attention &s, int i)
{
	struct sequence r;

	r.token = s.cu_q[i];
	r.queries = s.cu_q[i + 1] - r.token;
	r.key = s.k_begin[i];
	r.keys = s.k_end[i] - r.key;
	r.before = r.keys - r.queries;
	return r;
}

/* The last sequence i with cu[i] * group / rows + i * extra <= target, by a whole warp: 32 candidates at a time. */
__device__ __forceinline__ int sequence_search(const int32_t *cu, int sequences, int group, int rows,
					       int extra, int target)
{
	int lane = threadIdx.x % 32, first = 0, n = sequences;

	while (n > 1) {
		int step = ceil_div(n, 32), i = lane * step;
		bool at_most = i < n && cu[first + i] * group / rows + (first + i) * extra <= target;
		int last = __popc(__ballot_sync(0xffffffffu, at_most)) - 1;

		first += last * step;
		n = n - last * step < step ? n - last * step : step;
	}
	return first;
}

/* Blocks for tiles of `rows` rows. */
static inline int tile_blocks(const struct attention *s, int group, int rows)
{
	return s->queries * group / rows + s->sequences;
}

/* Tiles of 128 rows pay when there are enough of them for every multiprocessor, and rows to fill them. */
static inline bool rows_are_many(const struct cuda_device *d, const struct attention *s)
{
	int group = s->heads / s->kv_heads;

	return s->max_q * group > 128 && tile_blocks(s, group, 128) * s->kv_heads >= 2 * d->multiprocessors;
}

/* The tile of a block: its sequence and its first row; false when there is none. The last tiles come first, since they have
 * the most keys to look at. */
__device__ __forceinline__ bool tile_find(const struct attention &s, int group, int rows, int block,
					  int blocks, struct sequence *sequence, int *first)
{
	int target = blocks - 1 - block;
	int i = sequence_search(s.cu_q, s.sequences, group, rows, 1, target);

	*sequence = sequence_at(s, i);
	*first = (target - (sequence->token * group / rows + i)) * rows;
	return *first < sequence->queries * group;
}

/* The keys that query i of a sequence sees: [key_begin, key_end). */
__device__ __forceinline__ int key_end(const struct sequence &sequence, int query)
{
	return sequence.before + query + 1;
}

__device__ __forceinline__ int key_begin(const struct attention &s, const struct sequence &sequence,
					 int query)
{
	int begin = s.window > 0 ? sequence.before + query + 1 - s.window : 0;

	return begin > 0 ? begin : 0;
}

/* What the rows [first, first + count) of a sequence see: some of them keys [begin, end), all of them [all_begin, all_end).
 * None where there are no such rows. */
struct view {
	int begin, end, all_begin, all_end;
};

__device__ __forceinline__ struct view view_of(const struct attention &s, const struct sequence &sequence,
					       int group, int first, int count)
{
	int rows = sequence.queries * group, last = first + count < rows ? first + count - 1 : rows - 1;
	struct view w = {0, 0, 0, 0};

	if (first < rows) {
		w.begin = key_begin(s, sequence, first / group);
		w.end = key_end(sequence, last / group);
		w.all_begin = key_begin(s, sequence, last / group);
		w.all_end = key_end(sequence, first / group);
	}
	return w;
}

/* ---- scores ---- */

/* 1 - 2 / (exp(2x) + 1): the absolute error, which softcap multiplies, is that of 1. */
__device__ __forceinline__ float tanh_fast(float x)
{
	return 1.0f - 2.0f / (exp2_fast(x * (2.0f * LOG2E)) + 1.0f);
}

/* p (dp - delta), times the derivative of the softcap where there is one, in place of dp; p in place of x. x is the product
 * q k, lse2 is lse * log2(e). */
__device__ __forceinline__ void score_grad(float *x, float *dp, bool visible, float lse2, float delta,
					   const struct attention &s)
{
	float p, slope = 1.0f;

	if (s.softcap > 0.0f) {
		float t = tanh_fast(*x * (s.scale / s.softcap));

		p = exp2_fast(s.softcap * LOG2E * t - lse2);
		slope = 1.0f - t * t;
	} else {
		p = exp2_fast(*x * (s.scale * LOG2E) - lse2);
	}
	p = visible ? p : 0.0f;
	*x = p;
	*dp = p * (*dp - delta) * slope;
}

/* ---- tiles ---- */

/* 16-byte chunks from row to row. */
template <int D> __host__ __device__ constexpr int tile_stride()
{
	return D % 64 == 0 ? D / 8 : D / 8 + 1;
}

/* Elements of a tile. */
template <int D> __host__ __device__ constexpr int tile_size(int rows)
{
	return rows * tile_stride<D>() * 8;
}

/* Only three bits of the chunk go into the exclusive or: so chunks that lie eight apart share an address but for a constant, and
 * loops over chunks keep few addresses in registers. */
template <int D, typename T> __device__ __forceinline__ T *tile_at(T *tile, int row, int chunk)
{
	return tile +
	       (row * tile_stride<D>() + (D % 64 == 0 ? (chunk & ~7) + ((chunk ^ row) & 7) : chunk)) * 8;
}

/* Starts copying rows [first, first + ROWS) of x to a tile, zeros from row `end` on. */
template <int D, int ROWS, int THREADS, typename T>
__device__ __forceinline__ void tile_load(T *tile, const T *x, ptrdiff_t stride, int head_dim, int first,
					  int end, int thread)
{
	const int chunks = D / 8;

	x += first * stride;
	end -= first;
	if constexpr (THREADS % chunks == 0 && ROWS * chunks % THREADS == 0) {
		/* A thread stays in its column: one address goes down the rows. */
		const int step = THREADS / chunks;
		int row = thread / chunks, chunk = thread % chunks;

		x += row * (int)stride + chunk * 8;
		end = chunk * 8 < head_dim ? end - row : 0;
		UNROLL
		for (int i = 0; i < ROWS; i += step) {
			cp_async_16(tile_at<D>(tile, row + i, chunk), x, i < end);
			x += step * stride;
		}
	} else {
		UNROLL
		for (int from = 0; from < ROWS * chunks; from += THREADS) {
			int i = from + thread, row = i / chunks, chunk = i % chunks;

			if (ROWS * chunks % THREADS != 0 && i >= ROWS * chunks)
				break;
			cp_async_16(tile_at<D>(tile, row, chunk), x + (row * (int)stride + chunk * 8),
				    row < end && chunk * 8 < head_dim);
		}
	}
}

/* The same with rows that are queries and heads: x is the first query's first head of the group. */
template <int D, int ROWS, int THREADS, typename T>
__device__ __forceinline__ void tile_load_heads(T *tile, const T *x, ptrdiff_t stride, int head_dim,
						int group, int first, int end, int thread)
{
	const int chunks = D / 8;

	UNROLL
	for (int from = 0; from < ROWS * chunks; from += THREADS) {
		int i = from + thread, row = first + i / chunks, chunk = i % chunks, query = row / group;
		bool keep = row < end && chunk * 8 < head_dim;

		if (ROWS * chunks % THREADS != 0 && i >= ROWS * chunks)
			break;
		cp_async_16(tile_at<D>(tile, i / chunks, chunk),
			    x + (keep ? query * stride + (row - query * group) * head_dim + chunk * 8 : 0),
			    keep);
	}
}

/* ---- products of a warp ---- */

/* s += a b^T: 16 M rows of a from a_row on, 8 N rows of b. N is even. */
template <int D, int M, int N, typename T>
__device__ __forceinline__ void product_rows(float s[M][N][4], const T *a, int a_row, const T *b)
{
	int lane = threadIdx.x % 32;

	UNROLL_4
	for (int k = 0; k < D / 16; k++) {
		uint32_t x[M][4];

		UNROLL
		for (int m = 0; m < M; m++)
			ldmatrix_x4(x[m], tile_at<D>(a, a_row + 16 * m + lane % 16, 2 * k + lane / 16));
		UNROLL
		for (int n = 0; n < N; n += 2) {
			uint32_t y[4];

			ldmatrix_x4(y, tile_at<D>(b, 8 * n + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
			UNROLL
			for (int m = 0; m < M; m++) {
				mma_16816<T>(s[m][n], x[m], y);
				mma_16816<T>(s[m][n + 1], x[m], y + 2);
			}
		}
	}
}

/* o += p v: p (16 M, 8 N) as tiles_pack makes it, v of 8 N rows. */
template <int D, int M, int N, typename T>
__device__ __forceinline__ void product_columns(float o[M][D / 8][4], const uint32_t p[M][N / 2][4],
						const T *v)
{
	int lane = threadIdx.x % 32;

	UNROLL
	for (int k = 0; k < N / 2; k++) {
		UNROLL
		for (int n = 0; n < D / 8; n += 2) {
			uint32_t y[4];

			ldmatrix_x4_trans(y, tile_at<D>(v, 16 * k + lane % 16, n + lane / 16));
			UNROLL
			for (int m = 0; m < M; m++) {
				mma_16816<T>(o[m][n], p[m][k], y);
				mma_16816<T>(o[m][n + 1], p[m][k], y + 2);
			}
		}
	}
}

/* The results of one product as the left operand of the next: the lanes hold the same rows and columns. */
template <typename T, int M, int N>
__device__ __forceinline__ void tiles_pack(uint32_t p[M][N / 2][4], const float s[M][N][4])
{
	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int n = 0; n < N; n++) {
			p[m][n / 2][n % 2 * 2] = pack2<T>(s[m][n][0], s[m][n][1]);
			p[m][n / 2][n % 2 * 2 + 1] = pack2<T>(s[m][n][2], s[m][n][3]);
		}
	}
}

/* ---- rows of a warp: a lane's are 16 m + lane / 4 and the one 8 below ---- */

/* Begin and end of the keys that a lane's rows see, the rows behind the last one like it. */
template <int M>
__device__ __forceinline__ void rows_see(int begin[M][2], int end[M][2], const struct attention &s,
					 const struct sequence &sequence, int group, int first)
{
	int rows = sequence.queries * group;

	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int h = 0; h < 2; h++) {
			int row = first + 16 * m + 8 * h + threadIdx.x % 32 / 4;
			int query = (row < rows ? row : rows - 1) / group;

			begin[m][h] = key_begin(s, sequence, query);
			end[m][h] = key_end(sequence, query);
		}
	}
}

/* Scores of keys from `at` on that a row does not see become `hidden`. */
template <int M, int N>
__device__ __forceinline__ void scores_mask(float s[M][N][4], const int begin[M][2], const int end[M][2],
					    int at, float hidden)
{
	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int n = 0; n < N; n++) {
			UNROLL
			for (int i = 0; i < 4; i++) {
				int key = at + 8 * n + threadIdx.x % 4 * 2 + i % 2;

				if (key < begin[m][i / 2] || key >= end[m][i / 2])
					s[m][n][i] = hidden;
			}
		}
	}
}

/* What the softmax of scores works with: exp(score) = 2^(factor * s), where s is the product itself, or, when bent, what
 * scores_bend makes of it. The largest score is the one with the largest s: so factor must be positive, and a scale
 * that is not is multiplied in like a softcap. */
__device__ __forceinline__ bool scores_bent(const struct attention &s)
{
	return s.softcap > 0.0f || s.scale <= 0.0f;
}

__device__ __forceinline__ float scores_factor(const struct attention &s)
{
	return scores_bent(s) ? LOG2E : s.scale * LOG2E;
}

template <int M, int N>
__device__ __forceinline__ void scores_bend(float x[M][N][4], const struct attention &s)
{
	float inner = s.softcap > 0.0f ? s.scale / s.softcap : s.scale;

	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int n = 0; n < N; n++) {
			UNROLL
			for (int i = 0; i < 4; i++) {
				float y = x[m][n][i] * inner;

				x[m][n][i] = s.softcap > 0.0f ? s.softcap * tanh_fast(y) : y;
			}
		}
	}
}

/* One step of the online softmax: s becomes 2^(factor (s - max)) with the new max of the row, the sums l and the outputs o
 * are brought to it. l stays a sum over this lane's columns only. */
template <int D, int M, int N>
__device__ __forceinline__ void softmax_step(float s[M][N][4], float max[M][2], float l[M][2],
					     float o[M][D / 8][4], float factor)
{
	float shrink[M][2];
	bool same = true;

	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int h = 0; h < 2; h++) {
			float best = max[m][h], base, sum = 0.0f;

			UNROLL
			for (int n = 0; n < N; n++)
				best = fmaxf(best, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
			best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
			best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
			base = best == -INFINITY ? 0.0f : best * factor;
			shrink[m][h] = exp2_fast(max[m][h] * factor - base);
			same = same && best == max[m][h];
			max[m][h] = best;
			UNROLL
			for (int n = 0; n < N; n++) {
				s[m][n][2 * h] = exp2_fast(s[m][n][2 * h] * factor - base);
				s[m][n][2 * h + 1] = exp2_fast(s[m][n][2 * h + 1] * factor - base);
				sum += s[m][n][2 * h] + s[m][n][2 * h + 1];
			}
			l[m][h] = l[m][h] * shrink[m][h] + sum;
		}
	}
	/* After a few tiles the maxima seldom change, and most of the work here is this. */
	if (__all_sync(0xffffffffu, same))
		return;
	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int n = 0; n < D / 8; n++) {
			UNROLL
			for (int i = 0; i < 4; i++)
				o[m][n][i] *= shrink[m][i / 2];
		}
	}
}

/* The sum over the four lanes that share a row. */
__device__ __forceinline__ float row_sum(float x)
{
	x += __shfl_xor_sync(0xffffffffu, x, 1);
	return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* x (16 M, D) times `times` of each row to rows [first, end) of out, laid out as in tile_load_heads, by way of the warp's
 * own rows of a tile, at row `at`, so that whole chunks are written. */
template <int D, int M, typename T>
__device__ __forceinline__ void rows_store(const float x[M][D / 8][4], const float times[M][2], T *tile,
					   int at, T *out, ptrdiff_t stride, int head_dim, int group,
					   int first, int end)
{
	int lane = threadIdx.x % 32;

	__syncwarp();
	UNROLL
	for (int m = 0; m < M; m++) {
		UNROLL
		for (int n = 0; n < D / 8; n++) {
			UNROLL
			for (int h = 0; h < 2; h++) {
				T *to = tile_at<D>(tile, at + 16 * m + 8 * h + lane / 4, n) + lane % 4 * 2;

				*reinterpret_cast<uint32_t *>(to) = pack2<T>(
					x[m][n][2 * h] * times[m][h], x[m][n][2 * h + 1] * times[m][h]);
			}
		}
	}
	__syncwarp();
	for (int i = lane; i < 16 * M * (D / 8); i += 32) {
		int row = i / (D / 8), chunk = i % (D / 8), query = (first + row) / group;

		if (first + row < end && chunk * 8 < head_dim)
			store_pack(out + query * stride + (first + row - query * group) * head_dim +
					   chunk * 8,
				   load_pack(tile_at<D>(tile, at + row, chunk)));
	}
}

/* ---- parts of the operations that have files of their own ---- */

/* Whether 16-bit attention can be done as asked for; notes the failure when not. */
bool attention_possible(struct device *d, const struct attention *s, const char *what);

/* Attention of few queries over many keys: whether it is that, and its scratch. */
bool attention_is_decode(const struct attention *s);
size_t attention_decode_scratch(const struct cuda_device *d, const struct attention *s);
template <typename T>
void attention_decode(struct device *d, const struct attention *s, const T *q, const T *k, const T *v, T *out,
		      float *lse);

/* Attention of short sequences. */
bool attention_is_short(const struct cuda_device *d, const struct attention *s);
template <typename T>
void attention_short(struct device *d, const struct attention *s, const T *q, const T *k, const T *v, T *out,
		     float *lse);

/* Its gradients; and the most scratch that they take for so many queries or fewer, of any lengths. */
bool attention_grad_is_short(const struct cuda_device *d, const struct attention *s);
template <typename T>
void attention_grad_short(struct device *d, const struct attention *s, const T *q, const T *k, const T *v,
			  const T *out, const float *lse, const T *dout, T *dq, T *dk, T *dv);
size_t attention_grad_short_bound(const struct attention *s);

/* Gradients of fp32 activations. delta (queries, heads) is scratch. */
void attention_grad_plain(struct device *d, const struct attention *s, const float *q, const float *k,
			  const float *v, const float *out, const float *lse, const float *dout, float *dq,
			  float *dk, float *dv, float *delta);

/* Scratch of attention_grad, but for that of short sequences. */
size_t attention_grad_scratch(const struct cuda_device *d, const struct attention *s);

#endif
