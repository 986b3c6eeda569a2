/* Low-rank adapters. All that they compute is a product with one narrow side, the rank, so what counts is that activations move
 * at the speed of memory and that dropout masks (10 rounds of Philox to 4 values) are made once and used for all ranks.
 *
 *   forward   1. xa = A dropout(x)                                      lora_narrow.cuh, over_channels
 *             2. y += scale * B xa                                      lora_widen.cuh
 *   backward  1. dxa = scale * B^T dy                                   lora_narrow.cuh, over_channels
 *             2. grad_b += scale * dy^T xa, grad_a += dxa dropout(x)    lora_narrow.cuh, over_tokens
 *             3. dx += the dropped A^T dxa                              lora_widen.cuh
 *
 * each of them one launch for all parts. Sums over long K, or of few tiles, are split: those of xa and dxa are added where they
 * are read, those of the gradients in a further launch. xa is saved; the masks of grad_a are left in scratch, a bit to a value,
 * for dx. */
#include "kernels/cuda/lora_narrow.cuh"
#include "kernels/cuda/lora_widen.cuh"
#include "kernels/cuda/scratch.h"

/* Blocks to a multiprocessor, of 8 warps, below which K is split. Sums of dxa are added again by every reader: fewer. */
#define BLOCKS_FORWARD  2.0
#define BLOCKS_BACKWARD 0.5
#define BLOCKS_GRADS    8.0
#define LEAST_DEEP      4  /* pieces of tokens to a warp, for a split of gradients to pay */
#define MOST_RANK       64 /* ranks of a tile of over_channels; what is above goes to other blocks */

/* Ranks of a tile: the smallest that holds them all, or the largest. */
static int channel_ranks(int rank)
{
	return rank <= 8 ? 8 : rank <= 16 ? 16 : rank <= 32 ? 32 : MOST_RANK;
}

static int token_ranks(int rank)
{
	return rank <= 16 ? 16 : 32;
}

static int blocks_wanted(const struct cuda_device *d, double to_each)
{
	return (int)(d->multiprocessors * to_each) + 1;
}

static int most_rank(const struct narrow *a)
{
	int rank = 0;

	for (int q = 0; q < a->jobs; q++)
		rank = a->job[q].rank > rank ? a->job[q].rank : rank;
	return rank;
}

/* What a launch of over_channels and one of over_tokens are cut into. */
struct cut {
	int ranks;  /* of a tile */
	int tokens; /* of a tile of over_channels */
	int tiles;  /* of tokens, or the channels of all jobs */
};

static struct cut cut_channels(struct narrow *a, const struct cuda_device *d, double to_each)
{
	struct cut cut = {};
	int rank = most_rank(a), wanted = blocks_wanted(d, to_each), depth = 0;

	cut.ranks = channel_ranks(rank);
	a->rank_tiles = ceil_div(rank, cut.ranks);
	for (int q = 0; q < a->jobs; q++) {
		a->job[q].at = a->total;
		a->total += (size_t)a->job[q].rank * a->n;
		depth = a->job[q].channels > depth ? a->job[q].channels : depth;
	}
	int each = a->jobs * a->rank_tiles, most = ceil_div(depth, PIECE_CHANNELS * WARPS);

	/* 32 tokens read the narrow side half as often, when there are enough of them. */
	cut.tokens = cut.ranks <= 16 && ceil_div(a->n, 32) * each >= 2 * d->multiprocessors ? 32 : 16;
	cut.tiles = ceil_div(a->n, cut.tokens);
	a->splits = each ? ceil_div(wanted, cut.tiles * each) : 1;
	a->splits = a->splits < most ? a->splits : most > 1 ? most : 1;
	return cut;
}

static struct cut cut_tokens(struct narrow *a, const struct cuda_device *d)
{
	struct cut cut = {};
	int rank = most_rank(a), most = a->n / (PIECE_TOKENS * WARPS * LEAST_DEEP);

	cut.ranks = token_ranks(rank);
	a->rank_tiles = ceil_div(rank, cut.ranks);
	for (int q = 0; q < a->jobs; q++) {
		a->job[q].at = a->total;
		a->total += (size_t)a->job[q].rank * a->job[q].channels;
		a->job[q].first = cut.tiles;
		cut.tiles += ceil_div(a->job[q].channels, TILE_CHANNELS);
	}
	int blocks = cut.tiles * a->rank_tiles;

	a->splits = blocks ? ceil_div(blocks_wanted(d, BLOCKS_GRADS), blocks) : 1;
	a->splits = a->splits < most ? a->splits : most > 1 ? most : 1;
	return cut;
}

static size_t sums_size(const struct narrow *a)
{
	return a->splits > 1 ? sizeof(float) * a->total * a->splits : 0;
}

template <typename T, int M, int N>
static void launch_channels(struct device *d, const char *what, const struct narrow &a, const struct cut &cut)
{
	cuda_launch(d, what, over_channels<T, M, N>, dim3(cut.tiles * a.jobs * a.rank_tiles, a.splits),
		    32 * WARPS, 0, a);
}

template <typename T>
static void launch_over_channels(struct device *d, const char *what, const struct narrow &a,
				 const struct cut &cut)
{
	bool wide = cut.tokens == 32;

	switch (cut.ranks) {
	case 8:
		wide ? launch_channels<T, 2, 1>(d, what, a, cut) : launch_channels<T, 1, 1>(d, what, a, cut);
		break;
	case 16:
		wide ? launch_channels<T, 2, 2>(d, what, a, cut) : launch_channels<T, 1, 2>(d, what, a, cut);
		break;
	case 32: launch_channels<T, 1, 4>(d, what, a, cut); break;
	default: launch_channels<T, 1, 8>(d, what, a, cut); break;
	}
}

