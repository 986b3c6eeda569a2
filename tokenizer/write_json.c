/* A tokenizer.json and a tokenizer_config.json of what was read from a tokenizer.model, as transformers
 * converts it (convert_slow_tokenizer.py: SpmConverter, LlamaConverter, GemmaConverter). */
#include "tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "tokenizer/chars.h"

struct split {
	uint32_t piece, left_len; /* the piece, and bytes of its left part */
	float score;
	uint32_t left_chars, right_chars;
	uint32_t left, right; /* ids */
};

/* The order of merges: score falling; then, as Python sorts (score, len(left), len(right)) in reverse, the
 * longer left part first; what is equal stays in order of ids. */
static int compare_splits(const void *pa, const void *pb)
{
	const struct split *a = pa, *b = pb;

	if (a->score != b->score)
		return a->score > b->score ? -1 : 1;
	if (a->left_chars != b->left_chars)
		return a->left_chars > b->left_chars ? -1 : 1;
	if (a->right_chars != b->right_chars)
		return a->right_chars > b->right_chars ? -1 : 1;
	if (a->piece != b->piece)
		return a->piece < b->piece ? -1 : 1;
	return 0;
}

static uint32_t count_chars(const char *s, size_t n)
{
	uint32_t count = 0;

	for (size_t i = 0; i < n; i++)
		count += ((uint8_t)s[i] & 0xc0) != 0x80;
	return count;
}

static bool merges_with(const struct tokenizer *t, int32_t id)
{
	return id >= 0 && t->bpe.rank[id] != RANK_NONE;
}

/* Every way in which a piece is two pieces put together. */
static struct split *find_splits(const struct tokenizer *t, size_t *n)
{
	const struct bpe *b = &t->bpe;
	struct split *list = NULL;
	size_t cap = 0;

	*n = 0;
	for (size_t id = 0; id < b->n; id++) {
		if (!merges_with(t, (int32_t)id))
			continue;
		const char *s = b->text[id];
		size_t len = b->len[id];
		for (size_t at = utf8_length(s[0]); at < len; at += utf8_length(s[at])) {
			int32_t left = strmap_get(&b->index, s, at),
				right = strmap_get(&b->index, s + at, len - at);
			if (!merges_with(t, left) || !merges_with(t, right))
				continue;
			grow(&list, &cap, *n + 1, sizeof *list);
			list[(*n)++] = (struct split){(uint32_t)id,
						      (uint32_t)at,
						      t->spm.score[id],
						      count_chars(s, at),
						      count_chars(s + at, len - at),
						      (uint32_t)left,
						      (uint32_t)right};
		}
	}
	if (*n)
		qsort(list, *n, sizeof *list, compare_splits);
	return list;
}

/* The parts of the file but for the model, as small JSON values. */

static json_t *replace_json(const char *kind, const char *pattern, const char *content)
{
	return json_pack("{s:s,s:{s:s},s:s}", "type", "Replace", "pattern", kind, pattern, "content",
			 content);
}

static json_t *normalizer_json(const struct tokenizer *t)
{
	json_t *list = json_array();

	if (t->spm.remove_extra) {
		json_array_append_new(list, replace_json("Regex", " {2,}", " "));
		json_array_append_new(list, replace_json("Regex",
							 t->spm.escape ? "\\A +|[ " LOWER_ONE_EIGHTH "]+\\z"
								       : "\\A +| +\\z",
							 ""));
	}
	if (t->spm.dummy_prefix)
		json_array_append_new(list, json_pack("{s:s,s:s}", "type", "Prepend", "prepend",
						      t->spm.escape ? LOWER_ONE_EIGHTH : " "));
	if (t->spm.escape)
		json_array_append_new(list, replace_json("String", " ", LOWER_ONE_EIGHTH));
	return json_pack("{s:s,s:o}", "type", "Sequence", "normalizers", list);
}

static json_t *decoder_json(const struct tokenizer *t)
{
	json_t *list = json_array();

	if (t->spm.escape)
		json_array_append_new(list, replace_json("String", LOWER_ONE_EIGHTH, " "));
	if (t->bpe.byte_fallback)
		json_array_append_new(list, json_pack("{s:s}", "type", "ByteFallback"));
	json_array_append_new(list, json_pack("{s:s}", "type", "Fuse"));
	if (t->spm.dummy_prefix)
		json_array_append_new(list, json_pack("{s:s,s:s,s:i,s:i}", "type", "Strip", "content", " ",
						      "start", 1, "stop", 0));
	return json_pack("{s:s,s:o}", "type", "Sequence", "decoders", list);
}

