/* Ids against published vectors and SentencePiece's own (../shared/data/README.md). */
#include "tests/unit/tokenizer/support.h"

/* Checks one text: its ids, that ends are monotone and reach the end, that decoding gives the text back, and
 * that a stream gives what decoding gives. reaches_end: no white space is dropped at the end. */
static void check_line(const struct tokenizer *t, const json_t *row, bool reaches_end, bool exact_text)
{
	const json_t *text = json_object_get(row, "text"), *ids = json_object_get(row, "ids");
	const char *s = json_string_value(text);
	size_t n = json_string_length(text), count = json_array_size(ids);
	int32_t *want = calloc(count + 1, sizeof *want);
	struct token_ids got = TOKEN_IDS_INIT;
	struct strbuf whole = STRBUF_INIT, streamed = STRBUF_INIT;
	struct error err = ERROR_INIT;

	for (size_t i = 0; i < count; i++)
		want[i] = (int32_t)json_integer_value(json_array_get(ids, i));
	encode_ok(t, s, n, TOKENIZER_PLAIN_SPECIAL, &got);
	check_ids(&got, want, count, s);
	for (size_t i = 1; i < got.n; i++)
		assert_true(got.ends[i - 1] <= got.ends[i]);
	if (got.n && reaches_end)
		assert_int_equal(got.ends[got.n - 1], n);

	assert_int_equal(tokenizer_decode(t, got.ids, got.n, 0, &whole, &err), 0);
	if (exact_text && n) {
		assert_int_equal(whole.len, n);
		assert_memory_equal(whole.data, s, n);
	}
	struct token_stream *stream = token_stream_new(t, 0);
	for (size_t i = 0; i < got.n; i++) {
		size_t before = streamed.len;
		assert_int_equal(token_stream_add(stream, got.ids[i], &streamed, &err), 0);
		assert_int_equal(utf8_valid(streamed.data + before, streamed.len - before),
				 streamed.len - before);
	}
	token_stream_finish(stream, &streamed);
	token_stream_free(stream);
	assert_int_equal(streamed.len, whole.len);
	if (whole.len)
		assert_memory_equal(streamed.data, whole.data, whole.len);
	strbuf_free(&whole);
	strbuf_free(&streamed);
	token_ids_free(&got);
	free(want);
}

static void check_file(const struct tokenizer *t, const char *path, bool reaches_end, bool exact_text)
{
	struct error err = ERROR_INIT;
	size_t size, lines = 0;
	char *bytes = file_read(path, &size, &err);

	assert_non_null(bytes);
	for (char *line = bytes, *end; (end = strchr(line, '\n')); line = end + 1, lines++) {
		json_t *row = json_parse(line, (size_t)(end - line), path, &err);
		assert_non_null(row);
		check_line(t, row, reaches_end, exact_text);
		json_decref(row);
	}
	assert_true(lines >= 40);
	free(bytes);
}

/* The golden through the file itself, then through the tokenizer.json that is made of it. */
static void check_both(const char *model, const char *golden, bool reaches_end, bool exact_text)
{
	struct error err = ERROR_INIT;
	struct tokenizer *t = open_ok(model);

	check_file(t, golden, reaches_end, exact_text);
	char *dir = temp_dir(), *json = path_join(dir, "tokenizer.json"),
	     *config = path_join(dir, "tokenizer_config.json");
	if (tokenizer_write_json(t, json, &err) || tokenizer_write_config(t, config, &err))
		fail_msg("%s", err.message);
	struct tokenizer *again = open_ok(dir);
	check_file(again, golden, reaches_end, exact_text);
	assert_int_equal(tokenizer_vocab_size(again), tokenizer_vocab_size(t));
	assert_int_equal(tokenizer_bos(again), tokenizer_bos(t));
	assert_int_equal(tokenizer_eos(again), tokenizer_eos(t));
	assert_int_equal(tokenizer_pad(again), tokenizer_pad(t));
	assert_int_equal(tokenizer_unk(again), tokenizer_unk(t));
	struct token_ids a = TOKEN_IDS_INIT, b = TOKEN_IDS_INIT;
	encode_ok(t, "SELECT 1", 8, TOKENIZER_ADD_SPECIAL, &a);
	encode_ok(again, "SELECT 1", 8, TOKENIZER_ADD_SPECIAL, &b);
	check_ids(&b, a.ids, a.n, "SELECT 1");
	assert_int_equal(a.ids[0], tokenizer_bos(t));
	token_ids_free(&a);
	token_ids_free(&b);
	tokenizer_free(again);
	tokenizer_free(t);
	free(json);
	free(config);
	temp_remove(dir);
}

