/* What a run would do, and why: keys, lookups, reasons. Planning changes nothing but pins and the stat cache.
 */
#ifndef RUNTIME_PLAN_H
#define RUNTIME_PLAN_H

#include "runtime/rundb.h"
#include "runtime/stage.h"
#include "runtime/store.h"

/* The key scheme's version: part of every key. */
#define KEY_SCHEME "stage/1"

/* Key of a stage = SHA-256 of the canonical msgpack record [scheme, kind, version, salt, {attr: value},
 * {input: digest}, pin]; attrs sorted by name, defaults filled in, unkeyed ones left out, sources replaced by
 * content digests. Appends the record. */
int key_preimage(struct store *s, const struct stage_node *node, const char *pin, const struct digest *inputs,
		 struct strbuf *out, struct error *err);

/* One line per difference between two records, in words, each naming exactly the attribute or input that
 * differs: attribute "learning_rate": 0.0002 -> 0.0001. Returns the number of differences. */
struct key_diff {
	const char *what; /* "attribute", "input", "source", "pin", "salt", "kind", "version" */
	const char *name, *before, *after;
};
size_t key_compare(const uint8_t *old, size_t old_len, const uint8_t *new_, size_t new_len, struct arena *a,
		   struct key_diff **out);

enum plan_state {
	PLAN_CACHED,
	PLAN_RUN,
	PLAN_UNKNOWN /* its key depends on what a stage above will produce */,
	PLAN_SKIP /* outside --from/--until/--only */
};
const char *plan_state_name(enum plan_state s); /* "cached", "run", "unknown", "skipped" */

struct plan_stage {
	enum plan_state state;
	bool has_key;
	struct digest key;
	const uint8_t *preimage;
	size_t preimage_len;
	const char *pin;
	const char *reason;   /* one line, or NULL for an ordinary cached stage. Of a closed set: "never run",
			       * "forced",   "attribute limit: 1000 -> 500 (file.graph:42:5)", "input rows changed
			       * (from sample)",   "source template changed (…)", "pin …", "salt …", "kind …",
			       * "kind x: version 1 -> 2",   "recorded, but its bytes are gone", "what it
			       * published is gone", "depends on sample",
			       * "--from starts here", "--only", "taken from run 12", "not on the way to train",
			       * "does not follow from train" */
	struct result result; /* PLAN_CACHED, and PLAN_SKIP that feeds a selected stage: outputs filled */
	const char *ignored;  /* --from, --only: the upstream edit that is being ignored, or NULL */
	bool replace; /* PLAN_RUN: a result of this key is on record; what this run makes takes its place */
	bool forced;  /* PLAN_RUN: runs although a whole result is on record, and whoever else may make it */
};

/* Which stages a run is about:
 *   until S   S and all that leads to it; the rest is skipped.
 *   from S    S and all that follows from it. S runs even when it is cached; what follows is planned as
 * always, so that it stays cached when S makes the same bytes again. Every other stage is skipped, and where
 * one of them feeds a selected stage, its result is that of the last run in which it ended well, whatever was
 * edited since (plan_stage.ignored says what). from and until together: what lies between. only S    S alone,
 * also when it is cached; its inputs come from the last good run as with from. A recorded result whose bytes
 * are gone counts as cached as long as nothing that runs needs them. */
struct plan_options {
	const char *from, *until, *only; /* stage names or NULL; only stands alone */
	bool force;                      /* run even what is cached (with only/from: within the selection) */
	bool refresh;                    /* resolve remote sources again */
};

struct plan {
	struct arena arena;
	const struct graph *graph;
	struct plan_options options;
	struct plan_stage *stages; /* one per graph stage, same index */
	struct strbuf record;      /* scratch: the record of the key that is being made */
};

/* ERR_USAGE for an unknown stage name in the options, and for --from / --only when a result that a selected
 * stage needs is gone (all of them listed). Linear in stages and edges, except where bytes were evicted. */
int plan_make(struct store *s, const struct graph *g, const struct plan_options *o, struct plan **out,
	      struct error *err);
void plan_free(struct plan *p);
/* Once all producers of stage i have results: computes its key and looks it up (state becomes CACHED or RUN).
 * For the runner. outputs[e]: digest of input e. */
int plan_resolve(struct store *s, struct plan *p, size_t i, const struct digest *inputs, struct error *err);

#endif
