/* Inside the transformer: its workspace and the pass through the layers that training, scoring and decoding share. */
#ifndef MODEL_TRANSFORMER_PASS_H
#define MODEL_TRANSFORMER_PASS_H

#include "kernels/kernels.h"
#include "model/transformer.h"

/* What one layer computes. A training pass keeps them all until the way back; otherwise every layer uses the same ones,
 * and x_in, x_mid and the next layer's x_in are one buffer. n tokens; h hidden, a heads * head_dim, c kv_heads *
 * head_dim, f intermediate. */
struct acts {
	float *x_in;             /* (n, h): the residual stream at its entry */
	float *rstd_in;          /* (n) */
	float *h_in;             /* (n, h): normalised, what q, k, v see */
	float *q, *k, *v;        /* (n, a), (n, c), (n, c): q and k rotated */
	float *attn, *lse;       /* (n, a), (n, heads) */
	float *x_mid;            /* (n, h): the residual stream behind attention */
	float *rstd_mid, *h_mid; /* (n), (n, h) */
	float *gate, *up, *act;  /* (n, f) each */
	float *xa[PROJ_COUNT];   /* (rank, n) */
};

struct transformer {
	const struct model *model;
	const struct lora_set *lora;
	const struct kernels *ops;
	char *memory; /* of the workspace: all pointers below are into it, laid out anew for each pass */
	size_t memory_size;
	float *rope_cos, *rope_sin; /* (rope_positions, head_dim / 2) */
	int rope_positions;

	int32_t *position; /* (n): of each token within its sequence */
	int32_t *token;    /* (n): what it is called in dropout's counters */
	struct acts *acts; /* (layers): of a training pass all different */
	float *x_out;      /* (n, h): behind the last layer */

	/* The loss, over the m <= n labelled positions. */
	int32_t *label_at, *label; /* (m): position and target */
	float *picked, *normed;    /* (m, h): x_out there, and normalised */
	float *picked_rstd;        /* (m) */
	float *logits;             /* (rows of a chunk, vocab) */
	double *losses;            /* (rows of a chunk) */

	/* The way back. */
	float *dx;           /* (n, h): of the residual stream */
	float *dh;           /* (n, h): of a normalised input */
	float *dq, *dk, *dv; /* as q, k, v */
	float *dattn, *dact; /* (n, a), (n, f) */
	float *dxa;          /* (rank, n) */
	float *dnormed;      /* (m, h) */
};

enum pass_kind {
	PASS_FORWARD, /* nothing is kept */
	PASS_LOSS,    /* and buffers for the loss */
	PASS_TRAIN,   /* and everything for the way back */
};

/* One way through the layers. */
struct pass {
	int n;
	struct attention attention;
	const struct dropout *drop; /* NULL: none */
	struct kv_cache *cache;     /* NULL: keys and values stay in acts */
	int slot, past;             /* with a cache: the tokens already in it */
};

struct kv_cache {
	int layers, slots, capacity, width; /* width: kv_heads * head_dim */
	float *memory;                      /* (layers, 2, slots, capacity, width) */
	int *length;                        /* (slots) */
};

/* The first row of layer's keys (what 0) or values (what 1) in slot. */
float *kv_cache_rows(const struct kv_cache *k, int layer, int what, int slot);

/* Rows of logits that are made at once. */
int loss_chunk_rows(const struct model_config *c);

/* Checks b, lays the workspace out for it, and fills position and token. */
int workspace_for_batch(struct transformer *t, const struct batch *b, const struct dropout *drop,
			enum pass_kind kind, struct error *err);
/* Lays it out for n tokens and positions up to last_position. ERR_INFRA when the memory is not there. */
int workspace_plan(struct transformer *t, int n, int last_position, enum pass_kind kind, struct error *err);

/* ids (n) through embedding and layers into x_out. */
void pass_forward(struct transformer *t, const struct pass *p, const int32_t *ids);
/* The mask of one projection's input; NULL when nothing is dropped. */
const struct dropout_mask *pass_mask(const struct transformer *t, const struct pass *p, int layer,
				     enum proj proj, struct dropout_mask *out);
/* The kernels' name for a config's activation. */
enum gate gate_of(enum activation a);
/* The pass over a whole batch. */
struct pass pass_of_batch(const struct transformer *t, const struct batch *b, const struct dropout *drop);

#endif
