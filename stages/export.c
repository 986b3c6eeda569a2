/* export: a model as a directory that transformers, vLLM and tokenizers load, published where the user wants it. */
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
#include "base/json.h"
#include "base/mem.h"
#include "model/export.h"
#include "runtime/stage.h"
#include "stages/input.h"
#include "tokenizer/tokenizer.h"

static const char *const dtypes[] = {"stored", "fp32", "fp16", "bf16", NULL};

static const struct attr_schema attrs[] = {
	{.name = "model",
	 .type = ATTR_INPUT,
	 .flags = ATTR_REQUIRED,
	 .ports = PORT_MODEL,
	 .doc = "the model to export"},
	{.name = "to",
	 .type = ATTR_TARGET,
	 .doc = "the directory to publish it in, relative to the current directory; replaced whole, never "
		"half. Left out: the "
		"export is only kept in the store"},
	{.name = "bucket",
	 .type = ATTR_STRING,
	 .fallback = "\"\"",
	 .doc = "a Google Cloud Storage bucket to upload it to"},
	{.name = "dtype",
	 .type = ATTR_CHOICE,
	 .choices = dtypes,
	 .fallback = "\"stored\"",
	 .doc = "dtype of the weights; stored: as they are"},
	{.name = "max_shard_size",
	 .type = ATTR_FLOAT,
	 .fallback = "5e9",
	 .min = 1,
	 .max = 1e15,
	 .doc = "bytes of weights in one file at most (a single larger tensor has a file of its own)"},
	{.name = "base_model", .type = ATTR_STRING, .doc = "what the model card calls the base model"},
	{.name = "description", .type = ATTR_STRING, .doc = "what the model card says of the model"},
	{.name = "dataset", .type = ATTR_STRING, .doc = "what the model card says it was trained on"},
	{.name = "license",
	 .type = ATTR_STRING,
	 .doc = "the model card's licence, as the Hub spells it (\"gemma\")"},
	{0},
};

static const struct output_schema outputs[] = {
	{"model", PORT_MODEL, "the exported directory"},
	{"report", PORT_REPORT, "files, bytes, dtype, and where it was published"},
	{0},
};

/* Beside the published files: which export they are, so that a later run sees whether they still stand. */
static const char marker[] = ".anneal.json";

static void on_progress(uint64_t done, uint64_t all, void *arg)
{
	ctx_progress(arg, done, all, "bytes");
}

/* Loaders want tokenizer.json and tokenizer_config.json; a model that came with tokenizer.model alone gets them made. */
static int complete_tokenizer(const char *dir, struct error *err)
{
	char *json = path_join(dir, "tokenizer.json"), *config = path_join(dir, "tokenizer_config.json");
	struct tokenizer *t = NULL;
	int failed = 0;

	if (!path_exists(json) || !path_exists(config)) {
		failed = tokenizer_open(dir, &t, err);
		if (!failed && !path_exists(config))
			failed = tokenizer_write_config(t, config, err);
		if (!failed && !path_exists(json))
			failed = tokenizer_write_json(t, json, err);
		tokenizer_free(t);
	}
	free(json);
	free(config);
	return failed;
}

struct listing {
	json_t *files; /* {name: bytes} */
	uint64_t bytes;
	const char *to; /* publishing: where to; NULL: only list */
};

static int list_file(const char *relative, const char *path, void *arg, struct error *err)
{
	struct listing *l = arg;
	struct stat st;
	int failed = 0;

	if (stat(path, &st) < 0)
		return error_errno(err, error_class_of_errno(errno), "%s", path);
	json_object_set_new(l->files, relative, json_integer(st.st_size));
	l->bytes += (uint64_t)st.st_size;
	if (l->to) {
		char *to = path_join(l->to, relative), *dir = path_dir(to);
		/* Their own, so that nothing that is done to them reaches the store; shared where the file system can. */
		failed = dir_create(dir, err) || file_copy(path, to, err) || file_sync(to, err);
		free(dir);
		free(to);
	}
	return failed ? -1 : 0;
}

/* Puts the tree at staged where target is (or nothing is), in one step. */
static int exchange(const char *staged, const char *target, struct error *err)
{
	if (!path_exists(target)) {
		if (rename(staged, target) < 0)
			return error_errno(err, error_class_of_errno(errno), "%s", target);
		return 0;
	}
	if (renameat2(AT_FDCWD, staged, AT_FDCWD, target, RENAME_EXCHANGE) == 0)
		return tree_remove(staged, err);
	/* A file system without exchange: the old one steps aside for the moment between two renames. */
	char *aside = xmalloc(strlen(staged) + 8);
	sprintf(aside, "%s.old", staged);
	int failed = 0;
	if (rename(target, aside) < 0 || rename(staged, target) < 0)
		failed = error_errno(err, error_class_of_errno(errno), "%s", target);
	else
		failed = tree_remove(aside, err);
	free(aside);
	return failed;
}

/* Whether what stands at `to` is an earlier export or empty, and so may be replaced. */
static int replaceable(const char *to, struct error *err)
{
	char *mark = path_join(to, marker);
	bool ours = !path_exists(to) || path_exists(mark);

	free(mark);
	if (ours || (path_is_dir(to) && rmdir(to) == 0))
		return 0;
	error_set(err, ERR_USAGE, "%s is already there and is not an export of anneal", to);
	return error_hint(err, "move it away, or export to another directory");
}

/* Whether name is one of the directories "<base>.<pid>.part", also with ".old" behind, in which exports are made ready. */
static bool is_staged(const char *name, const char *base)
{
	size_t n = strlen(base);

	if (!str_starts(name, base) || name[n] != '.')
		return false;
	const char *digits = name + n + 1, *rest = digits + strspn(digits, "0123456789");
	return rest > digits && (strcmp(rest, ".part") == 0 || strcmp(rest, ".part.old") == 0);
}

