/* numpy's permutation; templates. */
#include "tests/unit/data/data_test.h"

#include "base/hash.h"
#include "data/shuffle.h"
#include "data/template.h"

static void the_generator_is_numpys_pcg64(void **state)
{
	struct pcg64 g;

	(void)state;
	/* np.random.PCG64(42).state: 274674114334540486603088602300644985544, inc
	 * 332724090758049132448979897138935081983 */
	pcg64_seed(&g, 42);
	assert_true(g.state == ((unsigned __int128)0xcea44f6798798f2au << 64 | 0xacbc7c9d68860ac8u));
	assert_true(g.increment == ((unsigned __int128)0xfa505436c9a8416eu << 64 | 0x66caf2e28d25abffu));
	/* default_rng(42).bit_generator.random_raw(2) */
	assert_true(pcg64_next64(&g) == 14276969152011380360u);
	assert_true(pcg64_next64(&g) == 8095878257575067585u);
}

static void permutations_equal_numpys(void **state)
{
	/* np.random.default_rng(seed).permutation(10), numpy 2.4 */
	static const struct {
		uint64_t seed;
		uint64_t out[10];
	} cases[] = {
		{42, {5, 6, 0, 7, 3, 2, 4, 9, 1, 8}},
		{0u, {4, 6, 2, 7, 3, 5, 9, 0, 8, 1}},
		{1u, {8, 4, 7, 0, 1, 2, 5, 9, 6, 3}},
		{4294967295u, {0, 1, 4, 8, 3, 7, 5, 6, 2, 9}},
		{4294967296u, {9, 1, 3, 8, 7, 6, 0, 4, 2, 5}},
		{9223372036854788153u, {1, 9, 3, 5, 7, 8, 0, 2, 4, 6}},
		{18446744073709551615u, {8, 7, 3, 0, 4, 6, 1, 2, 5, 9}},
	};
	uint64_t out[10];

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		shuffle_permutation(cases[i].seed, out, 10);
		assert_memory_equal(out, cases[i].out, sizeof out);
	}
	static const uint64_t five[] = {4, 2, 1, 3, 0};
	shuffle_permutation(3, out, 5);
	assert_memory_equal(out, five, sizeof five);
	shuffle_permutation(3, out, 1);
	assert_int_equal(out[0], 0);
	shuffle_permutation(3, out, 0);
}

static void the_codelabs_selection_is_reproduced(void **state)
{
	/* spec of the codelab: rows 0..999 of sql-create-context (78,577 rows) shuffled with seed 42 */
	static const uint64_t first[] = {15201, 70942, 49097, 46916, 58414, 4339,  41882, 8864,
					 2892,  37145, 2953,  74358, 29373, 29328, 19278, 50930};
	static const uint64_t last[] = {73659, 77028, 47905, 1963, 26142};
	uint64_t *p = malloc(78577 * sizeof *p), sum = 0;
	struct strbuf text = STRBUF_INIT;
	struct digest d;
	char hex[65];

	(void)state;
	shuffle_permutation(42, p, 78577);
	assert_memory_equal(p, first, sizeof first);
	assert_memory_equal(p + 995, last, sizeof last);
	for (size_t i = 0; i < 1000; i++) {
		sum += p[i];
		strbuf_addf(&text, "%s%lu", i ? "," : "", p[i]);
	}
	assert_int_equal(sum, 38840301);
	digest_of(text.data, text.len, &d);
	digest_hex(&d, hex);
	assert_string_equal(hex, "5bc0afc3569389ce91d5e22d54495c7c991feb150208f0f50fe48c52b997ee51");
	strbuf_free(&text);
	free(p);
}

/* Above 2^32 the draws have 64 bits; numpy's random_interval is not public, so this checks the range and that
 * the 32-bit half that waits is left alone. */
static void large_intervals_draw_64_bits(void **state)
{
	struct pcg64 g, h;

	(void)state;
	pcg64_seed(&g, 7);
	uint64_t whole = pcg64_next64(&g);
	pcg64_seed(&g, 7);
	assert_int_equal(pcg64_interval(&g, UINT32_MAX), (uint32_t)whole);
	h = g;
	uint64_t next = pcg64_next64(&h), v = pcg64_interval(&g, UINT64_MAX);
	assert_true(v == next);
	assert_int_equal(pcg64_interval(&g, UINT32_MAX), whole >> 32);
	for (int i = 0; i < 1000; i++)
		assert_true(pcg64_interval(&g, (uint64_t)5 << 32) <= (uint64_t)5 << 32);
}

