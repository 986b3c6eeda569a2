/* The transformer's memory: where a pass's buffers lie, what the host tells it, and recordings of passes that are alike. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "model/buckets.h"
#include "model/transformer_pass.h"

#define RECORDS_MOST 192 /* kinds of passes to keep recordings of; the rest is asked for anew each time */
#define LOGITS_CPU   ((size_t)1 << 20) /* values of logits at once */
#define LOGITS_GPU   ((size_t)7 << 23) /* 224 rows of 256,000 */

/* Hands out memory from base on; with base NULL it only counts. */
struct layout {
	char *base;
	size_t used;
};

static void *take(struct layout *l, size_t count, size_t size)
{
	void *p = l->base ? l->base + l->used : NULL;

	l->used += (count * size + 255) / 256 * 256;
	return p;
}

static float *take_floats(struct layout *l, int rows, int cols)
{
	return take(l, (size_t)rows * (size_t)cols, sizeof(float));
}

static void *take_act(const struct transformer *t, struct layout *l, int rows, int cols)
{
	return take(l, (size_t)rows * (size_t)cols, t->act_size);
}

int loss_chunk_rows(const struct transformer *t, int tokens)
{
	bool cpu = t->device->kind == DEVICE_CPU;
	size_t rows = (cpu ? LOGITS_CPU : LOGITS_GPU) / (size_t)t->model->config.vocab_size;
	int least = rows < 64 ? 64 : rows > 4096 ? 4096 : (int)(rows / 32 * 32);
	int wanted = cpu ? 0 : tokens / 8 > 1024 ? 1024 : tokens / 8;

	return wanted > least ? (wanted + 31) / 32 * 32 : least;
}

/* ---- layouts ---- */

static void take_inputs(struct layout *l, int tokens, int sequences, struct inputs *in)
{
	size_t n = (size_t)tokens, s = (size_t)sequences;
	int32_t **each[] = {&in->ids, &in->position, &in->token, &in->kv_row, &in->label_at, &in->label};

	for (size_t i = 0; i < sizeof each / sizeof *each; i++)
		*each[i] = take(l, n, sizeof(int32_t));
	in->cu_q = take(l, s + 1, sizeof(int32_t));
	in->k_begin = take(l, s, sizeof(int32_t));
	in->k_end = take(l, s, sizeof(int32_t));
	in->last = take(l, s, sizeof(int32_t));
	in->step = take(l, 1, sizeof *in->step);
	in->grad_scale = take(l, 1, sizeof *in->grad_scale);
}

/* Whether the way back wants what these projections saw: what trains there is multiplied by it. */
static bool trains(const struct transformer *t, enum proj first, int count)
{
	bool any = !t->lora;

	for (int p = (int)first; p < (int)first + count && !any; p++)
		any = t->lora->target[p];
	return any;
}

/* before: those of the layer below, or NULL; layers share what the way back does not want. */
static void take_acts(const struct transformer *t, struct layout *l, int n, bool keep,
		      const struct acts *before, struct acts *a)
{
	const struct model_config *c = &t->model->config;
	int q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;

	a->x_in = take_floats(l, n, c->hidden_size);
	a->rstd_in = take_floats(l, n, 1);
	a->h_in = before && !trains(t, PROJ_Q, 3) ? before->h_in : take_act(t, l, n, c->hidden_size);
	a->qkv = take_act(t, l, n, q + 2 * kv);
	a->attn = take_act(t, l, n, q);
	a->lse = take_floats(l, n, c->heads);
	a->x_mid = keep ? take_floats(l, n, c->hidden_size) : a->x_in;
	a->rstd_mid = take_floats(l, n, 1);
	a->h_mid = !keep                                ? a->h_in
		   : before && !trains(t, PROJ_GATE, 2) ? before->h_mid
							: take_act(t, l, n, c->hidden_size);
	a->gate_up = take_act(t, l, n, 2 * c->intermediate_size);
	a->act = before && !trains(t, PROJ_DOWN, 1) ? before->act : take_act(t, l, n, c->intermediate_size);
	for (int p = 0; p < PROJ_COUNT; p++)
		a->xa[p] = t->lora && t->lora->target[p] ? take_floats(l, t->lora->rank, n) : NULL;
}

