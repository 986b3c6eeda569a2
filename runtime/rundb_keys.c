/* Which key a stage had last. Table stage_keys has a row for every run in which a stage's key (or whether it ended well)
 * differs from the run before; in the runs between two rows, the stage had the older row's key or took no part. So a
 * run in which nothing changed writes nothing here, and the newest run with a key is found by looking into the stages
 * of the runs of one such span, newest first: nearly always the first look. */
#include <stdlib.h>

#include "runtime/rundb_internal.h"

enum { TABLES = 8 };

struct run_tables {
	struct run_table tables[TABLES];
	size_t n, next;
	int64_t data_version; /* of other processes' writes */
	uint64_t commits;     /* of ours */
};

static uint32_t hash_name(const char *s)
{
	uint32_t h = 2166136261u; /* FNV-1a */

	for (; *s; s++)
		h = (h ^ (uint8_t)*s) * 16777619u;
	return h;
}

int run_table_load(struct store *s, int64_t run, const struct digest *stages, struct run_table *out,
		   struct error *err)
{
	*out = (struct run_table){.run = run};
	if (run_stages_load(s, run, stages, &out->arena, &out->stages, &out->n, err)) {
		run_table_free(out);
		return -1;
	}
	size_t size = 16;
	while (size < 2 * out->n)
		size *= 2;
	out->mask = size - 1;
	out->slots = arena_calloc(&out->arena, size, sizeof *out->slots);
	for (size_t i = 0; i < out->n; i++) {
		size_t at = hash_name(out->stages[i].name) & out->mask;
		while (out->slots[at])
			at = (at + 1) & out->mask;
		out->slots[at] = (uint32_t)i + 1;
	}
	return 0;
}

const struct run_stage *run_table_find(const struct run_table *t, const char *name)
{
	for (size_t at = hash_name(name) & t->mask; t->slots[at]; at = (at + 1) & t->mask)
		if (strcmp(t->stages[t->slots[at] - 1].name, name) == 0)
			return &t->stages[t->slots[at] - 1];
	return NULL;
}

void run_table_free(struct run_table *t)
{
	arena_free(&t->arena);
}

static void forget_tables(struct run_tables *c)
{
	for (size_t i = 0; i < c->n; i++)
		run_table_free(&c->tables[i]);
	c->n = c->next = 0;
}

void run_tables_free(struct store *s)
{
	if (!s->tables)
		return;
	forget_tables(s->tables);
	free(s->tables);
	s->tables = NULL;
}

/* Drops what was remembered when anybody has written since. */
static int refresh_tables(struct store *s, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_DATA_VERSION, err);

	if (!st)
		return -1;
	if (!s->tables)
		s->tables = xcalloc(1, sizeof *s->tables);
	struct run_tables *c = s->tables;
	int64_t version = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : -1;
	sqlite3_reset(st);
	if (version != c->data_version || s->commits != c->commits)
		forget_tables(c);
	c->data_version = version;
	c->commits = s->commits;
	return 0;
}

static const struct run_table *table_of(struct store *s, int64_t run, const struct digest *stages,
					struct error *err)
{
	struct run_tables *c = s->tables;

	for (size_t i = 0; i < c->n; i++)
		if (c->tables[i].run == run)
			return &c->tables[i];
	struct run_table *t = &c->tables[c->n < TABLES ? c->n : c->next];
	if (c->n < TABLES) {
		c->n++;
	} else {
		run_table_free(t);
		c->next = (c->next + 1) % TABLES;
	}
	if (run_table_load(s, run, stages, t, err)) {
		t->run = -1; /* remembered as no run at all */
		return NULL;
	}
	return t;
}

struct key_row {
	int64_t run;
	struct digest key;
	bool good;
};

struct run_ref {
	int64_t id;
	struct digest stages;
};

/* The newest run from..to (without `not`) in which the stage has the row's key; 0 when there is none. */
static int newest_in_span(struct store *s, const char *pipeline, const char *stage, const struct key_row *row,
			  int64_t to, int64_t not, bool good, int64_t *found, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_RUN_IDS, err);
	struct run_ref ref;
	int failed = 0, code = SQLITE_DONE;

	*found = 0;
	if (!st)
		return -1;
	sqlite3_bind_text(st, 1, pipeline, -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 2, to);
	sqlite3_bind_int64(st, 3, row->run);
	while (!*found && !failed && (code = sqlite3_step(st)) == SQLITE_ROW) {
		ref.id = sqlite3_column_int64(st, 0);
		if (ref.id == not || !column_digest(st, 1, &ref.stages))
			continue;
		const struct run_table *t = table_of(s, ref.id, &ref.stages, err);
		if (!t) {
			failed = -1;
			break;
		}
		const struct run_stage *had = run_table_find(t, stage);
		if (had && had->has_key && digest_equal(&had->key, &row->key) &&
		    (!good || status_good(had->status)))
			*found = ref.id;
	}
	if (!failed && !*found && code != SQLITE_DONE)
		failed = store_sql_error(s, "looking through runs", err);
	sqlite3_reset(st);
	return failed;
}

int run_last_key(struct store *s, const char *pipeline, const char *stage, int64_t not, bool good,
		 int64_t *run, struct digest *key, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_STAGE_KEYS, err);
	int64_t to = INT64_MAX;
	int result = 0, code = SQLITE_DONE;

	if (!st || run_writer_flush(s, err) || refresh_tables(s, err))
		return -1;
	sqlite3_bind_text(st, 1, pipeline, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 2, stage, -1, SQLITE_STATIC);
	while (!result && (code = sqlite3_step(st)) == SQLITE_ROW) {
		struct key_row row = {.run = sqlite3_column_int64(st, 0),
				      .good = sqlite3_column_int(st, 2) != 0};
		int64_t newest = 0;
		if (!column_digest(st, 1, &row.key))
			continue;
		if (!good || row.good) {
			result = newest_in_span(s, pipeline, stage, &row, to, not, good, &newest, err);
			/* The runs of the span may have been forgotten; their key has not. */
			if (!result && !newest && row.run != not )
				newest = row.run;
		}
		if (newest) {
			*run = newest;
			*key = row.key;
			result = 1;
		}
		to = row.run - 1;
	}
	if (!result && code != SQLITE_DONE)
		result = store_sql_error(s, "looking for a stage's last key", err);
	sqlite3_reset(st);
	return result;
}

double run_last_seconds(struct store *s, const char *pipeline, const char *stage)
{
	sqlite3_stmt *st = store_stmt(s, SQL_SECONDS_FIND, NULL);
	double seconds = 0;

	if (!st || run_writer_flush(s, NULL))
		return 0;
	sqlite3_bind_text(st, 1, pipeline, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 2, stage, -1, SQLITE_STATIC);
	if (sqlite3_step(st) == SQLITE_ROW)
		seconds = sqlite3_column_double(st, 0);
	sqlite3_reset(st);
	return seconds;
}
