/* MODEL on the command line: a directory, or RUN:STAGE[.PORT], the model that a stage of a past run made. */
#ifndef CLI_MODEL_ARG_H
#define CLI_MODEL_ARG_H

#include "cli/cli.h"
#include "cli/history.h"

struct model_arg {
	const char *path;    /* the model's directory */
	char *name;          /* "12:merge", or the directory's last part */
	struct store *store; /* of a run's model, and its files; else NULL */
	struct borrowed files;
};

/* ERR_USAGE when there is no such directory or stage output. The caller calls model_arg_free. */
int model_arg_open(const struct cli *cli, const char *text, struct model_arg *out, struct error *err);
void model_arg_free(struct model_arg *m);

#endif
