/* Finding things in the history: a run's stage, what it made, and the bytes of that. */
#ifndef CLI_HISTORY_H
#define CLI_HISTORY_H

#include "base/mem.h"
#include "runtime/rundb.h"

/* The stage called name; NULL and ERR_USAGE with the names there are. */
const struct run_stage *history_stage(const struct run_info *r, const char *name, struct error *err);
/* What the stage's key produced, in full. False when there is no key or no record (a stage that failed or was skipped). */
bool history_result(struct store *s, const struct run_stage *st, struct arena *a, struct result *out);
/* The run in which the stage's work was done: for a cached one the run that made its result, else r itself. */
int64_t history_origin(struct store *s, const struct run_info *r, const struct run_stage *st);
/* "STAGE" or "STAGE.PORT" of run r: its result and output. A stage with several outputs needs the port. ERR_USAGE when there is no
 * such stage or port, or the stage has no result. */
int history_output(struct store *s, const struct run_info *r, const char *text, struct arena *a,
		   struct result *result, size_t *output, struct error *err);
/* The digest of the input called name in a result's record; false when it has none. */
bool history_input(const struct result *r, const char *name, struct digest *out);

/* An artifact as files, for as long as it is looked at: in a staging directory, which goes with this process. */
struct borrowed {
	struct store *store; /* must stay open meanwhile */
	char *dir;
	char *path; /* the file, or the tree's folder */
};
/* ERR_INFRA when the artifact's bytes are gone. */
int borrow(struct store *s, const struct digest *d, bool is_tree, struct borrowed *out, struct error *err);
void borrowed_return(struct borrowed *b);

#endif
