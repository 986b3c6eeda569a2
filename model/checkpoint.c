#include "model/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/safetensors.h"
#include "model/trainer_state.h"

#define VERSION         "2"
#define GENERATOR_WORDS 625

/* CRC-64/XZ (ECMA-182 polynomial, reflected): against damage, not against intent. */
static uint64_t crc64(uint64_t crc, const void *bytes, size_t n)
{
	static uint64_t table[256];
	const uint8_t *p = bytes;

	if (!table[1]) {
		for (unsigned i = 0; i < 256; i++) {
			uint64_t v = i;
			for (int k = 0; k < 8; k++)
				v = v >> 1 ^ (v & 1 ? 0xc96c5795d7870f42u : 0);
			table[i] = v;
		}
	}
	crc = ~crc;
	for (size_t i = 0; i < n; i++)
		crc = crc >> 8 ^ table[(uint8_t)crc ^ p[i]];
	return ~crc;
}

static uint64_t crc64_text(uint64_t crc, const char *s)
{
	return crc64(crc, s, strlen(s) + 1);
}

static void rows_text(const struct trainer *t, char out[64])
{
	uint64_t crc = 0;

	for (uint32_t i = 0; i < t->nrows; i++) {
		const struct train_sequence *s = &t->rows[i];
		int32_t head[2] = {s->n, s->label_start};
		crc = crc64(crc, head, sizeof head);
		crc = crc64(crc, s->ids, (size_t)s->n * sizeof *s->ids);
	}
	snprintf(out, 64, "%" PRIu32 " %016" PRIx64, t->nrows, crc);
}

static void state_text(const struct trainer *t, char out[512])
{
	snprintf(out, 512,
		 "step %" PRId64 " updates %" PRId64 " epoch %" PRId64 " cursor %" PRIu32 " tokens %" PRId64
		 " skipped %" PRId64 " steps_logged %" PRId64
		 " loss_logged %a loss_total %a loss_scale %a scale_held %" PRId64,
		 t->step, t->updates, t->epoch, t->cursor, t->tokens, t->skipped, t->steps_logged,
		 t->loss_logged, t->loss_total, t->loss_scale, t->scale_held);
}

static const char *const moments[] = {"param", "exp_avg", "exp_avg_sq"};

static float *part_of(const struct parameter *p, int which)
{
	return which == 0 ? p->value : which == 1 ? p->m : p->v;
}

static void generator_words(const struct sampler *s, int32_t out[GENERATOR_WORDS])
{
	memcpy(out, s->generator.state, sizeof s->generator.state);
	out[GENERATOR_WORDS - 1] = (int32_t)s->generator.next;
}

/* Everything that the file says, but the tensors, in one number. */
static uint64_t state_crc(const char *options, const char *rows, const char *state, const int32_t *generator)
{
	uint64_t crc = crc64_text(crc64_text(crc64_text(0, options), rows), state);

	return crc64(crc, generator, GENERATOR_WORDS * sizeof *generator);
}

