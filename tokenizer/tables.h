/* The two big tables of a tokenizer.json: model.vocab and model.merges. They are nearly all of the file (Gemma:
 * 256,000 tokens, 580,000 merges), and reading them without building a JSON tree opens it several times faster. */
#ifndef TOKENIZER_TABLES_H
#define TOKENIZER_TABLES_H

#include <stddef.h>

#include "base/error.h"
#include "tokenizer/bpe.h"

/* Reads the two into b and takes them out of text (*n bytes, NUL-terminated behind them), so that the rest can be
 * parsed as JSON: a 0 and their line breaks remain, and lines keep their numbers. A table that is missing or of another
 * type is left alone, and b without it. ERR_USAGE, naming path, key and byte, when a table is malformed. */
int tables_read(struct bpe *b, char *text, size_t *n, const char *path, struct error *err);

#endif
