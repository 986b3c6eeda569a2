/* Behaviour on small tokenizers that the tests write themselves, and on hostile files. */
#include <pthread.h>

#include "tests/unit/tokenizer/support.h"

/* SentencePiece-style, with byte fallback for é: "▁" is 8, "ab" 11, "▁ab" 12. */
#define MODEL                                                                                                \
	"\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":true,"      \
	"\"vocab\":{"                                                                                        \
	"\"<pad>\":0,\"<eos>\":1,\"<bos>\":2,\"<unk>\":3,\"<0xC3>\":4,\"<0xA9>\":5,\"<0xF0>\":6,\"<0x9F>\":" \
	"7,"                                                                                                 \
	"\"\\u2581\":8,\"a\":9,\"b\":10,\"ab\":11,\"\\u2581ab\":12,\"c\":13},"                               \
	"\"merges\":[\"a b\",[\"\\u2581\",\"ab\"]]}"
#define ADDED                                                                                                \
	"\"added_tokens\":[{\"id\":2,\"content\":\"<bos>\",\"special\":true,\"normalized\":false},"          \
	"{\"id\":14,\"content\":\"<x>\",\"special\":false,\"normalized\":false,\"lstrip\":true,\"rstrip\":"  \
	"true},"                                                                                             \
	"{\"id\":15,\"content\":\"cc\",\"special\":false,\"normalized\":false,\"single_word\":true}],"
#define PIPELINE                                                                                             \
	"\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"          \
	"\"\\u2581\"},"                                                                                      \
	"{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\\u2581\"}]},"                   \
	"\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<bos>"  \
	"\"}},"                                                                                              \
	"{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"<eos>\"}}],\"special_tokens\":{"          \
	"\"<bos>\":{\"id\":\"<bos>\",\"ids\":[2]},\"<eos>\":{\"id\":\"<eos>\",\"ids\":[1]}}},"               \
	"\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"    \
	"\"\\u2581\"},"                                                                                      \
	"\"content\":\" "                                                                                    \
	"\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \","         \
	"\"start\":1,\"stop\":0}]},"
#define SMALL "{" ADDED PIPELINE MODEL "}"

static struct tokenizer *open_text(const char *json, const char *config)
{
	char *dir = temp_dir();

	write_text(dir, "tokenizer.json", json);
	if (config)
		write_text(dir, "tokenizer_config.json", config);
	struct tokenizer *t = open_ok(dir);
	temp_remove(dir);
	return t;
}

static void check(const struct tokenizer *t, const char *text, unsigned flags, const int32_t *ids,
		  const uint32_t *ends, size_t n)
{
	struct token_ids got = TOKEN_IDS_INIT;

	encode_ok(t, text, strlen(text), flags, &got);
	check_ids(&got, ids, n, text);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(got.ends[i], ends[i]);
	token_ids_free(&got);
}

static void check_text(const struct tokenizer *t, const int32_t *ids, size_t n, unsigned flags,
		       const char *want)
{
	struct strbuf whole = STRBUF_INIT, streamed = STRBUF_INIT;
	struct error err = ERROR_INIT;
	struct token_stream *s = token_stream_new(t, flags);

	strbuf_adds(&whole, "");
	assert_int_equal(tokenizer_decode(t, ids, n, flags, &whole, &err), 0);
	assert_string_equal(whole.data ? whole.data : "", want);
	for (int round = 0; round < 2; round++) {
		strbuf_clear(&streamed);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(token_stream_add(s, ids[i], &streamed, &err), 0);
		token_stream_finish(s, &streamed);
		assert_string_equal(streamed.data ? streamed.data : "", want);
	}
	token_stream_free(s);
	strbuf_free(&whole);
	strbuf_free(&streamed);
}

#define IDS(...) (int32_t[]){__VA_ARGS__}, sizeof((int32_t[]){__VA_ARGS__}) / 4
#define LIST(...)                                                                                            \
	(int32_t[])                                                                                          \
	{                                                                                                    \
		__VA_ARGS__                                                                                  \
	}
#define ENDS(...) (uint32_t[]){__VA_ARGS__}, sizeof((uint32_t[]){__VA_ARGS__}) / 4

