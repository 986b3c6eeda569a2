/* anneal generate: continues a prompt. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/model_arg.h"
#include "serve/engine.h"

extern const struct command cmd_generate;

static volatile sig_atomic_t stop;

static void on_stop(int signal)
{
	(void)signal;
	stop = 1;
}

static void print_json(const struct job_figures *f, const struct strbuf *text, enum job_state state,
		       double loading, const char *device)
{
	double decoding = f->total - f->first_token;
	json_t *j = json_object();

	json_object_set_new(j, "text", json_stringn(text->data ? text->data : "", text->len));
	json_object_set_new(j, "finish_reason", json_string(job_finish_name(state)));
	json_object_set_new(j, "prompt_tokens", json_integer(f->prompt_tokens));
	json_object_set_new(j, "tokens", json_integer(f->tokens));
	json_object_set_new(j, "device", json_string(device));
	json_object_set_new(j, "load_seconds", json_real(loading));
	json_object_set_new(j, "first_token_seconds", json_real(f->first_token));
	json_object_set_new(j, "seconds", json_real(f->total));
	json_object_set_new(j, "tokens_per_second",
			    f->tokens > 1 && decoding > 0 ? json_real((f->tokens - 1) / decoding)
							  : json_null());
	cli_print_json(j);
}

/* Prints the answer as it grows. Returns an exit code. */
static int answer(struct cli *cli, struct job *j, double loading, const char *device)
{
	struct strbuf all = STRBUF_INIT, piece = STRBUF_INIT;
	struct job_figures figures;
	enum job_state state;
	size_t length = 0;
	int code = 0;

	do {
		strbuf_clear(&piece);
		state = job_wait(j, &length, 100, &piece);
		if (cli->json)
			strbuf_add(&all, piece.data, piece.len);
		else if (piece.len) {
			fwrite(piece.data, 1, piece.len, stdout);
			fflush(stdout);
		}
		if (stop || ferror(stdout))
			job_cancel(j);
	} while (!job_finish_name(state));
	if (!cli->json)
		putchar('\n');
	job_figures(j, &figures);
	if (state == JOB_FAILED)
		code = cli_fail(cli, job_error(j));
	else if (cli->json)
		print_json(&figures, &all, state, loading, device);
	if (code == 0 && stop)
		code = ERR_INTERRUPTED;
	strbuf_free(&all);
	strbuf_free(&piece);
	return code;
}

static int generate_text(struct cli *cli, const struct engine_options *o, const char *prompt,
			 const struct sampling *sampling, const struct text_list *stops)
{
	struct token_ids ids = TOKEN_IDS_INIT;
	struct error err = ERROR_INIT;
	struct job *job = NULL;
	struct engine *e;
	double began = clock_mono();
	int code;

	if (engine_open(o, &e, &err))
		return cli_fail(cli, &err);
	double loading = clock_mono() - began;
	struct job_request r = {.sampling = *sampling, .stop = stops->items, .nstop = stops->n};
	if (engine_encode(e, prompt, strlen(prompt), &ids, &err) == 0) {
		r.ids = ids.ids;
		r.n = ids.n;
		if (job_submit(e, &r, &job, &err))
			job = NULL;
	}
	code = job ? answer(cli, job, loading, engine_device_text(e)) : cli_fail(cli, &err);
	if (job)
		job_release(job);
	engine_close(e);
	token_ids_free(&ids);
	return code;
}

static int run(struct cli *cli, int argc, char **argv)
{
	struct error err = ERROR_INIT;
	struct sampling sampling = sampling_default();
	struct text_list stops = {0};
	struct engine_options o = {.slots = 1};
	int64_t most = 128, seed = 0;
	double temperature = 0, top_p = 1;
	const struct option options[] = {
		{"max-tokens", 0, OPTION_INT, &most, "N", "tokens at most (128)"},
		{"temperature", 0, OPTION_FLOAT, &temperature, "T", "0 takes the likeliest token (0)"},
		{"top-p", 0, OPTION_FLOAT, &top_p, "P",
		 "sample from the likeliest tokens that make up P (1)"},
		{"seed", 0, OPTION_INT, &seed, "N", "of the sampling (0)"},
		{"stop", 0, OPTION_LIST, &stops, "TEXT", "ends the answer; may be given several times"},
		{"device", 0, OPTION_TEXT, &o.device, "DEVICE",
		 "auto, cpu or cuda (auto: a GPU where there is one)"},
		{"precision", 0, OPTION_TEXT, &o.precision, "PRECISION",
		 "auto, fp32, bf16 or fp16 (auto: bf16 on a GPU, fp32 on the CPU)"},
		{"weights", 0, OPTION_TEXT, &o.weights, "WEIGHTS",
		 "stored, or nf4: quantised, for a quarter of the memory (stored)"},
		{0},
	};
	struct model_arg model;
	int code = options_parse(cli, &cmd_generate, options, &argc, argv, 2, 2);

	if (code >= 0)
		goto out;
	engine_options_check(&o, &err);
	if (most < 1 || most > INT32_MAX)
		error_set(&err, ERR_USAGE, "--max-tokens %" PRId64 ": it takes 1 or more", most);
	else if (!(temperature >= 0 && temperature <= 100))
		error_set(&err, ERR_USAGE, "--temperature %g: it takes 0 to 100", temperature);
	else if (!(top_p > 0 && top_p <= 1))
		error_set(&err, ERR_USAGE, "--top-p %g: it takes more than 0 and at most 1", top_p);
	for (size_t i = 0; i < stops.n; i++)
		if (!stops.items[i][0])
			error_set(&err, ERR_USAGE, "--stop: the text is empty");
	sampling.max_tokens = (int)most;
	sampling.temperature = (float)temperature;
	sampling.top_p = (float)top_p;
	sampling.seed = (uint64_t)seed;
	signal(SIGINT, on_stop);
	signal(SIGTERM, on_stop);
	signal(SIGPIPE, SIG_IGN);
	if (err.class != ERR_NONE) {
		code = cli_fail(cli, &err);
	} else {
		if (model_arg_open(cli, argv[0], &model, &err)) {
			code = cli_fail(cli, &err);
		} else {
			o.model = model.path;
			code = generate_text(cli, &o, argv[1], &sampling, &stops);
		}
		model_arg_free(&model);
	}
out:
	free(stops.items);
	return code;
}

const struct command cmd_generate = {
	.name = "generate",
	.args = "MODEL PROMPT",
	.summary = "continue a prompt",
	.more = "MODEL is a directory, or RUN:STAGE for what a stage of a past run made (last:merge). The "
		"continuation alone is printed.",
	.run = run,
};