static void template_add(const struct tokenizer *t, const struct id_list *l, int type_id, json_t *items,
			 json_t *tokens)
{
	for (size_t i = 0; i < l->n; i++) {
		const char *name = tokenizer_token(t, l->ids[i]);
		json_array_append_new(
			items, json_pack("{s:{s:s,s:i}}", "SpecialToken", "id", name, "type_id", type_id));
		json_object_set_new(
			tokens, name,
			json_pack("{s:s,s:[i],s:[s]}", "id", name, "ids", (int)l->ids[i], "tokens", name));
	}
}

json_t *template_json(const struct tokenizer *t)
{
	json_t *single = json_array(), *pair = json_array(), *tokens = json_object();

	for (int type_id = 0; type_id < 2; type_id++) {
		const char *sequence = type_id ? "B" : "A";
		template_add(t, &t->prefix, type_id, pair, tokens);
		json_array_append_new(
			pair, json_pack("{s:{s:s,s:i}}", "Sequence", "id", sequence, "type_id", type_id));
		template_add(t, &t->suffix, type_id, pair, tokens);
	}
	template_add(t, &t->prefix, 0, single, tokens);
	json_array_append_new(single, json_pack("{s:{s:s,s:i}}", "Sequence", "id", "A", "type_id", 0));
	template_add(t, &t->suffix, 0, single, tokens);
	return json_pack("{s:s,s:o,s:o,s:o}", "type", "TemplateProcessing", "single", single, "pair", pair,
			 "special_tokens", tokens);
}

static int compare_ids(const void *pa, const void *pb)
{
	const struct added_token *a = *(const struct added_token *const *)pa,
				 *b = *(const struct added_token *const *)pb;
	return a->id < b->id ? -1 : a->id > b->id;
}

static json_t *added_json(const struct tokenizer *t)
{
	const struct added_token **order = xcalloc(t->added.n, sizeof *order);
	json_t *list = json_array();

	for (size_t i = 0; i < t->added.n; i++)
		order[i] = &t->added.list[i];
	if (t->added.n)
		qsort(order, t->added.n, sizeof *order, compare_ids);
	for (size_t i = 0; i < t->added.n; i++) {
		const struct added_token *a = order[i];
		json_array_append_new(list,
				      json_pack("{s:i,s:s%,s:b,s:b,s:b,s:b,s:b}", "id", (int)a->id, "content",
						a->content, a->len, "single_word", a->single_word, "lstrip",
						a->lstrip, "rstrip", a->rstrip, "normalized", a->normalized,
						"special", a->special));
	}
	free(order);
	return list;
}

static void add_member(struct strbuf *b, const char *key, json_t *value)
{
	char *text = json_dumps(value, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_ENCODE_ANY);

	strbuf_addf(b, "  \"%s\": %s,\n", key, text);
	free(text);
	json_decref(value);
}

