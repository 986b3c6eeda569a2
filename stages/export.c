/* export: a model as a directory that transformers, vLLM and tokenizers load, published where the user wants it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/config.h"
#include "model/merge.h"
#include "model/shards.h"
#include "runtime/stage.h"
#include "stages/input.h"
#include "tokenizer/tokenizer.h"

static const char *const dtypes[] = {"stored", "fp32", "fp16", "bf16", NULL};

static const struct attr_schema attrs[] = {
	{.name = "model", .type = ATTR_INPUT, .flags = ATTR_REQUIRED, .ports = PORT_MODEL, .doc = "the model to export"},
	{.name = "to",
	 .type = ATTR_TARGET,
	 .doc = "the directory to publish it in, relative to the current directory; replaced whole, never half. Left out: the "
		"export is only kept in the store"},
	{.name = "bucket", .type = ATTR_STRING, .fallback = "\"\"", .doc = "a Google Cloud Storage bucket to upload it to"},
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
	{.name = "license", .type = ATTR_STRING, .doc = "the model card's licence, as the Hub spells it (\"gemma\")"},
	{0},
};

static const struct output_schema outputs[] = {
	{"model", PORT_MODEL, "the exported directory"},
	{"report", PORT_REPORT, "files, bytes, dtype, and where it was published"},
	{0},
};

/* Beside the published files: which export they are, so that a later run sees whether they still stand. */
static const char marker[] = ".anneal.json";

struct weights {
	struct tensor *list; /* in state_dict order, tied lm_head left out */
	size_t n;
	enum tensor_dtype dtype;
	bool convert;
	struct stage_ctx *ctx;
	uint64_t done;
};

static int produce(size_t i, struct tensors_writer *w, void *arg, struct error *err)
{
	struct weights *x = arg;

	if (stopping(x->ctx, err))
		return -1;
	ctx_progress(x->ctx, x->done++, x->n, "tensors");
	return tensor_convert(&x->list[i], x->convert ? x->dtype : x->list[i].dtype, w, NULL, NULL, err);
}

