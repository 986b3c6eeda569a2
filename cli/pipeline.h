/* Where pipelines are: a name stands for NAME.graph in the first folder that has it. */
#ifndef CLI_PIPELINE_H
#define CLI_PIPELINE_H

#include <stddef.h>

#include "base/error.h"
#include "cli/cli.h"

/* The folders, in this order: ./pipelines, those of $ANNEAL_PIPELINES (separated by ':'), beside the installed program
 * (../share/anneal/pipelines), the installed share folder, and the sources' own when the program runs from its build tree.
 * Those that do not exist are left out. The caller frees the strings and the list. */
void pipeline_folders(struct text_list *out);
/* The path of the pipeline called name: name itself when it has a '/' or ends in ".graph", else what the folders have.
 * NULL and ERR_USAGE when there is none: the message lists those there are and the nearest name. The caller frees it. */
char *pipeline_find(const char *name, const struct text_list *folders, struct error *err);
/* "name=value" -> name (to be freed) and value, which points into text. ERR_USAGE without a '='. */
int set_split(const char *text, char **name, const char **value, struct error *err);

#endif