static void take_back(const struct transformer *t, struct layout *l, int n, int chunk, struct workspace *w)
{
	const struct model_config *c = &t->model->config;
	int h = c->hidden_size, q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
	bool f32 = t->device->act == DTYPE_F32;

	w->dlogits = f32 ? w->logits : take_act(t, l, chunk, c->vocab_size);
	w->dx = take_floats(l, n, h);
	w->dx_act = f32 ? w->dx : take_act(t, l, n, h);
	w->dh = take_floats(l, n, h);
	w->dqkv = take_act(t, l, n, q + 2 * kv);
	w->dattn = take_act(t, l, n, q);
	w->dact = take_act(t, l, n, c->intermediate_size);
	w->dxa = take_floats(l, t->lora ? LORA_PARTS * t->lora->rank : 0, n);
	w->dnormed = take_floats(l, n, h);
}

static void lay_out(const struct transformer *t, enum pass_kind kind, struct layout *l, struct workspace *w)
{
	const struct model_config *c = &t->model->config;
	int n = w->tokens, rows = kind == PASS_FORWARD ? w->sequences : n;
	int most = loss_chunk_rows(t, n), chunk = most < rows ? most : rows;

	w->block = l->base;
	take_inputs(l, n, w->sequences, &w->in);
	w->block_size = l->used;
	for (int i = 0; i < c->layers; i++)
		if (kind == PASS_TRAIN || i == 0)
			take_acts(t, l, n, kind == PASS_TRAIN, i ? &w->acts[i - 1] : NULL, &w->acts[i]);
		else
			w->acts[i] = w->acts[0];
	w->x_out = kind == PASS_TRAIN || !c->layers ? take_floats(l, n, c->hidden_size) : w->acts[0].x_in;
	w->picked = take_floats(l, rows, c->hidden_size);
	w->normed = take_act(t, l, rows, c->hidden_size);
	w->picked_rstd = take_floats(l, rows, 1);
	w->logits = take_floats(l, chunk, c->vocab_size);
	w->chosen = take(l, (size_t)chunk, sizeof *w->chosen);
	if (kind == PASS_TRAIN)
		take_back(t, l, n, chunk, w);
}

static size_t size_of(const struct transformer *t, enum pass_kind kind, struct workspace *w)
{
	struct layout count = {NULL, 0};

	if (w->tokens)
		lay_out(t, kind, &count, w);
	return count.used;
}

/* ---- planning ---- */

static void forget_records(struct transformer *t)
{
	for (size_t i = 0; i < t->n_records; i++)
		recording_free(t->device, t->records[i].recording);
	t->n_records = 0;
}

static int no_room(int n, struct error *err)
{
	error_context(err, "a pass over %d tokens", n);
	return -1;
}

static int rope_grow(struct transformer *t, int positions, struct error *err)
{
	const struct model_config *c = &t->model->config;
	int want = t->rope_positions ? t->rope_positions : 64;
	void *cosines, *sines;

	if (positions <= t->rope_positions)
		return 0;
	while (want < positions)
		want = want > INT_MAX / 2 ? positions : want * 2;
	size_t size = (size_t)want * (size_t)(c->head_dim / 2) * sizeof(float);

	if (device_alloc(t->device, size, &cosines, err))
		return -1;
	if (device_alloc(t->device, size, &sines, err)) {
		device_free(t->device, cosines);
		return -1;
	}
	forget_records(t);
	device_free(t->device, t->rope_cos);
	device_free(t->device, t->rope_sin);
	t->rope_cos = cosines;
	t->rope_sin = sines;
	t->rope_positions = want;
	t->ops->rope_table(t->device, c->rope_theta, c->head_dim, want, t->rope_cos, t->rope_sin);
	return 0;
}

/* All workspaces anew, at the beginning of memory that holds the largest. */
static int place_all(struct transformer *t, struct error *err)
{
	size_t most = 0, host = 0;

	for (int k = 0; k < PASS_KINDS; k++) {
		size_t size = size_of(t, (enum pass_kind)k, &t->spaces[k]);

		most = size > most ? size : most;
		if (size && t->spaces[k].block_size > host)
			host = t->spaces[k].block_size;
	}
	forget_records(t);
	if (most > t->memory_size) {
		void *memory;

		device_free(t->device, t->memory);
		t->memory = NULL;
		t->memory_size = 0;
		if (device_alloc(t->device, most, &memory, err))
			return -1;
		t->memory = memory;
		t->memory_size = most;
	}
	free(t->host_memory);
	t->host_memory = xcalloc(1, host);
	for (int k = 0; k < PASS_KINDS; k++) {
		struct workspace *w = &t->spaces[k];

		if (!w->tokens)
			continue;
		lay_out(t, (enum pass_kind)k, &(struct layout){t->memory, 0}, w);
		take_inputs(&(struct layout){t->host_memory, 0}, w->tokens, w->sequences, &w->host);
		w->host_block = t->host_memory;
	}
	return 0;
}

