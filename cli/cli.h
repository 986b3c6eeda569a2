/* The command line: what every subcommand shares. A subcommand is one file, cmd_<name>.c, that ends in one const struct
 * command; main.c lists them. Here alone things are printed and the process ends: results go to stdout, what went wrong
 * to stderr, and the exit code is an error class (0, 2, 3, 4, 5). */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "base/str.h"

struct graph;
struct store;

/* Where the program was told to be, and how it may speak. */
struct cli {
	const char *state;  /* --state, else $ANNEAL_STATE, else ".anneal" */
	bool json;          /* --json: documents for programs */
	bool quiet;         /* -q: nothing but errors and what was asked for */
	bool verbose;       /* -v: also what stages log */
	bool color;         /* stdout is a terminal that takes colours */
	bool color_err;     /* the same of stderr */
	bool terminal;      /* stdout is a terminal */
	char *command_line; /* the arguments, joined, for the record */
};

struct command {
	const char *name;
	const char *args;    /* "PIPELINE [OPTION]…" */
	const char *summary; /* half a line */
	const char *more;    /* paragraphs for `anneal help NAME`; may be NULL */
	int (*run)(struct cli *cli, int argc,
		   char **argv); /* argv[0] is the first argument behind the name */
};

/* In the order of `anneal help`; NULL-terminated. */
extern const struct command *const commands[];

/* "anneal: message" and the hint on stderr; returns the error's class, the exit code. */
int cli_fail(const struct cli *cli, const struct error *err);

/* ---- options ---- */

enum option_type {
	OPTION_FLAG,  /* bool: --force */
	OPTION_TEXT,  /* const char *: --from S, --from=S */
	OPTION_INT,   /* int64_t */
	OPTION_FLOAT, /* double */
	OPTION_LIST,  /* struct text_list: every use adds one */
};

struct text_list {
	const char **items; /* free */
	size_t n, cap;
};

struct option {
	const char *name; /* without the dashes; NULL ends a table */
	char letter;      /* 'j', or 0 */
	enum option_type type;
	void *to;        /* where the value goes */
	const char *arg; /* what help calls the value: "STAGE" */
	const char *doc; /* one line */
};

/* Parses the options of a command and those that all have (--state, --json, --quiet, --verbose, --no-color, --help),
 * between or behind the other arguments, which it leaves in argv[0..*argc). "--" ends them. Fails with ERR_USAGE when there
 * are fewer than least or more than most of them. Returns -1 to go on; else the exit code: help was printed, or an error. */
int options_parse(struct cli *cli, const struct command *command, const struct option *own, int *argc,
		  char **argv, int least, int most);

/* ---- what most commands begin with ---- */

/* Finds and loads a pipeline; its diagnostics are printed. sets: "name=value" of --set, may be NULL. Returns 0, or an exit
 * code. The caller graph_frees. */
int pipeline_load(const struct cli *cli, const char *name, const struct text_list *sets, struct graph **out);
/* Opens the state directory; create: also where there is none yet. Returns 0, or an exit code after it was printed. */
int state_open(const struct cli *cli, bool create, struct store **out);
/* Prints j, indented, with a newline, and gives it up. */
void cli_print_json(json_t *j);
/* "12", "last" or NULL (the newest) as a run's number for run_load. */
int run_number(const char *text, int64_t *id, struct error *err);
/* Whether the program runs as a Cloud Run job, whose log takes one JSON object per line. */
bool on_cloud_run(void);

#endif