static void ends_are_offsets_in_the_original_text(void **state)
{
	struct tokenizer *t = open_text(SMALL, NULL);

	(void)state;
	check(t, "ab", 0, LIST(12), ENDS(2));
	check(t, " ab ab", 0, LIST(8, 12, 12), ENDS(0, 3, 6));
	check(t, "ab\xc3\xa9", TOKENIZER_ADD_SPECIAL, LIST(2, 12, 4, 5, 1), ENDS(0, 2, 3, 4, 4));
	check(t, "", TOKENIZER_ADD_SPECIAL, LIST(2, 1), ENDS(0, 0));
	/* Characters without byte tokens: one <unk> for a run of them. */
	check(t, "azzb", 0, LIST(8, 9, 3, 10), ENDS(0, 1, 3, 4));
	tokenizer_free(t);
}

static void special_tokens_in_the_text_are_plain_when_asked(void **state)
{
	struct tokenizer *t = open_text(SMALL, NULL);

	(void)state;
	check(t, "a<bos>b", 0, LIST(8, 9, 2, 8, 10), ENDS(0, 1, 6, 6, 7));
	check(t, "a<bos>b", TOKENIZER_PLAIN_SPECIAL, LIST(8, 9, 3, 10, 3, 10), ENDS(0, 1, 2, 3, 6, 7));
	/* Tokens that are added and not special are found in both. */
	check(t, "a <x>  b", TOKENIZER_PLAIN_SPECIAL, LIST(8, 9, 14, 8, 10), ENDS(0, 1, 7, 7, 8));
	check(t, "cc ccc", 0, LIST(15, 8, 8, 13, 13, 13), ENDS(2, 2, 3, 4, 5, 6));
	tokenizer_free(t);
}

static void decoding_drops_the_dummy_prefix_once(void **state)
{
	struct tokenizer *t = open_text(SMALL, NULL);

	(void)state;
	check_text(t, IDS(12, 12, 8, 8), 0, "ab ab  ");
	check_text(t, IDS(2, 12), 0, "<bos> ab");
	check_text(t, IDS(2, 12, 1), TOKENIZER_SKIP_SPECIAL, "ab<eos>"); /* <eos> is no added token here */
	check_text(t, NULL, 0, 0, "");
	tokenizer_free(t);
}