/* Who makes an export ready holds its directory until it is in its place. -1: somebody does, or this file system has no locks. */
static int hold(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Removes what runs that were killed have left beside `to`. */
static void sweep(const char *to, const char *parent)
{
	DIR *d = opendir(parent);

	for (struct dirent *e; d && (e = readdir(d));) {
		if (!is_staged(e->d_name, path_base(to)))
			continue;
		char *path = path_join(parent, e->d_name);
		int held = hold(path);
		if (held >= 0) {
			tree_remove(path, NULL);
			close(held);
		}
		free(path);
	}
	if (d)
		closedir(d);
}

static int publish(const char *dir, const char *to, const char *report, struct error *err)
{
	struct listing l = {json_object(), 0, NULL};
	char *parent = path_dir(to), *staged = xmalloc(strlen(to) + 48);
	char *mark = NULL;
	json_t *root = NULL;
	int failed, held = -1;

	sprintf(staged, "%s.%ld.part", to, (long)getpid());
	l.to = staged;
	sweep(to, parent);
	failed = replaceable(to, err) || dir_create(parent, err) || tree_remove(staged, err) ||
		 dir_create(staged, err);
	if (!failed) {
		held = hold(staged);
		failed = tree_walk(dir, list_file, &l, err);
	}
	if (!failed) {
		mark = path_join(staged, marker);
		root = json_pack("{s:s, s:O}", "report", report, "files", l.files);
		failed = json_write(mark, root, err) || exchange(staged, to, err) || dir_sync(parent, err);
	}
	if (failed)
		tree_remove(staged, NULL);
	if (held >= 0)
		close(held);
	json_decref(root);
	json_decref(l.files);
	free(mark);
	free(staged);
	free(parent);
	return failed ? -1 : 0;
}

static int run(struct stage_ctx *ctx, struct error *err)
{
	static const enum export_dtype values[] = {EXPORT_AS_STORED, EXPORT_F32, EXPORT_F16, EXPORT_BF16};
	const char *from = ctx_input(ctx, "model"), *dir = ctx_output(ctx, "model"),
		   *to = ctx_path(ctx, "to");
	struct export_options o = {.max_shard_size = (uint64_t)ctx_float(ctx, "max_shard_size"),
				   .card = {.name = to ? path_base(to) : NULL,
					    .base_model = ctx_str(ctx, "base_model"),
					    .dataset = ctx_str(ctx, "dataset"),
					    .license = ctx_str(ctx, "license"),
					    .text = ctx_str(ctx, "description")}};
	struct listing l = {NULL, 0, NULL};
	struct export_report export;
	char size[16];
	size_t k = 0;

	while (strcmp(dtypes[k], ctx_str(ctx, "dtype")) != 0)
		k++;
	o.dtype = values[k];
	if (*ctx_str(ctx, "bucket") || (to && strstr(to, "://")))
		return not_there_yet(
			err, "uploads to gs:// buckets",
			"export to a directory (to = \"exports/name\") and leave bucket (BUCKET_NAME) empty");
	if (to && replaceable(to, err))
		return -1;
	if (model_export(from, dir, &o, on_progress, ctx, &export, err) || complete_tokenizer(dir, err))
		return -1;
	l.files = json_object();
	int failed = tree_walk(dir, list_file, &l, err);
	if (!failed) {
		const char *path = ctx_output(ctx, "report");
		struct digest digest;
		char input[DIGEST_TEXT_SIZE], written[DIGEST_TEXT_SIZE];
		ctx_input_digest(ctx, "model", &digest);
		digest_text(&digest, input);
		json_t *report = json_pack("{s:s, s:O, s:I, s:I, s:s, s:s?}", "model", input, "files",
					   l.files, "bytes", (json_int_t)l.bytes, "weight_bytes",
					   (json_int_t) export.bytes, "dtype", ctx_str(ctx, "dtype"),
					   "published", to);
		failed = json_write(path, report, err) || digest_of_file(path, &digest, NULL, err);
		json_decref(report);
		digest_text(&digest, written);
		failed = failed || (to && publish(dir, to, written, err));
	}
	json_decref(l.files);
	if (failed)
		return -1;
	format_bytes(l.bytes, size);
	ctx_summary(ctx, "size", "%s", size);
	if (to)
		ctx_summary(ctx, "published", "%s", to);
	return 0;
}

/* Whether the directory holds this very export: the marker names the report, whose digest is recorded, and every file has
 * its size. Bytes are not read: this runs at every start. */
static int published(const struct stage_node *node, const struct digest *digests, size_t ndigests)
{
	const struct value *to = stage_attr(node, "to");
	const char *name, *report = NULL;
	struct digest digest;
	json_t *size;

	if (to->type == VALUE_NONE)
		return 1;
	char *path = path_join(to->path, marker);
	json_t *root = path_exists(path) ? json_read(path, NULL) : NULL,
	       *files = json_object_get(root, "files");
	free(path);
	int whole = root && json_get_str(root, "report", &report, marker, NULL) == 1 &&
		    digest_parse(report, &digest) && ndigests == 2 && digest_equal(&digest, &digests[1]) &&
		    json_is_object(files);
	json_object_foreach(files, name, size)
	{
		struct stat st;
		char *file = path_join(to->path, name);
		whole = whole && stat(file, &st) == 0 && st.st_size == json_integer_value(size);
		free(file);
	}
	json_decref(root);
	return whole;
}

const struct stage_kind stage_export = {
	.schema = {.name = "export",
		   .version = 1,
		   .doc = "Writes a model as a directory that transformers and vLLM load, and publishes it",
		   .attrs = attrs,
		   .outputs = outputs},
	.run = run,
	.published = published,
};
