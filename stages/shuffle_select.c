/* shuffle-select: rows in a reproducible order, and a part of them. */
#include <stdlib.h>

#include "base/mem.h"
#include "data/rows.h"
#include "data/shuffle.h"
#include "runtime/stage.h"
#include "stages/input.h"

static const struct attr_schema attrs[] = {
	{.name = "rows",
	 .type = ATTR_INPUT,
	 .flags = ATTR_REQUIRED,
	 .ports = PORT_ROWS,
	 .doc = "the rows to choose from"},
	{.name = "shuffle",
	 .type = ATTR_BOOL,
	 .fallback = "true",
	 .doc = "permute the rows as numpy's default_rng(seed).permutation does (what datasets' "
		"shuffle(seed) gives); false: "
		"keep their order"},
	{.name = "seed",
	 .type = ATTR_INT,
	 .fallback = "42",
	 .max = 9007199254740992.0,
	 .doc = "of the permutation"},
	{.name = "skip",
	 .type = ATTR_INT,
	 .fallback = "0",
	 .max = 1e15,
	 .doc = "rows passed over at the start"},
	{.name = "limit",
	 .type = ATTR_INT,
	 .fallback = "-1",
	 .min = -1,
	 .max = 1e15,
	 .doc = "rows taken at most; -1: all"},
	{.name = "reserve",
	 .type = ATTR_INT,
	 .fallback = "0",
	 .max = 1e15,
	 .doc = "rows left alone at the end, for another stage to take with last"},
	{.name = "last",
	 .type = ATTR_INT,
	 .max = 1e15,
	 .doc = "take this many rows from the end instead of from the start"},
	{0},
};

static const struct output_schema outputs[] = {
	{"rows", PORT_ROWS, "the chosen rows, with the ids of their source rows"},
	{0},
};

static const char *check(const struct stage_node *node, const char **attr)
{
	if (stage_attr(node, "last")->type == VALUE_NONE)
		return NULL;
	static const char *const others[] = {"skip", "limit", "reserve"};
	for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
		if (!stage_attr(node, others[i])->is_default) {
			*attr = others[i];
			return "last takes rows from the end; it does not go together with skip, limit and "
			       "reserve";
		}
	}
	return NULL;
}

/* The half-open range of positions that is taken out of n. */
static int selection(const struct stage_ctx *ctx, uint64_t n, uint64_t *begin, uint64_t *end,
		     struct error *err)
{
	uint64_t skip = (uint64_t)ctx_int(ctx, "skip"), reserve = (uint64_t)ctx_int(ctx, "reserve");
	int64_t limit = ctx_int(ctx, "limit");

	if (ctx_given(ctx, "last")) {
		uint64_t last = (uint64_t)ctx_int(ctx, "last");
		if (last > n) {
			error_set(err, ERR_USAGE, "last = %llu, but there are only %llu rows",
				  (unsigned long long)last, (unsigned long long)n);
			return error_hint(err, "lower last, or take more rows further up");
		}
		*begin = n - last;
		*end = n;
		return 0;
	}
	if (skip + reserve > n || (skip + reserve == n && n > 0 && limit != 0)) {
		error_set(err, ERR_USAGE, "skip = %llu and reserve = %llu leave nothing of %llu rows",
			  (unsigned long long)skip, (unsigned long long)reserve, (unsigned long long)n);
		return error_hint(err, "lower them, or take more rows further up");
	}
	*begin = skip;
	*end = n - reserve;
	if (limit >= 0 && *end - *begin > (uint64_t)limit)
		*end = *begin + (uint64_t)limit;
	return 0;
}

static int run(struct stage_ctx *ctx, struct error *err)
{
	struct rows_writer *out = NULL;
	uint64_t *order = NULL;
	uint64_t begin = 0, end = 0;
	int failed = -1;

	struct rows *in = rows_open(ctx_input(ctx, "rows"), err);
	if (!in)
		return -1;
	uint64_t n = rows_count(in);
	if (selection(ctx, n, &begin, &end, err))
		goto done;
	if (ctx_bool(ctx, "shuffle")) {
		order = xreallocarray(NULL, n ? n : 1, sizeof *order);
		shuffle_permutation((uint64_t)ctx_int(ctx, "seed"), order, n);
	}
	out = rows_create(ctx_output(ctx, "rows"), err);
	if (!out)
		goto done;
	for (uint64_t i = begin; i < end; i++) {
		struct row row;
		if (rows_get(in, order ? order[i] : i, &row, err) ||
		    rows_add(out, row.id, row.fields, row.len, err))
			goto done;
		if ((i & 1023) == 0 && stopping(ctx, err))
			goto done;
		ctx_progress(ctx, i - begin, end - begin, "rows");
	}
	failed = rows_commit(out, err);
	out = NULL;
	if (!failed)
		summary_count(ctx, "rows", end - begin);
done:
	rows_abort(out);
	free(order);
	rows_close(in);
	return failed;
}

const struct stage_kind stage_shuffle_select = {
	.schema = {.name = "shuffle-select",
		   .version = 1,
		   .doc = "Shuffles rows by a seed and takes a part of them",
		   .attrs = attrs,
		   .outputs = outputs,
		   .check = check},
	.run = run,
};
