/* Stage kinds for the tests of the language: they have every type of attribute and port, and do nothing. */
#ifndef TESTS_UNIT_GRAPH_KINDS_H
#define TESTS_UNIT_GRAPH_KINDS_H

#include "graph/graph.h"

extern const struct kind_schema *const test_kinds[];

#endif
