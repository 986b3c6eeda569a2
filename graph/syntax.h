/* From text to syntax tree: tokens, nodes, and the two functions that make them. Private to graph/.
 * The language is LL(1): the parser pulls one token at a time and keeps none. */
#ifndef GRAPH_SYNTAX_H
#define GRAPH_SYNTAX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "graph/diag.h"
#include "graph/graph.h"

/* Where something stands in its source; a span without the pointer. */
struct place {
	uint32_t offset, len; /* bytes */
	uint32_t line, col;   /* from 1; col counts code points */
};

enum token_type {
	TOK_EOF,
	TOK_NEWLINE, /* also the line end behind a # or // comment */
	TOK_COMMENT, /* without its line end */
	TOK_IDENT,
	TOK_NUMBER,  /* with its minus sign */
	TOK_STRING,  /* with its quotes */
	TOK_HEREDOC, /* from << to the end of the closing word */
	TOK_LBRACE,
	TOK_RBRACE,
	TOK_LBRACK,
	TOK_RBRACK,
	TOK_EQUALS,
	TOK_COMMA,
	TOK_DOT,
	TOK_COLON,
	TOK_OTHER, /* an operator, parenthesis, stray character: never right, the parser says why */
};

enum token_flags {
	TOKEN_ESCAPED = 1,  /* holds escapes: its text differs from its value */
	TOKEN_TEMPLATE = 2, /* holds ${…} */
	TOKEN_FLUSH = 4,    /* a <<- heredoc */
	TOKEN_BROKEN = 8,   /* an error in it is reported already */
};

struct token {
	enum token_type type;
	unsigned flags; /* enum token_flags */
	struct place at;
};

struct lexer {
	const struct source *source; /* its text has a NUL behind len */
	const char *p;               /* the next byte */
	const char *end;
	const char *line_start;
	uint32_t line;
	uint32_t extra;      /* UTF-8 continuation bytes since line_start: bytes that are no column */
	bool quiet;          /* report nothing (looking ahead, formatting) */
	uint32_t error_line; /* the last line with a reported mistake, 0: none */
	struct diags *diags; /* NULL when quiet throughout */
};

/* Starts at byte offset of the source (behind a byte order mark, if it begins with one). */
void lexer_init(struct lexer *x, const struct source *source, size_t offset, struct diags *d);
/* Never fails: what cannot be a token is reported, and comes back marked TOKEN_BROKEN or as TOK_OTHER. */
void lexer_next(struct lexer *x, struct token *t);
/* For messages: "\"{\"", "a string", "end of line" … Points into buf or to a constant. */
const char *token_describe(const struct source *s, const struct token *t, char buf[64]);

bool is_ident(const char *s, size_t n); /* [A-Za-z_][A-Za-z0-9_-]* */

/* Checks the inside of ${…}, p just behind the brace, e one past the last byte it may reach. Returns one past the
 * closing brace, or NULL: then *what says what is wrong. name, name_len: the reference without the blanks. */
const char *template_scan(const char *p, const char *e, const char **name, size_t *name_len,
			  const char **what);

/* ---- the tree ---- */

enum node_type { NODE_STRING, NODE_NUMBER, NODE_BOOL, NODE_REF, NODE_LIST, NODE_OBJECT, NODE_BROKEN };

struct node {
	enum node_type type : 8;
	unsigned flags : 8; /* of a NODE_STRING: enum token_flags */
	bool heredoc : 1;   /* a string written as heredoc */
	bool quoted : 1;    /* a reference written as "${a.b}" */
	bool raw : 1;       /* a NODE_STRING without quotes, from outside: its text is its value */
	bool truth : 1;     /* NODE_BOOL */
	uint32_t n;         /* parts of a reference, items of a list, members of an object */
	struct place at;    /* of a list or object: from bracket to bracket */
	union {
		struct place *parts;   /* NODE_REF */
		struct node *first;    /* NODE_LIST */
		struct entry *members; /* NODE_OBJECT */
	};
	struct node *next; /* in a list */
};

/* name = value, in a block or in an object. */
struct entry {
	struct place name;
	struct node *value;
	struct entry *next;
};

enum block_type { BLOCK_PIPELINE, BLOCK_PARAM, BLOCK_STAGE };

struct block {
	enum block_type type;
	bool broken;        /* something in it could not be read: what is missing may be there */
	struct place head;  /* the keyword */
	struct place label; /* the name's string, with its quotes; len 0: none */
	struct place name;  /* the name itself */
	struct entry *attrs;
	uint32_t nattrs;
	struct block *next;
};

struct tree {
	const struct source *source;
	struct block *blocks;
	size_t nstages, nparams;
	bool lost; /* a block was skipped whole: names may exist that are not in the tree */
};

/* Parses a whole source. Errors go to d; what could be read is in the tree nevertheless. Nodes live in a. */
void parse_file(const struct source *source, struct arena *a, struct diags *d, struct tree *out);
/* Parses one value from offset to the end of the source: an override, or a default of a schema. NULL with an
 * error in d when it is not one. */
struct node *parse_value(const struct source *source, size_t offset, struct arena *a, struct diags *d);

static inline const char *place_text(const struct source *s, const struct place *p)
{
	return s->text + p->offset;
}

static inline struct span span_at(const struct source *s, const struct place *p)
{
	return (struct span){s, p->offset, p->len, p->line, p->col};
}

#endif
