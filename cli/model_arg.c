#include "cli/model_arg.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* Borrows the model output of RUN:STAGE[.PORT]. */
static int from_run(const struct cli *cli, const char *run, const char *stage, struct model_arg *out,
		    struct error *err)
{
	struct arena a = ARENA_INIT;
	struct result result;
	struct run_info r;
	size_t output;
	int64_t id;

	if (run_number(run, &id, err) || store_open(cli->state, false, &out->store, err))
		return -1;
	struct store *s = out->store;
	int code = run_load(s, id, NULL, &a, &r, err);
	if (code == 0)
		code = history_output(s, &r, stage, &a, &result, &output, err);
	if (code == 0 && result.outputs[output].kind != PORT_MODEL)
		code = error_set(err, ERR_USAGE, "%s:%s is no model, but %s", run, stage,
				 port_kind_name(result.outputs[output].kind));
	if (code == 0)
		code = borrow(s, &result.outputs[output].artifact.digest, true, &out->files, err);
	out->path = out->files.path;
	arena_free(&a);
	return code;
}

int model_arg_open(const struct cli *cli, const char *text, struct model_arg *out, struct error *err)
{
	const char *colon = strchr(text, ':');

	*out = (struct model_arg){0};
	if (path_is_dir(text)) {
		size_t n = strlen(text);
		while (n > 1 && text[n - 1] == '/')
			n--;
		char *trimmed = xstrndup(text, n);
		out->path = text;
		out->name = xstrdup(path_base(trimmed));
		free(trimmed);
		return 0;
	}
	if (!colon || strchr(text, '/')) {
		error_set(err, ERR_USAGE, "%s: there is no such directory", text);
		return error_hint(err, "a model is a directory, or RUN:STAGE for what a stage of a past run "
				       "made (last:merge)");
	}
	char *run = xstrndup(text, (size_t)(colon - text));
	int code = from_run(cli, run, colon + 1, out, err);
	free(run);
	if (code == 0)
		out->name = xstrdup(text);
	return code;
}

void model_arg_free(struct model_arg *m)
{
	borrowed_return(&m->files);
	if (m->store)
		store_close(m->store);
	free(m->name);
}
