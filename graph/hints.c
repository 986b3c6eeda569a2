/* Mistakes that people make, said in their own words. */
#include "graph/parser.h"

#include <string.h>

static bool ends_name(char c)
{
	char two[2] = {'a', c};

	return is_ident(two, 2);
}

static bool is_char(const struct parser *p, char c)
{
	return p->tok.type == TOK_OTHER && p->source->text[p->tok.at.offset] == c;
}

bool hint_operator(struct parser *p)
{
	const char *s = place_text(p->source, &p->tok.at), *what = NULL, *how = NULL;

	if (p->tok.flags & TOKEN_BROKEN) {
		parser_error(p, &p->tok.at, "this cannot be read");
		return true;
	}
	if (p->tok.type == TOK_LBRACK && p->tok.at.offset && (ends_name(s[-1]) || s[-1] == ']')) {
		what = "an index is not part of the language";
		how = "a reference is stage.port, param.NAME or env.NAME";
	} else if (p->tok.type != TOK_OTHER) {
		return false;
	} else if (*s == '?') {
		what = "conditionals are not part of the language";
		how = "use a param, and --set";
	} else if (*s == '(' || *s == ')') {
		what = *s == '(' && p->tok.at.offset && is_ident(s - 1, 1)
			       ? "function calls are not part of the language"
			       : "parentheses are not part of the language";
		how = "write the value itself";
	} else if (*s == ';') {
		what = "unexpected \";\"";
		how = "the end of the line ends an attribute; remove it";
	} else if (*s == '\'') {
		what = "single quotes do not make a string";
		how = "write it in double quotes";
	} else if (*s == '`') {
		what = "backticks do not make a string";
		how = "write it in double quotes";
	} else if (!strncmp(s, "\xe2\x80\x9c", 3) || !strncmp(s, "\xe2\x80\x9d", 3) ||
		   !strncmp(s, "\xe2\x80\x9e", 3) || !strncmp(s, "\xe2\x80\x98", 3) ||
		   !strncmp(s, "\xe2\x80\x99", 3)) {
		what = "typographic quotes do not make a string";
		how = "write it in straight double quotes";
	} else if ((unsigned char)*s >= 0x80) {
		return false;
	} else if (p->tok.at.len == 1 && !strchr("+-*/%<>!&|", *s)) {
		return false;
	} else {
		what = "operators are not part of the language";
		how = "write the result";
	}
	if (parser_error(p, &p->tok.at, "%s", what))
		diag_label(p->diags, "%s", how);
	return true;
}

/* The place from start over all that looks like one word (or, with blanks, like one line) of text. */
static struct place word_from(const struct parser *p, const struct place *start, bool blanks)
{
	struct place at = *start;
	const char *s = place_text(p->source, start), *e = p->source->text + p->source->len, *q = s;

	while (q < e && (unsigned char)*q > 0x20 && !strchr(",[]{}\"", *q)) {
		q++;
		while (blanks && q < e && *q == ' ' && q + 1 < e && !strchr("#,[]{}\"\n\r /", q[1]))
			q++;
	}
	at.len = (uint32_t)(q - s);
	return at;
}

static void say_quotes(struct parser *p, const struct place *at)
{
	int n = (int)(at->len < 60 ? at->len : 60);

	if (parser_error(p, at, "text without quotes"))
		diag_label(p->diags, "put it in quotes: \"%.*s%s\"", n, place_text(p->source, at),
			   at->len > 60 ? "…" : "");
}

void hint_after_value(struct parser *p, const struct node *value, const char *expected)
{
	char buf[64];
	bool bare = value && ((value->type == NODE_REF && !value->quoted) || value->type == NODE_NUMBER);
	bool touches = value && value->at.offset + value->at.len == p->tok.at.offset;

	if (value && value->type == NODE_BROKEN)
		return;
	if (bare && touches &&
	    (p->tok.type == TOK_IDENT || p->tok.type == TOK_COLON || p->tok.type == TOK_DOT ||
	     (p->tok.type == TOK_OTHER && strchr("/@~\\", p->source->text[p->tok.at.offset])))) {
		struct place at = word_from(p, &value->at, false);
		say_quotes(p, &at);
	} else if (bare && value->type == NODE_REF && p->tok.type == TOK_IDENT) {
		struct place at = word_from(p, &value->at, true);
		say_quotes(p, &at);
	} else if (p->tok.type == TOK_COMMA) {
		if (parser_error(p, &p->tok.at, "unexpected \",\""))
			diag_label(p->diags, "no comma behind an attribute; remove it");
	} else if (p->tok.type == TOK_NUMBER && place_text(p->source, &p->tok.at)[0] == '-') {
		if (parser_error(p, &p->tok.at, "operators are not part of the language"))
			diag_label(p->diags, "write the result");
	} else if (!hint_operator(p)) {
		if (parser_error(p, &p->tok.at, "expected %s, found %s", expected,
				 token_describe(p->source, &p->tok, buf)))
			diag_label(p->diags, "nothing may follow the value");
	}
}