static int write_weights(struct stage_ctx *ctx, const char *from, const char *to, uint64_t *total, struct error *err)
{
	const char *dtype = ctx_str(ctx, "dtype");
	struct weights x = {.ctx = ctx, .convert = strcmp(dtype, "stored") != 0};
	struct model_config config;
	struct tensors *in;

	x.dtype = strcmp(dtype, "fp16") == 0 ? TENSOR_F16 : strcmp(dtype, "bf16") == 0 ? TENSOR_BF16 : TENSOR_F32;
	if (model_config_read(from, GELU_ARCHITECTURE, &config, err) || tensors_open(from, &in, err))
		return -1;
	x.list = xcalloc(tensors_count(in), sizeof *x.list);
	for (size_t i = 0; i < tensors_count(in); i++) {
		const struct tensor *t = tensors_at(in, i);
		if (!config.tie_embeddings || strcmp(t->name, "lm_head.weight") != 0)
			x.list[x.n++] = *t;
	}
	qsort(x.list, x.n, sizeof *x.list, tensor_by_state_dict);
	struct tensor *declared = xcalloc(x.n, sizeof *declared);
	for (size_t i = 0; i < x.n; i++) {
		declared[i] = x.list[i];
		if (x.convert)
			declared[i].dtype = x.dtype;
	}
	int failed = shards_write(to, declared, x.n, (uint64_t)ctx_float(ctx, "max_shard_size"), produce, &x, total, err);
	if (!failed && x.convert)
		failed = model_set_dtype(to, x.dtype, err);
	free(declared);
	free(x.list);
	tensors_close(in);
	return failed;
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

static int write_card(struct stage_ctx *ctx, const char *dir, struct error *err)
{
	const char *base = ctx_str(ctx, "base_model"), *license = ctx_str(ctx, "license");
	const char *text = ctx_str(ctx, "description"), *to = ctx_path(ctx, "to");
	struct strbuf b = STRBUF_INIT;
	char *path = path_join(dir, "README.md");

	strbuf_adds(&b, "---\nlibrary_name: transformers\npipeline_tag: text-generation\n");
	if (base) {
		strbuf_adds(&b, "base_model: ");
		strbuf_add_json(&b, base, strlen(base));
		strbuf_adds(&b, "\n");
	}
	if (license) {
		strbuf_adds(&b, "license: ");
		strbuf_add_json(&b, license, strlen(license));
		strbuf_adds(&b, "\n");
	}
	strbuf_addf(&b, "tags:\n- anneal\n---\n\n# %s\n\n", to ? path_base(to) : "Fine-tuned model");
	if (text)
		strbuf_addf(&b, "%s\n\n", text);
	if (base)
		strbuf_addf(&b, "Fine-tuned from %s. ", base);
	strbuf_adds(&b, "Made with anneal. Load it with transformers, serve it with vLLM or `anneal serve`.\n");
	int failed = file_write_atomic(path, b.data, b.len, err);
	free(path);
	strbuf_free(&b);
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
		/* Shards are shared with the store; they are read-only in both places. */
		failed = dir_create(dir, err) ||
			 (str_ends(relative, ".safetensors") ? file_link_or_copy(path, to, err) : file_copy(path, to, err));
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

static int publish(const char *dir, const char *to, const char *report, struct error *err)
{
	struct listing l = {json_object(), 0, NULL};
	char *parent = path_dir(to), *staged = xmalloc(strlen(to) + 48);
	char *mark = NULL;
	json_t *root = NULL;
	int failed;

	sprintf(staged, "%s.%ld.part", to, (long)getpid());
	l.to = staged;
	failed = replaceable(to, err) || dir_create(parent, err) || tree_remove(staged, err) || dir_create(staged, err) ||
		 tree_walk(dir, list_file, &l, err);
	if (!failed) {
		mark = path_join(staged, marker);
		root = json_pack("{s:s, s:O}", "report", report, "files", l.files);
		failed = json_write(mark, root, err) || exchange(staged, to, err) || dir_sync(parent, err);
	}
	if (failed)
		tree_remove(staged, NULL);
	json_decref(root);
	json_decref(l.files);
	free(mark);
	free(staged);
	free(parent);
	return failed ? -1 : 0;
}

static int run(struct stage_ctx *ctx, struct error *err)
{
	const char *from = ctx_input(ctx, "model"), *dir = ctx_output(ctx, "model"), *to = ctx_path(ctx, "to");
	struct listing l = {NULL, 0, NULL};
	uint64_t total;
	char size[16];

	if (*ctx_str(ctx, "bucket") || (to && strstr(to, "://")))
		return not_there_yet(err, "uploads to gs:// buckets",
				     "export to a directory (to = \"exports/name\") and leave bucket (BUCKET_NAME) empty");
	if (to && replaceable(to, err))
		return -1;
	if (dir_create(dir, err) || model_copy_files(from, dir, err) || complete_tokenizer(dir, err) ||
	    write_card(ctx, dir, err) || write_weights(ctx, from, dir, &total, err))
		return -1;
	l.files = json_object();
	int failed = tree_walk(dir, list_file, &l, err);
	if (!failed) {
		const char *path = ctx_output(ctx, "report");
		struct digest digest;
		char input[DIGEST_TEXT_SIZE], written[DIGEST_TEXT_SIZE];
		ctx_input_digest(ctx, "model", &digest);
		digest_text(&digest, input);
		json_t *report = json_pack("{s:s, s:O, s:I, s:I, s:s, s:s?}", "model", input, "files", l.files, "bytes",
					   (json_int_t)l.bytes, "weight_bytes", (json_int_t)total, "dtype",
					   ctx_str(ctx, "dtype"), "published", to);
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
	json_t *root = path_exists(path) ? json_read(path, NULL) : NULL, *files = json_object_get(root, "files");
	free(path);
	int whole = root && json_get_str(root, "report", &report, marker, NULL) == 1 && digest_parse(report, &digest) &&
		    ndigests == 2 && digest_equal(&digest, &digests[1]) && json_is_object(files);
	json_object_foreach(files, name, size) {
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
		   .doc = "Writes a model as a directory that transformers and vLLM load, and publishes it.",
		   .attrs = attrs,
		   .outputs = outputs},
	.run = run,
	.published = published,
};
