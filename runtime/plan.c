/* The plan: one pass over the stages in order, producers first. A stage all of whose inputs are known has a
 * key, and the store says whether the key has a result. */
#include "runtime/plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum {
	SELECTED = 1,
	ANCESTOR = 2,
	FEEDS = 4 /* a selected stage takes its output, and it is not selected */
};

/* At most this many differences are told in one reason. */
#define MAX_DIFFS 3

const char *plan_state_name(enum plan_state s)
{
	static const char *const names[] = {"cached", "run", "unknown", "skipped"};

	return names[s];
}

/* ---- which stages ---- */

static int find_stage(const struct graph *g, const char *option, const char *name, int *out,
		      struct error *err)
{
	*out = -1;
	if (!name)
		return 0;
	*out = graph_stage(g, name);
	if (*out >= 0)
		return 0;
	const char **names = xmalloc(g->nstages * sizeof *names + 1);
	for (size_t i = 0; i < g->nstages; i++)
		names[i] = g->stages[i].name;
	const char *near = nearest_name(name, names, g->nstages);
	error_set(err, ERR_USAGE, "%s %s: pipeline \"%s\" has no such stage", option, name, g->name);
	if (near)
		error_hint(err, "did you mean \"%s\"?", near);
	free(names);
	return -1;
}

static void mark_ancestors(const struct graph *g, uint8_t *set, size_t until)
{
	memset(set, 0, g->nstages);
	set[until] = 1;
	for (size_t k = g->nstages; k-- > 0;) {
		size_t i = g->order[k];
		for (size_t e = 0; set[i] && e < g->stages[i].ninputs; e++)
			set[g->stages[i].inputs[e].stage] = 1;
	}
}

static void mark_descendants(const struct graph *g, uint8_t *set, size_t from)
{
	memset(set, 0, g->nstages);
	set[from] = 1;
	for (size_t k = 0; k < g->nstages; k++) {
		size_t i = g->order[k];
		for (size_t e = 0; !set[i] && e < g->stages[i].ninputs; e++)
			set[i] = set[g->stages[i].inputs[e].stage];
	}
}

/* Fills flags (one byte per stage) and the reason of every stage that is left out. */
static int select_stages(struct plan *p, uint8_t *flags, struct error *err)
{
	const struct graph *g = p->graph;
	const struct plan_options *o = &p->options;
	int from, until, only;

	if (o->only && (o->from || o->until))
		return error_set(err, ERR_USAGE, "--only cannot be combined with --from or --until");
	if (find_stage(g, "--from", o->from, &from, err) < 0 ||
	    find_stage(g, "--until", o->until, &until, err) < 0 ||
	    find_stage(g, "--only", o->only, &only, err) < 0)
		return -1;
	uint8_t *set = xmalloc(g->nstages + 1);
	memset(flags, SELECTED, g->nstages);
	if (until >= 0) {
		const char *reason = arena_printf(&p->arena, "not on the way to %s", o->until);
		mark_ancestors(g, set, (size_t)until);
		for (size_t i = 0; i < g->nstages; i++)
			if (!set[i]) {
				flags[i] = 0;
				p->stages[i].reason = reason;
			}
	}
	if (from >= 0) {
		const char *reason = arena_printf(&p->arena, "does not follow from %s", o->from);
		bool met = flags[from] & SELECTED;
		mark_descendants(g, set, (size_t)from);
		for (size_t i = 0; i < g->nstages; i++)
			if (!set[i]) {
				flags[i] = 0;
				p->stages[i].reason = reason;
			}
		if (!met) {
			free(set);
			return error_set(err, ERR_USAGE, "--from %s does not lead to --until %s", o->from,
					 o->until);
		}
	}
	if (only >= 0) {
		const char *reason = arena_printf(&p->arena, "--only %s", o->only);
		for (size_t i = 0; i < g->nstages; i++)
			if (i != (size_t)only) {
				flags[i] = 0;
				p->stages[i].reason = reason;
			}
	}
	for (size_t k = g->nstages; k-- > 0;) {
		const struct stage_node *n = &g->stages[g->order[k]];
		uint8_t f = flags[g->order[k]];
		for (size_t e = 0; f && e < n->ninputs; e++) {
			uint8_t *above = &flags[n->inputs[e].stage];
			if (!(*above & SELECTED))
				*above |= f & SELECTED ? ANCESTOR | FEEDS : ANCESTOR;
		}
	}
	free(set);
	return 0;
}