void hint_no_value(struct parser *p, const char *behind)
{
	char buf[64];
	char c = p->source->text[p->tok.at.offset];

	if (p->tok.type == TOK_OTHER && strchr("/~@*", c) && p->tok.at.len == 1) {
		struct place at = word_from(p, &p->tok.at, false);
		say_quotes(p, &at);
	} else if (p->tok.type == TOK_DOT) {
		struct place at = word_from(p, &p->tok.at, false);
		bool number = at.len > 1 &&
			      strspn(place_text(p->source, &at) + 1, "0123456789eE+-") >= at.len - 1;
		if (!number)
			say_quotes(p, &at);
		else if (parser_error(p, &at, "a number begins with a digit"))
			diag_label(p->diags, "write 0%.*s", (int)at.len, place_text(p->source, &at));
	} else if (is_char(p, '\'')) {
		const char *s = place_text(p->source, &p->tok.at) + 1;
		size_t n = strcspn(s, "'\n\r");
		struct place at = p->tok.at;
		at.len = s[n] == '\'' ? (uint32_t)n + 2 : 1;
		if (parser_error(p, &at, "single quotes do not make a string"))
			diag_label(p->diags, "write it in double quotes: \"%.*s\"", (int)(n < 60 ? n : 60),
				   s);
	} else if (is_char(p, '$')) {
		if (parser_error(p, &p->tok.at, "\"$\" outside of a string"))
			diag_label(p->diags, "write env.NAME for a variable of the environment, param.NAME "
					     "for a parameter");
	} else if (is_char(p, '-')) {
		if (parser_error(p, &p->tok.at, "operators are not part of the language"))
			diag_label(p->diags, "a negative number is written without a blank: -1");
	} else if (is_char(p, '+')) {
		if (parser_error(p, &p->tok.at, "operators are not part of the language"))
			diag_label(p->diags, "a positive number takes no sign");
	} else if (!hint_operator(p)) {
		if (parser_error(p, &p->tok.at, "expected a value behind %s, found %s", behind,
				 token_describe(p->source, &p->tok, buf)))
			diag_label(p->diags, "a value is a string, a number, true, false, a reference, a "
					     "list or an object");
	}
}

void hint_unknown_block(struct parser *p)
{
	static const struct {
		const char *word, *hint;
	} known[] = {
		{"matrix", "run the pipeline once per value, with --set"},
		{"include", "a graph is one file"},
		{"import", "a graph is one file"},
		{"module", "a graph is one file"},
		{"checkpoint", "training checkpoints by itself; see the stage's attributes"},
		{"variable", "write param \"name\" {"},
		{"params", "write param \"name\" {, a block for each"},
		{"locals", "write param \"name\" {, a block for each"},
		{"output", "a stage's outputs come from its kind"},
		{"step", "write stage \"name\" {"},
		{"task", "write stage \"name\" {"},
		{"job", "write stage \"name\" {"},
		{"rule", "write stage \"name\" {"},
		{"process", "write stage \"name\" {"},
		{"resource", "write stage \"name\" {"},
		{"data", "write stage \"name\" {"},
	};
	static const char *const words[] = {"pipeline", "param", "stage"};
	char word[64];
	const char *hint = NULL;
	size_t n = p->tok.at.len < sizeof word ? p->tok.at.len : sizeof word - 1;

	memcpy(word, place_text(p->source, &p->tok.at), n);
	word[n] = '\0';
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (!strcmp(word, known[i].word))
			hint = known[i].hint;
	if (!parser_error(p, &p->tok.at, "block \"%s\" is not part of the language", word))
		return;
	if (hint)
		diag_label(p->diags, "%s", hint);
	else
		diag_label(p->diags, "there are pipeline, param and stage%s",
			   did_you_mean(p->diags, word, words, 3));
}
