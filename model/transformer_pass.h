/* Inside the transformer: its workspace, and the pass through the layers that training, scoring and decoding share. */
#ifndef MODEL_TRANSFORMER_PASS_H
#define MODEL_TRANSFORMER_PASS_H

#include "kernels/kernels.h"
#include "model/transformer.h"

/* What the host tells a pass: one block, filled on the host and uploaded at once. */
struct inputs {
	int32_t *ids, *position;  /* (tokens); position within its sequence */
	int32_t *token;           /* (tokens): what it is called in dropout's counters */
	int32_t *kv_row;          /* (tokens): decoding: the row of the cache for its key and value */
	int32_t *label_at;        /* (tokens): the m labelled positions, then -1 */
	int32_t *label;           /* (tokens): their targets, then -1 */
	int32_t *cu_q;            /* (sequences + 1) */
	int32_t *k_begin, *k_end; /* (sequences): decoding: rows of the cache */
	int32_t *last;            /* (sequences): decoding: the position whose logits are wanted */
	uint32_t *step;           /* (1): dropout's */
	float *grad_scale;        /* (1) */
};

/* What one layer computes. A training pass keeps until the way back what that reads, of h_in, h_mid and act only those that a trained
 * projection saw (take_acts, workspace.c); otherwise every layer uses the same ones, and x_in, x_mid and the next layer's x_in are one buffer. n tokens; h hidden, a heads * head_dim, c kv_heads *
 * head_dim, f intermediate. void: activations. */
struct acts {
	float *x_in;           /* (n, h): the residual stream at its entry */
	float *rstd_in;        /* (n) */
	void *h_in;            /* (n, h): normalised, what q, k, v see */
	void *qkv;             /* (n, a + 2c): q, k, v of a token side by side; q and k rotated */
	void *attn;            /* (n, a) */
	float *lse;            /* (n, heads) */
	float *x_mid;          /* (n, h): the residual stream behind attention */
	float *rstd_mid;       /* (n) */
	void *h_mid;           /* (n, h) */
	void *gate_up;         /* (n, 2f): gate and up of a token side by side */
	void *act;             /* (n, f) */
	float *xa[PROJ_COUNT]; /* (rank, n) */
};

enum pass_kind {
	PASS_FORWARD, /* nothing is kept */
	PASS_LOSS,    /* and buffers for the loss */
	PASS_TRAIN,   /* and everything for the way back */
	PASS_KINDS
};

/* The buffers of one kind of pass. They stay where they are for every pass within these bounds, so that recordings hold. */
struct workspace {
	int tokens, sequences;  /* laid out for at most so many; 0: not yet */
	struct inputs host, in; /* the same block, in the host's and the device's memory */
	void *host_block, *block;
	size_t block_size;

	struct acts *acts; /* (layers): of a training pass all different */
	float *x_out;      /* (n, h): behind the last layer */
	/* The vocabulary: of the m <= n labelled positions, or of the sequences' last ones. */
	float *picked;      /* (m, h): x_out there */
	void *normed;       /* (m, h) */
	float *picked_rstd; /* (m) */
	float *logits;      /* (rows of a chunk, vocab) */
	int32_t *chosen;    /* (rows of a chunk): argmax */

	/* The way back. */
	void *dlogits;  /* (rows of a chunk, vocab); the logits themselves when activations are fp32 */
	float *dx;      /* (n, h): of the residual stream */
	void *dx_act;   /* (n, h): the same as activations; dx itself when they are fp32 */
	float *dh;      /* (n, h): of a normalised input */
	void *dqkv;     /* as qkv */
	void *dattn;    /* (n, a) */
	void *dact;     /* (n, f) */
	float *dxa;     /* (LORA_PARTS * rank, n) */
	float *dnormed; /* (m, h) */
};

