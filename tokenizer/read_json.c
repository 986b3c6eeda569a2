/* tokenizer.json: the format that Hugging Face `tokenizers` writes (tokenizers/src/tokenizer/serialization.rs
 * and the serde attributes of each part). Every part that is not supported is an error that names its key. */
#include "tokenizer/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "tokenizer/chars.h"

/* Where in the file an object is: "FILE: pre_tokenizer.pretokenizers[1]". */
struct place {
	char name[512];
};

static struct place below(const struct place *p, const char *fmt, int index)
{
	struct place q;
	size_t n = strlen(p->name);

	memcpy(q.name, p->name, n);
	snprintf(q.name + n, sizeof q.name - n, fmt, index);
	return q;
}

static int unsupported(const struct place *p, const char *key, const char *value, struct error *err)
{
	error_set(err, ERR_USAGE, "%s: \"%s\": \"%s\" is not supported", p->name, key, value);
	return error_hint(
		err, "BPE tokenizers in the SentencePiece and byte-level styles are: Gemma, Llama, Mistral, "
		     "Qwen, GPT-2");
}

static int wrong(const struct place *p, const char *key, const char *want, const json_t *j, struct error *err)
{
	return error_set(err, ERR_USAGE, "%s: \"%s\" must be %s, is %s", p->name, key, want,
			 j ? json_kind(j) : "missing");
}

/* The string obj[key], copied; it must be there. */
static int get_text(const json_t *obj, const char *key, const struct place *p, char **out, size_t *len,
		    struct error *err)
{
	const json_t *j = json_object_get(obj, key);

	if (!json_is_string(j))
		return wrong(p, key, "a string", j, err);
	*len = json_string_length(j);
	*out = xstrndup(json_string_value(j), *len);
	return 0;
}

/* "type" of a part. */
static int get_type(const json_t *obj, const struct place *p, const char **out, struct error *err)
{
	const json_t *j = json_object_get(obj, "type");

	if (!json_is_object(obj))
		return error_set(err, ERR_USAGE, "%s must be an object, is %s", p->name,
				 obj ? json_kind(obj) : "missing");
	if (!json_is_string(j))
		return wrong(p, "type", "a string", j, err);
	*out = json_string_value(j);
	return 0;
}

/* "pattern": {"String": …} or {"Regex": …}: *text, or *regex. */
static int get_pattern(const json_t *obj, const struct place *p, char **text, size_t *len,
		       struct regex **regex, struct error *err)
{
	const json_t *pattern = json_object_get(obj, "pattern"), *r = json_object_get(pattern, "Regex");

	if (!r) {
		struct place q = below(p, ": \"pattern\"", 0);
		return get_text(pattern, "String", &q, text, len, err);
	}
	if (!json_is_string(r))
		return wrong(p, "pattern", "a string or a regex", r, err);
	if (regex_compile(json_string_value(r), json_string_length(r), regex, err))
		return error_context(err, "%s: \"pattern\"", p->name);
	return 0;
}

/* Calls part for every element of the array obj[key]. */
static int each(struct tokenizer *t, const json_t *obj, const char *key, const char *fmt,
		const struct place *p,
		int (*part)(struct tokenizer *, const json_t *, const struct place *, struct error *),
		struct error *err)
{
	const json_t *list = json_object_get(obj, key), *j;
	size_t i;

	if (!json_is_array(list))
		return wrong(p, key, "an array", list, err);
	if (strlen(p->name) > sizeof p->name - 128)
		return error_set(err, ERR_USAGE, "%s: nested too deeply", p->name);
	json_array_foreach(list, i, j)
	{
		struct place q = below(p, fmt, (int)i);
		if (part(t, j, &q, err))
			return -1;
	}
	return 0;
}

