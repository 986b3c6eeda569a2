/* The graph language on any bytes: loading never crashes; what is accepted can be formatted; formatting is idempotent
 * and changes no meaning. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/graph/dump.h"
#include "tests/unit/graph/kinds.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int holds)
{
	if (!holds)
		abort();
}

static const char *environment(const char *name)
{
	return name[0] == 'A' ? "7" : name[0] == 'B' ? "b/\"c\"" : NULL;
}

/* Whether it loads; what it means goes to out. */
static int load(const char *text, size_t len, struct strbuf *out)
{
	struct graph_options o = {.kinds = test_kinds, .getenv = environment};
	struct strbuf shown = STRBUF_INIT;
	struct diags d = DIAGS_INIT;
	struct graph *g = graph_load_text("fuzz.graph", "dir", text, len, &o, &d);

	must((g != NULL) == (d.errors == 0));
	for (size_t i = 0; i < d.n; i++) {
		const struct span *s = &d.items[i].span;
		must(!s->source || (s->offset + s->len <= s->source->len && s->line && s->col));
	}
	diags_render(&d, false, &shown);
	diags_render_json(&d, &shown);
	if (g) {
		graph_dot(g, &shown);
		graph_mermaid(g, &shown);
		graph_dump(g, out);
	}
	int ok = g != NULL;
	graph_free(g);
	diags_free(&d);
	strbuf_free(&shown);
	return ok;
}

static int format(const char *text, size_t len, struct strbuf *out)
{
	struct diags d = DIAGS_INIT;
	int ok = graph_format("fuzz.graph", text, len, out, &d) == 0;

	diags_free(&d);
	strbuf_reserve(out, 0)[0] = '\0';
	return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data;
	struct strbuf meaning = STRBUF_INIT, again = STRBUF_INIT, once = STRBUF_INIT, twice = STRBUF_INIT;
	int loads = load(text, size, &meaning);

	if (format(text, size, &once)) {
		must(format(once.data, once.len, &twice));
		must(once.len == twice.len && !memcmp(once.data, twice.data, once.len));
		must(load(once.data, once.len, &again) == loads);
		must(!loads || !strcmp(meaning.data, again.data));
	} else {
		must(!loads);
	}
	strbuf_free(&meaning);
	strbuf_free(&again);
	strbuf_free(&once);
	strbuf_free(&twice);
	return 0;
}
