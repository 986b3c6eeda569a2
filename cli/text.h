/* Text for people: counts, widths, tables, colours. */
#ifndef CLI_TEXT_H
#define CLI_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/str.h"

struct result;

/* 76100 -> "76,100". Writes at most 32 bytes. */
const char *text_count(uint64_t n, char out[32]);
/* A measured number with the digits that matter: "3.12", "41.7", "1,204". */
const char *text_number(double v, char out[32]);
/* "2026-01-31 12:34:56" in local time. */
const char *text_time(int64_t wall_ms, char out[32]);
/* "4 s ago", "3 min ago", "2 h ago", "5 days ago". */
const char *text_ago(int64_t wall_ms, int64_t now_ms, char out[32]);

/* Columns that n bytes of s take on a terminal: wide characters two, combining ones none, escape sequences none. */
size_t text_width(const char *s, size_t n);
/* Appends as much of s as fits into width columns, with an ellipsis where it was cut; escape sequences are kept whole. */
void text_fit(struct strbuf *out, const char *s, size_t width);
/* Appends s with everything that would move a terminal's cursor or set its colours replaced by '?': for what stages print
 * and files contain. */
void text_clean(struct strbuf *out, const char *s);

/* A result's facts in one line: "1,000 rows, 76,100 tokens, loss 0.431". */
void text_facts(struct strbuf *out, const struct result *r);

/* "\033[32m" and the like, or "" without colour. */
enum paint { PAINT_NONE, PAINT_BOLD, PAINT_DIM, PAINT_GREEN, PAINT_RED, PAINT_YELLOW, PAINT_BLUE };
const char *paint(enum paint p, bool color);

/* A table: columns are as wide as their widest cell, two blanks apart; the last is not padded. */
struct table {
	size_t columns;
	unsigned right; /* bit i: column i is aligned to the right */
	char **cells;   /* row by row */
	size_t n, cap;  /* cells */
};

void table_add(struct table *t, const char *cell); /* copied; NULL is "" */
/* Prints the rows, each behind indent, the first one dim when header is set; frees the cells. */
void table_print(struct table *t, FILE *out, const char *indent, bool header, bool color);
/* Frees the cells unprinted. */
void table_drop(struct table *t);

#endif
