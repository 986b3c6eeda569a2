/* Hashing beside writing: a thread per file, which is handed one piece at a time. */
#include "base/outfile.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/mem.h"

struct beside {
	struct hasher *hasher;
	pthread_t thread;
	bool threaded; /* else the system has no thread left, and the writer hashes */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	const void *bytes; /* the piece at hand; NULL: none */
	size_t n;
	bool last;
};

static void *work(void *arg)
{
	struct beside *h = arg;

	pthread_mutex_lock(&h->lock);
	for (;;) {
		while (!h->bytes && !h->last)
			pthread_cond_wait(&h->changed, &h->lock);
		if (!h->bytes)
			break;
		pthread_mutex_unlock(&h->lock);
		hasher_add(h->hasher, h->bytes, h->n);
		pthread_mutex_lock(&h->lock);
		h->bytes = NULL;
		pthread_cond_broadcast(&h->changed);
	}
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

static void *begin(void)
{
	struct beside *h = xcalloc(1, sizeof *h);

	h->hasher = hasher_new();
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->changed, NULL);
	h->threaded = pthread_create(&h->thread, NULL, work, h) == 0;
	return h;
}

static void wait_done(void *arg)
{
	struct beside *h = arg;

	pthread_mutex_lock(&h->lock);
	while (h->bytes)
		pthread_cond_wait(&h->changed, &h->lock);
	pthread_mutex_unlock(&h->lock);
}

static void add(void *arg, const void *bytes, size_t n)
{
	struct beside *h = arg;

	if (!h->threaded) {
		hasher_add(h->hasher, bytes, n);
		return;
	}
	wait_done(h);
	pthread_mutex_lock(&h->lock);
	h->bytes = bytes;
	h->n = n;
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
}

/* ---- what was hashed ---- */

struct known {
	struct stat st;
	struct digest digest;
};
static struct known *known; /* as long as the process lives */
static size_t nknown, known_cap;
static pthread_mutex_t known_lock = PTHREAD_MUTEX_INITIALIZER;

static void end(void *arg, const struct stat *st)
{
	struct beside *h = arg;
	struct digest digest;

	pthread_mutex_lock(&h->lock);
	h->last = true;
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
	if (h->threaded)
		pthread_join(h->thread, NULL);
	if (st) {
		hasher_finish(h->hasher, &digest);
		pthread_mutex_lock(&known_lock);
		grow(&known, &known_cap, nknown + 1, sizeof *known);
		known[nknown++] = (struct known){*st, digest};
		pthread_mutex_unlock(&known_lock);
	}
	hasher_free(h->hasher);
	pthread_mutex_destroy(&h->lock);
	pthread_cond_destroy(&h->changed);
	free(h);
}

void outfile_hashing(void)
{
	static const struct outfile_hash how = {begin, add, wait_done, end};

	outfile_hash_with(&how);
}

bool outfile_digest(const struct stat *st, struct digest *out)
{
	bool found = false;

	pthread_mutex_lock(&known_lock);
	for (size_t i = nknown; i-- > 0 && !found;) { /* the newest first: an inode may come again */
		found = stat_same_file(&known[i].st, st);
		if (found)
			*out = known[i].digest;
	}
	pthread_mutex_unlock(&known_lock);
	return found;
}
