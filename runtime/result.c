/* Results: what a key produced. A narrow row with the outputs, which planning reads, and a wide one with the rest. */
#include <stdlib.h>

#include "runtime/canon.h"
#include "runtime/store_internal.h"

static void pack_outputs(const struct result *r, struct strbuf *b)
{
	canon_array(b, r->noutputs);
	for (size_t i = 0; i < r->noutputs; i++) {
		const struct result_output *o = &r->outputs[i];
		canon_array(b, 6);
		canon_str(b, o->name);
		canon_int(b, o->kind);
		canon_bool(b, o->artifact.is_tree);
		canon_digest(b, &o->artifact.digest);
		canon_int(b, (int64_t)o->artifact.size);
		canon_int(b, (int64_t)o->artifact.files);
	}
}

static bool unpack_outputs(const void *bytes, size_t size, struct arena *a, struct result *r)
{
	struct canon c = canon_open(bytes, size);
	size_t n, members;

	if (!canon_get_array(&c, &n))
		return false;
	r->noutputs = n;
	r->outputs = arena_calloc(a, n, sizeof *r->outputs);
	for (size_t i = 0; i < n; i++) {
		struct result_output *o = &r->outputs[i];
		int64_t kind, bytes_all, files;
		if (!canon_get_array(&c, &members) || members != 6 || !canon_get_str(&c, a, &o->name) ||
		    !o->name || !canon_get_int(&c, &kind) || !canon_get_bool(&c, &o->artifact.is_tree) ||
		    !canon_get_digest(&c, &o->artifact.digest) || !canon_get_int(&c, &bytes_all) ||
		    !canon_get_int(&c, &files))
			return false;
		o->kind = (enum port_kind)kind;
		o->artifact.size = (uint64_t)bytes_all;
		o->artifact.files = (uint64_t)files;
	}
	return c.p == c.end;
}

static void pack_facts(const struct result *r, struct strbuf *b)
{
	canon_array(b, r->nfacts);
	for (size_t i = 0; i < r->nfacts; i++) {
		canon_array(b, 2);
		canon_str(b, r->facts[i].name);
		canon_str(b, r->facts[i].value);
	}
}

static bool unpack_facts(const void *bytes, size_t size, struct arena *a, struct result *r)
{
	struct canon c = canon_open(bytes, size);
	size_t n, members;

	if (!canon_get_array(&c, &n))
		return false;
	r->nfacts = n;
	r->facts = arena_calloc(a, n, sizeof *r->facts);
	for (size_t i = 0; i < n; i++)
		if (!canon_get_array(&c, &members) || members != 2 ||
		    !canon_get_str(&c, a, &r->facts[i].name) || !canon_get_str(&c, a, &r->facts[i].value))
			return false;
	return c.p == c.end;
}

static int damaged(struct store *s, const struct digest *key, struct error *err)
{
	char text[DIGEST_TEXT_SIZE];

	digest_text(key, text);
	error_set(err, ERR_INFRA, "%s/anneal.db: the result of key %s is damaged", s->dir, text);
	return error_hint(err, "run with --force to record it anew");
}

/* 1 found, 0 none. *present: how many of the first outputs (0 or 1) are known to be in the store: most results have one
 * output, a small blob, and then this one statement says all. */
static int find_outputs(struct store *s, const struct digest *key, struct arena *a, struct result *out,
			size_t *present, struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_RESULT_FIND, err);
	struct digest first;
	int found = -1;

	*present = 0;
	if (!st)
		return -1;
	sqlite3_bind_int64(st, 1, digest_id(key));
	bind_digest(st, 2, key);
	int code = sqlite3_step(st);
	if (code == SQLITE_ROW) {
		found = unpack_outputs(sqlite3_column_blob(st, 0), (size_t)sqlite3_column_bytes(st, 0), a,
				       out)
				? 1
				: damaged(s, key, err);
		if (found == 1 && sqlite3_column_int(st, 1) && out->noutputs &&
		    !out->outputs[0].artifact.is_tree && column_digest(st, 2, &first) &&
		    digest_equal(&first, &out->outputs[0].artifact.digest))
			*present = 1;
	} else if (code == SQLITE_DONE) {
		found = 0;
	} else {
		store_sql_error(s, "looking for a result", err);
	}
	sqlite3_reset(st);
	return found;
}

static int find_details(struct store *s, const struct digest *key, struct arena *a, struct result *out,
			struct error *err)
{
	sqlite3_stmt *st = store_stmt(s, SQL_DETAILS_FIND, err);
	int failed = -1;

