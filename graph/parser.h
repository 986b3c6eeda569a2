/* The parser's state, and what its files share. Private to recover.c, parse_value.c, parse.c and hints.c. */
#ifndef GRAPH_PARSER_H
#define GRAPH_PARSER_H

#include "graph/names.h"
#include "graph/syntax.h"

struct parser {
	struct lexer lex;
	struct token tok; /* the token being looked at */
	struct arena *arena;
	struct diags *diags;
	const struct source *source;
	bool newlines; /* line ends are tokens here (not inside a list) */
	bool panic;    /* a mistake is reported, and where to go on is still to be found: skip_line does */
	bool unclosed; /* the mistake is that brackets are not closed: nothing is left to skip */
	unsigned open_braces,
		open_lists; /* brackets that the panic left open: skip_line looks for their ends */
	unsigned depth;
};

/* A block with more lists or objects inside each other than this is an error. */
#define MAX_DEPTH 32

/* ---- recover.c: moving over tokens, and finding the way after a mistake ---- */

void parser_advance(struct parser *p);
/* The token behind p->tok, without taking it. */
struct token parser_peek(const struct parser *p);
/* An error at a place on the line of p->tok; false, and nothing is reported, when that line has one already. */
bool parser_error(struct parser *p, const struct place *at, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
bool parser_word_is(const struct parser *p, const struct place *at, const char *word);
/* An enum block_type, or -1. */
int parser_block_type(const struct parser *p, const struct place *at);
/* Whether p->tok begins a block (a known word, a name and "{"), or an attribute (a name and "="). They look at the
 * bytes of the line, so that they cost no more than it. */
bool parser_begins_block(const struct parser *p);
bool parser_begins_attr(const struct parser *p);
/* Whether there is nothing but blanks before p->tok on its line. */
bool parser_starts_line(const struct parser *p);
/* Goes to the end of the line (or to a closing brace on it) without a word about what lies between. Brackets that
 * open on the way are followed to their end, a list at most to where the next attribute or block begins. */
void parser_skip_line(struct parser *p);
/* From a head that is wrong to behind the closing brace, if there is a block at all. */
void parser_skip_block(struct parser *p);

/* ---- parse_value.c ---- */

/* Reads the value at p->tok. With p->panic afterwards the caller gives up what it is in. */
struct node *parser_read_value(struct parser *p, const char *behind);

/* name = value entries of a block or object, checked for doubles. */
struct entries {
	struct entry *first, **tail;
	uint32_t n;
	struct names seen; /* once there are many */
};
/* Adds e, or reports that the name is there already; what: "attribute", "name". */
void parser_add_entry(struct parser *p, struct entries *all, struct entry *e, const char *what);
/* A name at p->tok, quoted by mistake or not. False when there is none. */
bool parser_read_name(struct parser *p, struct place *name, const char *what);
/* p->tok stands behind a name; takes "=" or what was written for it. False after an error that ends the line. */
bool parser_read_equals(struct parser *p, const struct place *name);

/* ---- hints.c: what is wrong, in the words of the mistake that was made ---- */

/* Reports operators, calls, indices, conditionals, parentheses at p->tok. False when it is none of them. */
bool hint_operator(struct parser *p);
/* p->tok stands behind a value, where "the end of the line" or what is given was expected. */
void hint_after_value(struct parser *p, const struct node *value, const char *expected);
/* p->tok cannot begin a value, which was expected behind what ("\"=\""). */
void hint_no_value(struct parser *p, const char *behind);
/* p->tok is a word that begins no block of the language. */
void hint_unknown_block(struct parser *p);

#endif