static int read_normalizer(struct tokenizer *t, const json_t *j, const struct place *p, struct error *err)
{
	const char *type;
	struct normalizer *z;

	if (get_type(j, p, &type, err))
		return -1;
	if (strcmp(type, "Sequence") == 0)
		return each(t, j, "normalizers", ".normalizers[%d]", p, read_normalizer, err);
	if (strcmp(type, "Replace") == 0) {
		z = normalizers_add(&t->normalizers, NORMALIZE_REPLACE);
		if (get_pattern(j, p, &z->text, &z->text_len, &z->regex, err))
			return -1;
		if (z->regex)
			z->kind = NORMALIZE_REPLACE_REGEX;
		return get_text(j, "content", p, &z->content, &z->content_len, err);
	}
	if (strcmp(type, "Prepend") == 0) {
		z = normalizers_add(&t->normalizers, NORMALIZE_PREPEND);
		return get_text(j, "prepend", p, &z->content, &z->content_len, err);
	}
	if (strcmp(type, "Strip") == 0) {
		z = normalizers_add(&t->normalizers, NORMALIZE_STRIP);
		z->left = z->right = true;
		return json_get_bool(j, "strip_left", &z->left, p->name, err) < 0 ||
				       json_get_bool(j, "strip_right", &z->right, p->name, err) < 0
			       ? -1
			       : 0;
	}
	if (strcmp(type, "Lowercase") == 0 || strcmp(type, "StripAccents") == 0) {
		normalizers_add(&t->normalizers,
				type[0] == 'L' ? NORMALIZE_LOWERCASE : NORMALIZE_STRIP_ACCENTS);
		return 0;
	}
	if (normalizer_form(type) < 0)
		return unsupported(p, "type", type, err);
	z = normalizers_add(&t->normalizers, NORMALIZE_UNICODE);
	z->form = normalizer_form(type);
	return 0;
}

static int get_behavior(const json_t *j, const struct place *p, enum split_behavior *out, struct error *err)
{
	static const struct {
		const char *name, *old; /* both spellings occur */
		enum split_behavior behavior;
	} names[] = {{"Removed", "removed", SPLIT_REMOVED},
		     {"Isolated", "isolated", SPLIT_ISOLATED},
		     {"MergedWithPrevious", "merged_with_previous", SPLIT_MERGED_PREVIOUS},
		     {"MergedWithNext", "merged_with_next", SPLIT_MERGED_NEXT},
		     {"Contiguous", "contiguous", SPLIT_CONTIGUOUS}};
	const char *s = NULL;

	if (json_get_str(j, "behavior", &s, p->name, err) < 0)
		return -1;
	for (size_t i = 0; s && i < sizeof names / sizeof *names; i++) {
		if (strcmp(s, names[i].name) == 0 || strcmp(s, names[i].old) == 0) {
			*out = names[i].behavior;
			return 0;
		}
	}
	return s ? unsupported(p, "behavior", s, err) : wrong(p, "behavior", "a string", NULL, err);
}

static int read_metaspace(struct tokenizer *t, const json_t *j, const struct place *p, struct error *err)
{
	struct pretokenizer *z = pretokenizers_add(&t->pretokenizers, PRETOKENIZE_METASPACE);
	const char *scheme = "always";
	bool add_prefix = true;

	z->split = true;
	if (get_text(j, "replacement", p, &z->text, &z->text_len, err) ||
	    json_get_str(j, "prepend_scheme", &scheme, p->name, err) < 0 ||
	    json_get_bool(j, "add_prefix_space", &add_prefix, p->name, err) < 0 ||
	    json_get_bool(j, "split", &z->split, p->name, err) < 0)
		return -1;
	if (z->text_len == 0)
		return wrong(p, "replacement", "one character", json_object_get(j, "replacement"), err);
	if (strcmp(scheme, "never") == 0 || !add_prefix)
		z->prepend = PREPEND_NEVER;
	else if (strcmp(scheme, "first") == 0)
		z->prepend = PREPEND_FIRST;
	else if (strcmp(scheme, "always") == 0)
		z->prepend = PREPEND_ALWAYS;
	else
		return unsupported(p, "prepend_scheme", scheme, err);
	return 0;
}

static int read_byte_level(struct tokenizer *t, const json_t *j, const struct place *p, struct error *err)
{
	struct pretokenizer *z = pretokenizers_add(&t->pretokenizers, PRETOKENIZE_BYTE_LEVEL);

	z->behavior = SPLIT_ISOLATED;
	z->add_space = z->split = true;
	if (json_get_bool(j, "add_prefix_space", &z->add_space, p->name, err) < 0 ||
	    json_get_bool(j, "use_regex", &z->split, p->name, err) < 0)
		return -1;
	return z->split ? regex_compile(GPT2_PATTERN, strlen(GPT2_PATTERN), &z->regex, err) : 0;
}

