/* Showing a plan: `anneal plan` and `anneal run --dry-run`. */
#ifndef CLI_PLAN_PRINT_H
#define CLI_PLAN_PRINT_H

#include "cli/cli.h"
#include "runtime/plan.h"

/* Plans g and prints what would happen and why. Returns the exit code. */
int plan_print(const struct cli *cli, struct store *s, const struct graph *g, const struct plan_options *o);

#endif
