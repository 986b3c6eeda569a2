/* Learning-rate schedules of transformers 4.51.3 (optimization.py): linear warm-up from 0, then a curve. */
#ifndef MODEL_SCHEDULE_H
#define MODEL_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

enum schedule_kind {
	SCHEDULE_COSINE,   /* half a cosine from 1 to 0 */
	SCHEDULE_LINEAR,   /* straight from 1 to 0 */
	SCHEDULE_CONSTANT, /* 1 ("constant_with_warmup"; with no warm-up, "constant") */
};

struct schedule {
	enum schedule_kind kind;
	int64_t warmup; /* updates; the first of them has learning rate 0 */
	int64_t total;  /* updates in all */
};

const char *schedule_kind_name(enum schedule_kind k); /* "cosine", "linear", "constant" */
/* false when name is none of them. */
bool schedule_kind_of(const char *name, enum schedule_kind *out);
/* The updates of warm-up: steps when it is above 0, else ceil(total * ratio). */
int64_t schedule_warmup(int64_t total, int64_t steps, double ratio);
/* The factor on the learning rate for the update after u (0, 1, 2 …) steps of the schedule. */
double schedule_at(const struct schedule *s, int64_t u);

#endif