static int read_pretokenizer(struct tokenizer *t, const json_t *j, const struct place *p, struct error *err)
{
	const char *type;
	struct pretokenizer *z;
	bool single = false;

	if (get_type(j, p, &type, err))
		return -1;
	if (strcmp(type, "Sequence") == 0)
		return each(t, j, "pretokenizers", ".pretokenizers[%d]", p, read_pretokenizer, err);
	if (strcmp(type, "ByteLevel") == 0)
		return read_byte_level(t, j, p, err);
	if (strcmp(type, "Metaspace") == 0)
		return read_metaspace(t, j, p, err);
	if (strcmp(type, "Whitespace") == 0) {
		pretokenizers_add(&t->pretokenizers, PRETOKENIZE_WORDS);
		return 0;
	}
	if (strcmp(type, "Split") == 0) {
		z = pretokenizers_add(&t->pretokenizers, PRETOKENIZE_SPLIT_TEXT);
		if (get_pattern(j, p, &z->text, &z->text_len, &z->regex, err) ||
		    get_behavior(j, p, &z->behavior, err) ||
		    json_get_bool(j, "invert", &z->invert, p->name, err) < 0)
			return -1;
		if (z->regex)
			z->kind = PRETOKENIZE_SPLIT_REGEX;
		return 0;
	}
	z = pretokenizers_add(&t->pretokenizers, PRETOKENIZE_SPLIT_CLASS);
	if (strcmp(type, "Digits") == 0) {
		z->in_class = char_is_numeric;
		if (json_get_bool(j, "individual_digits", &single, p->name, err) < 0)
			return -1;
		z->behavior = single ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
		return 0;
	}
	if (strcmp(type, "WhitespaceSplit") == 0) {
		z->in_class = char_is_space;
		z->behavior = SPLIT_REMOVED;
		return 0;
	}
	if (strcmp(type, "Punctuation") == 0) {
		z->in_class = char_is_punctuation;
		z->behavior = SPLIT_ISOLATED;
		return json_object_get(j, "behavior") ? get_behavior(j, p, &z->behavior, err) : 0;
	}
	return unsupported(p, "type", type, err);
}

static int read_decoder(struct tokenizer *t, const json_t *j, const struct place *p, struct error *err)
{
	static const struct {
		const char *name;
		enum decoder_kind kind;
	} names[] = {{"Replace", DECODE_REPLACE},
		     {"ByteFallback", DECODE_BYTE_FALLBACK},
		     {"Fuse", DECODE_FUSE},
		     {"Strip", DECODE_STRIP},
		     {"ByteLevel", DECODE_BYTE_LEVEL},
		     {"Metaspace", DECODE_METASPACE}};
	const char *type;
	size_t i = 0, n = sizeof names / sizeof *names;
	struct regex *regex = NULL;

	if (get_type(j, p, &type, err))
		return -1;
	if (strcmp(type, "Sequence") == 0)
		return each(t, j, "decoders", ".decoders[%d]", p, read_decoder, err);
	while (i < n && strcmp(type, names[i].name) != 0)
		i++;
	if (i == n)
		return unsupported(p, "type", type, err);
	struct decoder *d = decoders_add(&t->decoders, names[i].kind);
	if (!d)
		return error_set(err, ERR_USAGE, "%s: more than %d decoders", p->name, DECODERS_MAX);
	if (d->kind == DECODE_REPLACE) {
		int failed = get_pattern(j, p, &d->text, &d->text_len, &regex, err);
		if (!failed && regex)
			failed = unsupported(p, "pattern", "Regex", err);
		regex_free(regex);
		return failed ? -1 : get_text(j, "content", p, &d->content, &d->content_len, err);
	}
	if (d->kind == DECODE_STRIP) {
		int64_t left = 0, right = 0;
		if (get_text(j, "content", p, &d->text, &d->text_len, err) ||
		    json_get_i64(j, "start", &left, p->name, err) < 0 ||
		    json_get_i64(j, "stop", &right, p->name, err) < 0)
			return -1;
		if (left < 0 || right < 0 || d->text_len == 0)
			return error_set(err, ERR_USAGE, "%s: needs a \"content\", and no negative numbers",
					 p->name);
		d->left = (size_t)left;
		d->right = (size_t)right;
	}
	if (d->kind == DECODE_METASPACE) {
		const char *scheme = "always";
		bool add_prefix = true;
		if (get_text(j, "replacement", p, &d->text, &d->text_len, err) ||
		    json_get_str(j, "prepend_scheme", &scheme, p->name, err) < 0 ||
		    json_get_bool(j, "add_prefix_space", &add_prefix, p->name, err) < 0)
			return -1;
		d->keep_first = strcmp(scheme, "never") == 0 || !add_prefix;
	}
	return 0;
}