static bool is_forced(const struct plan *p, size_t i, const char **reason)
{
	const char *name = p->graph->stages[i].name;

	*reason = "forced";
	if (p->options.force)
		return true;
	*reason = "--from starts here";
	if (p->options.from && strcmp(p->options.from, name) == 0)
		return true;
	*reason = "--only";
	return p->options.only && strcmp(p->options.only, name) == 0;
}

/* ---- pins ---- */

/* What the pin of a node is stored under: its kind, its URLs, and the attribute "revision" where the kind has
 * one. Empty when nothing of it is remote. */
static void pin_source(const struct stage_node *n, struct strbuf *out)
{
	const char *revision = "";
	bool remote = false;

	strbuf_adds(out, n->kind->name);
	for (size_t i = 0; n->kind->attrs && n->kind->attrs[i].name; i++) {
		const struct value *v = &n->attrs[i];
		if (v->type == VALUE_STRING && n->kind->attrs[i].type == ATTR_SOURCE &&
		    strstr(v->str, "://")) {
			strbuf_addf(out, " %s", v->str);
			remote = true;
		} else if (v->type == VALUE_LIST && n->kind->attrs[i].type == ATTR_SOURCES) {
			for (size_t j = 0; j < v->list.n; j++)
				if (strstr(v->list.items[j], "://")) {
					strbuf_addf(out, " %s", v->list.items[j]);
					remote = true;
				}
		} else if (v->type == VALUE_STRING && strcmp(n->kind->attrs[i].name, "revision") == 0) {
			revision = v->str;
		}
	}
	if (*revision)
		strbuf_addf(out, " @%s", revision);
	if (!remote)
		strbuf_clear(out);
}

/* Fills plan_stage.pin. ask: whether the source may be asked when the store does not know. */
static int find_pin(struct store *s, struct plan *p, size_t i, bool ask, struct error *err)
{
	const struct stage_node *n = &p->graph->stages[i];
	const struct stage_kind *kind = (const struct stage_kind *)n->kind;
	struct strbuf source = STRBUF_INIT, pin = STRBUF_INIT;
	int rc = 0;

	if (!kind->pin)
		return 0;
	pin_source(n, &source);
	if (source.len == 0)
		goto out;
	if (!ask || !p->options.refresh) {
		rc = pin_find(s, source.data, &p->arena, &p->stages[i].pin, err);
		if (rc != 0 || !ask)
			goto out;
	}
	rc = kind->pin(n, &pin, err);
	if (rc == 0 && pin.len > 0) {
		p->stages[i].pin = arena_strndup(&p->arena, pin.data, pin.len);
		rc = pin_record(s, source.data, p->stages[i].pin, err);
	}
out:
	strbuf_free(&source);
	strbuf_free(&pin);
	return rc < 0 ? error_context(err, "stage \"%s\"", n->name) : 0;
}

/* ---- reasons ---- */

static void add_place(struct strbuf *out, const struct value *v)
{
	if (v && v->span.source)
		strbuf_addf(out, " (%s:%u:%u)", v->span.source->name, v->span.line, v->span.col);
}

static void add_diff(struct strbuf *out, const struct stage_node *n, const struct key_diff *d)
{
	if (strcmp(d->what, "input") == 0) {
		strbuf_addf(out, "input %s changed", d->name);
		for (size_t e = 0; e < n->ninputs; e++)
			if (strcmp(n->inputs[e].name, d->name) == 0 && n->inputs[e].span.source)
				strbuf_addf(out, " (%.*s)", (int)n->inputs[e].span.len,
					    n->inputs[e].span.source->text + n->inputs[e].span.offset);
	} else if (strcmp(d->what, "source") == 0) {
		strbuf_addf(out, "source %s changed", d->name);
		add_place(out, stage_attr(n, d->name));
	} else if (strcmp(d->what, "version") == 0) {
		strbuf_addf(out, "kind %s: version %s -> %s", n->kind->name, d->before, d->after);
	} else {
		strbuf_adds(out, d->what);
		if (d->name && *d->name && strcmp(d->name, d->what) != 0)
			strbuf_addf(out, " %s", d->name);
		strbuf_addf(out, ": %s -> %s", d->before ? d->before : "none", d->after ? d->after : "none");
		if (strcmp(d->what, "attribute") == 0)
			add_place(out, stage_attr(n, d->name));
	}
}

