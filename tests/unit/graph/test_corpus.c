/* Every broken file of the corpus says in its first lines what is wrong with it:
 *   # set: name=value            given as an override          # env: NAME=value    the environment
 *   # expect: 7:10: error: …     the next error or warning, exactly; overrides have their name for a place
 *   #  label: …                  what stands behind its underline
 *   #   note: 3:7: …             a note of it
 * All diagnostics are listed, in their order. */
#include "tests/unit/cmocka_all.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "tests/unit/graph/kinds.h"

#define CORPUS "tests/unit/graph/corpus"

static char *variables[8];
static size_t nvariables;

static const char *lookup(const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < nvariables; i++)
		if (!strncmp(variables[i], name, n) && variables[i][n] == '=')
			return variables[i] + n + 1;
	return NULL;
}

/* What the file should say at its top, in the notation above. */
static void describe(const struct diags *d, struct strbuf *out)
{
	for (size_t i = 0; i < d->n; i++) {
		const struct diag *g = &d->items[i];
		strbuf_adds(out, g->severity == DIAG_NOTE ? "#   note: " : "# expect: ");
		if (g->span.source && g->span.source->external)
			strbuf_addf(out, "%s: ", g->span.source->name);
		else if (g->span.source)
			strbuf_addf(out, "%u:%u: ", g->span.line, g->span.col);
		strbuf_addf(out, "%s%s\n",
			    g->severity == DIAG_ERROR     ? "error: "
			    : g->severity == DIAG_WARNING ? "warning: "
							  : "",
			    g->message);
		if (g->label)
			strbuf_addf(out, "#  label: %s\n", g->label);
	}
}

static int check_file(const char *path)
{
	struct override overrides[4];
	struct graph_options o = {.kinds = test_kinds, .overrides = overrides, .getenv = lookup};
	struct strbuf expected = STRBUF_INIT, actual = STRBUF_INIT, shown = STRBUF_INIT;
	struct diags d = DIAGS_INIT;
	size_t size;
	char *text = file_read(path, &size, NULL), *copies[4];

	assert_non_null(text);
	nvariables = 0;
	for (char *line = text, *end; (end = strchr(line, '\n')) && *line == '#'; line = end + 1) {
		size_t n = (size_t)(end - line);
		if (!strncmp(line, "# set: ", 7)) {
			char *s = xstrndup(line + 7, n - 7), *equals = strchr(s, '=');
			assert_non_null(equals);
			*equals = '\0';
			copies[o.noverrides] = s;
			overrides[o.noverrides++] = (struct override){s, equals + 1};
		} else if (!strncmp(line, "# env: ", 7)) {
			variables[nvariables++] = xstrndup(line + 7, n - 7);
		} else if (!strncmp(line, "# expect: ", 10) || !strncmp(line, "#  label: ", 10) ||
			   !strncmp(line, "#   note: ", 10)) {
			strbuf_add(&expected, line, n + 1);
		}
	}
	struct graph *g = graph_load_text(path, ".", text, size, &o, &d);
	assert_true((g == NULL) == (d.errors > 0));
	describe(&d, &actual);
	diags_render(&d, true, &shown);
	diags_render_json(&d, &shown);
	int wrong = !expected.data || !actual.data || strcmp(expected.data, actual.data) != 0;
	if (wrong)
		print_error("%s\n--- expected\n%s--- found\n%s", path, expected.data, actual.data);
	graph_free(g);
	diags_free(&d);
	strbuf_free(&expected);
	strbuf_free(&actual);
	strbuf_free(&shown);
	for (size_t i = 0; i < nvariables; i++)
		free(variables[i]);
	for (size_t i = 0; i < o.noverrides; i++)
		free(copies[i]);
	free(text);
	return wrong;
}

static int is_bad(const struct dirent *e)
{
	return str_starts(e->d_name, "bad-");
}

static void every_broken_file_gets_exactly_its_diagnostics(void **state)
{
	struct dirent **files;
	int n = scandir(CORPUS, &files, is_bad, alphasort), wrong = 0;

	(void)state;
	assert_true(n >= 200);
	for (int i = 0; i < n; i++) {
		char *path = path_join(CORPUS, files[i]->d_name);
		wrong += check_file(path);
		free(path);
		free(files[i]);
	}
	free(files);
	assert_int_equal(wrong, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_broken_file_gets_exactly_its_diagnostics),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