static int get_id(const json_t *j, const struct place *p, const char *key, int32_t *out, struct error *err)
{
	if (!json_is_integer(j))
		return wrong(p, key, "an integer", j, err);
	if (json_integer_value(j) < 0 || json_integer_value(j) > TOKENIZER_MAX_ID)
		return error_set(err, ERR_USAGE, "%s: \"%s\": %lld is not an id", p->name, key,
				 (long long)json_integer_value(j));
	*out = (int32_t)json_integer_value(j);
	return 0;
}

/* One element of a template: {"SpecialToken": {"id": …}} or {"Sequence": {"id": "A"}}. */
static int read_template_item(const json_t *item, const json_t *tokens, const struct place *p,
			      struct id_list *prefix, struct id_list *suffix, bool *seen, struct error *err)
{
	const json_t *special = json_object_get(item, "SpecialToken"), *j;
	const char *name = json_string_value(json_object_get(special, "id"));
	size_t i;

	if (json_object_get(item, "Sequence")) {
		if (*seen)
			return error_set(err, ERR_USAGE, "%s: \"single\" names the sequence twice", p->name);
		*seen = true;
		return 0;
	}
	const json_t *ids = name ? json_object_get(json_object_get(tokens, name), "ids") : NULL;
	if (!json_is_array(ids))
		return error_set(err, ERR_USAGE,
				 "%s: \"single\" names a special token (\"%s\") without \"ids\"", p->name,
				 name ? name : "?");
	json_array_foreach(ids, i, j)
	{
		int32_t id;
		if (get_id(j, p, "ids", &id, err))
			return -1;
		id_list_add(*seen ? suffix : prefix, id);
	}
	return 0;
}

/* Puts ids around what the post-processors before this one made. */
static void wrap(struct tokenizer *t, struct id_list *prefix, const struct id_list *suffix)
{
	for (size_t i = 0; i < t->prefix.n; i++)
		id_list_add(prefix, t->prefix.ids[i]);
	struct id_list old = t->prefix;
	t->prefix = *prefix;
	*prefix = old;
	for (size_t i = 0; i < suffix->n; i++)
		id_list_add(&t->suffix, suffix->ids[i]);
}

static int read_post_processor(struct tokenizer *t, const json_t *j, const struct place *p, struct error *err)
{
	struct id_list prefix = {NULL, 0, 0}, suffix = {NULL, 0, 0};
	const char *type;
	int failed = 0;

	if (get_type(j, p, &type, err))
		return -1;
	if (strcmp(type, "Sequence") == 0)
		return each(t, j, "processors", ".processors[%d]", p, read_post_processor, err);
	if (strcmp(type, "ByteLevel") == 0)
		return 0; /* it trims the offsets that `tokenizers` reports; ids stay */
	if (strcmp(type, "TemplateProcessing") == 0) {
		const json_t *single = json_object_get(j, "single"), *item;
		bool seen = false;
		size_t i;
		if (!json_is_array(single))
			return wrong(p, "single", "an array", single, err);
		json_array_foreach(single, i, item)
			failed = failed || read_template_item(item, json_object_get(j, "special_tokens"), p,
							      &prefix, &suffix, &seen, err);
	} else if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0) {
		int32_t cls = 0, sep = 0;
		failed = get_id(json_array_get(json_object_get(j, "cls"), 1), p, "cls", &cls, err) ||
			 get_id(json_array_get(json_object_get(j, "sep"), 1), p, "sep", &sep, err);
		id_list_add(&prefix, cls);
		id_list_add(&suffix, sep);
	} else {
		failed = unsupported(p, "type", type, err);
	}
	if (!failed)
		wrap(t, &prefix, &suffix);
	free(prefix.ids);
	free(suffix.ids);
	return failed ? -1 : 0;
}

