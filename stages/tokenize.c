/* tokenize: text into the ids that a model reads, and which of them it is trained to produce. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "data/rows.h"
#include "data/tokens.h"
#include "runtime/stage.h"
#include "stages/input.h"
#include "tokenizer/tokenizer.h"

static const char *const train_on[] = {"auto", "all", "completion", NULL};

static const struct attr_schema attrs[] = {
	{.name = "rows",
	 .type = ATTR_INPUT,
	 .flags = ATTR_REQUIRED,
	 .ports = PORT_ROWS,
	 .doc = "rows with the field text, or with prompt and completion"},
	{.name = "model",
	 .type = ATTR_INPUT,
	 .flags = ATTR_REQUIRED,
	 .ports = PORT_MODEL,
	 .doc = "whose tokenizer to use"},
	{.name = "max_length",
	 .type = ATTR_INT,
	 .fallback = "512",
	 .min = 2,
	 .max = 1e9,
	 .doc = "tokens a row may have, special ones included; the end of a longer row is cut off"},
	{.name = "append_eos",
	 .type = ATTR_BOOL,
	 .fallback = "true",
	 .doc = "put the end-of-sequence token behind each row, so that the model learns to stop"},
	{.name = "train_on",
	 .type = ATTR_CHOICE,
	 .choices = train_on,
	 .fallback = "\"auto\"",
	 .doc = "what carries a label: all tokens, or the completion's (and the end's); auto: the "
		"completion's where rows have "
		"one"},
	{0},
};

static const struct output_schema outputs[] = {
	{"tokens", PORT_TOKENS, "one sequence for each row, with the row's id"},
	{0},
};

/* Rows encoded between two looks at the clock; also the unit of parallel work, so that memory stays bounded. */
enum { CHUNK = 2048 };

struct sequence {
	struct token_ids ids;
	uint32_t label_start;
	bool truncated;
	struct error error;
	bool failed;
};

struct job {
	const struct tokenizer *tokenizer;
	const struct rows *rows;
	uint32_t max_length;
	int32_t eos; /* -1: none is appended */
	const char *train_on;
};

/* The text of a row: its prompt (if any) and completion behind each other in buf; *prompt is the prompt's length. */
static int row_join(const struct row *row, struct strbuf *buf, size_t *prompt, bool *completion,
		    struct error *err)
{
	const char *text, *answer;
	size_t n, m;

	strbuf_clear(buf);
	*completion = row_text(row, "prompt", &text, &n) && row_text(row, "completion", &answer, &m);
	if (*completion) {
		strbuf_add(buf, text, n);
		strbuf_add(buf, answer, m);
		*prompt = n;
		return 0;
	}
	*prompt = 0;
	if (row_text(row, "text", &text, &n)) {
		strbuf_add(buf, text, n);
		return 0;
	}
	struct strbuf names = STRBUF_INIT;
	row_names(row, &names);
	error_set(err, ERR_USAGE, "row %llu has neither text nor prompt and completion; its fields are: %s",
		  (unsigned long long)row->id, names.data ? names.data : "none");
	error_hint(err, "put a template-transform stage before this one");
	strbuf_free(&names);
	return -1;
}

static void ids_append(struct token_ids *t, int32_t id, uint32_t end)
{
	if (t->n == t->cap) {
		t->cap = t->cap ? 2 * t->cap : 8;
		t->ids = xreallocarray(t->ids, t->cap, sizeof *t->ids);
		t->ends = xreallocarray(t->ends, t->cap, sizeof *t->ends);
	}
	t->ids[t->n] = id;
	t->ends[t->n++] = end;
}

static int encode_row(const struct job *job, uint64_t i, struct strbuf *buf, struct sequence *out,
		      struct error *err)
{
	struct row row;
	size_t prompt;
	bool completion;

	token_ids_clear(&out->ids);
	out->label_start = 0;
	out->truncated = false;
	if (rows_get(job->rows, i, &row, err) || row_join(&row, buf, &prompt, &completion, err))
		return -1;
	if (!completion && strcmp(job->train_on, "completion") == 0) {
		error_set(err, ERR_USAGE, "row %llu has no completion to train on, only a text",
			  (unsigned long long)row.id);
		return error_hint(
			err,
			"give the template-transform stage prompt and completion, or set train_on = \"all\"");
	}
	if (tokenizer_encode(job->tokenizer, buf->data ? buf->data : "", buf->len, TOKENIZER_ADD_SPECIAL,
			     &out->ids, err))
		return error_context(err, "row %llu", (unsigned long long)row.id);
	const size_t n = out->ids.n;
	if (completion && strcmp(job->train_on, "all") != 0) {
		/* A token that covers the seam belongs to the completion: the model has to produce it. */
		size_t k = 0;
		while (k < n && out->ids.ends[k] <= prompt)
			k++;
		out->label_start = (uint32_t)k;
	}
	/* A row that is cut off does not end where it is cut: no end token there, or the model learns to stop in
	 * mid-answer. */
	out->truncated = n + (job->eos >= 0) > job->max_length;
	if (n > job->max_length)
		out->ids.n = job->max_length;
	else if (job->eos >= 0 && !out->truncated)
		ids_append(&out->ids, job->eos, (uint32_t)buf->len);
	if (out->label_start > out->ids.n)
		out->label_start = (uint32_t)out->ids.n;
	return 0;
}

