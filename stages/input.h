/* What several stages do with their inputs and reports. */
#ifndef STAGES_INPUT_H
#define STAGES_INPUT_H

#include <stdbool.h>

#include "data/rows.h"
#include "runtime/stage.h"

/* True, with ERR_INTERRUPTED in err, once the run was asked to stop. */
bool stopping(const struct stage_ctx *ctx, struct error *err);

/* ctx_summary of a count with thousands separators. */
void summary_count(struct stage_ctx *ctx, const char *name, uint64_t n);

/* The text of a row's string field; false when it has none of that name or it is no string. */
bool row_text(const struct row *row, const char *field, const char **text, size_t *n);

/* Whether source is an URL of that scheme ("hf"). */
bool source_is(const char *source, const char *scheme);

/* Fails with ERR_USAGE: what has no path in this version ("hf:// sources") and what to do instead. */
int not_there_yet(struct error *err, const char *what, const char *instead);

#endif
