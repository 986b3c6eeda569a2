/* Tokenizers: a Hugging Face tokenizer.json or a SentencePiece tokenizer.model, text -> ids and back, with
 * the ids that the `tokenizers` and `sentencepiece` libraries give.
 *
 * What is supported: BPE models in both families,
 *   - SentencePiece-style (Gemma, Llama 2, Mistral): scores or merges over characters, byte fallback;
 *   - byte-level (GPT-2, Llama 3, Qwen): merges over bytes written as printable characters, a regex that
 * splits the text first (through PCRE2). Unigram, WordPiece and WordLevel models, and parts of a
 * tokenizer.json that are not known here, are an ERR_USAGE that names the file and the key. The `truncation`
 * and `padding` sections of a tokenizer.json are ignored: they are settings of whoever wrote the file, and
 * callers here cut sequences themselves. */
#ifndef TOKENIZER_TOKENIZER_H
#define TOKENIZER_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/str.h"

/* Immutable after opening: every function that takes a const one may be called from several threads at once.
 */
struct tokenizer;

/* A growable list of token ids with the places that they come from. Start with TOKEN_IDS_INIT. */
struct token_ids {
	int32_t *ids; /* (n) */
	/* (n) Byte offset in the encoded text, one past the last byte that the token covers; never decreases.
	 * A token that stands for part of a character (byte fallback, byte-level) ends inside that character.
	 * Tokens that stand for no text end where the text before them ends: 0 for a leading <bos>, the
	 * length of the text for a trailing <eos>. Token i belongs wholly to the first k bytes iff ends[i] <=
	 * k. */
	uint32_t *ends;
	size_t n;   /* tokens */
	size_t cap; /* tokens allocated, in both arrays */
};

#define TOKEN_IDS_INIT                                                                                       \
	{                                                                                                    \
		NULL, NULL, 0, 0                                                                             \
	}

void token_ids_clear(struct token_ids *t); /* n = 0, memory kept */
void token_ids_free(struct token_ids *t);

enum {
	/* Encode: apply the post-processor, which adds <bos> and the like as the model was trained to see
	   them. */
	TOKENIZER_ADD_SPECIAL = 1,
	/* Encode: special tokens that are spelt out in the text ("<bos>") are plain text, as they are for
	 * SentencePiece. Without it they become their ids, as they do for Hugging Face. Use it for text that
	 * a stranger wrote. */
	TOKENIZER_PLAIN_SPECIAL = 2,
	/* Decode: leave special tokens out of the text. */
	TOKENIZER_SKIP_SPECIAL = 4,
};

/* Opens the tokenizer of a model directory: tokenizer.json, else tokenizer.model; tokenizer_config.json and
 * special_tokens_map.json beside it name the special tokens. path may also be such a file itself.
 *
 * add_bos_token and add_eos_token of tokenizer_config.json replace the post-processor, as in transformers;
 * where they are absent, Llama and Gemma classes and every tokenizer.model add <bos> and no <eos>, and for
 * others the post-processor of tokenizer.json stands.
 *
 * ERR_USAGE when there is none, or when it is malformed or of an unsupported kind. *out is freed with
 * tokenizer_free. */
int tokenizer_open(const char *path, struct tokenizer **out, struct error *err);
void tokenizer_free(struct tokenizer *t); /* NULL is fine */

/* Appends the ids of n bytes of text to *out. flags: TOKENIZER_ADD_SPECIAL, TOKENIZER_PLAIN_SPECIAL.
 * ERR_USAGE when the text is not valid UTF-8 (the offset is named) or not below 4 GiB; *out keeps its old n
 * then. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags,
		     struct token_ids *out, struct error *err);

/* Appends the text of n ids to *out: always valid UTF-8 (bytes that are not become U+FFFD). flags:
 * TOKENIZER_SKIP_SPECIAL. ERR_USAGE for an id that the vocabulary does not have; *out keeps its old length
 * then. */
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, unsigned flags,
		     struct strbuf *out, struct error *err);