int trainer_save(struct trainer *t, const char *path, struct error *err)
{
	size_t n = 3 * t->nparams + 1;
	struct tensor *list = xcalloc(n, sizeof *list);
	const void **data = xcalloc(n, sizeof *data);
	struct arena names = ARENA_INIT;
	struct strbuf options = STRBUF_INIT;
	char rows[64], state[512], crc_text[24];
	int32_t generator[GENERATOR_WORDS];
	struct tensors_writer *w = NULL;
	char *tmp = arena_printf(&names, "%s.tmp", path);
	float *values = xreallocarray(NULL, 3 * t->count, sizeof *values), *at = values; /* on the host */
	int failed = 0;

	trainer_options_text(&t->options, t->device, &options);
	rows_text(t, rows);
	state_text(t, state);
	generator_words(&t->sampler, generator);
	uint64_t crc = state_crc(options.data, rows, state, generator);
	for (size_t i = 0; i < t->nparams; i++) {
		const struct parameter *p = &t->params[i];
		for (int k = 0; k < 3; k++) {
			list[3 * i + (size_t)k] = (struct tensor){
				.name = arena_printf(&names, "%s.%s", moments[k], p->name),
				.dtype = TENSOR_F32,
				.ndims = p->cols ? 2 : 1,
				.shape = {p->rows, p->cols},
			};
			if (!failed)
				failed = device_download(t->device, at, part_of(p, k), p->count * sizeof *at,
							 err);
			data[3 * i + (size_t)k] = at;
			if (!failed)
				crc = crc64(crc, at, p->count * sizeof *at);
			at += p->count;
		}
	}
	list[n - 1] = (struct tensor){
		.name = "sampler.mt19937", .dtype = TENSOR_I32, .ndims = 1, .shape = {GENERATOR_WORDS}};
	data[n - 1] = generator;
	snprintf(crc_text, sizeof crc_text, "%016" PRIx64, crc);
	const char *meta[] = {"anneal.checkpoint",
			      VERSION,
			      "options",
			      options.data,
			      "rows",
			      rows,
			      "state",
			      state,
			      "crc64",
			      crc_text,
			      NULL};
	if (!failed)
		failed = tensors_create(tmp, list, n, meta, &w, err);
	for (size_t k = 0; k < n && !failed; k++) {
		size_t i = tensors_order(w)[k];
		failed = tensors_add(w, data[i], (size_t)tensor_elements(&list[i]) * 4, err);
	}
	if (failed)
		tensors_abandon(w);
	else
		failed = tensors_commit(w, err);
	if (!failed && rename(tmp, path) < 0)
		failed = error_errno(err, error_class_of_errno(errno), "%s", path);
	char *dir = path_dir(path);
	if (!failed)
		failed = dir_sync(dir, err);
	free(dir);
	strbuf_free(&options);
	arena_free(&names);
	free(list);
	free(data);
	free(values);
	return failed;
}

/* ---- restoring ---- */

/* The first line in which two texts differ. */
static void first_difference(const char *a, const char *b, char left[80], char right[80])
{
	for (;;) {
		size_t m = strcspn(a, "\n"), n = strcspn(b, "\n");
		if (m != n || memcmp(a, b, m) != 0 || (!a[m] && !b[n])) {
			snprintf(left, 80, "%.*s", (int)m, a);
			snprintf(right, 80, "%.*s", (int)n, b);
			return;
		}
		a += m + (a[m] != 0);
		b += n + (b[n] != 0);
	}
}

/* The metadata and the shapes belong to this run. */
static int check_belongs(const struct trainer *t, const struct tensors *f, const char *path,
			 struct error *err)
{
	const char *version = tensors_metadata(f, "anneal.checkpoint"),
		   *options = tensors_metadata(f, "options");
	const char *rows = tensors_metadata(f, "rows");
	struct strbuf mine = STRBUF_INIT;
	char left[80], right[80], my_rows[64];

	if (!version || !options || !rows || !tensors_metadata(f, "state") || !tensors_metadata(f, "crc64"))
		return error_set(err, ERR_USAGE, "%s: not a training checkpoint", path);
	if (strcmp(version, VERSION) != 0)
		return error_set(err, ERR_USAGE, "%s: checkpoint format %.20s, this program reads " VERSION,
				 path, version);
	trainer_options_text(&t->options, t->device, &mine);
	bool same = strcmp(mine.data, options) == 0;
	if (!same)
		first_difference(options, mine.data, left, right);
	strbuf_free(&mine);
	if (!same)
		return error_set(err, ERR_USAGE, "%s: saved with other options: \"%s\" there, \"%s\" now",
				 path, left, right);
	rows_text(t, my_rows);
	if (strcmp(rows, my_rows) != 0)
		return error_set(err, ERR_USAGE, "%s: saved with other rows: %.60s there, %s now", path, rows,
				 my_rows);
	if (tensors_count(f) != 3 * t->nparams + 1)
		return error_set(err, ERR_USAGE, "%s: has %zu tensors, expected %zu", path, tensors_count(f),
				 3 * t->nparams + 1);
	return 0;
}

