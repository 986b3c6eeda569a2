/* Low-rank adapters. All that they compute is a product with one narrow side, the rank, in fp32 outside the tensor cores, so
 * what counts is that activations and dropout masks (10 rounds of Philox to 4 values) are made once and used for all ranks.
 *
 *   forward   1. xa = A dropout(x)                                      lora_narrow.cuh, sums over channels
 *             2. y += scale * B xa                                      lora_widen.cuh
 *   backward  1. dxa = scale * B^T dy                                   lora_narrow.cuh, sums over channels
 *             2. grad_b += scale * dy^T xa, grad_a += dxa dropout(x)    lora_narrow.cuh, sums over tokens
 *             3. dx += the dropped A^T dxa                              lora_widen.cuh
 *
 * each of them one launch for all parts. Sums over long K, or of few tiles, are split and added in a further launch of the
 * backward pass; the forward pass adds them where it reads them. xa is saved; the masks of grad_a are left in scratch, a bit
 * to a value, for dx. */
#include "kernels/cuda/lora_narrow.cuh"
#include "kernels/cuda/lora_widen.cuh"
#include "kernels/cuda/scratch.h"

#define BLOCKS     512 /* that suffice to fill a GPU: below this, K is split */
#define LEAST_DEEP 4   /* pieces of DEEP to a warp, for a split to pay */
#define MOST_RANK  64  /* ranks of a tile; what is above goes to other blocks */

/* Ranks of a tile: the smallest that holds them all, or MOST_RANK. */
static int tile_ranks(int rank)
{
	return rank <= 8 ? 8 : rank <= 16 ? 16 : rank <= 32 ? 32 : MOST_RANK;
}

static int tile_width(int ranks)
{
	return ranks == 64 ? tile<64>::j : tile<32>::j;
}

/* How the products of one launch are cut: filled in once all of its jobs are there. */
struct cut {
	int ranks, tiles, rank_tiles;
};

static struct cut narrow_cut(struct narrow *a, bool over_tokens)
{
	struct cut cut = {};
	int rank = 0, depth = 0;

	for (int q = 0; q < a->jobs; q++) {
		rank = a->job[q].rank > rank ? a->job[q].rank : rank;
		depth = !over_tokens && a->job[q].channels > depth ? a->job[q].channels : depth;
	}
	if (over_tokens)
		depth = a->n;
	cut.ranks = tile_ranks(rank);
	cut.rank_tiles = ceil_div(rank, cut.ranks);
	for (int q = 0; q < a->jobs; q++) {
		struct narrow_job *job = &a->job[q];
		int width = over_tokens ? job->channels : a->n;

		job->first = cut.tiles;
		job->at = a->total;
		cut.tiles += ceil_div(width, tile_width(cut.ranks));
		a->total += (size_t)job->rank * width;
	}
	int blocks = cut.tiles * cut.rank_tiles, most = ceil_div(depth, DEEP * WARPS * LEAST_DEEP);

	a->splits = blocks ? ceil_div(BLOCKS, blocks) : 1;
	a->splits = a->splits > most ? most : a->splits;
	return cut;
}

static size_t sums_size(const struct narrow *a)
{
	return a->splits > 1 ? sizeof(float) * a->total * a->splits : 0;
}

template <typename T, int R, bool OVER_TOKENS>
static void launch_tiles(struct device *d, const char *what, const struct narrow &a, const struct cut &cut)
{
	cuda_launch(d, what, narrow_kernel<T, R, OVER_TOKENS>, dim3(cut.tiles, a.splits, cut.rank_tiles),
		    32 * WARPS, sizeof(float) * WARPS * tile<R>::warp_floats, a);
}

template <typename T, bool OVER_TOKENS>
static void launch_narrow(struct device *d, const char *what, const struct narrow &a, const struct cut &cut)
{
	switch (cut.ranks) {
	case 8: launch_tiles<T, 8, OVER_TOKENS>(d, what, a, cut); break;
	case 16: launch_tiles<T, 16, OVER_TOKENS>(d, what, a, cut); break;
	case 32: launch_tiles<T, 32, OVER_TOKENS>(d, what, a, cut); break;
	default: launch_tiles<T, MOST_RANK, OVER_TOKENS>(d, what, a, cut); break;
	}
}

template <bool OVER_TOKENS> static void launch_add(struct device *d, const struct narrow &a)
{
	size_t most = 0;

	if (a.splits == 1)
		return;
	for (int q = 0; q < a.jobs; q++) {
		size_t size = (size_t)a.job[q].rank * (OVER_TOKENS ? a.job[q].channels : a.n);

		most = size > most ? size : most;
	}
	cuda_launch(d, "lora_grad", add_splits<OVER_TOKENS>, dim3((unsigned)((most + 255) / 256), a.jobs),
		    256, 0, a);
}

