/* The program: finds the command and hands over. Nothing is initialised here that a command might not need. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/text.h"

static bool colorful(int fd)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return isatty(fd) && !(no && *no) && !(term && !strcmp(term, "dumb"));
}

static void overview(const struct cli *cli)
{
	struct table t = {.columns = 2};

	printf("anneal runs stage graphs that fine-tune language models.\n\n");
	for (const struct command *const *c = commands; *c; c++) {
		struct strbuf b = STRBUF_INIT;
		strbuf_addf(&b, "%s %s", (*c)->name, (*c)->args);
		table_add(&t, b.data);
		table_add(&t, (*c)->summary);
		strbuf_free(&b);
	}
	table_print(&t, stdout, "  ", false, cli->color);
	printf("\nanneal help COMMAND tells more. Exit codes: 0 done, 2 usage or graph error, 3 a stage "
	       "failed,\n"
	       "4 infrastructure (network, quota, disk), 5 interrupted, resumable.\n");
}

static const struct command *command_find(const char *name)
{
	for (const struct command *const *c = commands; *c; c++)
		if (!strcmp((*c)->name, name))
			return *c;
	return NULL;
}

static int no_command(const struct cli *cli, const char *name)
{
	struct error err = ERROR_INIT;
	const char *names[64];
	size_t n = 0;

	for (const struct command *const *c = commands; *c; c++)
		names[n++] = (*c)->name;
	names[n++] = "help";
	const char *near = nearest_name(name, names, n);
	if (name[0] == '-')
		error_set(&err, ERR_USAGE, "there is no command, only %s", name);
	else
		error_set(&err, ERR_USAGE, "there is no command \"%s\"%s%s%s", name,
			  near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
	error_hint(&err, "anneal help lists the commands");
	return cli_fail(cli, &err);
}

static int help(struct cli *cli, int argc, char **argv)
{
	if (argc == 0) {
		overview(cli);
		return 0;
	}
	const struct command *c = command_find(argv[0]);
	if (!c)
		return no_command(cli, argv[0]);
	char option[] = "--help", *args[] = {option, NULL};
	return c->run(cli, 1, args);
}

/* The arguments as they would be typed again. */
static char *joined(int argc, char **argv)
{
	struct strbuf b = STRBUF_INIT;

	strbuf_adds(&b, "anneal");
	for (int i = 1; i < argc; i++) {
		const char *s = argv[i];
		bool quote = !*s || s[strcspn(s, " \t\n\"'\\$`*?;&|<>(){}#~")];
		strbuf_addf(&b, quote ? " '%s'" : " %s", s);
	}
	return strbuf_steal(&b);
}

/* Options of every command may stand before it: `anneal --state DIR runs`. Moves the command to argv[1], and them behind it;
 * 0 when there is none. */
static int command_to_front(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--state")) {
			i++; /* its value */
		} else if (argv[i][0] != '-') {
			char *name = argv[i];
			memmove(argv + 2, argv + 1, (size_t)(i - 1) * sizeof *argv);
			argv[1] = name;
			return 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *state = getenv("ANNEAL_STATE");
	struct cli cli = {
		.state = state && *state ? state : ".anneal",
		.color = colorful(STDOUT_FILENO),
		.color_err = colorful(STDERR_FILENO),
		.terminal = isatty(STDOUT_FILENO),
	};
	int code;

	if (argc < 2) {
		overview(&cli);
		return ERR_USAGE;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		printf("anneal %s\n", ANNEAL_VERSION);
		return 0;
	}
	if (!strcmp(argv[1], "help") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		code = help(&cli, argc - 2, argv + 2);
	} else {
		cli.command_line = joined(argc, argv);
		int at = command_to_front(argc, argv);
		const struct command *c = at ? command_find(argv[1]) : NULL;
		code = c ? c->run(&cli, argc - 2, argv + 2) : no_command(&cli, argv[1]);
		free(cli.command_line);
	}
	/* What was printed has to be there: a full disk behind a redirection is a failure. */
	if (fflush(stdout) && code == 0) {
		fprintf(stderr, "anneal: standard output: the rest could not be written\n");
		return ERR_INFRA;
	}
	return code;
}
