/* safetensors files: memory-mapped, validated reading (a hostile header is an error, never a crash) and streaming
 * writing. Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, data. */
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum tensor_dtype {
	TENSOR_F64,
	TENSOR_F32,
	TENSOR_F16,
	TENSOR_BF16,
	TENSOR_I64,
	TENSOR_I32,
	TENSOR_I16,
	TENSOR_I8,
	TENSOR_U8,
	TENSOR_BOOL
};

#define TENSOR_MAX_DIMS 8

struct tensor {
	const char *name;
	enum tensor_dtype dtype;
	int ndims;
	int64_t shape[TENSOR_MAX_DIMS]; /* row-major */
	const void *data; /* into the map; valid until the file is closed; aligned to the dtype or not:
	                                 * read through memcpy or the conversion functions */
	uint64_t bytes;
	const char *file; /* path of the shard it is in, for messages and for merge */
};

size_t tensor_dtype_size(enum tensor_dtype d);
const char *tensor_dtype_name(enum tensor_dtype d); /* "F32", "BF16" … as in the header */
int64_t tensor_elements(const struct tensor *t);
/* out[i] = (float)element; F32, F16, BF16 and F64 only (ERR_USAGE otherwise). n = tensor_elements. */
int tensor_to_f32(const struct tensor *t, float *out, struct error *err);

/* A model's tensors: one file, or a directory with model.safetensors, or with model.safetensors.index.json and its
 * shards (every tensor of the index in the named shard, and every shard's tensor in the index, or an error that names
 * tensor, expected and found). */
struct tensors;
int tensors_open(const char *path, struct tensors **out, struct error *err);
void tensors_close(struct tensors *t);
size_t tensors_count(const struct tensors *t);
const struct tensor *tensors_at(const struct tensors *t, size_t i);           /* sorted by name */
const struct tensor *tensors_find(const struct tensors *t, const char *name); /* NULL when absent */

/* The value of key in the "__metadata__" of the first file, or NULL; valid until tensors_close. */
const char *tensors_metadata(const struct tensors *t, const char *key);

/* Writes one file. All tensors are declared first (their data pointer may be NULL), then their bytes are given in the
 * order of the file, which is the safetensors library's: by dtype (I64 F64 F32 I32 BF16 F16 I16 I8 U8 BOOL: larger
 * elements first, so that every tensor is aligned), then by name. */
struct tensors_writer;
/* declared: name, dtype, shape; metadata: NULL-terminated key, value, key, value …; {"format","pt"} is always there.
 * The header is padded with spaces to a multiple of 8. Writes to path directly: the caller stages. */
int tensors_create(const char *path, const struct tensor *declared, size_t n, const char *const *metadata,
		   struct tensors_writer **out, struct error *err);
/* The order in which data must be added: order[k] = index into declared of the k-th tensor of the file. */
const size_t *tensors_order(const struct tensors_writer *w);
/* Adds bytes to the data section; any split. */
int tensors_add(struct tensors_writer *w, const void *bytes, size_t n, struct error *err);
/* Finishes (fsync, close) and frees w; -1 when fewer or more bytes were added than declared. w is freed in any case. */
int tensors_commit(struct tensors_writer *w, struct error *err);
void tensors_abandon(struct tensors_writer *w);

#endif