/* The differences between two records as one line, without those about the pin unless pins is set; NULL when
 * there are none. */
static const char *tell_diffs(struct plan *p, size_t i, const struct result *old, const uint8_t *now,
			      size_t now_len, bool pins)
{
	struct strbuf text = STRBUF_INIT;
	struct key_diff *diffs;
	size_t n = key_compare(old->preimage, old->preimage_len, now, now_len, &p->arena, &diffs), told = 0,
	       more = 0;

	for (size_t d = 0; d < n; d++) {
		if (!pins && strcmp(diffs[d].what, "pin") == 0)
			continue;
		if (told == MAX_DIFFS) {
			more++;
			continue;
		}
		if (told++ > 0)
			strbuf_adds(&text, ", ");
		add_diff(&text, &p->graph->stages[i], &diffs[d]);
	}
	if (more > 0)
		strbuf_addf(&text, ", and %zu more", more);
	const char *line = text.len ? arena_strndup(&p->arena, text.data, text.len) : NULL;
	strbuf_free(&text);
	return line;
}

/* Why a key without a result has none: what differs from the stage's last good run. */
static int tell_reason(struct store *s, struct plan *p, size_t i, struct error *err)
{
	struct plan_stage *st = &p->stages[i];
	struct result last;
	enum result_state state;
	struct digest key;
	int64_t run;
	int found = run_last_key(s, p->graph->name, p->graph->stages[i].name, 0, true, &run, &key, err);

	if (found < 0)
		return -1;
	st->reason = "never run";
	if (found == 0)
		return 0;
	if (result_find(s, &key, &p->arena, true, &last, &state, err) < 0)
		return -1;
	if (digest_equal(&key, &st->key) || state == RESULT_NONE) {
		st->reason = arena_printf(&p->arena, "the record of run %lld is gone", (long long)run);
		return 0;
	}
	const char *diffs = tell_diffs(p, i, &last, st->preimage, st->preimage_len, true);
	if (diffs)
		st->reason = diffs;
	return 0;
}

/* ---- one stage ---- */

static int make_key(struct store *s, struct plan *p, size_t i, const struct digest *inputs, struct error *err)
{
	struct plan_stage *st = &p->stages[i];
	struct strbuf *b = &p->record;

	strbuf_clear(b);
	if (key_preimage(s, &p->graph->stages[i], st->pin, inputs, b, err) < 0)
		return -1;
	uint8_t *copy = arena_alloc(&p->arena, b->len);
	memcpy(copy, b->data, b->len);
	st->preimage = copy;
	st->preimage_len = b->len;
	digest_of(b->data, b->len, &st->key);
	st->has_key = true;
	return 0;
}

static bool still_published(const struct stage_node *n, const struct result *r)
{
	const struct stage_kind *kind = (const struct stage_kind *)n->kind;

	if (!kind->published)
		return true;
	struct digest *digests = xmalloc((r->noutputs + 1) * sizeof *digests);
	for (size_t i = 0; i < r->noutputs; i++)
		digests[i] = r->outputs[i].artifact.digest;
	bool there = kind->published(n, digests, r->noutputs) > 0;
	free(digests);
	return there;
}

/* What becomes of a stage whose inputs are known. *evicted: recorded without bytes; the state is PLAN_CACHED
 * then, and the caller decides whether anybody needs the bytes. */
static int look_up(struct store *s, struct plan *p, size_t i, const struct digest *inputs, bool *evicted,
		   struct error *err)
{
	struct plan_stage *st = &p->stages[i];
	enum result_state found;
	const char *forced;

	*evicted = false;
	if (make_key(s, p, i, inputs, err) < 0 ||
	    result_find(s, &st->key, &p->arena, false, &st->result, &found, err) < 0)
		return -1;
	st->state = PLAN_RUN;
	st->forced = false;
	st->replace = found != RESULT_NONE;
	if (is_forced(p, i, &forced)) {
		st->reason = forced;
		st->forced = true;
		return 0;
	}
	if (found == RESULT_NONE)
		return tell_reason(s, p, i, err);
	if (found == RESULT_PRESENT && !still_published(&p->graph->stages[i], &st->result)) {
		st->reason = "what it published is gone";
		st->forced = true;
		return 0;
	}
	st->state = PLAN_CACHED;
	st->reason = NULL;
	st->replace = false;
	*evicted = found == RESULT_EVICTED;
	return 0;
}