static char *rendered(const char *text, const char *json)
{
	struct strbuf b = STRBUF_INIT, out = STRBUF_INIT;
	struct error e = ERROR_INIT;
	struct template *t = template_compile(text, "template", &e);
	struct row row = row_of(json, 0, &b);

	assert_non_null(t);
	assert_int_equal(template_render(t, &row, &out, &e), 0);
	template_free(t);
	strbuf_free(&b);
	return strbuf_steal(&out);
}

static void a_template_prints_values_as_python_does(void **state)
{
	static const struct {
		const char *text, *json, *expected;
	} cases[] = {
		{"", "{}", ""},
		{"plain", "{}", "plain"},
		{"Q: {q}\nA: {a}", "{\"q\": \"x\\ny\", \"a\": \"\"}", "Q: x\ny\nA: "},
		{"{{{q}}}", "{\"q\": \"x\"}", "{x}"},
		{"{{}}", "{}", "{}"},
		{"{{q}}", "{}", "{q}"},
		{"{i} {f} {t} {u} {n}", "{\"i\": -3, \"f\": 1e16, \"t\": true, \"u\": false, \"n\": null}",
		 "-3 1e+16 True False None"},
		{"{o}{l}", "{\"o\": {\"k\": [1, \"\\u00e9\"]}, \"l\": []}", "{\"k\": [1, \"\xc3\xa9\"]}[]"},
		{"{a.b}/{a.l.0}", "{\"a\": {\"b\": 1.5, \"l\": [\"z\"]}}", "1.5/z"},
		{"{a b}", "{\"a b\": 18446744073709551615}", "18446744073709551615"},
		{"{q}", "{\"q\": \"{not a field}\"}", "{not a field}"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char *out = rendered(cases[i].text, cases[i].json);
		assert_string_equal(out, cases[i].expected);
		free(out);
	}
}

static void a_malformed_template_is_refused_at_its_column(void **state)
{
	static const struct {
		const char *text, *where;
	} cases[] = {
		{"a {b", "line 1, column 3: a '{' that is not closed"},
		{"\xc3\xa9 }", "line 1, column 3: a '}' that closes nothing"},
		{"x\ny {}", "line 2, column 3: no field name"},
		{"{a{b}}", "column 1: a '{' that is not closed"},
		{"{a:>10}", "column 3: format specifications"},
		{"{a!r}", "column 3: format specifications"},
		{"{a\n}", "column 1: a '{' that is not closed"},
		{"{{a}", "column 4: a '}' that closes nothing"},
	};
	struct error e = ERROR_INIT;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		assert_null(template_compile(cases[i].text, "prompt", &e));
		assert_int_equal(e.class, ERR_USAGE);
		assert_true(str_starts(e.message, "prompt: "));
		if (!strstr(e.message, cases[i].where))
			fail_msg("%s: %s", cases[i].text, e.message);
	}
}

static void a_missing_field_is_an_error_that_helps(void **state)
{
	struct error e = ERROR_INIT;
	struct strbuf b = STRBUF_INIT, out = STRBUF_INIT;
	struct template *t = template_compile("{question}{anwser}", "template", &e);
	struct row row = row_of("{\"question\": \"q\", \"answer\": \"a\"}", 12, &b);

	(void)state;
	assert_string_equal(template_field(t, 1), "anwser");
	assert_null(template_field(t, 2));
	assert_int_equal(template_render(t, &row, &out, &e), -1);
	assert_string_equal(e.message,
			    "template: row 12 has no field \"anwser\"; its fields: question, answer");
	assert_string_equal(e.hint, "did you mean {answer}?");
	assert_int_equal(e.class, ERR_USAGE);
	template_free(t);
	strbuf_free(&b);
	strbuf_free(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_generator_is_numpys_pcg64),
		cmocka_unit_test(permutations_equal_numpys),
		cmocka_unit_test(the_codelabs_selection_is_reproduced),
		cmocka_unit_test(large_intervals_draw_64_bits),
		cmocka_unit_test(a_template_prints_values_as_python_does),
		cmocka_unit_test(a_malformed_template_is_refused_at_its_column),
		cmocka_unit_test(a_missing_field_is_an_error_that_helps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
