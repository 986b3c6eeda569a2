/* A model's weights as transformers writes them: model.safetensors, or model-0000X-of-0000Y.safetensors with
 * model.safetensors.index.json. */
#ifndef MODEL_SHARDS_H
#define MODEL_SHARDS_H

#include "model/safetensors.h"

/* The place of a tensor in transformers' state_dict of a decoder: embedding, the layers with q k v o gate up down and the
 * norms, final norm, lm_head; names it does not know come last, by name. For qsort over struct tensor. */
int tensor_by_state_dict(const void *a, const void *b);

/* shard[i] = 0-based shard of tensor i, packed greedily in the order given as huggingface_hub does it: a tensor that does not
 * fit into max_bytes beside the ones before it starts a new shard. Returns the number of shards. */
size_t shards_plan(const struct tensor *t, size_t n, uint64_t max_bytes, size_t *shard);

/* Gives the bytes of tensor i (of the list given to shards_write) to w with tensors_add. */
typedef int tensor_produce(size_t i, struct tensors_writer *w, void *arg, struct error *err);

/* Writes the n declared tensors (name, dtype, shape; order as they should be packed) into dir, which must exist: produce is
 * called once for each. Then reads everything back by tensors_open, so that a wrong index cannot leave unnoticed. total gets
 * the bytes of weights. Memory: one header at a time. */
int shards_write(const char *dir, const struct tensor *declared, size_t n, uint64_t max_bytes, tensor_produce *produce,
		 void *arg, uint64_t *total, struct error *err);

/* tensors_add of t's elements converted to dtype (F32, F16 or BF16; round to nearest even), in tiles. The same dtype
 * copies the bytes. delta, when not NULL, is called for every tile and adds to it: values (rows first … first + count - 1 of
 * a matrix with cols columns) fp32. */
int tensor_convert(const struct tensor *t, enum tensor_dtype dtype, struct tensors_writer *w,
		   void (*delta)(float *tile, int64_t first, int64_t count, int64_t cols, void *arg), void *arg,
		   struct error *err);

#endif
