/* Where stages run: the staging directories of a run, and the machine's processors, memory and devices. */
#include "runtime/run_state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

/* ---- staging ----
 * <store>/staging/<run>/<stage>.<attempt>/. The run holds a lock (flock) on its directory; one that can be locked belongs to
 * a run whose process is gone, and the next run that starts a stage clears it away. */

/* Removes what dead runs left. Best effort: what cannot be removed now is tried again by the next run. */
static void clear_dead(const char *staging)
{
	DIR *d = opendir(staging);
	struct dirent *entry;

	while (d && (entry = readdir(d))) {
		if (entry->d_name[0] == '.')
			continue;
		int fd = openat(dirfd(d), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
			char *path = path_join(staging, entry->d_name);
			tree_remove(path, NULL);
			free(path);
		}
		close(fd);
	}
	if (d)
		closedir(d);
}

/* Makes path and locks it; again when somebody cleared it away in between. */
static int make_locked(const char *path, struct error *err)
{
	for (int tries = 0; tries < 100; tries++) {
		struct stat open_st, st;
		if (mkdir(path, 0777) < 0 && errno != EEXIST)
			return error_errno(err, error_class_of_errno(errno), "%s", path);
		int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0)
			return error_errno(err, error_class_of_errno(errno), "%s", path);
		if (flock(fd, LOCK_EX) == 0 && fstat(fd, &open_st) == 0 && stat(path, &st) == 0 &&
		    open_st.st_ino == st.st_ino && open_st.st_dev == st.st_dev)
			return fd;
		close(fd);
	}
	return error_set(err, ERR_INFRA, "%s: somebody removes it again and again", path);
}

int staging_open(struct runner *r, struct error *err)
{
	if (r->staging)
		return 0;
	char *dir = realpath(store_dir(r->store), NULL); /* stages may stand in other directories */
	if (!dir)
		return error_errno(err, ERR_INFRA, "%s", store_dir(r->store));
	char *all = path_join(dir, "staging");
	free(dir);
	if (mkdir(all, 0777) < 0 && errno != EEXIST) {
		error_errno(err, error_class_of_errno(errno), "%s", all);
		free(all);
		return -1;
	}
	clear_dead(all);
	char name[32];
	snprintf(name, sizeof name, "%lld", (long long)r->id);
	r->staging = path_join(all, name);
	free(all);
	r->staging_fd = make_locked(r->staging, err);
	if (r->staging_fd < 0) {
		free(r->staging);
		r->staging = NULL;
		return -1;
	}
	return 0;
}

void staging_close(struct runner *r)
{
	if (!r->staging)
		return;
	tree_remove(r->staging, NULL);
	close(r->staging_fd);
	free(r->staging);
	r->staging = NULL;
	r->staging_fd = -1;
}

/* ---- the machine ---- */

/* What CUDA_VISIBLE_DEVICES lists, else the numbers of /dev/nvidia<n>. At most 64. */
static void find_devices(struct runner *r)
{
	const char *visible = getenv("CUDA_VISIBLE_DEVICES");
	size_t cap = 0;

	if (visible) {
		for (char *list = arena_strdup(&r->arena, visible), *one; r->ndevices < 64 && (one = strsep(&list, ","));)
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
	long cpus = sysconf(_SC_NPROCESSORS_ONLN), pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
	bool devices = false;

	if (cpus < 1)
		cpus = 1;
	r->jobs = r->options->jobs > 0 ? (size_t)r->options->jobs : (size_t)cpus;
	/* Who asks for more jobs than there are processors wants stages that wait (for a network) side by side. */
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

	return r->cpus_used + cpus_wanted(r, n) <= r->cpus + 1e-9 && n->memory <= r->memory - r->memory_used &&
	       (n->gpus <= 0 || (size_t)n->gpus <= r->ndevices - used);
}

void share_take(struct runner *r, const struct stage_node *n, struct share *out, struct arena *a, const char **devices)
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
