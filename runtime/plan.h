/* What a run would do, and why: keys, lookups, reasons. Planning changes nothing but pins and the stat cache. */
#ifndef RUNTIME_PLAN_H
#define RUNTIME_PLAN_H

#include "runtime/rundb.h"
#include "runtime/stage.h"
#include "runtime/store.h"

/* The key scheme's version: part of every key. */
#define KEY_SCHEME "stage/1"

/* Key of a stage = SHA-256 of the canonical msgpack record [scheme, kind, version, salt, {attr: value}, {input: digest}, pin];
 * attrs sorted by name, defaults filled in, unkeyed ones left out, sources replaced by content digests. Appends the record. */
int key_preimage(struct store *s, const struct stage_node *node, const char *pin, const struct digest *inputs,
		 struct strbuf *out, struct error *err);

/* One line per difference between two records, in words, each naming exactly the attribute or input that differs:
 * attribute "learning_rate": 0.0002 -> 0.0001. Returns the number of differences. */
struct key_diff { const char *what; /* "attribute", "input", "source", "pin", "salt", "kind", "version" */
		  const char *name, *before, *after; };
size_t key_compare(const uint8_t *old, size_t old_len, const uint8_t *new_, size_t new_len, struct arena *a,
		   struct key_diff **out);

enum plan_state { PLAN_CACHED, PLAN_RUN, PLAN_UNKNOWN /* its key depends on what a stage above will produce */,
		  PLAN_SKIP /* outside --from/--until/--only */ };
const char *plan_state_name(enum plan_state s); /* "cached", "run", "unknown", "skipped" */

struct plan_stage {
	enum plan_state state;
	bool has_key;
	struct digest key;
	const uint8_t *preimage;
	size_t preimage_len;
	const char *pin;
	const char *reason;         /* "never run", "attribute limit: 1000 -> 500 (file.graph:42:5)", "forced", "blob evicted",
	                             * "depends on sample", "recorded by run 12" … */
	struct result result;       /* PLAN_CACHED, and PLAN_SKIP upstream of --from: outputs filled */
	const char *ignored;        /* --from: the upstream edit that is being ignored, or NULL */
};

struct plan_options {
	const char *from, *until, *only; /* stage names or NULL */
	bool force;                      /* run even what is cached (with only/from: within the selection) */
	bool refresh;                    /* resolve remote sources again */
};

struct plan {
	struct arena arena;
	const struct graph *graph;
	struct plan_options options;
	struct plan_stage *stages;   /* one per graph stage, same index */
};

/* ERR_USAGE for an unknown stage name in the options, and for --from / --only when an upstream result is gone (all of them
 * listed). */
int plan_make(struct store *s, const struct graph *g, const struct plan_options *o, struct plan **out, struct error *err);
void plan_free(struct plan *p);
/* Once all producers of stage i have results: computes its key and looks it up (state becomes CACHED or RUN). For the
 * runner. outputs[e]: digest of input e. */
int plan_resolve(struct store *s, struct plan *p, size_t i, const struct digest *inputs, struct error *err);

#endif