int workspace_plan(struct transformer *t, enum pass_kind kind, int tokens, int sequences, int positions,
		   struct error *err)
{
	struct workspace *w = &t->spaces[kind];

	t->w = w;
	if (rope_grow(t, positions, err))
		return no_room(tokens, err);
	if (tokens <= w->tokens && sequences <= w->sequences)
		return 0;
	struct workspace before = *w;

	w->tokens = tokens > w->tokens ? tokens : w->tokens;
	w->sequences = sequences > w->sequences ? sequences : w->sequences;
	if (place_all(t, err)) {
		w->tokens = before.tokens;
		w->sequences = before.sequences;
		for (int k = 0; k < PASS_KINDS; k++) /* their memory is gone */
			t->spaces[k].tokens = t->spaces[k].sequences = 0;
		return no_room(tokens, err);
	}
	return 0;
}

int transformer_reserve(struct transformer *t, int tokens, int sequences, int positions, bool full,
			struct error *err)
{
	const struct model_config *c = &t->model->config;
	bool fills = device_records(t->device);
	int n = fills ? bucket_of(tokens) : tokens, chunk = loss_chunk_rows(t, n);
	const struct pass_shape shape = {
		.tokens = n,
		.sequences = sequences + fills,
		.hidden = c->hidden_size,
		.intermediate = c->intermediate_size,
		.vocab = c->vocab_size,
		.heads = c->heads,
		.kv_heads = c->kv_heads,
		.head_dim = c->head_dim,
		.max_keys = n,
		.logits = n < chunk ? n : chunk,
		.rank = t->lora ? t->lora->rank : 0,
		.train = true,
		.full = full,
		.weights = c->layers ? t->model->layers[0].proj[PROJ_Q].dtype : DTYPE_F32,
	};

	int filling = fills ? bucket_filling(tokens) : 0;

	if (workspace_plan(t, PASS_TRAIN, n, sequences + fills, filling > positions ? filling : positions,
			   err))
		return -1;
	return device_reserve(t->device, device_scratch_for(t->device, &shape), err);
}

void workspace_upload(struct transformer *t)
{
	device_upload(t->device, t->w->block, t->w->host_block, t->w->block_size);
}

void workspace_free(struct transformer *t)
{
	forget_records(t);
	free(t->records);
	device_free(t->device, t->memory);
	device_free(t->device, t->rope_cos);
	device_free(t->device, t->rope_sin);
	device_free(t->device, t->sums);
	free(t->host_memory);
	for (int k = 0; k < PASS_KINDS; k++)
		free(t->spaces[k].acts);
}

/* ---- recording ---- */

static int record(struct transformer *t, const struct pass *p, asking *ask, const void *arg,
		  struct recording **out, struct error *err)
{
	if (device_record_begin(t->device, err))
		return -1;
	ask(t, p, arg);
	return device_record_end(t->device, out, err);
}

int pass_record(struct transformer *t, const struct pass *p, int part, const void *full, asking *ask,
		const void *arg, struct error *err)
{
	struct record_key key;
	struct record *r = NULL;

	if (!device_records(t->device)) {
		ask(t, p, arg);
		return 0;
	}
	memset(&key, 0, sizeof key); /* compared whole, gaps included */
	key.part = part;
	key.kind = (int)p->kind;
	key.tokens = p->n;
	key.sequences = p->attention.sequences;
	key.longest = p->attention.max_q;
	key.labels = p->labels;
	key.dropout = p->dropout;
	key.seed = p->seed;
	key.full = full;
	key.cache = p->cache ? p->cache->id : 0;
	for (size_t i = 0; i < t->n_records && !r; i++)
		if (memcmp(&t->records[i].key, &key, sizeof key) == 0)
			r = &t->records[i];
	if (!r) {
		/* The first time chooses algorithms, loads kernels and grows scratch. */
		ask(t, p, arg);
		if (t->n_records == RECORDS_MOST)
			return 0;
		grow(&t->records, &t->cap_records, t->n_records + 1, sizeof *t->records);
		r = &t->records[t->n_records++];
		*r = (struct record){key, NULL};
		/* Training comes back to this size: it is recorded while the device works on what was just asked for. */
		return p->kind == PASS_TRAIN ? record(t, p, ask, arg, &r->recording, err) : 0;
	}
	if (!r->recording && record(t, p, ask, arg, &r->recording, err))
		return -1;
	device_replay(t->device, r->recording);
	return 0;
}