static const struct tensor *find_part(const struct trainer *t, const struct tensors *f, size_t i, int which,
				      const char *path, struct error *err)
{
	const struct parameter *p = &t->params[i];
	char name[160];

	snprintf(name, sizeof name, "%s.%s", moments[which], p->name);
	const struct tensor *at = tensors_find(f, name);
	if (!at || at->dtype != TENSOR_F32 || at->ndims != (p->cols ? 2 : 1) || at->shape[0] != p->rows ||
	    (p->cols && at->shape[1] != p->cols)) {
		error_set(err, ERR_USAGE, "%s: tensor %s is missing or has another shape", path, name);
		return NULL;
	}
	return at;
}

static int read_state(struct trainer *s, const char *text, const char *path, struct error *err)
{
	int end = 0;
	int n = sscanf(text,
		       "step %" SCNd64 " updates %" SCNd64 " epoch %" SCNd64 " cursor %" SCNu32
		       " tokens %" SCNd64 " skipped %" SCNd64 " steps_logged %" SCNd64
		       " loss_logged %la loss_total %la loss_scale %la scale_held %" SCNd64 "%n",
		       &s->step, &s->updates, &s->epoch, &s->cursor, &s->tokens, &s->skipped,
		       &s->steps_logged, &s->loss_logged, &s->loss_total, &s->loss_scale, &s->scale_held,
		       &end);

	if (n != 11 || !(s->loss_scale > 0) || s->scale_held < 0 || text[end] || s->step < 0 ||
	    s->updates < 0 || s->updates > s->step || s->epoch < 0 || s->cursor > s->nrows ||
	    s->steps_logged < 0 || s->steps_logged > s->step)
		return error_set(err, ERR_USAGE, "%s: its state makes no sense: %.200s", path, text);
	return 0;
}

static int restore(struct trainer *t, const struct tensors *f, const char *path, struct error *err)
{
	const struct tensor *words = tensors_find(f, "sampler.mt19937");
	int32_t generator[GENERATOR_WORDS];
	char crc_text[24];
	struct trainer read = *t;

	if (check_belongs(t, f, path, err))
		return -1;
	if (!words || words->dtype != TENSOR_I32 || words->bytes != sizeof generator)
		return error_set(err, ERR_USAGE, "%s: tensor sampler.mt19937 is missing or has another shape",
				 path);
	memcpy(generator, words->data, sizeof generator);
	uint64_t crc = state_crc(tensors_metadata(f, "options"), tensors_metadata(f, "rows"),
				 tensors_metadata(f, "state"), generator);
	for (size_t i = 0; i < t->nparams; i++) {
		for (int k = 0; k < 3; k++) {
			const struct tensor *at = find_part(t, f, i, k, path, err);
			if (!at)
				return -1;
			crc = crc64(crc, at->data, (size_t)at->bytes);
		}
	}
	snprintf(crc_text, sizeof crc_text, "%016" PRIx64, crc);
	if (strcmp(crc_text, tensors_metadata(f, "crc64")) != 0)
		return error_set(err, ERR_USAGE, "%s: damaged: its checksum is %.20s, its content's %s", path,
				 tensors_metadata(f, "crc64"), crc_text);
	if (read_state(&read, tensors_metadata(f, "state"), path, err))
		return -1;
	memcpy(read.sampler.generator.state, generator, sizeof read.sampler.generator.state);
	read.sampler.generator.next = (uint32_t)generator[GENERATOR_WORDS - 1];
	if (read.sampler.generator.next > GENERATOR_WORDS - 1)
		return error_set(err, ERR_USAGE, "%s: the generator's position is out of range", path);
	read.ordered = false;
	*t = read;
	for (size_t i = 0; i < t->nparams; i++) {
		for (int k = 0; k < 3; k++) {
			const struct tensor *at = find_part(t, f, i, k, path, err);
			device_upload(t->device, part_of(&t->params[i], k), at->data, (size_t)at->bytes);
		}
	}
	trainer_draw_order(t);
	return 0;
}

int trainer_restore(struct trainer *t, const char *path, struct error *err)
{
	struct tensors *f;

	if (tensors_open(path, &f, err))
		return -1;
	int failed = restore(t, f, path, err);
	tensors_close(f);
	return failed;
}
