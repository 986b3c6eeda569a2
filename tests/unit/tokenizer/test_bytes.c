/* Learnt merges and the byte-level tokenizers that are made of them. */
#include "tests/unit/tokenizer/support.h"

static void train_ok(const char *const *texts, size_t n, size_t n_merges, struct bpe_merges *out)
{
	struct error err = ERROR_INIT;
	size_t lengths[8] = {0};

	for (size_t i = 0; i < n; i++)
		lengths[i] = strlen(texts[i]);
	if (tokenizer_train_bpe(texts, lengths, n, n_merges, out, &err))
		fail_msg("%s", err.message);
}

static struct tokenizer *bytes_ok(const struct bpe_merges *merges)
{
	struct error err = ERROR_INIT;
	char *dir = temp_dir();

	if (tokenizer_write_bytes(dir, merges, &err))
		fail_msg("%s", err.message);
	struct tokenizer *t = open_ok(dir);
	temp_remove(dir);
	return t;
}

static void without_merges_every_byte_is_a_token(void **state)
{
	struct tokenizer *t = bytes_ok(NULL);
	struct token_ids ids = TOKEN_IDS_INIT;
	struct strbuf text = STRBUF_INIT;
	struct error err = ERROR_INIT;
	const char *s = "a \xc3\xa9\n";

	(void)state;
	assert_int_equal(tokenizer_vocab_size(t), 260);
	assert_int_equal(tokenizer_pad(t), BYTES_PAD);
	assert_int_equal(tokenizer_eos(t), BYTES_EOS);
	assert_int_equal(tokenizer_bos(t), BYTES_BOS);
	assert_int_equal(tokenizer_unk(t), BYTES_UNK);
	encode_ok(t, s, 5, TOKENIZER_ADD_SPECIAL, &ids);
	check_ids(&ids, (int32_t[]){2, 4 + 'a', 4 + ' ', 4 + 0xc3, 4 + 0xa9, 4 + '\n'}, 6, s);
	for (size_t i = 0; i < 6; i++)
		assert_int_equal(ids.ends[i], i);
	assert_int_equal(tokenizer_decode(t, ids.ids, ids.n, TOKENIZER_SKIP_SPECIAL, &text, &err), 0);
	assert_string_equal(text.data, s);
	for (int32_t b = 0; b < 256; b++)
		assert_int_equal(tokenizer_id(t, tokenizer_token(t, 4 + b)), 4 + b);
	strbuf_free(&text);
	token_ids_free(&ids);
	tokenizer_free(t);
}

static void the_most_frequent_pair_is_merged_first(void **state)
{
	struct bpe_merges m = BPE_MERGES_INIT;

	(void)state;
	/* "low" five times, "lower" twice, "newest" six times, "widest" three times (Sennrich et al. 2016, figure 1):
	 * e s (9), es t (9), l o (7), lo w (7), n e (6) … */
	const char *text = "low low low low low lower lower newest newest newest newest newest newest widest "
			   "widest widest";
	train_ok(&text, 1, 3, &m);
	assert_int_equal(m.n, 3);
	assert_int_equal(m.merge[0].left, 'e');
	assert_int_equal(m.merge[0].right, 's');
	assert_int_equal(m.merge[1].left, 256);
	assert_int_equal(m.merge[1].right, 't');
	assert_int_equal(m.merge[2].left, ' ');
	assert_int_equal(m.merge[2].right, 'n');
	bpe_merges_free(&m);
}

static void the_order_of_texts_does_not_matter(void **state)
{
	const char *forward[] = {"the cat sat", "on the mat", "abcabcabc the end"};
	const char *backward[] = {"abcabcabc the end", "on the mat", "the cat sat"};
	struct bpe_merges a = BPE_MERGES_INIT, b = BPE_MERGES_INIT;

	(void)state;
	train_ok(forward, 3, 100, &a);
	train_ok(backward, 3, 100, &b);
	assert_true(a.n > 3);
	assert_int_equal(a.n, b.n);
	assert_memory_equal(a.merge, b.merge, a.n * sizeof *a.merge);
	bpe_merges_free(&a);
	bpe_merges_free(&b);
}

static void learnt_merges_shorten_text_and_decode_back(void **state)
{
	const char *texts[] = {"SELECT name FROM head WHERE age > 56",
			       "SELECT age FROM head WHERE name = 'x'"};
	struct bpe_merges m = BPE_MERGES_INIT;
	struct token_ids ids = TOKEN_IDS_INIT;
	struct strbuf text = STRBUF_INIT;
	struct error err = ERROR_INIT;

	(void)state;
	train_ok(texts, 2, 1000, &m);
	struct tokenizer *t = bytes_ok(&m);
	assert_int_equal(tokenizer_vocab_size(t), 260 + m.n);
	encode_ok(t, texts[0], strlen(texts[0]), 0, &ids);
	assert_true(ids.n < strlen(texts[0]) / 2);
	assert_int_equal(tokenizer_decode(t, ids.ids, ids.n, 0, &text, &err), 0);
	assert_string_equal(text.data, texts[0]);
	assert_true(tokenizer_id(t, "SELECT") > 260);
	strbuf_free(&text);
	token_ids_free(&ids);
	tokenizer_free(t);
	bpe_merges_free(&m);
}

static void no_texts_give_no_merges(void **state)
{
	struct bpe_merges m = BPE_MERGES_INIT;

	(void)state;
	train_ok(NULL, 0, 10, &m);
	assert_int_equal(m.n, 0);
	const char *empty = "";
	train_ok(&empty, 1, 10, &m);
	assert_int_equal(m.n, 0);
}

static void malformed_merges_and_texts_are_errors(void **state)
{
	struct error err = ERROR_INIT;
	struct bpe_merge ahead[] = {{256, 'a'}}, twice[] = {{'a', 'b'}, {'b', 'c'}, {256, 'c'}, {'a', 257}};
	const char *bad = "a\xff";
	size_t length = 2;
	struct bpe_merges m = BPE_MERGES_INIT;
	char *dir = temp_dir();

	(void)state;
	assert_int_equal(tokenizer_write_bytes(dir, &(struct bpe_merges){ahead, 1, 1}, &err), -1);
	assert_non_null(strstr(err.message, "merge 0 joins"));
	assert_int_equal(tokenizer_write_bytes(dir, &(struct bpe_merges){twice, 4, 4}, &err), -1);
	assert_non_null(strstr(err.message, "merge 3 makes \"abc\""));
	assert_int_equal(tokenizer_train_bpe(&bad, &length, 1, 5, &m, &err), -1);
	assert_non_null(strstr(err.message, "byte 1"));
	temp_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_merges_every_byte_is_a_token),
		cmocka_unit_test(the_most_frequent_pair_is_merged_first),
		cmocka_unit_test(the_order_of_texts_does_not_matter),
		cmocka_unit_test(learnt_merges_shorten_text_and_decode_back),
		cmocka_unit_test(no_texts_give_no_merges),
		cmocka_unit_test(malformed_merges_and_texts_are_errors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
