#include "graph/schema.h"

#include <string.h>

static const struct {
	enum port_kind kind;
	const char *name;
} ports[] = {
	{PORT_ROWS, "rows"},     {PORT_TOKENS, "tokens"}, {PORT_MODEL, "model"}, {PORT_ADAPTER, "adapter"},
	{PORT_REPORT, "report"}, {PORT_FILE, "file"},     {PORT_ANY, "any"},
};

const char *port_kind_name(enum port_kind kind)
{
	for (size_t i = 0; i < sizeof ports / sizeof *ports; i++)
		if (ports[i].kind == kind)
			return ports[i].name;
	return "none";
}

enum port_kind port_kind_of(const char *name)
{
	for (size_t i = 0; i < sizeof ports / sizeof *ports; i++)
		if (!strcmp(ports[i].name, name))
			return ports[i].kind;
	return (enum port_kind)0;
}

const struct attr_schema common_attrs[] = {
	{"uses", ATTR_STRING, ATTR_REQUIRED | ATTR_UNKEYED, 0, NULL, 0, 0, NULL,
	 "the stage's kind, with or without its version: \"tokenize\", \"tokenize@1\""},
	{"retries", ATTR_INT, ATTR_UNKEYED, 0, "0", 0, 1000, NULL, "how often a failed attempt is repeated"},
	{"timeout", ATTR_DURATION, ATTR_UNKEYED, 0, NULL, 0.001, 1e9, NULL,
	 "how long one attempt may take: \"55m\""},
	{"salt", ATTR_STRING, 0, 0, "\"\"", 0, 0, NULL,
	 "part of the key: change it to have the stage run anew"},
	{"cpus", ATTR_FLOAT, ATTR_UNKEYED, 0, NULL, 0.01, 4096, NULL,
	 "cores that the stage takes; left out: as the scheduler decides"},
	{"gpus", ATTR_INT, ATTR_UNKEYED, 0, "0", 0, 1024, NULL, "GPUs that the stage takes"},
	{"memory", ATTR_STRING, ATTR_UNKEYED, 0, NULL, 0, 0, NULL, "memory that the stage takes: \"8GiB\""},
	{NULL, ATTR_STRING, 0, 0, NULL, 0, 0, NULL, NULL},
};
