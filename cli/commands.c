#include "cli/cli.h"

extern const struct command cmd_run, cmd_plan, cmd_why, cmd_check, cmd_fmt, cmd_graph, cmd_stages, cmd_runs,
	cmd_show, cmd_logs, cmd_metrics, cmd_cat, cmd_generate, cmd_serve, cmd_doctor;

const struct command *const commands[] = {
	&cmd_run,  &cmd_plan, &cmd_why,     &cmd_check, &cmd_fmt,      &cmd_graph, &cmd_stages, &cmd_runs,
	&cmd_show, &cmd_logs, &cmd_metrics, &cmd_cat,   &cmd_generate, &cmd_serve, &cmd_doctor, NULL,
};
