/* tokenizer_config.json and special_tokens_map.json: which tokens are <bos>, <eos> …, tokens added on top,
 * and whether <bos> and <eos> are put around a text. */
#include "tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

/* The content of a token that is written as a string or as {"content": …}; NULL when j is neither. */
static const char *content_of(const json_t *j)
{
	if (json_is_object(j))
		j = json_object_get(j, "content");
	return json_string_value(j);
}

static int read_special(struct tokenizer *t, const json_t *config, const char *key, const char *path,
			int32_t *id, struct error *err)
{
	const json_t *j = json_object_get(config, key);

	if (!j || json_is_null(j))
		return 0;
	const char *content = content_of(j);
	if (!content)
		return error_set(err, ERR_USAGE,
				 "%s: \"%s\" must be a string or an object with \"content\", is %s", path,
				 key, json_kind(j));
	int32_t found = tokenizer_id(t, content);
	if (found < 0)
		return error_set(err, ERR_USAGE,
				 "%s: \"%s\" is \"%s\", which the vocabulary of %s does not have", path, key,
				 content, t->source);
	*id = found;
	return 0;
}

static int read_specials(struct tokenizer *t, const json_t *config, const char *path, struct error *err)
{
	if (read_special(t, config, "bos_token", path, &t->bos, err) ||
	    read_special(t, config, "eos_token", path, &t->eos, err) ||
	    read_special(t, config, "pad_token", path, &t->pad, err))
		return -1;
	return read_special(t, config, "unk_token", path, &t->unk, err);
}

/* "added_tokens_decoder": {"32000": {"content": "<|im_start|>", …}, …}. Tokens that are known are left as
 * they are. */
static int read_added(struct tokenizer *t, json_t *config, const char *path, struct error *err)
{
	json_t *map = json_object_get(config, "added_tokens_decoder"), *value;
	const char *key;

	if (!map || json_is_null(map))
		return 0;
	if (!json_is_object(map))
		return error_set(err, ERR_USAGE, "%s: \"added_tokens_decoder\" must be an object, is %s",
				 path, json_kind(map));
	json_object_foreach(map, key, value)
	{
		int64_t id;
		struct added_token a = {.normalized = true};
		const char *content = json_string_value(json_object_get(value, "content"));
		if (!parse_i64(key, &id) || id < 0 || id > TOKENIZER_MAX_ID || !content || !*content)
			return error_set(
				err, ERR_USAGE,
				"%s: \"added_tokens_decoder\": \"%s\" must be an id with a \"content\"", path,
				key);
		int32_t known = tokenizer_id(t, content);
		if (known >= 0 && known != id)
			return error_set(err, ERR_USAGE,
					 "%s: \"added_tokens_decoder\": \"%s\" is %lld here and %d in %s",
					 path, content, (long long)id, (int)known, t->source);
		if (known >= 0)
			continue;
		if (tokenizer_id_taken(t, (int32_t)id))
			return error_set(err, ERR_USAGE,
					 "%s: \"added_tokens_decoder\": id %lld is another token in %s", path,
					 (long long)id, t->source);
		a.content = (char *)content;
		a.len = strlen(content);
		a.id = (int32_t)id;
		if (json_get_bool(value, "special", &a.special, path, err) < 0 ||
		    json_get_bool(value, "single_word", &a.single_word, path, err) < 0 ||
		    json_get_bool(value, "lstrip", &a.lstrip, path, err) < 0 ||
		    json_get_bool(value, "rstrip", &a.rstrip, path, err) < 0 ||
		    json_get_bool(value, "normalized", &a.normalized, path, err) < 0)
			return -1;
		added_add(&t->added, a);
	}
	return 0;
}

static int apply_config(struct tokenizer *t, json_t *config, const char *path, struct error *err)
{
	const char *class = "";
	bool bos = false, eos = false;

	if (json_get_str(config, "tokenizer_class", &class, path, err) < 0 ||
	    read_added(t, config, path, err) || read_specials(t, config, path, err))
		return -1;
	bool adds_bos = !t->from_json || str_starts(class, "Llama") || str_starts(class, "Gemma") ||
			str_starts(class, "CodeLlama");
	bos = adds_bos;
	int has_bos = json_get_bool(config, "add_bos_token", &bos, path, err);
	int has_eos = json_get_bool(config, "add_eos_token", &eos, path, err);
	if (has_bos < 0 || has_eos < 0)
		return -1;
	if (adds_bos || has_bos || has_eos)
		tokenizer_set_template(t, bos, eos);
	return 0;
}

/* Runs apply on the file `name` of dir when there is one. */
static int with_file(struct tokenizer *t, const char *dir, const char *name,
		     int (*apply)(struct tokenizer *, json_t *, const char *, struct error *),
		     struct error *err)
{
	char *path = path_join(dir, name);
	int failed = 0;

	if (path_exists(path)) {
		json_t *config = json_read(path, err);
		if (!config)
			failed = -1;
		else if (!json_is_object(config))
			failed = error_set(err, ERR_USAGE, "%s: must be an object, is %s", path,
					   json_kind(config));
		else
			failed = apply(t, config, path, err);
		json_decref(config);
	}
	free(path);
	return failed;
}

static int apply_map(struct tokenizer *t, json_t *map, const char *path, struct error *err)
{
	return read_specials(t, map, path, err);
}

int tokenizer_read_config(struct tokenizer *t, const char *dir, struct error *err)
{
	/* Where both name a token, tokenizer_config.json decides, as in transformers. */
	return with_file(t, dir, "special_tokens_map.json", apply_map, err) ||
			       with_file(t, dir, "tokenizer_config.json", apply_config, err)
		       ? -1
		       : 0;
}
