/* Options, and the help that is made of their tables. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/text.h"

#define OPTIONS_MOST 64

/* The options that every command has, in front of its own. */
static size_t common_options(struct cli *cli, bool *plain, bool *help, struct option *out)
{
	const struct option common[] = {
		{"state", 0, OPTION_TEXT, &cli->state, "DIR",
		 "where results and history are kept (./.anneal, $ANNEAL_STATE)"},
		{"json", 0, OPTION_FLAG, &cli->json, NULL, "print JSON"},
		{"quiet", 'q', OPTION_FLAG, &cli->quiet, NULL,
		 "print nothing but errors and what was asked for"},
		{"verbose", 'v', OPTION_FLAG, &cli->verbose, NULL, "print what stages log, too"},
		{"no-color", 0, OPTION_FLAG, plain, NULL, "no colours (also $NO_COLOR)"},
		{"help", 'h', OPTION_FLAG, help, NULL, "print this"},
	};

	memcpy(out, common, sizeof common);
	return sizeof common / sizeof *common;
}

static void print_options(const struct option *options, size_t n, bool color)
{
	struct table t = {.columns = 2};

	for (size_t i = 0; i < n; i++) {
		struct strbuf b = STRBUF_INIT;
		if (options[i].letter)
			strbuf_addf(&b, "-%c, ", options[i].letter);
		strbuf_addf(&b, "--%s", options[i].name);
		if (options[i].type != OPTION_FLAG)
			strbuf_addf(&b, " %s", options[i].arg);
		table_add(&t, b.data);
		table_add(&t, options[i].doc);
		strbuf_free(&b);
	}
	table_print(&t, stdout, "  ", false, color);
}

static void print_help(const struct cli *cli, const struct command *c, const struct option *own, size_t nown,
		       const struct option *common, size_t ncommon)
{
	printf("anneal %s %s\n\n%s.\n", c->name, c->args, c->summary);
	if (c->more)
		printf("\n%s\n", c->more);
	if (nown) {
		printf("\nOptions:\n");
		print_options(own, nown, cli->color);
	}
	printf("\nOptions of every command:\n");
	print_options(common, ncommon, cli->color);
}

static int set_value(const struct option *o, const char *value, struct error *err)
{
	switch (o->type) {
	case OPTION_FLAG: *(bool *)o->to = true; return 0;
	case OPTION_TEXT: *(const char **)o->to = value; return 0;
	case OPTION_INT:
		if (!parse_i64(value, o->to))
			return error_set(err, ERR_USAGE, "--%s %s: it takes an integer", o->name, value);
		return 0;
	case OPTION_FLOAT:
		if (!parse_f64(value, o->to))
			return error_set(err, ERR_USAGE, "--%s %s: it takes a number", o->name, value);
		return 0;
	case OPTION_LIST: {
		struct text_list *l = o->to;
		grow(&l->items, &l->cap, l->n + 1, sizeof *l->items);
		l->items[l->n++] = value;
		return 0;
	}
	}
	return 0;
}

static int unknown(const char *given, const struct command *c, const struct option *all, size_t n,
		   struct error *err)
{
	const char *names[OPTIONS_MOST];

	for (size_t i = 0; i < n; i++)
		names[i] = all[i].name;
	const char *near = nearest_name(given, names, n);
	error_set(err, ERR_USAGE, "%s has no option --%s%s%s%s", c->name, given,
		  near ? "; did you mean --" : "", near ? near : "", near ? "?" : "");
	return error_hint(err, "anneal help %s", c->name);
}

/* argv[*i] is an option: takes it and, where it has one, its value. */
static int take(const struct command *c, const struct option *all, size_t n, int argc, char **argv, int *i,
		struct error *err)
{
	const char *arg = argv[*i], *value = NULL;
	const struct option *o = NULL;
	char name[64];

	if (arg[1] == '-') {
		size_t len = strcspn(arg + 2, "=");
		snprintf(name, sizeof name, "%.*s", (int)(len < 63 ? len : 63), arg + 2);
		if (arg[2 + len])
			value = arg + 2 + len + 1;
		for (size_t k = 0; k < n; k++)
			if (!strcmp(all[k].name, name))
				o = all + k;
		if (!o)
			return unknown(name, c, all, n, err);
		if (o->type == OPTION_FLAG && value)
			return error_set(err, ERR_USAGE, "--%s takes no value", o->name);
	} else {
		for (size_t k = 0; k < n; k++)
			if (all[k].letter && all[k].letter == arg[1])
				o = all + k;
		if (!o) {
			error_set(err, ERR_USAGE, "%s has no option -%c", c->name, arg[1]);
			return error_hint(err, "anneal help %s", c->name);
		}
		if (arg[2] && o->type == OPTION_FLAG)
			return error_set(err, ERR_USAGE, "%s: short options are given one by one", arg);
		if (arg[2])
			value = arg + 2 + (arg[2] == '=');
	}
	if (o->type != OPTION_FLAG && !value) {
		if (*i + 1 >= argc)
			return error_set(err, ERR_USAGE, "--%s needs a value: --%s %s", o->name, o->name,
					 o->arg);
		value = argv[++*i];
	}
	return set_value(o, value, err);
}

int options_parse(struct cli *cli, const struct command *c, const struct option *own, int *argc, char **argv,
		  int least, int most)
{
	struct option all[OPTIONS_MOST];
	struct error err = ERROR_INIT;
	bool plain = false, help = false, open = true;
	size_t ncommon = common_options(cli, &plain, &help, all), n = ncommon;
	int kept = 0;

	for (const struct option *o = own; o && o->name; o++)
		all[n++] = *o;
	for (int i = 0; i < *argc; i++) {
		if (open && !strcmp(argv[i], "--"))
			open = false;
		else if (!open || argv[i][0] != '-' || !argv[i][1])
			argv[kept++] = argv[i];
		else if (take(c, all, n, *argc, argv, &i, &err))
			return cli_fail(cli, &err);
	}
	*argc = kept;
	if (plain)
		cli->color = cli->color_err = false;
	if (help) {
		print_help(cli, c, all + ncommon, n - ncommon, all, ncommon);
		return 0;
	}
	if (kept < least || kept > most) {
		if (kept < least)
			error_set(&err, ERR_USAGE, "%s needs more arguments: anneal %s %s", c->name, c->name,
				  c->args);
		else
			error_set(&err, ERR_USAGE, "%s: \"%s\" is one argument too many: anneal %s %s",
				  c->name, argv[most], c->name, c->args);
		error_hint(&err, "anneal help %s", c->name);
		return cli_fail(cli, &err);
	}
	return -1;
}