static void bytes_that_are_no_characters_become_replacements(void **state)
{
	struct tokenizer *t = open_text(SMALL, NULL);

	(void)state;
	check_text(t, IDS(4, 5), 0, "\xc3\xa9");
	/* As in `tokenizers`: when a run of byte tokens is not UTF-8, each of its bytes is replaced. */
	check_text(t, IDS(4, 5, 6), 0, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
	check_text(t, IDS(4, 9, 5), 0,
		   "\xef\xbf\xbd"
		   "a"
		   "\xef\xbf\xbd");
	tokenizer_free(t);
}

static void a_stream_holds_back_half_characters(void **state)
{
	struct error err = ERROR_INIT;
	char *dir = temp_dir();
	struct strbuf out = STRBUF_INIT;

	(void)state;
	assert_int_equal(tokenizer_write_bytes(dir, NULL, &err), 0);
	struct tokenizer *t = open_ok(dir);
	struct token_stream *s = token_stream_new(t, 0);
	const uint8_t robot[] = {0xf0, 0x9f, 0xa4, 0x96};
	for (int i = 0; i < 4; i++) {
		assert_int_equal(out.len, 0);
		assert_int_equal(token_stream_add(s, 4 + robot[i], &out, &err), 0);
	}
	assert_int_equal(out.len, 4);
	/* A maximal part of a character is one replacement, as Rust's from_utf8_lossy has it. */
	check_text(t, IDS(4 + 0xf0, 4 + 0x9f, 4 + 'a', 4 + 0xff, 4 + 0xe2, 4 + 0x96), 0,
		   "\xef\xbf\xbd"
		   "a"
		   "\xef\xbf\xbd\xef\xbf\xbd");
	token_stream_free(s);
	strbuf_free(&out);
	tokenizer_free(t);
	temp_remove(dir);
}

static void the_config_decides_on_bos_and_eos(void **state)
{
	(void)state;
	struct tokenizer *t = open_text(SMALL,
					"{\"bos_token\":\"<bos>\",\"eos_token\":{\"content\":\"<eos>\"},"
					"\"pad_token\":null,\"add_bos_token\":false,\"add_eos_token\":true}");
	check(t, "ab", TOKENIZER_ADD_SPECIAL, LIST(12, 1), ENDS(2, 2));
	assert_int_equal(tokenizer_bos(t), 2);
	assert_int_equal(tokenizer_eos(t), 1);
	assert_int_equal(tokenizer_pad(t), -1);
	assert_int_equal(tokenizer_unk(t), 3);
	tokenizer_free(t);

	t = open_text(
		SMALL,
		"{\"tokenizer_class\":\"LlamaTokenizerFast\",\"bos_token\":\"<bos>\",\"eos_token\":\"<eos>\","
		"\"added_tokens_decoder\":{\"20\":{\"content\":\"<tool>\",\"special\":true,"
		"\"normalized\":false}}}");
	check(t, "ab<tool>", TOKENIZER_ADD_SPECIAL, LIST(2, 12, 20), ENDS(0, 2, 8));
	assert_int_equal(tokenizer_vocab_size(t), 21);
	assert_null(tokenizer_token(t, 19));
	check_text(t, IDS(2, 12, 20), TOKENIZER_SKIP_SPECIAL, "ab");
	tokenizer_free(t);
}

static void ids_outside_the_vocabulary_are_errors(void **state)
{
	struct tokenizer *t = open_text(SMALL, NULL);
	struct strbuf out = STRBUF_INIT;
	struct token_ids ids = TOKEN_IDS_INIT;
	struct error err = ERROR_INIT;

	(void)state;
	strbuf_adds(&out, "before");
	assert_int_equal(tokenizer_decode(t, LIST(12, 99), 2, 0, &out, &err), -1);
	assert_string_equal(err.message, "the vocabulary has no token 99 (its ids are below 16)");
	assert_string_equal(out.data, "before");
	assert_int_equal(tokenizer_decode(t, LIST(-1), 1, 0, &out, &err), -1);
	assert_int_equal(tokenizer_encode(t, "ab\xff", 3, 0, &ids, &err), -1);
	assert_string_equal(err.message, "the text is not valid UTF-8 at byte 2");
	assert_int_equal(ids.n, 0);
	assert_int_equal(tokenizer_id(t, "nothing"), -1);
	strbuf_free(&out);
	tokenizer_free(t);
}

struct job {
	const struct tokenizer *t;
	size_t n;
};

static void *encode_many(void *arg)
{
	struct job *job = arg;
	struct token_ids ids = TOKEN_IDS_INIT;
	struct error err = ERROR_INIT;

	for (int i = 0; i < 200; i++) {
		char text[64];
		int n = snprintf(text, sizeof text, "ab ab %d \xc3\xa9 ab", i);
		token_ids_clear(&ids);
		if (!tokenizer_encode(job->t, text, (size_t)n, 0, &ids, &err))
			job->n += ids.n;
	}
	token_ids_free(&ids);
	return NULL;
}

static void threads_may_share_a_tokenizer(void **state)
{
	struct tokenizer *t = open_text(SMALL, NULL);
	struct job jobs[4], alone = {t, 0};
	pthread_t threads[4];

	(void)state;
	encode_many(&alone);
	for (int i = 0; i < 4; i++) {
		jobs[i] = (struct job){t, 0};
		assert_int_equal(pthread_create(&threads[i], NULL, encode_many, &jobs[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(jobs[i].n, alone.n);
	}
	tokenizer_free(t);
}

/* Opening a tokenizer.json with this text fails with a message that has all of `want`. */
static void refuse(const char *json, const char *want)
{
	struct error err = ERROR_INIT;
	struct tokenizer *t = NULL;
	char *dir = temp_dir();

	write_text(dir, "tokenizer.json", json);
	assert_int_equal(tokenizer_open(dir, &t, &err), -1);
	assert_int_equal(err.class, ERR_USAGE);
	if (!strstr(err.message, want) || !strstr(err.message, "tokenizer.json"))
		fail_msg("\"%s\" does not say \"%s\"", err.message, want);
	temp_remove(dir);
}

static void malformed_json_is_an_error_that_names_the_key(void **state)
{
	(void)state;
	refuse("[", "not valid JSON");
	refuse("[]", "must be an object, is an array");
	refuse("{}", ": model must be an object, is missing");
	refuse("{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "\"Unigram\" is not supported");
	refuse("{\"model\":{\"type\":3}}", "\"type\" must be a string");
	refuse("{\"model\":{\"vocab\":{},\"merges\":[]}}", "\"vocab\"");
	refuse("{\"model\":{\"vocab\":[1],\"merges\":[]}}", "\"vocab\"");
	refuse("{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", "\"vocab\"");
	refuse("{\"model\":{\"vocab\":{\"a\":99999999999},\"merges\":[]}}", "\"vocab\"");
	refuse("{\"model\":{\"vocab\":{\"a\":1.5},\"merges\":[]}}", "\"vocab\"");
	refuse("{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "both have the id 0");
	refuse("{\"model\":{\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", "\"a\" is there twice");
	refuse("{\"model\":{\"vocab\":{\"a\":0},\"vocab\":{\"b\":0},\"merges\":[]}}", "not valid JSON");
	refuse("{\"model\":{\"vocab\":{\"a\":0,},\"merges\":[]}}", "\"vocab\" is malformed at byte 25");
	refuse("{\"model\":{\"vocab\":{\"a\" 0},\"merges\":[]}}", "a colon is wanted");
	refuse("{\"model\":{\"vocab\":{\"\\ud800\":0},\"merges\":[]}}", "surrogate");
	refuse("{\"model\":{\"vocab\":{\"\\u12\":0},\"merges\":[]}}", "hexadecimal");
	refuse("{\"model\":{\"vocab\":{\"\\q\":0},\"merges\":[]}}", "an unknown escape");
	refuse("{\"model\":{\"vocab\":{\"\xff\":0},\"merges\":[]}}", "not valid UTF-8");
	refuse("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a a\"", "not valid JSON");
	refuse("{\"model\":{\"vocab\":{\"a\":0}}}", "\"merges\" must be an array");
	refuse("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", "\"merges\"[0]: \"a\" and \"b\"");
	refuse("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}}", "\"merges\"[0] must be two tokens");
	refuse("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", "\"merges\"[0] must be two tokens");
	refuse("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"u\"}}", "\"unk_token\"");
	refuse("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.5}}", "\"dropout\"");
	refuse("{\"normalizer\":{\"type\":\"Precompiled\"}," MODEL "}",
	       "normalizer: \"type\": \"Precompiled\"");
	refuse("{\"normalizer\":7," MODEL "}", "normalizer must be an object");
	refuse("{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
	       "{\"Regex\":"
	       "\"(\"},\"behavior\":\"Isolated\"}]}," MODEL "}",
	       "pre_tokenizer.pretokenizers[0]: \"pattern\"");
	refuse("{\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}," MODEL "}",
	       "\"BertPreTokenizer\" is not supported");
	refuse("{\"decoder\":{\"type\":\"WordPiece\"}," MODEL "}", "decoder: \"type\": \"WordPiece\"");
	refuse("{\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":-1}," MODEL "}", "decoder");
	refuse("{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
	       "\"q\"}}]}," MODEL "}",
	       "post_processor: \"single\"");
	refuse("{\"added_tokens\":[{\"id\":9,\"content\":\"zz\"}]," MODEL "}", "added_tokens[0]: \"id\"");
	refuse("{\"added_tokens\":[{\"id\":\"9\",\"content\":\"zz\"}]," MODEL "}", "added_tokens[0]: \"id\"");
	refuse("{\"added_tokens\":{}," MODEL "}", "\"added_tokens\" must be an array");
}

/* A tokenizer.model cut off at every length, and with single bytes changed, either opens or is an error. */
static void damaged_models_are_errors(void **state)
{
	struct error err = ERROR_INIT;
	size_t n, opened = 0, refused = 0;
	const char *source = SHARED_DATA "stories260K/tokenizer.model";

	(void)state;
	SKIP_WITHOUT(source);
	char *bytes = file_read(source, &n, &err), *dir = temp_dir();
	assert_non_null(bytes);
	for (size_t i = 0; i < 400; i++) {
		struct tokenizer *t = NULL;
		size_t at = i * (n / 400), length = i % 2 ? n : at;
		char old = bytes[at];
		if (i % 2)
			bytes[at] = (char)(i % 3 ? 0xff : bytes[at] ^ 1 << i % 7);
		write_file(dir, "tokenizer.model", bytes, length);
		bytes[at] = old;
		if (tokenizer_open(dir, &t, &err)) {
			assert_non_null(strstr(err.message, "tokenizer.model"));
			refused++;
		} else {
			struct token_ids ids = TOKEN_IDS_INIT;
			encode_ok(t, "the cat", 7, TOKENIZER_ADD_SPECIAL, &ids);
			token_ids_free(&ids);
			tokenizer_free(t);
			opened++;
		}
	}
	assert_true(refused >= 200 && opened > 0);
	free(bytes);
	temp_remove(dir);
}

/* The same for a tokenizer.json, at every byte. */
static void damaged_json_opens_or_is_an_error(void **state)
{
	struct error err = ERROR_INIT;
	char bytes[] = SMALL, *dir = temp_dir();
	size_t n = sizeof bytes - 1, refused = 0;

	(void)state;
	for (size_t i = 0; i < 2 * n; i++) {
		struct tokenizer *t = NULL;
		size_t at = i / 2;
		char old = bytes[at];
		if (i % 2)
			bytes[at] = "\"{}[],:0\\"[at % 9];
		write_file(dir, "tokenizer.json", bytes, i % 2 ? n : at);
		bytes[at] = old;
		if (tokenizer_open(dir, &t, &err)) {
			assert_int_equal(err.class, ERR_USAGE);
			refused++;
		}
		tokenizer_free(t);
	}
	assert_true(refused > n);
	temp_remove(dir);
}

/* Opening a tokenizer.model of these bytes fails with a message that has `want`. */
static void refuse_model(const char *bytes, size_t n, const char *want)
{
	struct error err = ERROR_INIT;
	struct tokenizer *t = NULL;
	char *dir = temp_dir();

	write_file(dir, "tokenizer.model", bytes, n);
	assert_int_equal(tokenizer_open(dir, &t, &err), -1);
	if (!strstr(err.message, want))
		fail_msg("\"%s\" does not say \"%s\"", err.message, want);
	temp_remove(dir);
}

static void models_of_other_kinds_are_errors_that_say_so(void **state)
{
	(void)state;
	refuse_model("", 0, "0 pieces");
	refuse_model("\x0a\x03\x0a\x01"
		     "a"
		     "\x12\x02\x18\x01",
		     9, "Unigram; only BPE is supported");
	refuse_model("\x0a\x03\x0a\x01"
		     "a"
		     "\x12\x02\x18\x02",
		     9, "no piece is the unknown one");
	refuse_model("\x0a\x05\x0a\x01"
		     "a"
		     "\x18\x05"
		     "\x12\x02\x18\x02",
		     11, "type 5, which is not supported");
	refuse_model("\x0a\x05\x0a\x01"
		     "a"
		     "\x18\x02"
		     "\x12\x02\x18\x02"
		     "\x1a\x03\x12\x01z",
		     16, "precompiled_charsmap");
	refuse_model("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"
		     "a",
		     11, "a length beyond the end");
	refuse_model("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12, "more than 64 bits");
	refuse_model("\x0b", 1, "an unknown wire type");
	refuse_model("\x0a\x03\x0a\x01"
		     "a"
		     "\x0a\x03\x0a\x01"
		     "a",
		     10, "is there twice");
}

static void a_directory_without_a_tokenizer_is_an_error(void **state)
{
	struct error err = ERROR_INIT;
	struct tokenizer *t = NULL;
	char *dir = temp_dir();

	(void)state;
	assert_int_equal(tokenizer_open(dir, &t, &err), -1);
	assert_non_null(strstr(err.message, "has no tokenizer.json and no tokenizer.model"));
	write_text(dir, "tokenizer.json", SMALL);
	write_text(dir, "tokenizer_config.json", "{\"bos_token\":\"<other>\"}");
	assert_int_equal(tokenizer_open(dir, &t, &err), -1);
	assert_non_null(strstr(err.message, "\"bos_token\" is \"<other>\""));
	write_text(dir, "tokenizer_config.json", "{\"add_bos_token\":\"yes\"}");
	assert_int_equal(tokenizer_open(dir, &t, &err), -1);
	assert_non_null(strstr(err.message, "\"add_bos_token\""));
	temp_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ends_are_offsets_in_the_original_text),
		cmocka_unit_test(special_tokens_in_the_text_are_plain_when_asked),
		cmocka_unit_test(decoding_drops_the_dummy_prefix_once),
		cmocka_unit_test(bytes_that_are_no_characters_become_replacements),
		cmocka_unit_test(a_stream_holds_back_half_characters),
		cmocka_unit_test(the_config_decides_on_bos_and_eos),
		cmocka_unit_test(ids_outside_the_vocabulary_are_errors),
		cmocka_unit_test(threads_may_share_a_tokenizer),
		cmocka_unit_test(malformed_json_is_an_error_that_names_the_key),
		cmocka_unit_test(damaged_models_are_errors),
		cmocka_unit_test(damaged_json_opens_or_is_an_error),
		cmocka_unit_test(models_of_other_kinds_are_errors_that_say_so),
		cmocka_unit_test(a_directory_without_a_tokenizer_is_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
