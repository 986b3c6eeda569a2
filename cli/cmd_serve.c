/* anneal serve: a model behind HTTP. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/model_arg.h"
#include "cli/text.h"
#include "serve/server.h"

extern const struct command cmd_serve;

static volatile int stop;

static void on_stop(int signal)
{
	(void)signal;
	stop = 1;
}

static void log_line(const char *line, void *arg)
{
	const struct cli *cli = arg;
	struct strbuf b = STRBUF_INIT;

	if (on_cloud_run() || cli->json) {
		strbuf_adds(&b, "{\"severity\":\"INFO\",\"message\":");
		strbuf_add_json(&b, line, strlen(line));
		strbuf_addc(&b, '}');
	} else {
		text_clean(&b, line);
	}
	strbuf_addc(&b, '\n');
	fwrite(b.data, 1, b.len, stderr); /* one call: lines of several threads do not mix */
	strbuf_free(&b);
}

/* One line: programs read it while the server goes on. */
static void print_start(const struct server *s)
{
	json_t *j = json_pack("{s:s, s:s, s:s}", "url", server_url(s), "model", server_name(s), "device",
			      server_device_text(s));
	char *text = json_dumps(j, JSON_COMPACT);

	puts(text ? text : "{}");
	free(text);
	json_decref(j);
}

static int serve(struct cli *cli, const struct server_options *o)
{
	struct error err = ERROR_INIT;
	struct strbuf line = STRBUF_INIT;
	struct server *s;

	if (server_start(o, &s, &err))
		return cli_fail(cli, &err);
	strbuf_addf(&line, "%s computes %s", server_name(s), server_device_text(s));
	if (o->log)
		o->log(line.data, o->arg);
	strbuf_free(&line);
	if (cli->json)
		print_start(s);
	else
		printf("%s answers at %s (POST /v1/completions, POST /generate)\n", server_name(s),
		       server_url(s));
	fflush(stdout);
	server_wait(s, &stop);
	server_stop(s);
	return 0;
}

static int run(struct cli *cli, int argc, char **argv)
{
	struct error err = ERROR_INIT;
	const char *host = NULL, *name = NULL;
	int64_t port = 8000, most = 0, context = 0, slots = 8;
	struct engine_options how = {0};
	const struct option options[] = {
		{"host", 0, OPTION_TEXT, &host, "HOST",
		 "the address to listen at (127.0.0.1: this machine alone)"},
		{"port", 0, OPTION_INT, &port, "N", "0 takes one that is free (8000)"},
		{"name", 0, OPTION_TEXT, &name, "NAME",
		 "what requests call the model (its directory's name)"},
		{"max-tokens", 0, OPTION_INT, &most, "N",
		 "the most that a request may ask for (what the context allows)"},
		{"context", 0, OPTION_INT, &context, "N",
		 "tokens of prompt and answer together (the model's, at most 8,192)"},
		{"slots", 0, OPTION_INT, &slots, "N",
		 "prompts that are answered at a time, each with memory for a context (8)"},
		{"device", 0, OPTION_TEXT, &how.device, "DEVICE",
		 "auto, cpu or cuda (auto: a GPU where there is one)"},
		{"precision", 0, OPTION_TEXT, &how.precision, "PRECISION",
		 "auto, fp32, bf16 or fp16 (auto: bf16 on a GPU, fp32 on the CPU)"},
		{"weights", 0, OPTION_TEXT, &how.weights, "WEIGHTS",
		 "stored, or nf4: quantised, for a quarter of the memory (stored)"},
		{0},
	};
	struct model_arg model;
	int code = options_parse(cli, &cmd_serve, options, &argc, argv, 1, 1);

	if (code >= 0)
		return code;
	engine_options_check(&how, &err);
	if (port < 0 || port > 65535)
		error_set(&err, ERR_USAGE, "--port %" PRId64 ": ports go from 0 (any that is free) to 65535",
			  port);
	else if (most < 0 || most > INT32_MAX || context < 0 || context > INT32_MAX)
		error_set(&err, ERR_USAGE, "--max-tokens and --context take 1 or more");
	else if (slots < 1 || slots > INT32_MAX)
		error_set(&err, ERR_USAGE, "--slots %" PRId64 ": it takes 1 or more", slots);
	if (err.class != ERR_NONE)
		return cli_fail(cli, &err);
	signal(SIGINT, on_stop);
	signal(SIGTERM, on_stop);
	signal(SIGPIPE, SIG_IGN);
	if (model_arg_open(cli, argv[0], &model, &err)) {
		code = cli_fail(cli, &err);
	} else {
		struct server_options o = {.model = model.path,
					   .name = name ? name : model.name,
					   .host = host,
					   .port = (int)port,
					   .max_tokens = (int)most,
					   .device = how.device,
					   .precision = how.precision,
					   .weights = how.weights,
					   .slots = (int)slots,
					   .context = (int)context,
					   .log = cli->quiet ? NULL : log_line,
					   .arg = cli};
		code = serve(cli, &o);
	}
	model_arg_free(&model);
	return code;
}

const struct command cmd_serve = {
	.name = "serve",
	.args = "MODEL",
	.summary = "answer prompts over HTTP, as OpenAI and vLLM do",
	.more = "MODEL is a directory, or RUN:STAGE for what a stage of a past run made (last:merge).\n"
		"GET /health, GET /v1/models, POST /v1/completions, POST /generate. Requests are taken up "
		"in the order in which they came, several at a time.",
	.run = run,
};
