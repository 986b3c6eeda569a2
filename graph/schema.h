/* What a stage kind looks like from outside: its ports and attributes. One table per kind feeds the checker,
 * `anneal stages`, the reference page and the key; nothing is written twice. Tables are const and live for ever. */
#ifndef GRAPH_SCHEMA_H
#define GRAPH_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>

struct stage_node;

/* What flows along an edge. A bit each, so that a port can accept several. */
enum port_kind {
	PORT_ROWS = 1,    /* a rows file (docs/formats.md) */
	PORT_TOKENS = 2,  /* a tokens file (docs/formats.md) */
	PORT_MODEL = 4,   /* a Hugging Face model directory */
	PORT_ADAPTER = 8, /* a PEFT adapter directory */
	PORT_REPORT = 16, /* a JSON document */
	PORT_FILE = 32,   /* any file or directory */
	PORT_ANY = 63,
};

enum attr_type {
	ATTR_STRING,
	ATTR_INT,   /* int64 */
	ATTR_FLOAT, /* double; an integer literal is accepted */
	ATTR_BOOL,
	ATTR_CHOICE,   /* a string out of choices */
	ATTR_DURATION, /* "90s", "55m", "1h30m", "500ms"; seconds as a double */
	ATTR_STRINGS,  /* a list of strings */
	ATTR_SOURCE, /* a path to a file or directory, or an URL (scheme://…); the key holds the digest of what a
	                * path leads to, never the path; of an URL its text and its pin */
	ATTR_SOURCES, /* a list of these */
	ATTR_TARGET,  /* a path (or URL) that the stage writes; its text is keyed as an absolute path */
	ATTR_INPUT,   /* a reference stage.port: an edge */
	ATTR_INPUTS,  /* an object { name = stage.port }: edges (exec) */
	ATTR_OUTPUTS, /* an object { name = "kind" }: the stage's own output ports (exec) */
};

enum attr_flags {
	ATTR_REQUIRED = 1,
	ATTR_UNKEYED = 2, /* does not change the result: not part of the key */
};

struct attr_schema {
	const char *name;
	enum attr_type type;
	unsigned flags;       /* enum attr_flags */
	unsigned ports;       /* ATTR_INPUT, ATTR_INPUTS: the port kinds accepted */
	const char *fallback; /* the default, in graph syntax: "42", "\"train\"", "[]", "true"; NULL: none; an
	                             * optional attribute without a default is VALUE_NONE when left out */
	double min, max;      /* ATTR_INT, ATTR_FLOAT, ATTR_DURATION: inclusive; both 0: unlimited */
	const char *const *choices; /* ATTR_CHOICE: NULL-terminated */
	const char *doc;            /* one line for the reference */
};

struct output_schema {
	const char *name;
	enum port_kind kind;
	const char *doc;
};

struct kind_schema {
	const char *name;                    /* "shuffle-select" */
	int version;                         /* part of the key: raised when the kind's results change */
	const char *doc;                     /* one line */
	const struct attr_schema *attrs;     /* up to the entry whose name is NULL */
	const struct output_schema *outputs; /* up to the entry whose name is NULL */
	/* Rules between attributes ("template or prompt and completion"). Called after each attribute is
	 * checked; returns NULL or one line that says what is wrong, and in *attr the name of the attribute to
	 * point at (or NULL: the stage). May be NULL. The text must live as long as the schema. */
	const char *(*check)(const struct stage_node *stage, const char **attr);
};

/* "rows", "tokens" …; PORT_ANY is "any". */
const char *port_kind_name(enum port_kind kind);
/* The kind of that name, 0 when there is none. */
enum port_kind port_kind_of(const char *name);

/* The attributes every stage has beside its kind's own: uses, retries, timeout, salt, cpus, gpus, memory. Up to
 * the entry whose name is NULL; only salt is keyed. */
extern const struct attr_schema common_attrs[];

#endif