static void encode_chunk(const struct job *job, uint64_t first, int n, struct sequence *out)
{
#pragma omp parallel
	{
		struct strbuf buf = STRBUF_INIT;
#pragma omp for schedule(dynamic, 32)
		for (int k = 0; k < n; k++)
			out[k].failed = encode_row(job, first + (uint64_t)k, &buf, &out[k], &out[k].error) !=
					0;
		strbuf_free(&buf);
	}
}

struct totals {
	uint64_t tokens, labelled, truncated, unlabelled, longest;
};

static int write_chunk(const struct job *job, uint64_t first, int n, struct sequence *chunk,
		       struct tokens_writer *w, struct totals *t, struct error *err)
{
	for (int k = 0; k < n; k++) {
		const struct sequence *s = &chunk[k];
		struct row row;
		if (s->failed) {
			*err = s->error;
			return -1;
		}
		if (rows_get(job->rows, first + (uint64_t)k, &row, err) ||
		    tokens_add(w, row.id, s->ids.ids, (uint32_t)s->ids.n, s->label_start, err))
			return -1;
		t->tokens += s->ids.n;
		/* Nothing comes before the first token, so it is never something to produce. */
		uint64_t start = s->label_start ? s->label_start : 1;
		t->labelled += s->ids.n > start ? s->ids.n - start : 0;
		t->truncated += s->truncated;
		t->unlabelled += s->ids.n <= start;
		if (s->ids.n > t->longest)
			t->longest = s->ids.n;
	}
	return 0;
}

static int run(struct stage_ctx *ctx, struct error *err)
{
	struct tokenizer *tokenizer = NULL;
	struct tokens_writer *w = NULL;
	struct rows *rows = NULL;
	struct sequence *chunk = NULL;
	struct totals t = {0};
	char digest[DIGEST_TEXT_SIZE];
	struct digest model;
	int failed = -1;

	if (tokenizer_open(ctx_input(ctx, "model"), &tokenizer, err))
		return -1;
	struct job job = {.tokenizer = tokenizer,
			  .max_length = (uint32_t)ctx_int(ctx, "max_length"),
			  .eos = -1,
			  .train_on = ctx_str(ctx, "train_on")};
	if (ctx_bool(ctx, "append_eos")) {
		job.eos = tokenizer_eos(tokenizer);
		if (job.eos < 0) {
			error_set(err, ERR_USAGE,
				  "append_eos = true, but the model's tokenizer names no end-of-sequence "
				  "token");
			error_hint(err,
				   "add eos_token to its tokenizer_config.json, or set append_eos = false");
			goto done;
		}
	}
	rows = rows_open(ctx_input(ctx, "rows"), err);
	w = rows ? tokens_create(ctx_output(ctx, "tokens"), err) : NULL;
	if (!w)
		goto done;
	job.rows = rows;
	chunk = xcalloc(CHUNK, sizeof *chunk);
	uint64_t n = rows_count(rows);
	for (uint64_t first = 0; first < n; first += CHUNK) {
		int len = n - first < CHUNK ? (int)(n - first) : CHUNK;
		encode_chunk(&job, first, len, chunk);
		if (write_chunk(&job, first, len, chunk, w, &t, err) || stopping(ctx, err))
			goto done;
		ctx_progress(ctx, first + (uint64_t)len, n, "rows");
	}
	ctx_input_digest(ctx, "model", &model);
	digest_text(&model, digest);
	const struct tokens_meta meta[] = {
		{"model", digest, 0},
		{"vocab_size", NULL, (int64_t)tokenizer_vocab_size(tokenizer)},
		{"bos_id", NULL, tokenizer_bos(tokenizer)},
		{"eos_id", NULL, tokenizer_eos(tokenizer)},
		{"max_length", NULL, job.max_length},
		{"truncated", NULL, (int64_t)t.truncated},
	};
	failed = tokens_commit(w, meta, sizeof meta / sizeof *meta, err);
	w = NULL;
	if (failed)
		goto done;
	summary_count(ctx, "rows", n);
	summary_count(ctx, "tokens", t.tokens);
	summary_count(ctx, "trained on", t.labelled);
	summary_count(ctx, "longest", t.longest);
	if (t.truncated)
		summary_count(ctx, "cut off", t.truncated);
	if (t.unlabelled)
		ctx_log(ctx, LOG_WARNING,
			"%llu rows have nothing to train on: their prompts fill max_length = %u",
			(unsigned long long)t.unlabelled, job.max_length);
done:
	tokens_abort(w);
	for (int k = 0; chunk && k < CHUNK; k++)
		token_ids_free(&chunk[k].ids);
	free(chunk);
	rows_close(rows);
	tokenizer_free(tokenizer);
	return failed;
}

const struct stage_kind stage_tokenize = {
	.schema = {.name = "tokenize",
		   .version = 1,
		   .doc = "Turns text into token ids with the model's own tokenizer",
		   .attrs = attrs,
		   .outputs = outputs},
	.run = run,
};