/* Collects the digests of stage i's inputs from the results of its producers; the index of the edge whose
 * producer has none yet, or ninputs. */
static size_t gather_inputs(const struct plan *p, size_t i, struct digest *inputs)
{
	const struct stage_node *n = &p->graph->stages[i];

	for (size_t e = 0; e < n->ninputs; e++) {
		const struct plan_stage *above = &p->stages[n->inputs[e].stage];
		if (above->state == PLAN_RUN || above->state == PLAN_UNKNOWN ||
		    n->inputs[e].output >= above->result.noutputs)
			return e;
		inputs[e] = above->result.outputs[n->inputs[e].output].artifact.digest;
	}
	return n->ninputs;
}

static int plan_selected(struct store *s, struct plan *p, size_t i, struct digest *inputs, bool *evicted,
			 struct error *err)
{
	const struct stage_node *n = &p->graph->stages[i];
	struct plan_stage *st = &p->stages[i];
	const char *forced;

	size_t open = gather_inputs(p, i, inputs);
	if (open == n->ninputs)
		return look_up(s, p, i, inputs, evicted, err);
	*evicted = false;
	bool sure = is_forced(p, i, &forced);
	st->forced = sure;
	st->state = sure ? PLAN_RUN : PLAN_UNKNOWN;
	st->reason = sure ? forced
			  : arena_printf(&p->arena, "depends on %s",
					 p->graph->stages[n->inputs[open].stage].name);
	return 0;
}

/* A stage that is not selected but stands above one that is: the result of its last good run, and what was
 * edited since. */
static int plan_frozen(struct store *s, struct plan *p, size_t i, bool feeds, struct digest *inputs,
		       struct strbuf *gone, struct error *err)
{
	const struct stage_node *n = &p->graph->stages[i];
	struct plan_stage *st = &p->stages[i];
	enum result_state found = RESULT_NONE;
	struct digest key;
	int64_t run;
	int known = run_last_key(s, p->graph->name, n->name, 0, true, &run, &key, err);

	if (known < 0 || (known > 0 && result_find(s, &key, &p->arena, true, &st->result, &found, err) < 0))
		return -1;
	if (feeds && found != RESULT_PRESENT)
		strbuf_addf(gone, "%s%s (%s)", gone->len ? ", " : "", n->name,
			    known ? "its bytes are gone" : "it never ended well");
	if (found == RESULT_NONE) {
		st->result = (struct result){0};
		return 0;
	}
	st->reason = arena_printf(&p->arena, "taken from run %lld", (long long)run);
	st->has_key = true;
	st->key = key;
	st->preimage = st->result.preimage;
	st->preimage_len = st->result.preimage_len;
	if (gather_inputs(p, i, inputs) < n->ninputs)
		return 0;
	struct strbuf now = STRBUF_INIT;
	struct error broken = ERROR_INIT;
	if (find_pin(s, p, i, false, err) < 0)
		return -1;
	if (key_preimage(s, n, st->pin, inputs, &now, &broken) < 0)
		st->ignored = arena_strdup(&p->arena,
					   broken.message); /* a source that is gone: it is not needed */
	else
		st->ignored = tell_diffs(p, i, &st->result, (const uint8_t *)now.data, now.len,
					 *st->pin != '\0');
	strbuf_free(&now);
	return 0;
}

/* ---- evicted bytes ---- */

/* Recorded results without bytes are fine until a stage that runs, or may run, takes them as input, or they
 * are what the pipeline is for. Then their stage runs again; and as it may make other bytes this time, what
 * follows is unknown. */