/* The model is written directly: it has hundreds of thousands of lines. */
static void add_model(const struct tokenizer *t, struct strbuf *b)
{
	const struct bpe *m = &t->bpe;
	size_t n;
	struct split *splits = find_splits(t, &n);

	strbuf_addf(b, "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": ");
	strbuf_add_json(b, m->text[m->unk], m->len[m->unk]);
	strbuf_addf(b,
		    ",\n    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
		    "    \"fuse_unk\": true,\n    \"byte_fallback\": %s,\n    \"ignore_merges\": false,\n    "
		    "\"vocab\": {",
		    m->byte_fallback ? "true" : "false");
	for (size_t i = 0; i < m->n; i++) {
		strbuf_adds(b, i ? ",\n      " : "\n      ");
		strbuf_add_json(b, m->text[i], m->len[i]);
		strbuf_addf(b, ": %zu", i);
	}
	strbuf_adds(b, "\n    },\n    \"merges\": [");
	/* "a b" is what every version of tokenizers reads; pairs, which only those since 0.20 do, can hold a space. */
	bool pairs = false;
	for (size_t i = 0; i < m->n && !pairs; i++)
		pairs = memchr(m->text[i], ' ', m->len[i]) != NULL;
	struct strbuf both = STRBUF_INIT;
	for (size_t i = 0; i < n; i++) {
		int32_t left = splits[i].left, right = splits[i].right;
		strbuf_adds(b, i ? ",\n      " : "\n      ");
		if (pairs) {
			strbuf_addc(b, '[');
			strbuf_add_json(b, m->text[left], m->len[left]);
			strbuf_adds(b, ", ");
			strbuf_add_json(b, m->text[right], m->len[right]);
			strbuf_addc(b, ']');
			continue;
		}
		strbuf_clear(&both);
		strbuf_add(&both, m->text[left], m->len[left]);
		strbuf_addc(&both, ' ');
		strbuf_add(&both, m->text[right], m->len[right]);
		strbuf_add_json(b, both.data, both.len);
	}
	strbuf_free(&both);
	strbuf_adds(b, n ? "\n    ]\n  }\n}\n" : "]\n  }\n}\n");
	free(splits);
}

int tokenizer_write_json(const struct tokenizer *t, const char *path, struct error *err)
{
	struct strbuf b = STRBUF_INIT;

	if (t->from_json) {
		size_t n;
		char *bytes = file_read(t->source, &n, err);
		int failed = bytes ? file_write_atomic(path, bytes, n, err) : -1;
		free(bytes);
		return failed;
	}
	if (t->spm.dummy_prefix) {
		for (size_t i = 0; i < t->bpe.n; i++) {
			if (t->spm.type[i] == PIECE_USER)
				return error_set(err, ERR_USAGE,
						 "%s: user-defined pieces (\"%s\") together with a dummy "
						 "prefix cannot be "
						 "written as a tokenizer.json",
						 t->source, t->bpe.text[i]);
		}
	}
	strbuf_adds(&b, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
	add_member(&b, "added_tokens", added_json(t));
	add_member(&b, "normalizer", normalizer_json(t));
	strbuf_adds(&b, "  \"pre_tokenizer\": null,\n");
	add_member(&b, "post_processor", template_json(t));
	add_member(&b, "decoder", decoder_json(t));
	add_model(t, &b);
	int failed = file_write_atomic(path, b.data, b.len, err);
	strbuf_free(&b);
	return failed;
}

static void set_token(json_t *config, const char *key, const struct tokenizer *t, int32_t id)
{
	const char *name = tokenizer_token(t, id);

	json_object_set_new(config, key, name ? json_string(name) : json_null());
}

/* Whether l is empty or this id alone. */
static bool at_most(const struct id_list *l, int32_t id)
{
	return l->n == 0 || (l->n == 1 && l->ids[0] == id);
}

int tokenizer_write_config(const struct tokenizer *t, const char *path, struct error *err)
{
	json_t *config = json_object(), *decoder = json_object();

	for (size_t i = 0; i < t->added.n; i++) {
		const struct added_token *a = &t->added.list[i];
		char id[16];
		snprintf(id, sizeof id, "%d", (int)a->id);
		json_object_set_new(decoder, id,
				    json_pack("{s:s%,s:b,s:b,s:b,s:b,s:b}", "content", a->content, a->len,
					      "lstrip", a->lstrip, "normalized", a->normalized, "rstrip",
					      a->rstrip, "single_word", a->single_word, "special",
					      a->special));
	}
	/* Other templates stay as tokenizer.json has them: these two keys would replace them. */
	if (at_most(&t->prefix, t->bos) && at_most(&t->suffix, t->eos)) {
		json_object_set_new(config, "add_bos_token", json_boolean(t->prefix.n));
		json_object_set_new(config, "add_eos_token", json_boolean(t->suffix.n));
	}
	json_object_set_new(config, "added_tokens_decoder", decoder);
	set_token(config, "bos_token", t, t->bos);
	json_object_set_new(config, "clean_up_tokenization_spaces", json_false());
	set_token(config, "eos_token", t, t->eos);
	/* More than any model's context, in transformers' words: no limit. */
	json_object_set_new(config, "model_max_length", json_real(1e30));
	set_token(config, "pad_token", t, t->pad);
	/* Of all classes this one alone takes the file as it is. LlamaTokenizerFast and GemmaTokenizerFast
	 * build parts of the pipeline anew, from release to release differently. */
	json_object_set_new(config, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
	set_token(config, "unk_token", t, t->unk);
	int failed = json_write(path, config, err);
	json_decref(config);
	return failed;
}