/* Decoding one token at a time, for servers. What token_stream_add and token_stream_finish append, put
 * together, is what tokenizer_decode gives for all ids at once; every piece is valid UTF-8. Text that later
 * tokens may still change is held back: part of a character, and a run of <0xHH> byte tokens, which decodes
 * as a whole. */
struct token_stream;
/* flags as tokenizer_decode. t must outlive the stream; one stream belongs to one thread. */
struct token_stream *token_stream_new(const struct tokenizer *t, unsigned flags);
int token_stream_add(struct token_stream *s, int32_t id, struct strbuf *out, struct error *err);
/* Appends what was held back; the stream is as new afterwards. */
void token_stream_finish(struct token_stream *s, struct strbuf *out);
void token_stream_free(struct token_stream *s);

/* The ids of the special tokens that the configuration names, -1 when it names none. */
int32_t tokenizer_bos(const struct tokenizer *t);
int32_t tokenizer_eos(const struct tokenizer *t);
int32_t tokenizer_pad(const struct tokenizer *t);
int32_t tokenizer_unk(const struct tokenizer *t);
/* One more than the highest id, added tokens included. */
size_t tokenizer_vocab_size(const struct tokenizer *t);
/* The token as the vocabulary writes it ("▁the", "Ġthe", "<0x0A>"); NULL when there is no such id. Valid as
 * long as t. A token may contain NUL bytes; this shows it up to the first. */
const char *tokenizer_token(const struct tokenizer *t, int32_t id);
/* The id of a token as the vocabulary writes it, -1 when there is none. */
int32_t tokenizer_id(const struct tokenizer *t, const char *token);

/* Writes a tokenizer.json that Hugging Face `tokenizers` loads and that gives the same ids. A tokenizer that
 * was opened from a tokenizer.json gives that file byte for byte (it must still be there); one from a
 * tokenizer.model is converted as transformers does it: merges from scores, byte fallback, dummy prefix,
 * <bos> by template. ERR_USAGE when the format cannot say it (user-defined pieces together with a dummy
 * prefix). */
int tokenizer_write_json(const struct tokenizer *t, const char *path, struct error *err);
/* Writes the tokenizer_config.json that goes with it, so that transformers.AutoTokenizer loads the directory.
 */
int tokenizer_write_config(const struct tokenizer *t, const char *path, struct error *err);

/* Merges of a byte-level BPE in the order in which they were learnt. A symbol below 256 is a byte; symbol 256
 * + i is what merge i makes. */
struct bpe_merges {
	struct bpe_merge {
		uint32_t left, right; /* symbols; both made before this merge */
	} * merge;
	size_t n, cap;
};

#define BPE_MERGES_INIT                                                                                      \
	{                                                                                                    \
		NULL, 0, 0                                                                                   \
	}

void bpe_merges_free(struct bpe_merges *m);

/* The ids of the tokenizers that tokenizer_write_bytes makes, as Gemma has them. */
enum { BYTES_PAD = 0, BYTES_EOS = 1, BYTES_BOS = 2, BYTES_UNK = 3, BYTES_FIRST = 4 };

/* Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json of a byte-level BPE tokenizer into
 * the directory dir: <pad>, <eos>, <bos>, <unk>, the 256 bytes, then one token for each merge (merges may be
 * NULL: none); the vocabulary is 260 + merges->n. <bos> is added in front. Text is split by GPT-2's pattern
 * first. ERR_USAGE when a merge names a symbol that is not made yet, or two merges make the same token. */
int tokenizer_write_bytes(const char *dir, const struct bpe_merges *merges, struct error *err);

/* Learns at most n_merges merges from n texts (which must be valid UTF-8), split by GPT-2's pattern: the most
 * frequent pair first, of equally frequent ones the pair with the smaller left, then right symbol; it stops
 * early when no pair occurs twice. A pair whose merge would spell a token that is there already is passed
 * over. The same texts in any order give the same merges. Replaces *out. */
int tokenizer_train_bpe(const char *const *texts, const size_t *lengths, size_t n, size_t n_merges,
			struct bpe_merges *out, struct error *err);

#endif
