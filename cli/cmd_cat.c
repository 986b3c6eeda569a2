/* anneal cat: what a stage of a past run made, as text. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "cli/cli.h"
#include "cli/history.h"
#include "cli/text.h"
#include "data/rows.h"
#include "data/tokens.h"
#include "tokenizer/tokenizer.h"

extern const struct command cmd_cat;

static volatile sig_atomic_t stop;

static void on_stop(int signal)
{
	(void)signal;
	stop = 1;
}

struct wish {
	const struct cli *cli;
	struct store *store;
	const struct result *result;
	const struct result_output *output;
	const char *path; /* the artifact */
	bool ids;
	uint64_t limit; /* items, UINT64_MAX: all */
};

/* Whether to go on printing: not when a pager was left or the user interrupts. */
static bool wanted(void)
{
	return !stop && !ferror(stdout);
}

/* ---- rows ---- */

static int cat_rows(const struct wish *w, struct error *err)
{
	struct strbuf b = STRBUF_INIT;
	struct rows *rows = rows_open(w->path, err);
	int code = rows ? 0 : -1;

	for (uint64_t i = 0; code == 0 && i < rows_count(rows) && i < w->limit && wanted(); i++) {
		struct row row;
		code = rows_get(rows, i, &row, err);
		if (code)
			break;
		strbuf_clear(&b);
		if (w->ids)
			strbuf_addf(&b, "{\"id\": %" PRIu64 ", \"row\": ", row.id);
		row_to_json(&row, &b);
		if (w->ids)
			strbuf_addc(&b, '}');
		strbuf_addc(&b, '\n');
		fwrite(b.data, 1, b.len, stdout);
	}
	if (rows)
		rows_close(rows);
	strbuf_free(&b);
	return code;
}

/* ---- tokens ---- */

/* The tokenizer of the model that the tokens were made with; NULL when its bytes are not here any more, and *model is what has to
 * be returned. */
static struct tokenizer *borrow_tokenizer(const struct wish *w, struct borrowed *model, struct error *why)
{
	struct tokenizer *t = NULL;
	struct digest d;

	if (!history_input(w->result, "model", &d))
		error_set(why, ERR_USAGE, "the stage has no input \"model\"");
	else if (borrow(w->store, &d, true, model, why) == 0 && tokenizer_open(model->path, &t, why))
		t = NULL;
	return t;
}

static void add_ids(struct strbuf *b, const struct tokens_item *item)
{
	strbuf_addc(b, '[');
	for (uint32_t i = 0; i < item->n; i++)
		strbuf_addf(b, "%s%" PRId32, i ? "," : "", item->ids[i]);
	strbuf_addc(b, ']');
}

/* One sequence: a line of JSON {"id","tokens","label_start","ids","text"} with --json or --ids, else its text. */
static int add_tokens(const struct wish *w, const struct tokenizer *t, const struct tokens_item *item,
		      struct strbuf *b, struct error *err)
{
	struct strbuf text = STRBUF_INIT;
	int code = 0;

	if (t)
		code = tokenizer_decode(t, item->ids, item->n, 0, &text, err);
	if (code == 0 && !w->ids && !w->cli->json) {
		strbuf_add(b, text.data, text.len);
		strbuf_addc(b, '\n');
	} else if (code == 0) {
		strbuf_addf(b,
			    "{\"id\":%" PRIu64 ",\"tokens\":%" PRIu32 ",\"label_start\":%" PRIu32 ",\"ids\":",
			    item->id, item->n, item->label_start);
		add_ids(b, item);
		if (t) {
			strbuf_adds(b, ",\"text\":");
			strbuf_add_json(b, text.data ? text.data : "", text.len);
		}
		strbuf_adds(b, "}\n");
	}
	strbuf_free(&text);
	return code;
}

static int cat_tokens(const struct wish *w, struct error *err)
{
	struct borrowed model = {0};
	struct error why = ERROR_INIT;
	struct strbuf b = STRBUF_INIT;
	struct tokens *tokens = tokens_open(w->path, err);
	struct tokenizer *t = tokens ? borrow_tokenizer(w, &model, &why) : NULL;
	int code = tokens ? 0 : -1;

	if (tokens && !t && !w->ids && !w->cli->json) {
		code = error_set(err, ERR_USAGE, "the tokens cannot be written as text: %s", why.message);
		error_hint(err, "--ids prints them as numbers");
	}
	for (uint64_t i = 0; code == 0 && i < tokens_count(tokens) && i < w->limit && wanted(); i++) {
		struct tokens_item item;
		strbuf_clear(&b);
		code = tokens_get(tokens, i, &item, err);
		if (code == 0)
			code = add_tokens(w, t, &item, &b, err);
		if (code == 0)
			fwrite(b.data, 1, b.len, stdout);
	}
	if (tokens)
		tokens_close(tokens);
	tokenizer_free(t);
	borrowed_return(&model);
	strbuf_free(&b);
	return code;
}

