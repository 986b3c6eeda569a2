/* What stages run on: the machine's processors, memory and devices, and who has how much of them. */
#include "runtime/run_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

/* What CUDA_VISIBLE_DEVICES lists, else the numbers of /dev/nvidia<n>. At most 64. */
static void find_devices(struct runner *r)
{
	const char *visible = getenv("CUDA_VISIBLE_DEVICES");
	size_t cap = 0;

	if (visible) {
		for (char *list = arena_strdup(&r->arena, visible), *one;
		     r->ndevices < 64 && (one = strsep(&list, ","));)
			if (*one) {
				grow(&r->devices, &cap, r->ndevices + 1, sizeof *r->devices);
				r->devices[r->ndevices++] = one;
			}
		return;
	}
	for (int i = 0; i < 64; i++) {
		char path[32];
		snprintf(path, sizeof path, "/dev/nvidia%d", i);
		if (!path_exists(path))
			continue;
		grow(&r->devices, &cap, r->ndevices + 1, sizeof *r->devices);
		r->devices[r->ndevices++] = arena_printf(&r->arena, "%d", i);
	}
}

void machine_measure(struct runner *r)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN), pages = sysconf(_SC_PHYS_PAGES),
	     page = sysconf(_SC_PAGESIZE);
	bool devices = false;

	if (cpus < 1)
		cpus = 1;
	r->jobs = r->options->jobs > 0 ? (size_t)r->options->jobs : (size_t)cpus;
	/* Who asks for more jobs than there are processors wants stages that wait (for a network) side by
	 * side. */
	r->cpus = r->jobs > (size_t)cpus ? (double)r->jobs : (double)cpus;
	r->memory = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : UINT64_MAX;
	for (size_t i = 0; i < r->graph->nstages; i++)
		devices |= r->graph->stages[i].gpus > 0;
	if (devices)
		find_devices(r);
}

/* A stage that wants more processors than there are gets them all. */
static double cpus_wanted(const struct runner *r, const struct stage_node *n)
{
	double want = n->cpus > 0 ? n->cpus : 1;

	return want < r->cpus ? want : r->cpus;
}

int share_possible(const struct runner *r, const struct stage_node *n, struct error *err)
{
	char want[16], have[16];

	if (n->gpus > (int64_t)r->ndevices) {
		error_set(err, ERR_USAGE, "it needs %lld GPU%s, this machine has %zu", (long long)n->gpus,
			  n->gpus == 1 ? "" : "s", r->ndevices);
		return error_hint(err, "run it on a machine with GPUs, or take `gpus` out of the stage");
	}
	if (n->memory > r->memory) {
		format_bytes(n->memory, want);
		format_bytes(r->memory, have);
		error_set(err, ERR_USAGE, "it needs %s of memory, this machine has %s", want, have);
		return error_hint(err, "lower `memory` in the stage if it can do with less");
	}
	return 0;
}

bool share_fits(const struct runner *r, const struct stage_node *n)
{
	size_t used = (size_t)__builtin_popcountll(r->devices_used);

	return r->cpus_used + cpus_wanted(r, n) <= r->cpus + 1e-9 &&
	       n->memory <= r->memory - r->memory_used &&
	       (n->gpus <= 0 || (size_t)n->gpus <= r->ndevices - used);
}

void share_take(struct runner *r, const struct stage_node *n, struct share *out, struct arena *a,
		const char **devices)
{
	struct strbuf names = STRBUF_INIT;
	int64_t left = n->gpus;

	*out = (struct share){cpus_wanted(r, n), n->memory, 0};
	for (size_t i = 0; left > 0 && i < r->ndevices; i++)
		if (!(r->devices_used >> i & 1)) {
			out->devices |= (uint64_t)1 << i;
			strbuf_addf(&names, "%s%s", names.len ? "," : "", r->devices[i]);
			left--;
		}
	*devices = names.len ? arena_strndup(a, names.data, names.len) : NULL;
	strbuf_free(&names);
	r->cpus_used += out->cpus;
	r->memory_used += out->memory;
	r->devices_used |= out->devices;
}

void share_give_back(struct runner *r, const struct share *s)
{
	r->cpus_used -= s->cpus;
	r->memory_used -= s->memory;
	r->devices_used &= ~s->devices;
}