template <typename Y, bool MASKED>
static void launch_widen(struct device *d, const char *what, const struct widen &a)
{
	int tiles = 0, rank = 0;
	struct widen w = a;

	for (int p = 0; p < a.parts; p++) {
		w.part[p].first = tiles;
		rank = a.part[p].rank > rank ? a.part[p].rank : rank;
		tiles = (a.together ? 0 : tiles) + ceil_div(a.part[p].channels, WIDE_CHANNELS);
	}
	dim3 grid(tiles, ceil_div(a.n, WIDE_TOKENS));
	if (rank <= 8)
		cuda_launch(d, what, widen_kernel<Y, 8, MASKED>, grid, WIDE_THREADS, 0, w);
	else if (rank <= 16)
		cuda_launch(d, what, widen_kernel<Y, 16, MASKED>, grid, WIDE_THREADS, 0, w);
	else
		cuda_launch(d, what, widen_kernel<Y, 32, MASKED>, grid, WIDE_THREADS, 0, w);
}

static bool drops(const struct dropout_mask *drop)
{
	return drop && drop->p > 0;
}

static struct narrow narrow_begin(const struct dropout_mask *drop, int n)
{
	struct narrow a = {};

	a.n = n;
	if (drops(drop)) {
		a.drop.seed = drop->seed;
		a.drop.step = drop->step;
		a.drop.token = drop->token;
		a.drop.threshold = (uint32_t)(drop->p * 4294967296.0);
		a.drop.keep = 1.0f / (1.0f - drop->p);
	}
	return a;
}

/* A job over these activations, with what is the same for all. */
template <typename T>
static struct narrow_job *job_add(struct narrow *a, const T *wide, int channels, int stride, int rank,
				  float scale)
{
	struct narrow_job *job = &a->job[a->jobs++];

	job->wide = wide;
	job->channels = channels;
	job->stride = stride;
	job->rank = rank;
	job->scale = scale;
	job->vector = stride % pack<T>::size == 0 && aligned16(wide);
	return job;
}

static void job_narrow(struct narrow_job *job, const float *narrow, int by_r, int by_k)
{
	job->narrow = narrow;
	job->narrow_r = by_r;
	job->narrow_k = by_k;
}

static void job_out(struct narrow_job *job, float *out, int by_r, int by_j, bool add)
{
	job->out = out;
	job->out_r = by_r;
	job->out_j = by_j;
	job->add = add;
}

template <typename Y> static void widen_to(struct widen *w, void *y, int ldy)
{
	w->y = y;
	w->ldy = ldy;
	w->vector = ldy % pack<Y>::size == 0 && aligned16(y);
	for (int p = 0; p < w->parts; p++)
		w->vector = w->vector && w->part[p].at % pack<Y>::size == 0;
}

size_t lora_scratch_bound(const struct cuda_device *d, int n, int rows, int cols, int rank, int parts)
{
	int ranks = tile_ranks(rank), width = tile_width(ranks);
	size_t rank_tiles = (size_t)ceil_div(rank, ranks);
	size_t token_tiles = (size_t)ceil_div(n, width) * parts * rank_tiles;
	size_t channel_tiles = (size_t)(ceil_div(rows, width) + ceil_div(cols, width)) * parts * rank_tiles;
	size_t tiles = token_tiles > channel_tiles ? token_tiles : channel_tiles;

	/* Only fewer than BLOCKS tiles are split, into fewer than BLOCKS more. */
	(void)d;
	return sizeof(float) * ranks * width * (BLOCKS + (tiles < BLOCKS ? tiles : BLOCKS)) +
	       (size_t)parts * n * ceil_div(cols, 8);
}

