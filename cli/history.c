#include "cli/history.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "data/pack.h"

const struct run_stage *history_stage(const struct run_info *r, const char *name, struct error *err)
{
	const char **names = xcalloc(r->nstages + 1, sizeof *names);
	const struct run_stage *found = NULL;
	struct strbuf all = STRBUF_INIT;

	for (size_t i = 0; i < r->nstages; i++) {
		names[i] = r->stages[i].name;
		strbuf_addf(&all, "%s%s", i ? ", " : "", names[i]);
		if (!strcmp(names[i], name))
			found = r->stages + i;
	}
	if (!found) {
		const char *near = nearest_name(name, names, r->nstages);
		error_set(err, ERR_USAGE, "run %" PRId64 " has no stage \"%s\"%s%s%s", r->id, name,
			  near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
		error_hint(err, "it has: %s", all.data ? all.data : "none");
	}
	free(names);
	strbuf_free(&all);
	return found;
}

bool history_result(struct store *s, const struct run_stage *st, struct arena *a, struct result *out)
{
	enum result_state state = RESULT_NONE;

	return st->has_key && result_find(s, &st->key, a, true, out, &state, NULL) == 0 &&
	       state != RESULT_NONE;
}

int64_t history_origin(struct store *s, const struct run_info *r, const struct run_stage *st)
{
	struct arena a = ARENA_INIT;
	struct result result;
	int64_t run = r->id;

	if (st->status == STAGE_CACHED && history_result(s, st, &a, &result) && result.run > 0)
		run = result.run;
	arena_free(&a);
	return run;
}

static int no_output(const struct result *r, const char *stage, const char *port, struct error *err)
{
	struct strbuf all = STRBUF_INIT;

	for (size_t i = 0; i < r->noutputs; i++)
		strbuf_addf(&all, "%s%s.%s (%s)", i ? ", " : "", stage, r->outputs[i].name,
			    port_kind_name(r->outputs[i].kind));
	if (port)
		error_set(err, ERR_USAGE, "the stage \"%s\" has no output \"%s\"", stage, port);
	else
		error_set(err, ERR_USAGE, "the stage \"%s\" has %zu outputs: which one?", stage, r->noutputs);
	error_hint(err, "there are: %s", all.data ? all.data : "none");
	strbuf_free(&all);
	return -1;
}

int history_output(struct store *s, const struct run_info *r, const char *text, struct arena *a,
		   struct result *result, size_t *output, struct error *err)
{
	const char *dot = strrchr(text, '.');
	char *stage = xstrndup(text, dot ? (size_t)(dot - text) : strlen(text));
	const struct run_stage *st = history_stage(r, stage, err);
	int code = -1;

	if (!st)
		goto out;
	if (!history_result(s, st, a, result)) {
		error_set(err, ERR_USAGE, "in run %" PRId64 " the stage \"%s\" made nothing: it is %s%s%s",
			  r->id, stage, stage_status_name(st->status), st->error ? ": " : "",
			  st->error ? st->error : "");
		goto out;
	}
	if (!dot && result->noutputs != 1) {
		no_output(result, stage, NULL, err);
		goto out;
	}
	*output = 0;
	while (dot && *output < result->noutputs && strcmp(result->outputs[*output].name, dot + 1))
		++*output;
	code = *output < result->noutputs ? 0 : no_output(result, stage, dot + 1, err);
out:
	free(stage);
	return code;
}

/* The record is [scheme, kind, version, salt, {attributes}, {input: digest}, pin] (runtime/plan.h). */
bool history_input(const struct result *r, const char *name, struct digest *out)
{
	const uint8_t *p = r->preimage, *end = p + r->preimage_len;
	struct pack_value v, key;

	if (!pack_read(&p, end, &v) || v.type != PACK_ARRAY || v.count < 6)
		return false;
	for (int i = 0; i < 5; i++)
		if (!pack_skip(&p, end))
			return false;
	if (!pack_read(&p, end, &v) || v.type != PACK_MAP)
		return false;
	for (uint32_t i = 0; i < v.count; i++) {
		struct pack_value value;
		if (!pack_read(&p, end, &key) || key.type != PACK_STR)
			return false;
		const uint8_t *at = p;
		if (!pack_read(&at, end, &value) || !pack_skip(&p, end))
			return false;
		if (key.len != strlen(name) || memcmp(key.body, name, key.len))
			continue;
		if (value.type == PACK_BIN && value.len == sizeof out->bytes) {
			memcpy(out->bytes, value.body, sizeof out->bytes);
			return true;
		}
		char text[DIGEST_TEXT_SIZE] = "";
		if (value.type == PACK_STR && value.len < sizeof text)
			memcpy(text, value.body, value.len);
		return digest_parse(text, out);
	}
	return false;
}

int borrow(struct store *s, const struct digest *d, bool is_tree, struct borrowed *out, struct error *err)
{
	*out = (struct borrowed){.store = s};
	if (store_staging(s, &out->dir, err)) {
		out->dir = NULL;
		return -1;
	}
	out->path = path_join(out->dir, "artifact");
	if (store_put_at(s, d, is_tree, out->path, err) == 0)
		return 0;
	borrowed_return(out);
	return -1;
}

void borrowed_return(struct borrowed *b)
{
	if (b->dir)
		store_staging_drop(b->store, b->dir, NULL);
	free(b->path);
	*b = (struct borrowed){0};
}
