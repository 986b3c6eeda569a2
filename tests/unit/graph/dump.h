/* A checked graph as text: every stage, attribute, edge and param, so that two graphs can be compared. */
#ifndef TESTS_UNIT_GRAPH_DUMP_H
#define TESTS_UNIT_GRAPH_DUMP_H

#include "base/str.h"
#include "graph/graph.h"

void graph_dump(const struct graph *g, struct strbuf *out);

#endif
