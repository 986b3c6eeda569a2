/* cli/text: counts, widths, tables. */
#include "tests/unit/cmocka_all.h"

#include <stdlib.h>
#include <string.h>

#include "cli/text.h"
#include "runtime/store.h"

static void counts_have_thousands_separators(void **state)
{
	char text[32];

	(void)state;
	assert_string_equal(text_count(0, text), "0");
	assert_string_equal(text_count(999, text), "999");
	assert_string_equal(text_count(1000, text), "1,000");
	assert_string_equal(text_count(76100, text), "76,100");
	assert_string_equal(text_count(1234567, text), "1,234,567");
	assert_string_equal(text_count(UINT64_MAX, text), "18,446,744,073,709,551,615");
}

static void numbers_keep_the_digits_that_matter(void **state)
{
	char text[32];

	(void)state;
	assert_string_equal(text_number(0, text), "0");
	assert_string_equal(text_number(3.14159, text), "3.14");
	assert_string_equal(text_number(0.43149, text), "0.4315");
	assert_string_equal(text_number(41.66, text), "41.7");
	assert_string_equal(text_number(1204.4, text), "1,204");
	assert_string_equal(text_number(-1204.4, text), "-1,204");
	assert_string_equal(text_number(2e-5, text), "2e-05");
}

static void ages_are_told_in_one_unit(void **state)
{
	char text[32];

	(void)state;
	assert_string_equal(text_ago(1000, 5000, text), "4 s ago");
	assert_string_equal(text_ago(5000, 1000, text), "0 s ago");
	assert_string_equal(text_ago(0, 180000, text), "3 min ago");
	assert_string_equal(text_ago(0, 2 * 3600 * 1000, text), "2 h ago");
	assert_string_equal(text_ago(0, (int64_t)5 * 86400 * 1000, text), "5 days ago");
}

static void width_counts_columns_not_bytes(void **state)
{
	(void)state;
	assert_int_equal(text_width("abc", 3), 3);
	assert_int_equal(text_width("é…", strlen("é…")), 2);
	assert_int_equal(text_width("e\xcc\x81", 3), 1);
	assert_int_equal(text_width("日本", strlen("日本")), 4);
	assert_int_equal(text_width("\033[32mok\033[0m", 11), 2);
	assert_int_equal(text_width("\xff", 1), 1);
}

static void check_fit(const char *text, size_t width, const char *want)
{
	struct strbuf b = STRBUF_INIT;

	text_fit(&b, text, width);
	assert_string_equal(b.data ? b.data : "", want);
	assert_true(text_width(b.data ? b.data : "", b.len) <= width);
	strbuf_free(&b);
}

static void text_is_cut_to_a_width_with_its_colours_switched_off(void **state)
{
	(void)state;
	check_fit("abc", 3, "abc");
	check_fit("abcd", 3, "ab…");
	check_fit("日本語", 4, "日…");
	check_fit("\033[32mabcd\033[0m!", 3, "\033[32mab…\033[0m");
	check_fit("abc", 0, "");
	check_fit("", 0, "");
}

static void what_stages_print_cannot_steer_the_terminal(void **state)
{
	struct strbuf b = STRBUF_INIT;

	(void)state;
	text_clean(&b, "a\033[2Jb\rc\td\xff\xc2\x9b!é");
	assert_string_equal(b.data, "a?[2Jb?c\td?\?\?!é");
	strbuf_free(&b);
}

static void facts_read_as_counts_or_as_values(void **state)
{
	struct result_fact facts[] = {
		{"rows", "1,000"}, {"loss", "0.431"}, {"tokens", "76,100"}, {"size", "2 MiB"}};
	struct result r = {.facts = facts, .nfacts = 4};
	struct strbuf b = STRBUF_INIT;

	(void)state;
	text_facts(&b, &r);
	assert_string_equal(b.data, "1,000 rows, loss 0.431, 76,100 tokens, size 2 MiB");
	strbuf_free(&b);
}

static void a_table_aligns_its_columns(void **state)
{
	struct table t = {.columns = 3, .right = 1u << 1};
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	(void)state;
	static const char *const cells[] = {"a", "1", "x", "étoile", "1,000", NULL};
	for (size_t i = 0; i < 6; i++)
		table_add(&t, cells[i]);
	table_print(&t, f, "> ", false, false);
	fclose(f);
	assert_string_equal(text, "> a           1  x\n> étoile  1,000\n");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_have_thousands_separators),
		cmocka_unit_test(numbers_keep_the_digits_that_matter),
		cmocka_unit_test(ages_are_told_in_one_unit),
		cmocka_unit_test(width_counts_columns_not_bytes),
		cmocka_unit_test(text_is_cut_to_a_width_with_its_colours_switched_off),
		cmocka_unit_test(what_stages_print_cannot_steer_the_terminal),
		cmocka_unit_test(facts_read_as_counts_or_as_values),
		cmocka_unit_test(a_table_aligns_its_columns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
