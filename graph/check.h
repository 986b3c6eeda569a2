/* From the tree to the checked graph: what the files of the checker share. Private to graph/.
 *   check.c   runs the passes; overrides            params.c  param blocks and their values
 *   stages.c  kinds, versions, attributes           edges.c   inputs, outputs, order, cycles
 *   value.c   one value against one attribute       text.c    strings: escapes, heredocs, ${…} */
#ifndef GRAPH_CHECK_H
#define GRAPH_CHECK_H

#include "graph/names.h"
#include "graph/syntax.h"

/* A node with the source that it stands in; node NULL: nothing. */
struct operand {
	const struct source *source;
	const struct node *node;
};

struct param {
	const struct block *block;
	const char *name;
	enum value_type type;   /* STRING, INT, FLOAT, BOOL; NONE while its type is not known */
	bool ok, used;          /* ok: the fields below hold */
	struct operand operand; /* the value's text, wherever it comes from */
	struct value value;
	const char *text; /* for ${param.x} and the record */
};

struct override_text {
	struct source *source;      /* text "--set name=value" */
	const char *name;           /* param, or stage */
	const char *attr;           /* NULL: a param */
	size_t offset;              /* of the value in the text */
	struct place at;            /* of the param's or attribute's name */
	struct place stage_at;      /* of the stage's name */
	struct override_text *next; /* for the same param or stage, the last one given first */
};

/* What is worked out once per kind. */
struct kind_info {
	const struct kind_schema *kind;
	size_t nattrs;
	struct names attrs;     /* name -> index, the common ones behind the kind's own */
	struct value *defaults; /* per attribute of the kind */
	const struct stage_output *outputs;
	size_t noutputs;
	size_t outputs_attr; /* index of the ATTR_OUTPUTS attribute, or nattrs */
};

/* What is known of a stage beside its node while checking. */
struct stage_work {
	const struct block *block;
	struct kind_info *kind; /* NULL: unknown, reported */
	struct override_text *overrides;
	struct operand declared; /* what its ATTR_OUTPUTS attribute was given */
	struct names *outputs;   /* index of many outputs, made when asked for */
	bool ports_known;        /* the outputs are complete: an unknown name is a mistake */
	bool failed;             /* an attribute is wrong: rules between attributes are not asked */
};

struct checker {
	struct graph *g;
	struct arena *arena;
	struct diags *diags;
	const struct graph_options *options;
	const struct tree *tree;
	size_t errors; /* how many there were before this load */
	struct param *params;
	struct names param_index;
	struct names stage_index;
	struct stage_work *work; /* per stage */
	struct names kind_index;
	struct kind_info *kinds; /* per entry of options->kinds; kind NULL: not looked at yet */
	size_t nkinds, ncommon;
	struct override_text *overrides; /* in the order given */
	struct names override_index;     /* param or stage name -> index of the last override for it */
	size_t noverrides;
};

/* What a value is checked for: the attribute and whose it is, for messages. */
struct target {
	const struct attr_schema *attr;
	const char *owner, *name; /* "stage", "train" */
};

/* ---- text.c ---- */

/* The value of a NODE_STRING with escapes, heredoc rules and ${…} applied. NULL after an error. literal: ${…} is an
 * error (in params). */
const char *text_of(struct checker *c, struct operand o, bool literal);
/* The node for text from outside, for an attribute of that type: numbers and true/false as such, lists, objects and
 * references in graph syntax, all else as it stands (or in quotes). NULL after an error. */
struct operand text_operand(struct checker *c, const struct source *s, size_t offset, enum attr_type type,
			    bool quotes);
struct span operand_span(struct operand o);
bool place_is(const struct source *s, const struct place *p, const char *word);
char *place_dup(struct checker *c, const struct source *s, const struct place *p);

/* ---- value.c ---- */

/* Checks o against t->attr and fills out (edges and ports excepted). False after an error. */
bool value_read(struct checker *c, struct operand o, const struct target *t, struct value *out);
/* "an integer", "a string" …: what the attribute takes. */
const char *attr_wants(const struct attr_schema *a);
/* Reports that o is not what t takes; always false. */
bool value_mismatch(struct checker *c, struct operand o, const struct target *t);
/* "8GiB" to bytes. */
bool memory_parse(const char *s, uint64_t *out);

/* ---- params.c ---- */

void params_check(struct checker *c);
/* The param that the reference names, or NULL after an error. */
struct param *param_of(struct checker *c, struct operand o, const struct place *name);
/* Words that begin a reference to something else than a stage. */
bool is_reserved(const char *name);

/* ---- stages.c ---- */

/* The kinds of all stages, and the outputs that a kind fixes. */
void stages_find_kinds(struct checker *c);
void stages_check(struct checker *c);

/* ---- edges.c ---- */

/* The outputs that a stage declares itself. */
bool edges_read_outputs(struct checker *c, size_t stage, struct operand o, const struct target *t);
bool edges_read_input(struct checker *c, size_t stage, struct operand o, const struct target *t,
		      struct edge *out);
bool edges_read_inputs(struct checker *c, size_t stage, struct operand o, const struct target *t,
		       struct value *out);
uint32_t edges_find_output(struct checker *c, size_t stage, const char *name, size_t len);
void edges_order(struct checker *c);

/* ---- check.c ---- */

void graph_check(struct checker *c);

#endif
