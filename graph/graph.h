/* The graph language: text -> checked graph, with exact diagnostics. Pure: it opens only the files it is given,
 * and the one environment it reads is the one that it is given. Grammar: docs/graph.md. */
#ifndef GRAPH_GRAPH_H
#define GRAPH_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"
#include "graph/schema.h"

/* A place in a source: a graph file, or an override on the command line ("--set lr=x") or in the environment. */
struct span {
	const struct source *source; /* NULL: nowhere (a default of a schema) */
	uint32_t offset;             /* bytes from the start of the source */
	uint32_t len;                /* bytes; 0 only at the end of the file */
	uint32_t line, col;          /* from 1; col counts code points */
};

struct source {
	const char *name; /* as given: "pipelines/x.graph", "--set lr=1e-4", "$LORA_R" */
	const char *text;
	size_t len;
	const char *
		basedir; /* what relative paths in it are relative to: the file's directory; "." for overrides */
	bool external; /* an override: one line, shown without line and column */
};

/* ---- diagnostics ---- */

enum severity { DIAG_ERROR, DIAG_WARNING, DIAG_NOTE };

struct diag {
	enum severity severity;
	struct span span;
	const char *message; /* stage "prompt" has no output "txt" */
	const char *
		label; /* behind the underline: what was expected, what there is, did you mean; may be NULL */
};

/* Collects at most 20 errors per load (a note belongs to the error before it). Outlives the graph: the sources that
 * its spans point into are its own copies. */
struct diags {
	struct arena arena;
	struct diag *items;
	size_t n, cap;
	size_t errors; /* how many of severity DIAG_ERROR, also those beyond the limit */
	bool muted;    /* the error added last was beyond the limit: its notes are dropped too */
	struct diag_source {
		const struct source *original, *copy;
		size_t number; /* from 0, in the order of their first diagnostic */
		struct diag_source *next;
	} * sources;
};

#define DIAGS_INIT                                                                                           \
	{                                                                                                    \
		ARENA_INIT, NULL, 0, 0, 0, false, NULL                                                       \
	}

/* Appends every diagnostic as text, in spec style:
 *   pipelines/x.graph:34:18: error: stage "prompt" has no output "txt"
 *      34 |   in    = prompt.txt
 *         |                  ^~~ template-transform gives: text, rowmap. Did you mean "text"?
 * with ANSI colours when color is true. Notes are their first line alone. What the terminal could take for a command
 * (control characters, invalid UTF-8) is shown as U+FFFD. */
void diags_render(const struct diags *d, bool color, struct strbuf *out);
/* A JSON array of {severity,file,line,column,end_column,message,label}; file to end_column are null for what has no
 * place, label when there is none; end_column is one past the last column on the first line. */
void diags_render_json(const struct diags *d, struct strbuf *out);
void diags_free(struct diags *d);

/* ---- the checked graph ---- */

enum value_type {
	VALUE_NONE,   /* optional, left out */
	VALUE_STRING, /* also ATTR_CHOICE, ATTR_SOURCE, ATTR_TARGET */
	VALUE_INT,
	VALUE_FLOAT, /* also ATTR_DURATION, in seconds */
	VALUE_BOOL,
	VALUE_LIST,  /* of strings: ATTR_STRINGS, ATTR_SOURCES */
	VALUE_EDGE,  /* ATTR_INPUT: i is the index into the stage's inputs */
	VALUE_EDGES, /* ATTR_INPUTS: list has the names; their edges lie in this order in the stage's inputs */
	VALUE_PORTS, /* ATTR_OUTPUTS: list has the names, in the order of the stage's outputs */
};

struct value {
	enum value_type type;
	bool is_default;  /* filled in from the schema */
	struct span span; /* where the value stands; for a param, where the param's value stands */
	union {
		const char *str;
		int64_t i;
		double f;
		bool b;
		struct {
			const char *const *items;
			size_t n;
		} list;
	};
	/* ATTR_SOURCE (str) and ATTR_SOURCES (per item): the path joined with its source's basedir, or the URL as it
	 * stands. ATTR_TARGET, and the default of a schema: as it stands, relative to the current directory. NULL for
	 * other types. */
	const char *path;
	const char *const *paths;
};

