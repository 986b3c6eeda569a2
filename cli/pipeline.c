#include "cli/pipeline.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "graph/graph.h"
#include "stages/registry.h"

static void add_folder(struct text_list *l, char *path)
{
	if (!path_is_dir(path)) {
		free(path);
		return;
	}
	grow(&l->items, &l->cap, l->n + 1, sizeof *l->items);
	l->items[l->n++] = path;
}

void pipeline_folders(struct text_list *out)
{
	const char *env = getenv("ANNEAL_PIPELINES");
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

	add_folder(out, xstrdup("pipelines"));
	while (env && *env) {
		size_t len = strcspn(env, ":");
		if (len)
			add_folder(out, xstrndup(env, len));
		env += len + (env[len] == ':');
	}
	if (n > 0) {
		self[n] = '\0';
		char *dir = path_dir(self);
		add_folder(out, path_join(dir, "../share/anneal/pipelines"));
		if (str_starts(self, ANNEAL_BUILD_DIR "/"))
			add_folder(out, xstrdup(ANNEAL_SOURCE_DIR "/pipelines"));
		free(dir);
	}
	add_folder(out, xstrdup(ANNEAL_SHARE_DIR "/pipelines"));
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names of all pipelines in the folders, sorted, without repeats. */
static void names_list(const struct text_list *folders, struct text_list *out)
{
	for (size_t i = 0; i < folders->n; i++) {
		DIR *d = opendir(folders->items[i]);
		for (struct dirent *e; d && (e = readdir(d));)
			if (str_ends(e->d_name, ".graph") && e->d_name[0] != '.') {
				grow(&out->items, &out->cap, out->n + 1, sizeof *out->items);
				out->items[out->n++] = xstrndup(e->d_name, strlen(e->d_name) - 6);
			}
		if (d)
			closedir(d);
	}
	if (out->n)
		qsort(out->items, out->n, sizeof *out->items, by_name);
	size_t kept = 0;
	for (size_t i = 0; i < out->n; i++) {
		if (kept && !strcmp(out->items[kept - 1], out->items[i]))
			free((char *)out->items[i]);
		else
			out->items[kept++] = out->items[i];
	}
	out->n = kept;
}

static void not_found(const char *name, const struct text_list *folders, struct error *err)
{
	struct text_list names = {0};
	struct strbuf all = STRBUF_INIT;

	names_list(folders, &names);
	const char *near = nearest_name(name, names.items, names.n);
	error_set(err, ERR_USAGE, "there is no pipeline \"%s\"%s%s%s", name, near ? "; did you mean \"" : "",
		  near ? near : "", near ? "\"?" : "");
	for (size_t i = 0; i < names.n; i++)
		strbuf_addf(&all, "%s%s", i ? ", " : "", names.items[i]);
	if (names.n)
		error_hint(err, "there are: %s; or give a path to a .graph file", all.data);
	else
		error_hint(err, "give a path to a .graph file, or put it into ./pipelines or a folder of "
				"$ANNEAL_PIPELINES");
	for (size_t i = 0; i < names.n; i++)
		free((char *)names.items[i]);
	free(names.items);
	strbuf_free(&all);
}

char *pipeline_find(const char *name, const struct text_list *folders, struct error *err)
{
	if (strchr(name, '/') || str_ends(name, ".graph"))
		return xstrdup(name);
	for (size_t i = 0; i < folders->n; i++) {
		struct strbuf file = STRBUF_INIT;
		strbuf_addf(&file, "%s/%s.graph", folders->items[i], name);
		if (path_exists(file.data))
			return strbuf_steal(&file);
		strbuf_free(&file);
	}
	not_found(name, folders, err);
	return NULL;
}

int set_split(const char *text, char **name, const char **value, struct error *err)
{
	const char *eq = strchr(text, '=');

	if (!eq || eq == text) {
		error_set(err, ERR_USAGE, "--set %s: it takes name=value", text);
		return error_hint(
			err,
			"name is a parameter (lr=1e-4) or a stage's attribute (train.learning_rate=1e-4)");
	}
	*name = xstrndup(text, (size_t)(eq - text));
	*value = eq + 1;
	return 0;
}

static const char *environment(const char *name)
{
	return getenv(name);
}

int pipeline_load(const struct cli *cli, const char *name, const struct text_list *sets, struct graph **out)
{
	struct error err = ERROR_INIT;
	struct text_list folders = {0};
	struct diags d = {0};
	struct strbuf text = STRBUF_INIT;
	size_t n = sets ? sets->n : 0, done = 0;
	struct override *overrides = xcalloc(n + 1, sizeof *overrides);
	char *path = NULL;
	int code = 0;

	pipeline_folders(&folders);
	path = pipeline_find(name, &folders, &err);
	for (; path && done < n; done++) {
		char *key = NULL;
		if (set_split(sets->items[done], &key, &overrides[done].value, &err))
			break;
		overrides[done].name = key;
	}
	if (err.class != ERR_NONE) {
		code = cli_fail(cli, &err);
	} else {
		struct graph_options o = {stage_schemas(), overrides, n, environment};
		*out = graph_load(path, &o, &d);
		if (!*out)
			code = ERR_USAGE;
		diags_render(&d, cli->color_err, &text);
		if (text.len)
			fwrite(text.data, 1, text.len, stderr);
	}
	for (size_t i = 0; i < done; i++)
		free((char *)overrides[i].name);
	for (size_t i = 0; i < folders.n; i++)
		free((char *)folders.items[i]);
	free(folders.items);
	free(overrides);
	free(path);
	strbuf_free(&text);
	diags_free(&d);
	return code;
}