/* ---- the others ---- */

static int cat_bytes(const struct wish *w, struct error *err)
{
	FILE *f = fopen(w->path, "rb");
	char buffer[65536];
	size_t n;

	if (!f)
		return error_errno(err, ERR_INFRA, "%s", w->path);
	while (wanted() && (n = fread(buffer, 1, sizeof buffer, f)) > 0)
		fwrite(buffer, 1, n, stdout);
	fclose(f);
	return 0;
}

struct listing {
	const struct wish *wish;
	struct table table;
	json_t *json;
};

static int add_file(const char *relative, const char *path, void *arg, struct error *err)
{
	struct listing *l = arg;
	struct stat st;
	char size[32];

	if (stat(path, &st))
		return error_errno(err, ERR_INFRA, "%s", path);
	if (l->json) {
		json_t *j = json_object();
		json_object_set_new(j, "file", json_string(relative));
		json_object_set_new(j, "bytes", json_integer(st.st_size));
		json_array_append_new(l->json, j);
		return 0;
	}
	struct strbuf clean = STRBUF_INIT;
	text_clean(&clean, relative);
	table_add(&l->table, text_count((uint64_t)st.st_size, size));
	table_add(&l->table, clean.data);
	strbuf_free(&clean);
	return 0;
}

static int cat_tree(const struct wish *w, struct error *err)
{
	struct listing l = {
		.wish = w, .table = {.columns = 2, .right = 1}, .json = w->cli->json ? json_array() : NULL};
	int code = tree_walk(w->path, add_file, &l, err);

	if (l.json)
		cli_print_json(l.json);
	else
		table_print(&l.table, stdout, "", false, w->cli->color);
	return code;
}

/* ---- */

static int print(struct wish *w, struct error *err)
{
	const struct artifact *a = &w->output->artifact;
	struct borrowed file;

	if (borrow(w->store, &a->digest, a->is_tree, &file, err))
		return -1;
	w->path = file.path;
	int code;
	if (a->is_tree)
		code = cat_tree(w, err);
	else if (w->output->kind == PORT_ROWS)
		code = cat_rows(w, err);
	else if (w->output->kind == PORT_TOKENS)
		code = cat_tokens(w, err);
	else
		code = cat_bytes(w, err);
	fflush(stdout);
	borrowed_return(&file);
	return code;
}

static int run(struct cli *cli, int argc, char **argv)
{
	struct error err = ERROR_INIT;
	struct arena a = ARENA_INIT;
	struct wish w = {.cli = cli, .limit = UINT64_MAX};
	struct result result;
	int64_t limit = -1, id;
	const struct option options[] = {
		{"ids", 0, OPTION_FLAG, &w.ids, NULL,
		 "also the id of the source row; of tokens their numbers"},
		{"limit", 'n', OPTION_INT, &limit, "N", "the first N rows or sequences"},
		{0},
	};
	struct sigaction action = {.sa_handler = on_stop};
	struct run_info r;
	size_t output;
	int code = options_parse(cli, &cmd_cat, options, &argc, argv, 1, 2);

	if (code >= 0)
		return code;
	if (run_number(argc > 1 ? argv[0] : NULL, &id, &err))
		return cli_fail(cli, &err);
	code = state_open(cli, true, &w.store);
	if (code)
		return code;
	/* The borrowed files have to be given back whatever happens. */
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (limit >= 0)
		w.limit = (uint64_t)limit;
	if (run_load(w.store, id, NULL, &a, &r, &err) ||
	    history_output(w.store, &r, argv[argc - 1], &a, &result, &output, &err)) {
		code = cli_fail(cli, &err);
	} else {
		w.result = &result;
		w.output = result.outputs + output;
		if (print(&w, &err))
			code = cli_fail(cli, &err);
	}
	arena_free(&a);
	store_close(w.store);
	return code;
}

const struct command cmd_cat = {
	.name = "cat",
	.args = "[RUN] STAGE[.PORT]",
	.summary = "what a stage made: rows, tokens as text, reports, files",
	.more = "Rows are printed as JSON lines, tokens as text (as numbers with --ids), reports and files "
		"as they are; of models and\n"
		"adapters the files are listed.",
	.run = run,
};