/* An input of a stage, and where it comes from. */
struct edge {
	const char
		*name;  /* the input's name: the attribute for ATTR_INPUT, the object's key for ATTR_INPUTS */
	uint32_t stage; /* index of the producing stage */
	uint32_t output;  /* index into that stage's outputs */
	struct span span; /* of the reference */
};

struct stage_output {
	const char *name;
	enum port_kind kind;
};

struct stage_node {
	const char *name;
	const struct kind_schema *kind;
	struct span span;    /* of the name's string in the block's head */
	struct value *attrs; /* one per kind->attrs entry, same order, defaults filled in */
	struct edge *inputs; /* in schema order, exec's in the order written */
	size_t ninputs;
	const struct stage_output *outputs;
	size_t noutputs;
	/* common attributes */
	int64_t retries;  /* default 0 */
	double timeout;   /* seconds; 0: none */
	const char *salt; /* "" when left out; part of the key */
	double cpus;      /* 0: as the scheduler decides */
	int64_t gpus;     /* default 0 */
	uint64_t memory;  /* bytes; from "8GiB"; 0: undeclared */
};

struct param_value {
	const char *name;
	const char *text;   /* the value as text, as it would be given to --set */
	const char *origin; /* "--set", "$DATASET_LIMIT" or "default" */
	struct span span;   /* where the value stands */
	const char *doc;    /* description, may be NULL */
	const char *type;   /* "string", "int", "float", "bool" */
};

struct graph {
	struct arena arena;
	const char *name;            /* pipeline "name"; the file's stem when there is no pipeline block */
	const char *description;     /* may be NULL */
	const struct source *source; /* the file */
	struct stage_node *stages;   /* in file order */
	size_t nstages;
	uint32_t *order; /* stage indices, producers first, file order among the free */
	struct param_value *params;
	size_t nparams;
	struct names *index; /* of the stages' names; private */
};

/* What changes a graph from outside. Later entries win. */
struct override {
	const char *name;  /* "lr" (a param) or "train.learning_rate" (a stage's attribute) */
	const char *value; /* text: a number, true/false, or a string with or without quotes; for lists and
	                    * references graph syntax ("[\"q_proj\"]", "tokens.tokens") */
};

struct graph_options {
	const struct kind_schema *const *kinds; /* NULL-terminated */
	const struct override *overrides;
	size_t noverrides;
	const char *(*getenv)(const char *name); /* NULL: no environment (tests) */
};

/* Reads, parses and checks one file. NULL when there are errors: then d holds them. Warnings may be in d also on
 * success. An unreadable file is an error in d without a span. The graph owns all it points to except the schemas;
 * free with graph_free. Linear in the size of the file and the number of edges. */
struct graph *graph_load(const char *path, const struct graph_options *o, struct diags *d);
/* The same from memory; name is what diagnostics call it, basedir what paths are relative to. */
struct graph *graph_load_text(const char *name, const char *basedir, const char *text, size_t len,
			      const struct graph_options *o, struct diags *d);
void graph_free(struct graph *g);

/* The index of the stage called name, or -1. O(1). */
int graph_stage(const struct graph *g, const char *name);
/* The attribute called name, or NULL; linear in the kind's attributes. */
const struct value *stage_attr(const struct stage_node *s, const char *name);
/* Index of the output called name, or -1. */
int stage_output(const struct stage_node *s, const char *name);

/* ---- formatting and drawing ---- */

/* The canonical form: idempotent, keeps comments, `=` aligned within a run of attributes as `terraform fmt` does,
 * two spaces a level. Appends to out; -1 with diagnostics when the text does not parse. */
int graph_format(const char *name, const char *text, size_t len, struct strbuf *out, struct diags *d);
/* Graphviz DOT and Mermaid flowcharts: a node per stage (name, kind), an edge per input labelled with its port. */
void graph_dot(const struct graph *g, struct strbuf *out);
void graph_mermaid(const struct graph *g, struct strbuf *out);

#endif