static int read_added_token(struct tokenizer *t, const json_t *j, const struct place *p, struct error *err)
{
	struct added_token a = {.normalized = true};
	const json_t *content = json_object_get(j, "content");

	if (!json_is_string(content) || json_string_length(content) == 0)
		return wrong(p, "content", "a string that is not empty", content, err);
	if (get_id(json_object_get(j, "id"), p, "id", &a.id, err) ||
	    json_get_bool(j, "special", &a.special, p->name, err) < 0 ||
	    json_get_bool(j, "single_word", &a.single_word, p->name, err) < 0 ||
	    json_get_bool(j, "lstrip", &a.lstrip, p->name, err) < 0 ||
	    json_get_bool(j, "rstrip", &a.rstrip, p->name, err) < 0 ||
	    json_get_bool(j, "normalized", &a.normalized, p->name, err) < 0)
		return -1;
	a.len = json_string_length(content);
	a.content = (char *)json_string_value(content);
	int32_t known = strmap_get(&t->bpe.index, a.content, a.len);
	if (known >= 0 && known != a.id)
		return error_set(err, ERR_USAGE, "%s: \"id\" of \"%s\" is %d, but %d in the vocabulary",
				 p->name, a.content, (int)a.id, (int)known);
	if (known < 0 && (size_t)a.id < t->bpe.n && t->bpe.text[a.id])
		return error_set(err, ERR_USAGE,
				 "%s: \"id\" of \"%s\" is %d, which is \"%s\" in the vocabulary", p->name,
				 a.content, (int)a.id, t->bpe.text[a.id]);
	if (added_add(&t->added, a))
		return error_set(err, ERR_USAGE, "%s: \"%s\" is added twice", p->name, a.content);
	return 0;
}

static int read_vocab(struct bpe *b, json_t *vocab, const struct place *p, struct error *err)
{
	const char *key;
	size_t len;
	json_t *value;
	int32_t id, highest = -1;

	if (!json_is_object(vocab) || json_object_size(vocab) == 0)
		return wrong(p, "vocab", "an object with tokens", vocab, err);
	json_object_keylen_foreach(vocab, key, len, value)
	{
		if (get_id(value, p, "vocab", &id, err))
			return -1;
		highest = id > highest ? id : highest;
	}
	bpe_reserve(b, (size_t)highest + 1);
	json_object_keylen_foreach(vocab, key, len, value)
	{
		id = (int32_t)json_integer_value(value);
		if (bpe_add(b, key, len, id))
			return error_set(err, ERR_USAGE,
					 "%s: \"vocab\": \"%s\" and \"%s\" both have the id %d", p->name, key,
					 b->text[id] ? b->text[id] : "", (int)id);
	}
	return 0;
}

/* "a b", or ["a", "b"] in newer files, where tokens may contain spaces. */
static int read_merges(struct bpe *b, const json_t *merges, const struct place *p, struct error *err)
{
	const json_t *j;
	size_t i;

	if (!json_is_array(merges))
		return wrong(p, "merges", "an array", merges, err);
	bpe_reserve_merges(b, json_array_size(merges));
	json_array_foreach(merges, i, j)
	{
		const json_t *l = json_array_get(j, 0), *r = json_array_get(j, 1);
		const char *left = NULL, *right = NULL;
		size_t left_len = 0, right_len = 0;
		if (json_is_string(j)) {
			left = json_string_value(j);
			const char *space = memchr(left, ' ', json_string_length(j));
			if (space) {
				left_len = (size_t)(space - left);
				right = space + 1;
				right_len = json_string_length(j) - left_len - 1;
			}
		} else if (json_is_string(l) && json_is_string(r) && json_array_size(j) == 2) {
			left = json_string_value(l);
			left_len = json_string_length(l);
			right = json_string_value(r);
			right_len = json_string_length(r);
		}
		if (!right)
			return error_set(err, ERR_USAGE, "%s: \"merges\"[%zu] must be two tokens", p->name,
					 i);
		if (bpe_add_merge(b, left, left_len, right, right_len))
			return error_set(
				err, ERR_USAGE,
				"%s: \"merges\"[%zu]: \"%.*s\" and \"%.*s\", or what they make, are not "
				"in the vocabulary",
				p->name, i, (int)(left_len < 100 ? left_len : 100), left,
				(int)(right_len < 100 ? right_len : 100), right);
	}
	return 0;
}