template <typename T>
static void launch_over_tokens(struct device *d, const struct narrow &a, const struct cut &cut)
{
	dim3 grid(cut.tiles, a.splits, a.rank_tiles);
	int most = 0;

	if (cut.ranks == 16)
		cuda_launch(d, "lora_grad", over_tokens<T, 1>, grid, 32 * WARPS, 0, a);
	else
		cuda_launch(d, "lora_grad", over_tokens<T, 2>, grid, 32 * WARPS, 0, a);
	if (a.splits == 1)
		return;
	for (int q = 0; q < a.jobs; q++) {
		int size = a.job[q].rank * a.job[q].channels;

		most = size > most ? size : most;
	}
	cuda_launch(d, "lora_grad", add_splits, dim3(ceil_div(most, 128), a.jobs), 128, 0, a);
}

template <typename Y, int TOKENS, bool MASKED>
static void launch_widen_ranks(struct device *d, const char *what, const struct widen &w, int tiles, int rank)
{
	dim3 grid(tiles, ceil_div(w.n, WIDE_LANES * TOKENS));

	if (rank <= 8)
		cuda_launch(d, what, widen_kernel<Y, 8, TOKENS, MASKED>, grid, WIDE_THREADS, 0, w);
	else if (rank <= 16)
		cuda_launch(d, what, widen_kernel<Y, 16, TOKENS, MASKED>, grid, WIDE_THREADS, 0, w);
	else
		cuda_launch(d, what, widen_kernel<Y, 32, TOKENS, MASKED>, grid, WIDE_THREADS, 0, w);
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
	if (tiles * ceil_div(w.n, 4 * WIDE_LANES) < 2 * cuda_device(d)->multiprocessors)
		launch_widen_ranks<Y, 1, MASKED>(d, what, w, tiles, rank);
	else
		launch_widen_ranks<Y, 4, MASKED>(d, what, w, tiles, rank);
}

static bool drops(const struct dropout_mask *drop)
{
	return drop && drop->p > 0;
}

/* What the values that stay are multiplied by. */
static float keep_scale(const struct dropout_mask *drop)
{
	return drops(drop) ? 1.0f / (1.0f - drop->p) : 1.0f;
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
	job->narrow_vector = by_k == 1 && by_r % 4 == 0 && aligned16(narrow);
	job->narrow_splits = 1;
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

/* Only fewer blocks than are wanted are split, into at most as many more as there are: the most floats of their sums. */
static size_t split_floats(size_t blocks, int wanted, size_t tile)
{
	return tile * (wanted + (blocks < (size_t)wanted ? blocks : wanted));
}

size_t lora_scratch_bound(const struct cuda_device *d, int n, int rows, int cols, int rank, int parts)
{
	int ranks = channel_ranks(rank);
	size_t rank_tiles = ceil_div(rank, 16), token_tiles = (size_t)ceil_div(n, 16) * parts * rank_tiles;
	size_t channel_tiles = (size_t)(ceil_div(rows, TILE_CHANNELS) + ceil_div(cols, TILE_CHANNELS)) *
			       parts * rank_tiles;

	return sizeof(float) * (split_floats(token_tiles, blocks_wanted(d, BLOCKS_FORWARD),
					     ranks * (ranks <= 16 ? 32 : 16)) +
				split_floats(channel_tiles, blocks_wanted(d, BLOCKS_GRADS),
					     token_ranks(rank) * TILE_CHANNELS)) +
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
		struct narrow_job *job = job_add(&a, (const T *)x, cols, cols, part->rank, keep_scale(drop));

		job_narrow(job, part->a, cols, 1);
		job_out(job, part->xa, n, 1, false);
		job->stream = part->stream;
		job->dropped = drops(drop);
	}
	struct cut cut = cut_channels(&a, cuda_device(d), BLOCKS_FORWARD);

	if (a.splits > 1) {
		a.sums = (float *)cuda_scratch(d, sums_size(&a));
		if (!a.sums)
			return;
	}
	launch_over_channels<T>(d, "lora", a, cut);
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
	w.scale = keep_scale(drop);
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
		job = job_add(&g, (const T *)x, cols, cols, part->rank, keep_scale(drop));
		job_narrow(job, dxa, n, 1);
		job_out(job, part->grad_a, cols, 1, true);
		job->stream = part->stream;
		job->dropped = masked;
		w.part[p].matrix = part->a;
		w.part[p].matrix_r = cols;
		w.part[p].matrix_c = 1;
		w.part[p].channels = cols;
		w.part[p].rank = part->rank;
		dxa += (size_t)part->rank * n;
	}
	struct cut cut = cut_channels(&a, cuda_device(d), BLOCKS_BACKWARD),
		   grad_cut = cut_tokens(&g, cuda_device(d));
	size_t sums = sums_size(&a) + sums_size(&g), size = sums + (masked && dx ? bits_size * count : 0);

	if (size) {
		a.sums = (float *)cuda_scratch(d, size);
		if (!a.sums)
			return;
		g.sums = a.sums + sums_size(&a) / sizeof(float);
	}
	w.splits = a.splits;
	w.total = a.total;
	for (int p = 0; p < count; p++) {
		struct narrow_job *grad_a = &g.job[2 * p + 1];

		w.part[p].narrow = grad_a->narrow;
		if (a.splits > 1) {
			w.part[p].narrow = grad_a->narrow = a.sums + a.job[p].at;
			grad_a->narrow_splits = a.splits;
			grad_a->narrow_total = a.total;
		}
		if (masked && dx)
			w.part[p].bits = grad_a->bits = (uint8_t *)a.sums + sums + p * bits_size;
	}
	launch_over_channels<T>(d, "lora_grad", a, cut);
	launch_over_tokens<T>(d, g, grad_cut);
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
