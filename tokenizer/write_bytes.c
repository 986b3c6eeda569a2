/* A byte-level tokenizer made from nothing but merges, for models that start from random weights. */
#include "tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "tokenizer/chars.h"

static const char *const specials[BYTES_FIRST] = {"<pad>", "<eos>", "<bos>", "<unk>"};

/* The symbols' names in the byte-level alphabet; NULL and an error when merges are not well-formed. */
static char **symbol_names(const struct bpe_merges *merges, size_t n_merges, struct arena *arena,
			   struct error *err)
{
	char **names = arena_calloc(arena, 256 + n_merges, sizeof *names), text[4];
	struct strmap seen = {NULL, 0, 0};

	for (int i = 0; i < BYTES_FIRST; i++)
		strmap_add(&seen, specials[i], strlen(specials[i]), 0);
	for (unsigned b = 0; b < 256; b++) {
		names[b] = arena_strndup(arena, text, utf8_encode(byte_level_char((uint8_t)b), text));
		strmap_add(&seen, names[b], strlen(names[b]), 0);
	}
	for (size_t i = 0; i < n_merges && names; i++) {
		struct bpe_merge m = merges->merge[i];
		if (m.left >= 256 + i || m.right >= 256 + i) {
			error_set(err, ERR_USAGE,
				  "merge %zu joins symbols %u and %u, of which there are only %zu so far", i,
				  (unsigned)m.left, (unsigned)m.right, 256 + i);
			names = NULL;
			break;
		}
		names[256 + i] = arena_printf(arena, "%s%s", names[m.left], names[m.right]);
		if (strmap_add(&seen, names[256 + i], strlen(names[256 + i]), 0) >= 0) {
			error_set(err, ERR_USAGE, "merge %zu makes \"%s\", which is there already", i,
				  names[256 + i]);
			names = NULL;
		}
	}
	strmap_free(&seen);
	return names;
}

/* {"<bos>": …} as tokenizer.json's TemplateProcessing: <bos> before a text. */
static json_t *bytes_template(void)
{
	struct tokenizer t = {.n_tokens = BYTES_FIRST};
	struct token_name names[BYTES_FIRST];
	int32_t bos = BYTES_BOS;

	for (int i = 0; i < BYTES_FIRST; i++)
		names[i] = (struct token_name){specials[i], (uint32_t)strlen(specials[i]), true};
	t.tokens = names;
	t.prefix = (struct id_list){&bos, 1, 1};
	return template_json(&t);
}

static json_t *bytes_json(char *const *names, const struct bpe_merges *merges, size_t n_merges)
{
	json_t *added = json_array(), *vocab = json_object(), *list = json_array();

	for (int i = 0; i < BYTES_FIRST; i++) {
		json_array_append_new(added, json_pack("{s:i,s:s,s:b,s:b,s:b,s:b,s:b}", "id", i, "content",
						       specials[i], "single_word", 0, "lstrip", 0, "rstrip",
						       0, "normalized", 0, "special", 1));
		json_object_set_new(vocab, specials[i], json_integer(i));
	}
	for (size_t i = 0; i < 256 + n_merges; i++)
		json_object_set_new(vocab, names[i], json_integer((json_int_t)(BYTES_FIRST + i)));
	for (size_t i = 0; i < n_merges; i++)
		/* "a b": the alphabet has no space, and every version of tokenizers reads it. */
		json_array_append_new(list, json_sprintf("%s %s", names[merges->merge[i].left],
							 names[merges->merge[i].right]));
	json_t *model = json_pack("{s:s,s:n,s:s,s:n,s:n,s:b,s:b,s:b,s:o,s:o}", "type", "BPE", "dropout",
				  "unk_token", specials[BYTES_UNK], "continuing_subword_prefix",
				  "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0, "ignore_merges", 0,
				  "vocab", vocab, "merges", list);
	return json_pack("{s:s,s:n,s:n,s:o,s:n,s:{s:s,s:b,s:b,s:b},s:o,s:{s:s,s:b,s:b,s:b},s:o}", "version",
			 "1.0", "truncation", "padding", "added_tokens", added, "normalizer", "pre_tokenizer",
			 "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 0, "use_regex", 1,
			 "post_processor", bytes_template(), "decoder", "type", "ByteLevel",
			 "add_prefix_space", 0, "trim_offsets", 0, "use_regex", 1, "model", model);
}

static int write_file(const char *dir, const char *name, json_t *j, struct error *err)
{
	char *path = path_join(dir, name);
	int failed = json_write(path, j, err);

	free(path);
	json_decref(j);
	return failed;
}

int tokenizer_write_bytes(const char *dir, const struct bpe_merges *merges, struct error *err)
{
	struct arena arena = ARENA_INIT;
	size_t n_merges = merges ? merges->n : 0;
	char **names = symbol_names(merges, n_merges, &arena, err);
	int failed = -1;

	if (names && !dir_create(dir, err)) {
		json_t *map = json_pack("{s:s,s:s,s:s,s:s}", "bos_token", specials[BYTES_BOS], "eos_token",
					specials[BYTES_EOS], "pad_token", specials[BYTES_PAD], "unk_token",
					specials[BYTES_UNK]);
		json_t *config = json_pack(
			"{s:b,s:b,s:s,s:b,s:s,s:f,s:s,s:s,s:s}", "add_bos_token", 1, "add_eos_token", 0,
			"bos_token", specials[BYTES_BOS], "clean_up_tokenization_spaces", 0, "eos_token",
			specials[BYTES_EOS], "model_max_length", 1e30, "pad_token", specials[BYTES_PAD],
			"tokenizer_class", "PreTrainedTokenizerFast", "unk_token", specials[BYTES_UNK]);
		failed = write_file(dir, "tokenizer.json", bytes_json(names, merges, n_merges), err);
		if (!failed)
			failed = write_file(dir, "tokenizer_config.json", config, err);
		else
			json_decref(config);
		if (!failed)
			failed = write_file(dir, "special_tokens_map.json", map, err);
		else
			json_decref(map);
	}
	arena_free(&arena);
	return failed;
}
