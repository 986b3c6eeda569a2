#include "stages/input.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

bool stopping(const struct stage_ctx *ctx, struct error *err)
{
	if (!ctx_stopping(ctx))
		return false;
	error_set(err, ERR_INTERRUPTED, "stopped");
	return true;
}

void summary_count(struct stage_ctx *ctx, const char *name, uint64_t n)
{
	char digits[24], text[32];
	int len = snprintf(digits, sizeof digits, "%" PRIu64, n), out = 0;

	for (int i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0)
			text[out++] = ',';
		text[out++] = digits[i];
	}
	text[out] = '\0';
	ctx_summary(ctx, name, "%s", text);
}

bool row_text(const struct row *row, const char *field, const char **text, size_t *n)
{
	struct pack_value v;

	if (!row_field(row, field, &v) || v.type != PACK_STR)
		return false;
	*text = (const char *)v.body;
	*n = v.len;
	return true;
}

bool source_is(const char *source, const char *scheme)
{
	size_t n = strlen(scheme);
	return strncmp(source, scheme, n) == 0 && strncmp(source + n, "://", 3) == 0;
}

int not_there_yet(struct error *err, const char *what, const char *instead)
{
	error_set(err, ERR_USAGE, "%s are not there yet in this version", what);
	return error_hint(err, "%s", instead);
}