static void need_evicted(struct plan *p, const uint8_t *flags, bool *evicted)
{
	const struct graph *g = p->graph;
	uint8_t *taken = xcalloc(g->nstages + 1, 1), *wanted = xmalloc(g->nstages + 1);
	bool changed;

	for (size_t i = 0; i < g->nstages; i++)
		for (size_t e = 0; flags[i] & SELECTED && e < g->stages[i].ninputs; e++)
			taken[g->stages[i].inputs[e].stage] = 1;
	do {
		changed = false;
		memset(wanted, 0, g->nstages);
		for (size_t k = g->nstages; k-- > 0;) {
			size_t i = g->order[k];
			struct plan_stage *st = &p->stages[i];
			if (evicted[i] && (wanted[i] || !taken[i])) {
				st->state = PLAN_RUN;
				st->reason = "recorded, but its bytes are gone";
				st->replace = true;
				evicted[i] = false;
				changed = true;
			}
			for (size_t e = 0;
			     (st->state == PLAN_RUN || st->state == PLAN_UNKNOWN) && e < g->stages[i].ninputs;
			     e++)
				wanted[g->stages[i].inputs[e].stage] = 1;
		}
		for (size_t k = 0; changed && k < g->nstages; k++) {
			size_t i = g->order[k];
			for (size_t e = 0; p->stages[i].state == PLAN_CACHED && e < g->stages[i].ninputs;
			     e++) {
				const struct plan_stage *above = &p->stages[g->stages[i].inputs[e].stage];
				if (above->state != PLAN_RUN && above->state != PLAN_UNKNOWN)
					continue;
				p->stages[i].state = PLAN_UNKNOWN;
				p->stages[i].has_key = false;
				p->stages[i].reason = arena_printf(
					&p->arena, "depends on %s",
					g->stages[g->stages[i].inputs[e].stage].name);
				evicted[i] = false;
			}
		}
	} while (changed);
	for (size_t i = 0; i < g->nstages; i++)
		if (evicted[i])
			p->stages[i].reason = "recorded; its bytes are gone, but nothing needs them";
	free(taken);
	free(wanted);
}

/* ---- the whole ---- */

int plan_make(struct store *s, const struct graph *g, const struct plan_options *o, struct plan **out,
	      struct error *err)
{
	struct plan *p = xcalloc(1, sizeof *p);
	uint8_t *flags = xcalloc(g->nstages + 1, 1);
	bool *evicted = xcalloc(g->nstages + 1, sizeof *evicted), any_evicted = false, viewing = false;
	struct strbuf gone = STRBUF_INIT;
	size_t most = 0;
	int rc = -1;

	*out = NULL;
	p->graph = g;
	if (o)
		p->options = *o;
	p->stages = arena_calloc(&p->arena, g->nstages + 1, sizeof *p->stages);
	for (size_t i = 0; i < g->nstages; i++)
		if (g->stages[i].ninputs > most)
			most = g->stages[i].ninputs;
	struct digest *inputs = xmalloc((most + 1) * sizeof *inputs);
	if (select_stages(p, flags, err) < 0)
		goto out;
	for (size_t k = 0; k < g->nstages; k++) {
		p->stages[g->order[k]].pin = "";
		if (flags[g->order[k]] & SELECTED && find_pin(s, p, g->order[k], true, err) < 0)
			goto out;
	}
	/* One view of the store for all look-ups; behind the pins, which may take as long as a network does. */
	viewing = store_read_begin(s, err) == 0;
	if (!viewing)
		goto out;
	for (size_t k = 0; k < g->nstages; k++) {
		size_t i = g->order[k];
		if (flags[i] & SELECTED) {
			if (plan_selected(s, p, i, inputs, &evicted[i], err) < 0)
				goto out;
			any_evicted |= evicted[i];
			continue;
		}
		p->stages[i].state = PLAN_SKIP;
		if (flags[i] & ANCESTOR && plan_frozen(s, p, i, flags[i] & FEEDS, inputs, &gone, err) < 0)
			goto out;
	}
	if (gone.len > 0) {
		error_set(err, ERR_USAGE, "%s %s needs results that are not there: %s",
			  p->options.only ? "--only" : "--from",
			  p->options.only ? p->options.only : p->options.from, gone.data);
		error_hint(err, "run the pipeline without it, or start further up");
		goto out;
	}
	if (any_evicted)
		need_evicted(p, flags, evicted);
	*out = p;
	rc = 0;
out:
	if (viewing)
		store_read_end(s);
	if (rc < 0)
		plan_free(p);
	strbuf_free(&gone);
	free(inputs);
	free(evicted);
	free(flags);
	return rc;
}

void plan_free(struct plan *p)
{
	if (!p)
		return;
	arena_free(&p->arena);
	strbuf_free(&p->record);
	free(p);
}

int plan_resolve(struct store *s, struct plan *p, size_t i, const struct digest *inputs, struct error *err)
{
	bool evicted;

	if (look_up(s, p, i, inputs, &evicted, err) < 0)
		return -1;
	if (evicted) {
		p->stages[i].state = PLAN_RUN;
		p->stages[i].reason = "recorded, but its bytes are gone";
		p->stages[i].replace = true;
	}
	return 0;
}
