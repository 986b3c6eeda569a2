#include "model/schedule.h"

#include <math.h>
#include <string.h>

static const char *const names[] = {"cosine", "linear", "constant"};

const char *schedule_kind_name(enum schedule_kind k)
{
	return names[k];
}

bool schedule_kind_of(const char *name, enum schedule_kind *out)
{
	for (int i = 0; i < 3; i++) {
		if (strcmp(names[i], name) == 0) {
			*out = (enum schedule_kind)i;
			return true;
		}
	}
	return false;
}

int64_t schedule_warmup(int64_t total, int64_t steps, double ratio)
{
	return steps > 0 ? steps : (int64_t)ceil((double)total * ratio);
}

double schedule_at(const struct schedule *s, int64_t u)
{
	double rest = s->total > s->warmup ? (double)(s->total - s->warmup) : 1;

	if (u < s->warmup)
		return (double)u / (double)s->warmup;
	switch (s->kind) {
	case SCHEDULE_COSINE: {
		double v = 0.5 *
			   (1 + cos(3.14159265358979323846 * 0.5 * 2 * ((double)(u - s->warmup) / rest)));
		return v > 0 ? v : 0;
	}
	case SCHEDULE_LINEAR: {
		double v = (double)(s->total - u) / rest;
		return v > 0 ? v : 0;
	}
	case SCHEDULE_CONSTANT: break;
	}
	return 1;
}
