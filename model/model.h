/* A causal language model in memory: its weights, frozen or trained, and the low-rank adapters beside them. */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "kernels/kernels.h"
#include "model/config.h"

/* The linear projections of a decoder layer, in the order of transformers' state_dict. */
enum proj { PROJ_Q, PROJ_K, PROJ_V, PROJ_O, PROJ_GATE, PROJ_UP, PROJ_DOWN, PROJ_COUNT };

/* "q_proj" …; and "self_attn.q_proj" …, its path inside the layer. */
const char *proj_name(enum proj p);
const char *proj_path(enum proj p);
/* The projection called name ("q_proj"), or -1. */
int proj_of(const char *name);
/* Its shape for this config: y (rows) = W (rows, cols) x (cols). */
void proj_shape(const struct model_config *c, enum proj p, int *rows, int *cols);

/* struct matrix (kernels.h): (rows, cols) row-major, dtype fp32, bf16, fp16 or NF4 in blocks of 64. */

struct layer {
	float *input_norm; /* (hidden) fp32, as stored (Gemma: minus one) */
	float *post_norm;  /* (hidden) fp32: post_attention_layernorm */
	struct matrix proj[PROJ_COUNT];
	/* q, k and v, and gate and up, each group as one matrix of all its rows where they stand behind one another in
	 * memory (one product instead of three and two); rows 0 where they do not. */
	struct matrix qkv, gate_up;
};

/* Weights are in the memory of one device. */
struct model {
	struct model_config config;
	struct device *device; /* NULL: the CPU */
	struct matrix embed;   /* (vocab, hidden), never NF4 */
	struct matrix lm_head; /* (vocab, hidden); the same memory as embed when tied */
	float *final_norm;     /* (hidden) fp32 */
	struct layer *layers;  /* config.layers */
	void *owned;           /* what model_free releases: maps, buffers */
};

/* Where m's weights are: m->device, or the CPU. */
struct device *model_device(const struct model *m);

enum weight_format {
	WEIGHTS_F32, /* every matrix as fp32, owned by the model and writable: method full, tests */
	/* Inference, method lora. On the CPU the file's dtype, mapped and not copied; on a GPU rounded to activations. */
	WEIGHTS_AS_STORED,
	WEIGHTS_NF4,       /* the layers' projections quantised, embed and lm_head as stored: method qlora */
	WEIGHTS_NF4_DOUBLE /* the same with double-quantised absmax (bitsandbytes' nested quantisation) */
};

struct model_options {
	struct device *device; /* NULL: the CPU */
	enum weight_format format;
	/* WEIGHTS_NF4 and WEIGHTS_NF4_DOUBLE: once quantised, keep the dequantised values, rounded to activations. The same
	 * numbers go into products; several times the memory for none of the work. */
	bool resident;
	enum gelu_choice gelu;
	/* Recipe codelab: weights are rounded to fp16 before they are quantised, absmax is of the fp16 values and the
	 * dequantised value is rounded to fp16 (spec training 1.4, 1.7). Default: from the stored values, in fp32. */
	bool nf4_through_fp16;
};

/* Opens a Hugging Face model directory. Weights for a GPU stream from the files through pinned memory, and are quantised
 * there: the host holds no copy. A tensor that is missing, has another shape or is not of the architecture is
 * an error that names it, with expected and found. progress, when not NULL, is called with bytes done and in all. */
int model_open(const char *dir, const struct model_options *o,
	       void (*progress)(uint64_t done, uint64_t all, void *arg), void *arg, struct model **out,
	       struct error *err);
void model_free(struct model *m);
/* Bytes of weights resident (mapped ones included). */
uint64_t model_bytes(const struct model *m);

/* Bytes of a model's weights in NF4 (with fp32 absmax), and resident in 16 bits. */
uint64_t model_bytes_nf4(const struct model_config *c);
uint64_t model_bytes_resident(const struct model_config *c);
/* Which of the two a GPU should hold: resident when that leaves at least 40 % of the free memory for everything else and
 * the card streams 1 TB/s or more; on slower memory reading four times the bytes costs more than dequantising (spec:
 * L4 14 ms a step against 33 ms; H200 2.1 ms, where its tensor cores wait for dequantised values). */
bool model_wants_resident(const struct model_config *c, const struct device_info *gpu);

/* One projection's adapter: y += scale * B (A dropout(x)). */
struct lora {
	int rank;      /* 0: this projection has none */
	float *a;      /* (rank, cols) fp32 */
	float *b;      /* (rows, rank) fp32 */
	float *grad_a; /* same shapes; NULL outside training; the backward pass adds to them */
	float *grad_b;
};

/* The adapters of a model: layers * PROJ_COUNT entries. a, b of all entries stand in one allocation in the order
 * layer by layer, projection by projection, A before B, so that the optimizer and checkpoints see one vector. */
struct lora_set {
	struct device *device; /* in whose memory params and grads are */
	int layers, rank;
	float alpha;
	float scale; /* alpha / rank */
	bool target[PROJ_COUNT];
	struct lora *entries; /* entries[layer * PROJ_COUNT + proj] */
	float *params;        /* (count) fp32: every a and b */
	float *grads;         /* (count) fp32 or NULL */
	size_t count;
};

/* Allocates for the model's shapes on a device (NULL: the CPU); A and B zero. with_grads also allocates gradients (zero). */
int lora_set_new(struct device *d, const struct model_config *c, int rank, float alpha,
		 const bool target[PROJ_COUNT], bool with_grads, struct lora_set **out, struct error *err);
/* A from U(-1/sqrt(cols), 1/sqrt(cols)) (peft: kaiming_uniform with a = sqrt 5), B zero; Philox counters keyed by seed
 * and the entry's position, so that the values do not depend on the order of anything else. */
void lora_set_init(struct lora_set *s, uint64_t seed);
void lora_set_free(struct lora_set *s);
/* All parameters (count) from its device to the host, and to it. */
int lora_set_read(const struct lora_set *s, float *params, struct error *err);
void lora_set_write(struct lora_set *s, const float *params);

/* Gradients for every weight of a WEIGHTS_F32 model (method full). Layout of `grads` and of the views: embed, then per
 * layer q k v o gate up down input_norm post_norm, then final_norm, then lm_head when untied. */
struct full_grads {
	struct device *device;
	float *grads; /* (count) fp32, zeroed by the caller; the backward pass adds */
	size_t count;
	float *embed, *lm_head, *final_norm; /* lm_head == embed when tied */
	struct {
		float *proj[PROJ_COUNT];
		float *input_norm, *post_norm;
	} * layers;
};
int full_grads_new(const struct model *m, struct full_grads **out, struct error *err);
void full_grads_free(struct full_grads *g);

#endif