/* Which passes are alike: they ask the same of the device, whatever the buffers hold. */
struct record_key {
	int part, kind;
	int tokens, sequences, longest, labels;
	float dropout;
	uint64_t seed;
	const void *full; /* struct full_grads */
	uint64_t cache;   /* struct kv_cache's id; 0: none */
};

struct record {
	struct record_key key;
	struct recording *recording; /* NULL: it was asked for once so far */
};

struct transformer {
	const struct model *model;
	const struct lora_set *lora;
	struct device *device;
	const struct kernels *ops;
	size_t act_size;

	char *memory; /* of the device; the workspaces lie in it, one over the other: only one kind of pass runs at a time */
	size_t memory_size;
	char *host_memory; /* of the inputs */
	struct workspace spaces[PASS_KINDS];
	struct workspace *w;        /* of the pass in progress */
	float *rope_cos, *rope_sin; /* (rope_positions, head_dim / 2) */
	int rope_positions;
	double *sums; /* (2): see transformer_sums */

	struct record *records;
	size_t n_records, cap_records;
};

/* One way through the layers. */
struct pass {
	enum pass_kind kind;
	int n;                      /* tokens, filling included */
	int labels;                 /* labelled positions, filling included */
	struct attention attention; /* over qkv, or over the cache */
	float dropout;              /* 0: none */
	uint64_t seed;
	struct kv_cache *cache; /* NULL: keys and values stay in acts */
};

struct kv_cache {
	struct device *device;
	uint64_t id;                        /* no two caches of a process have the same */
	int layers, slots, capacity, width; /* width: kv_heads * head_dim */
	char *memory;                       /* activations (layers, 2, slots * capacity, width) */
	int *length;                        /* (slots) */
};

/* The rows (slots * capacity, width) of layer's keys (what 0) or values (what 1). */
void *kv_cache_rows(const struct kv_cache *k, int layer, int what);

/* Rows of logits that are made at once in a workspace for so many tokens: few beside small ones, whose memory they would be;
 * an eighth of the tokens of large ones, for which the vocabulary's matrix is read less often. */
int loss_chunk_rows(const struct transformer *t, int tokens);

/* Makes t->w a workspace of this kind for at least so many tokens, sequences and positions. ERR_INFRA when the memory is
 * not there. */
int workspace_plan(struct transformer *t, enum pass_kind kind, int tokens, int sequences, int positions,
		   struct error *err);
/* Uploads t->w's inputs. */
void workspace_upload(struct transformer *t);
void workspace_free(struct transformer *t);

/* Checks b, plans for it and fills and uploads its inputs; *p is the pass over it. */
int pass_of_batch(struct transformer *t, const struct batch *b, const struct dropout *drop,
		  enum pass_kind kind, float grad_scale, struct pass *p, int64_t *labelled,
		  struct error *err);

/* Does what `ask` asks of the device: on one that records, from the second time for a key on, by replaying. */
typedef void asking(struct transformer *t, const struct pass *p, const void *arg);
int pass_record(struct transformer *t, const struct pass *p, int part, const void *full, asking *ask,
		const void *arg, struct error *err);

/* Through embedding and layers into x_out. */
void pass_forward(struct transformer *t, const struct pass *p, const void *unused);
/* The adapters of `count` projections from `first` on, for one layer; gives their number. at: columns of y before each. */
int pass_lora(const struct transformer *t, int layer, enum proj first, int count,
	      struct lora_part parts[LORA_PARTS]);
/* What is dropped; NULL for nothing. */
const struct dropout_mask *pass_mask(const struct transformer *t, const struct pass *p,
				     struct dropout_mask *out);
/* The projections from `first` on that see the same input, as one matrix; NULL when they are not. */
const struct matrix *pass_group(const struct layer *w, enum proj first);
/* The kernels' name for a config's activation. */
enum gate gate_of(enum activation a);
/* y behind `columns` columns. */
void *act_at(const struct transformer *t, const void *y, size_t columns);

#endif
