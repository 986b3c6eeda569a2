/* The "pre_tokenizer" of a tokenizer.json: cuts normalised text into words, which the model encodes one by
 * one. */
#ifndef TOKENIZER_PRETOKENIZER_H
#define TOKENIZER_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>

#include "tokenizer/aligned.h"
#include "tokenizer/regex.h"

enum pretokenizer_kind {
	PRETOKENIZE_SPLIT_TEXT,  /* matches are occurrences of text */
	PRETOKENIZE_SPLIT_REGEX, /* matches are those of regex */
	PRETOKENIZE_SPLIT_CLASS, /* matches are single characters of a class */
	PRETOKENIZE_WORDS,       /* \w+|[^\w\s]+ are words, the rest goes: "Whitespace" */
	PRETOKENIZE_METASPACE,   /* spaces become text ("▁"), which starts words */
	PRETOKENIZE_BYTE_LEVEL,  /* GPT-2's words, bytes written as printable characters */
};

enum split_behavior {
	SPLIT_REMOVED,
	SPLIT_ISOLATED,
	SPLIT_MERGED_PREVIOUS,
	SPLIT_MERGED_NEXT,
	SPLIT_CONTIGUOUS
};
enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

struct pretokenizer {
	enum pretokenizer_kind kind;
	enum split_behavior behavior; /* SPLIT_*: what becomes of matches */
	bool invert;                  /* SPLIT_*: matches are what is between the matches */
	char *text;                   /* SPLIT_TEXT, METASPACE; owned */
	size_t text_len;
	struct regex *regex;         /* SPLIT_REGEX; owned */
	bool (*in_class)(uint32_t);  /* SPLIT_CLASS */
	enum prepend_scheme prepend; /* METASPACE: whether text is put in front */
	bool split;     /* METASPACE: cut at text; BYTE_LEVEL: cut by GPT-2's pattern, which is in regex */
	bool add_space; /* BYTE_LEVEL: a space before what does not start with one */
};

struct pretokenizers {
	struct pretokenizer *list; /* applied in order */
	size_t n, cap;
};

/* GPT-2's pattern, which ByteLevel stands for (github.com/openai/gpt-2, src/encoder.py). */
#define GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* Bytes [from, to) of an aligned text; never empty. */
struct span {
	size_t from, to;
};

struct spans {
	struct span *list;
	size_t n, cap;
};

struct pretokenizer *pretokenizers_add(struct pretokenizers *ps, enum pretokenizer_kind kind);
void pretokenizers_free(struct pretokenizers *ps);

/* Cuts (and for METASPACE and BYTE_LEVEL rewrites) *a into *words. tmp and spare are scratch memory. */
int pretokenizers_apply(const struct pretokenizers *ps, struct aligned *a, struct aligned *tmp,
			struct spans *words, struct spans *spare, struct regex_match *m, struct error *err);

#endif
