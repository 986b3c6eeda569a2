/* The "decoder" of a tokenizer.json: tokens to text. Each step takes tokens one at a time and passes on what
 * can no longer change, so that a stream and a whole decode run the same code. */
#ifndef TOKENIZER_DECODER_H
#define TOKENIZER_DECODER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/str.h"

enum decoder_kind {
	DECODE_REPLACE,       /* text -> content, within each token */
	DECODE_BYTE_FALLBACK, /* a run of "<0xHH>" -> its bytes; one U+FFFD for each when they are not UTF-8
			       */
	DECODE_FUSE,          /* all tokens become one */
	DECODE_STRIP, /* up to left copies of text off the start, up to right off the end of each token */
	DECODE_BYTE_LEVEL, /* the byte-level alphabet -> bytes; all tokens become one */
	DECODE_METASPACE,  /* text -> a space; nothing in the first token */
};

struct decoder {
	enum decoder_kind kind;
	char *text; /* REPLACE, STRIP (one character), METASPACE (one character); owned */
	size_t text_len;
	char *content; /* REPLACE; owned */
	size_t content_len;
	size_t left, right; /* STRIP */
	bool keep_first;    /* METASPACE: the first token is like the others */
};

enum { DECODERS_MAX = 16 };

struct decoders {
	struct decoder list[DECODERS_MAX]; /* applied in order; none: tokens are joined by spaces */
	size_t n;
};

/* Adds an empty decoder of this kind; NULL when there are DECODERS_MAX already. */
struct decoder *decoders_add(struct decoders *ds, enum decoder_kind kind);
/* ERR_USAGE when a step cannot run token by token: Strip at the end, or a Replace of several characters,
 * behind Fuse or ByteLevel. */
int decoders_check(const struct decoders *ds, struct error *err);
void decoders_free(struct decoders *ds);

/* A decode that is under way. */
struct decoding {
	const struct decoders *ds;
	bool any; /* a token came already */
	struct {
		struct strbuf held; /* bytes whose text is not settled */
		struct strbuf made; /* scratch */
		size_t stripped;    /* STRIP behind FUSE: copies taken off so far */
		bool started; /* STRIP behind FUSE: something else came; METASPACE: the first token came */
	} step[DECODERS_MAX];
};

void decoding_init(struct decoding *d, const struct decoders *ds);
/* Appends what token (n bytes) settles to *out. */
void decoding_add(struct decoding *d, const char *token, size_t n, struct strbuf *out);
/* Appends what is held; d is as new afterwards. */
void decoding_finish(struct decoding *d, struct strbuf *out);
void decoding_free(struct decoding *d);

#endif