static int read_bpe(struct tokenizer *t, const json_t *model, const struct place *p, struct error *err)
{
	const char *type = "BPE", *unk = NULL, *affix;
	struct bpe *b = &t->bpe;
	double dropout = 0;

	if (!json_is_object(model))
		return error_set(err, ERR_USAGE, "%s must be an object, is %s", p->name,
				 model ? json_kind(model) : "missing");
	if (json_get_str(model, "type", &type, p->name, err) < 0)
		return -1;
	if (strcmp(type, "BPE") != 0)
		return unsupported(p, "type", type, err);
	if (json_get_f64(model, "dropout", &dropout, p->name, err) < 0 ||
	    json_get_str(model, "unk_token", &unk, p->name, err) < 0 ||
	    json_get_bool(model, "fuse_unk", &b->fuse_unk, p->name, err) < 0 ||
	    json_get_bool(model, "byte_fallback", &b->byte_fallback, p->name, err) < 0 ||
	    json_get_bool(model, "ignore_merges", &b->ignore_merges, p->name, err) < 0)
		return -1;
	if (dropout != 0)
		return error_set(err, ERR_USAGE, "%s: \"dropout\" is not supported: ids would be random",
				 p->name);
	static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
	for (size_t i = 0; i < 2; i++) {
		affix = "";
		if (json_get_str(model, affixes[i], &affix, p->name, err) < 0)
			return -1;
		if (*affix)
			return unsupported(p, affixes[i], affix, err);
	}
	if (read_vocab(b, json_object_get(model, "vocab"), p, err) ||
	    read_merges(b, json_object_get(model, "merges"), p, err))
		return -1;
	if (unk && *unk) {
		b->unk = t->unk = strmap_get(&b->index, unk, strlen(unk));
		if (b->unk < 0)
			return error_set(err, ERR_USAGE,
					 "%s: \"unk_token\" is \"%s\", which \"vocab\" does not have",
					 p->name, unk);
	}
	return 0;
}

/* Calls part for root[key] unless it is missing or null. */
static int section(struct tokenizer *t, const json_t *root, const char *key, const struct place *file,
		   int (*part)(struct tokenizer *, const json_t *, const struct place *, struct error *),
		   struct error *err)
{
	const json_t *j = json_object_get(root, key);
	struct place p = *file;

	if (!j || json_is_null(j))
		return 0;
	snprintf(p.name + strlen(p.name), sizeof p.name - strlen(p.name), ": %s", key);
	return part(t, j, &p, err);
}

int tokenizer_read_json(struct tokenizer *t, const char *path, struct error *err)
{
	struct place file = {""}, model;
	json_t *root = json_read(path, err);
	int failed = -1;

	if (!root)
		return -1;
	t->source = xstrdup(path);
	t->from_json = true;
	snprintf(file.name, sizeof file.name / 2, "%s", path);
	model = below(&file, ": model", 0);
	if (!json_is_object(root))
		error_set(err, ERR_USAGE, "%s: must be an object, is %s", path, json_kind(root));
	else
		failed = read_bpe(t, json_object_get(root, "model"), &model, err) ||
			 section(t, root, "normalizer", &file, read_normalizer, err) ||
			 section(t, root, "pre_tokenizer", &file, read_pretokenizer, err) ||
			 section(t, root, "post_processor", &file, read_post_processor, err) ||
			 section(t, root, "decoder", &file, read_decoder, err) ||
			 (json_object_get(root, "added_tokens") &&
			  each(t, root, "added_tokens", ": added_tokens[%d]", &file, read_added_token, err));
	json_decref(root);
	return failed ? -1 : 0;
}
