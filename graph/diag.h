/* Collecting diagnostics. Private to graph/; reading them is in graph.h. */
#ifndef GRAPH_DIAG_H
#define GRAPH_DIAG_H

#include "graph/graph.h"

#define MAX_ERRORS 20

/* Adds an error, warning or note at span; a source is copied
 * on its first diagnostic, so that d outlives the graph. Errors beyond MAX_ERRORS are counted
 * only, and their notes dropped. d may be NULL. */
void diag_error(struct diags *d, struct span span, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void diag_warning(struct diags *d, struct span span, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void diag_note(struct diags *d, struct span span, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Puts text behind the underline of the error or warning added last. */
void diag_label(struct diags *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Ends a load: puts the diagnostics from the given one on into the order of the text, notes staying with their error,
 * and forgets which sources were copied, so that the graph may go. */
void diags_finish(struct diags *d, size_t from);

/* `. Did you mean "x"?` or "": the nearest of the candidates; lives in d. */
const char *did_you_mean(struct diags *d, const char *name, const char *const *candidates, size_t n);

#endif
