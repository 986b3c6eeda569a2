/* What the files of the history share. */
#ifndef RUNTIME_RUNDB_INTERNAL_H
#define RUNTIME_RUNDB_INTERNAL_H

#include "runtime/rundb.h"
#include "runtime/store_internal.h"

/* The stages of a run in plan order, from its compact record (digest stages) and its rows; all from a. */
int run_stages_load(struct store *s, int64_t run, const struct digest *stages, struct arena *a,
		    struct run_stage **out, size_t *n, struct error *err);
/* The bytes of a text, from a. */
int text_load(struct store *s, const struct digest *d, struct arena *a, const char **out, size_t *n,
	      struct error *err);

static inline bool status_good(enum stage_status st)
{
	return st == STAGE_CACHED || st == STAGE_DONE;
}

/* The stages of one run by name. */
struct run_table {
	int64_t run;
	struct arena arena;
	struct run_stage *stages;
	size_t n;
	uint32_t *slots; /* open addressing: index + 1, 0 empty */
	size_t mask;
};
int run_table_load(struct store *s, int64_t run, const struct digest *stages, struct run_table *out,
		   struct error *err);
const struct run_stage *run_table_find(const struct run_table *t, const char *name);
void run_table_free(struct run_table *t);

#endif