	if (!st)
		return -1;
	bind_digest(st, 1, key);
	int code = sqlite3_step(st);
	if (code == SQLITE_ROW) {
		const char *kind = (const char *)sqlite3_column_text(st, 0);
		out->kind = arena_strdup(a, kind ? kind : "");
		out->version = sqlite3_column_int(st, 1);
		out->preimage_len = (size_t)sqlite3_column_bytes(st, 3);
		uint8_t *preimage = arena_alloc(a, out->preimage_len);
		if (out->preimage_len)
			memcpy(preimage, sqlite3_column_blob(st, 3), out->preimage_len);
		out->preimage = preimage;
		out->finished_ms = sqlite3_column_int64(st, 4);
		out->seconds = sqlite3_column_double(st, 5);
		out->run = sqlite3_column_int64(st, 6);
		failed = unpack_facts(sqlite3_column_blob(st, 2), (size_t)sqlite3_column_bytes(st, 2), a, out)
				 ? 0
				 : damaged(s, key, err);
	} else if (code == SQLITE_DONE) {
		damaged(s, key, err);
	} else {
		store_sql_error(s, "looking for a result", err);
	}
	sqlite3_reset(st);
	return failed;
}

int result_find(struct store *s, const struct digest *key, struct arena *a, bool full, struct result *out,
		enum result_state *state, struct error *err)
{
	*state = RESULT_NONE;
	*out = (struct result){.key = *key};
	bool view = s->tx == TX_NONE;
	size_t present;
	if (view && store_read_begin(s, err))
		return -1;
	int found = find_outputs(s, key, a, out, &present, err);
	if (found == 1 && full && find_details(s, key, a, out, err))
		found = -1;
	if (found == 1) {
		*state = RESULT_PRESENT;
		for (size_t i = present; i < out->noutputs && *state == RESULT_PRESENT; i++)
			if (!store_has(s, &out->outputs[i].artifact.digest, out->outputs[i].artifact.is_tree))
				*state = RESULT_EVICTED;
	}
	if (view)
		store_read_end(s);
	return found < 0 ? -1 : 0;
}

static int put_result(struct store *s, const struct result *r, struct error *err)
{
	struct strbuf outputs = STRBUF_INIT, facts = STRBUF_INIT;
	sqlite3_stmt *narrow = store_stmt(s, SQL_RESULT_PUT, err),
		     *wide = store_stmt(s, SQL_DETAILS_PUT, err);
	int failed = -1;

	if (!narrow || !wide)
		return -1;
	pack_outputs(r, &outputs);
	pack_facts(r, &facts);
	sqlite3_bind_int64(narrow, 1, digest_id(&r->key));
	bind_digest(narrow, 2, &r->key);
	sqlite3_bind_blob64(narrow, 3, outputs.data, outputs.len, SQLITE_STATIC);
	if (r->noutputs && !r->outputs[0].artifact.is_tree)
		sqlite3_bind_int64(narrow, 4, digest_id(&r->outputs[0].artifact.digest));
	else
		sqlite3_bind_null(narrow, 4);
	bind_digest(wide, 1, &r->key);
	sqlite3_bind_text(wide, 2, r->kind, -1, SQLITE_STATIC);
	sqlite3_bind_int(wide, 3, r->version);
	sqlite3_bind_blob64(wide, 4, facts.data, facts.len, SQLITE_STATIC);
	sqlite3_bind_blob64(wide, 5, r->preimage ? (const void *)r->preimage : "", r->preimage_len,
			    SQLITE_STATIC);
	sqlite3_bind_int64(wide, 6, r->finished_ms);
	sqlite3_bind_double(wide, 7, r->seconds);
	sqlite3_bind_int64(wide, 8, r->run);
	failed = store_step_done(s, narrow, "recording a result", err) ||
				 store_step_done(s, wide, "recording a result", err)
			 ? -1
			 : 0;
	strbuf_free(&outputs);
	strbuf_free(&facts);
	return failed;
}

static int record(struct store *s, const struct result *r, bool replace, bool *existing, struct error *err)
{
	struct arena a = ARENA_INIT;
	struct result old;
	size_t present;
	int found = find_outputs(s, &r->key, &a, &old, &present, replace ? NULL : err);

	arena_free(&a);
	*existing = found == 1;
	if (found < 0 && !replace)
		return -1;
	if (!found || replace) {
		for (size_t i = 0; i < r->noutputs; i++) {
			const struct result_output *o = &r->outputs[i];
			if (store_has(s, &o->artifact.digest, o->artifact.is_tree))
				continue;
			error_set(err, ERR_INFRA,
				  "output \"%s\" disappeared from the store before it was recorded", o->name);
			return error_hint(err, "run again");
		}
		if (put_result(s, r, err))
			return -1;
	}
	sqlite3_stmt *drop = store_stmt(s, SQL_CHECKPOINT_DROP, err);
	if (!drop)
		return -1;
	bind_digest(drop, 1, &r->key);
	return store_step_done(s, drop, "dropping checkpoints", err);
}

int result_record(struct store *s, const struct result *r, bool replace, bool *existing, struct error *err)
{
	*existing = false;
	if (store_begin(s, true, err))
		return -1;
	if (record(s, r, replace, existing, err)) {
		store_rollback(s);
		return -1;
	}
	if (store_commit(s, "recording a result", err))
		return -1;
	checkpoint_sweep(s, &r->key, NULL);
	return 0;
}