template <typename T>
static void op_lora(struct device *d, const void *x, const struct lora_part *parts, int count, int n,
		    int cols, float scale, const struct dropout_mask *drop, enum store how, void *y, int ldy)
{
	struct narrow a = narrow_begin(drop, n);
	struct widen w = {};

	if (!n || !count)
		return;
	for (int p = 0; p < count; p++) {
		const struct lora_part *part = &parts[p];
		struct narrow_job *job = job_add(&a, (const T *)x, cols, cols, part->rank, 1.0f);

		job_narrow(job, part->a, cols, 1);
		job_out(job, part->xa, n, 1, false);
		job->stream = part->stream;
		job->dropped = drops(drop);
	}
	struct cut cut = narrow_cut(&a, false);

	if (a.splits > 1) {
		a.sums = (float *)cuda_scratch(d, sums_size(&a));
		if (!a.sums)
			return;
	}
	launch_narrow<T, false>(d, "lora", a, cut);
	w.parts = count;
	w.n = n;
	w.splits = a.splits;
	w.total = a.total;
	w.scale = scale;
	for (int p = 0; p < count; p++) {
		const struct lora_part *part = &parts[p];

		w.part[p].matrix = part->b;
		w.part[p].matrix_r = 1;
		w.part[p].matrix_c = part->rank;
		w.part[p].narrow = a.splits > 1 ? a.sums + a.job[p].at : part->xa;
		w.part[p].save = a.splits > 1 ? part->xa : NULL;
		w.part[p].channels = part->rows;
		w.part[p].rank = part->rank;
		w.part[p].at = part->at;
	}
	if (how == ADD_F32) {
		widen_to<float>(&w, y, ldy);
		launch_widen<float, false>(d, "lora", w);
	} else {
		widen_to<T>(&w, y, ldy);
		launch_widen<T, false>(d, "lora", w);
	}
}

template <typename Y> static void launch_dx(struct device *d, const struct widen &w, bool masked)
{
	if (masked)
		launch_widen<Y, true>(d, "lora_grad", w);
	else
		launch_widen<Y, false>(d, "lora_grad", w);
}

template <typename T>
static void op_lora_grad(struct device *d, const void *x, const struct lora_part *parts, int count, int n,
			 int cols, float scale, const struct dropout_mask *drop, const void *dy, int lddy,
			 float *dxa, enum store how, void *dx)
{
	struct narrow a = narrow_begin(drop, n), g = a;
	struct widen w = {};
	bool masked = drops(drop);
	size_t bits_size = (size_t)n * ceil_div(cols, 8);

	if (!n || !count)
		return;
	w.parts = count;
	w.n = n;
	w.splits = 1;
	w.scale = masked ? g.drop.keep : 1.0f;
	w.together = true;
	for (int p = 0; p < count; p++) {
		const struct lora_part *part = &parts[p];
		const T *dy_part = (const T *)dy + part->at;
		struct narrow_job *job = job_add(&a, dy_part, part->rows, lddy, part->rank, scale);

		job_narrow(job, part->b, 1, part->rank);
		job_out(job, dxa, n, 1, false);
		job = job_add(&g, dy_part, part->rows, lddy, part->rank, scale);
		job_narrow(job, part->xa, n, 1);
		job_out(job, part->grad_b, 1, part->rank, true);
		job = job_add(&g, (const T *)x, cols, cols, part->rank, 1.0f);
		job_narrow(job, dxa, n, 1);
		job_out(job, part->grad_a, cols, 1, true);
		job->stream = part->stream;
		job->dropped = masked;
		w.part[p].matrix = part->a;
		w.part[p].matrix_r = cols;
		w.part[p].matrix_c = 1;
		w.part[p].narrow = dxa;
		w.part[p].channels = cols;
		w.part[p].rank = part->rank;
		dxa += (size_t)part->rank * n;
	}
	struct cut cut = narrow_cut(&a, false), grad_cut = narrow_cut(&g, true);
	size_t sums = sums_size(&a) > sums_size(&g) ? sums_size(&a) : sums_size(&g);
	size_t size = sums + (masked && dx ? bits_size * count : 0);

	if (size) {
		a.sums = g.sums = (float *)cuda_scratch(d, size);
		if (!a.sums)
			return;
	}
	for (int p = 0; masked && dx && p < count; p++) {
		uint8_t *bits = (uint8_t *)a.sums + sums + p * bits_size;

		g.job[2 * p + 1].bits = bits;
		w.part[p].bits = bits;
	}
	launch_narrow<T, false>(d, "lora_grad", a, cut);
	launch_add<false>(d, a);
	launch_narrow<T, true>(d, "lora_grad", g, grad_cut);
	launch_add<true>(d, g);
	if (!dx)
		return;
	if (how == ADD_F32) {
		widen_to<float>(&w, dx, cols);
		launch_dx<float>(d, w, masked);
	} else {
		widen_to<T>(&w, dx, cols);
		launch_dx<T>(d, w, masked);
	}
}

EXPORT(lora,
       (struct device * d, const void *x, const struct lora_part *parts, int count, int n, int cols,
	float scale, const struct dropout_mask *drop, enum store how, void *y, int ldy),
       (d, x, parts, count, n, cols, scale, drop, how, y, ldy))
EXPORT(lora_grad,
       (struct device * d, const void *x, const struct lora_part *parts, int count, int n, int cols,
	float scale, const struct dropout_mask *drop, const void *dy, int lddy, float *dxa, enum store how,
	void *dx),
       (d, x, parts, count, n, cols, scale, drop, dy, lddy, dxa, how, dx))
