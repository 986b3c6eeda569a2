/* What a tokenizer is made of, for the files of this folder. */
#ifndef TOKENIZER_INTERNAL_H
#define TOKENIZER_INTERNAL_H

#include <jansson.h>
#include <pthread.h>

#include "tokenizer/added.h"
#include "tokenizer/bpe.h"
#include "tokenizer/decoder.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/tokenizer.h"

#define LOWER_ONE_EIGHTH "\xe2\x96\x81" /* U+2581, how SentencePiece writes a space */

/* Ids above this are refused in files: tables are indexed by them. */
enum { TOKENIZER_MAX_ID = (1 << 24) - 1 };

/* Kinds of SentencePiece pieces (sentencepiece_model.proto, ModelProto.SentencePiece.Type). */
enum { PIECE_NORMAL = 1, PIECE_UNKNOWN, PIECE_CONTROL, PIECE_USER, PIECE_UNUSED, PIECE_BYTE };

/* What a tokenizer.model says beyond the pipeline, for writing it as JSON. */
struct sentencepiece {
	float *score;  /* (bpe.n) */
	uint8_t *type; /* (bpe.n) PIECE_* */
	bool dummy_prefix, remove_extra, escape;
};

struct id_list {
	int32_t *ids;
	size_t n, cap;
};

struct work; /* scratch memory of one call */

struct tokenizer {
	char *source; /* the file it was read from */
	bool from_json;
	struct sentencepiece spm; /* from a tokenizer.model */

	struct added added;
	struct normalizers normalizers;
	struct pretokenizers pretokenizers;
	struct bpe bpe;
	struct id_list prefix, suffix; /* what the post-processor adds */
	struct decoders decoders;

	/* By id, for decoding: the model's tokens and the added ones. */
	size_t n_tokens;
	struct token_name {
		const char *s; /* NULL: no such id */
		uint32_t len;
		bool special;
	} * tokens;

	int32_t bos, eos, pad, unk;

	/* Scratch memory that no call uses now; calls take one and put it back. */
	pthread_mutex_t lock;
	struct work *idle;
};

/* Read a file into a zeroed *t. */
int tokenizer_read_json(struct tokenizer *t, const char *path, struct error *err);
int tokenizer_read_model(struct tokenizer *t, const char *path, struct error *err);
/* Applies tokenizer_config.json and special_tokens_map.json in dir, where they are. */
int tokenizer_read_config(struct tokenizer *t, const char *dir, struct error *err);

/* Makes the indexes once all tokens are known. */
int tokenizer_finish(struct tokenizer *t, struct error *err);

/* Sets prefix and suffix to <bos> and <eos>, as wanted and as there are any. */
void tokenizer_set_template(struct tokenizer *t, bool bos, bool eos);
/* Whether the model or an added token has this id. */
bool tokenizer_id_taken(const struct tokenizer *t, int32_t id);
void id_list_add(struct id_list *l, int32_t id);

/* {"type": "TemplateProcessing", …} that puts these ids around a text. */
json_t *template_json(const struct tokenizer *t);

#endif