static void gemma_ids_are_those_of_sentencepiece(void **state)
{
	(void)state;
	SKIP_WITHOUT(SHARED_DATA "gemma/tokenizer.model");
	check_both(SHARED_DATA "gemma/tokenizer.model", SHARED_DATA "golden/gemma.jsonl", true, true);
}

static void llama2_ids_are_those_of_sentencepiece(void **state)
{
	(void)state;
	SKIP_WITHOUT(SHARED_DATA "llama2/tokenizer.model");
	check_both(SHARED_DATA "llama2/tokenizer.model", SHARED_DATA "golden/llama2.jsonl", true, true);
}

static void llama2_ids_are_those_of_tokenizers(void **state)
{
	(void)state;
	SKIP_WITHOUT(SHARED_DATA "llama2/tokenizer.model");
	check_both(SHARED_DATA "llama2/tokenizer.model", SHARED_DATA "golden/llama-spm.jsonl", true, true);
}

static void ids_are_those_of_sentencepiece_where_it_removes_white_space(void **state)
{
	(void)state;
	SKIP_WITHOUT(SHARED_DATA "stories260K/tokenizer.model");
	check_both(SHARED_DATA "stories260K/tokenizer.model", SHARED_DATA "golden/tok512.jsonl", false,
		   false);
}

/* A tokenizer.json of GPT-2's two files, as transformers' GPT2Converter makes it. */
static char *gpt2_dir(bool pairs)
{
	struct error err = ERROR_INIT;
	char *dir = temp_dir(), *path = path_join(dir, "tokenizer.json");
	json_t *vocab = json_read(SHARED_DATA "gpt2/encoder.json", &err), *merges = json_array();
	size_t size;
	char *bpe = file_read(SHARED_DATA "gpt2/vocab.bpe", &size, &err);

	assert_non_null(vocab);
	assert_non_null(bpe);
	for (char *line = strchr(bpe, '\n') + 1, *end; (end = strchr(line, '\n')); line = end + 1) {
		char *space = memchr(line, ' ', (size_t)(end - line));
		if (pairs)
			json_array_append_new(merges, json_pack("[s%, s%]", line, (size_t)(space - line),
								space + 1, (size_t)(end - space - 1)));
		else
			json_array_append_new(merges, json_stringn(line, (size_t)(end - line)));
	}
	json_t *root = json_pack(
		"{s:[{s:i,s:s,s:b,s:b}],s:n,s:{s:s,s:b,s:b},s:{s:s,s:b,s:b},s:{s:s},s:{s:s,s:o,s:o}}",
		"added_tokens", "id", 50256, "content", "<|endoftext|>", "special", 1, "normalized", 0,
		"normalizer", "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 1,
		"post_processor", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 0, "decoder",
		"type", "ByteLevel", "model", "type", "BPE", "vocab", vocab, "merges", merges);
	assert_non_null(root);
	assert_int_equal(json_write(path, root, &err), 0);
	json_decref(root);
	free(bpe);
	free(path);
	return dir;
}

static void gpt2_ids_are_those_of_tokenizers(void **state)
{
	(void)state;
	SKIP_WITHOUT(SHARED_DATA "gpt2/vocab.bpe");
	for (int pairs = 0; pairs < 2; pairs++) {
		char *dir = gpt2_dir(pairs);
		struct tokenizer *t = open_ok(dir);
		check_file(t, SHARED_DATA "golden/gpt-2.jsonl", true, true);
		assert_int_equal(tokenizer_vocab_size(t), 50257);
		struct token_ids ids = TOKEN_IDS_INIT;
		encode_ok(t, "a<|endoftext|>b", 15, 0, &ids);
		check_ids(&ids, (int32_t[]){64, 50256, 65}, 3, "a<|endoftext|>b");
		assert_int_equal(ids.ends[1], 14);
		token_ids_free(&ids);
		tokenizer_free(t);
		temp_remove(dir);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gemma_ids_are_those_of_sentencepiece),
		cmocka_unit_test(llama2_ids_are_those_of_sentencepiece),
		cmocka_unit_test(llama2_ids_are_those_of_tokenizers),
		cmocka_unit_test(ids_are_those_of_sentencepiece_where_it_removes_white_space),
		cmocka_unit_test(gpt2_ids_are_those_of_tokenizers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
