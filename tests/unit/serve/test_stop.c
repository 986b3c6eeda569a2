/* serve/stop: stop strings across the pieces of an answer. */
#include "tests/unit/cmocka_all.h"

#include <stdlib.h>
#include <string.h>

#include "serve/stop.h"

/* Feeds the pieces one by one and gives what was released, with '|' after each piece and '#' where a stop string was met. */
static char *run(const char *const *stops, size_t nstops, const char *const *pieces)
{
	struct stop_filter f = {stops, nstops, STRBUF_INIT};
	struct strbuf out = STRBUF_INIT;

	for (size_t i = 0; pieces[i]; i++) {
		if (stop_feed(&f, pieces[i], strlen(pieces[i]), &out)) {
			strbuf_addc(&out, '#');
			stop_free(&f);
			return strbuf_steal(&out);
		}
		strbuf_addc(&out, '|');
	}
	stop_finish(&f, &out);
	stop_free(&f);
	return strbuf_steal(&out);
}

#define CHECK(want, stops, ...)                                                                              \
	do {                                                                                                 \
		char *got = run(stops, sizeof stops / sizeof *stops,                                         \
				(const char *const[]){__VA_ARGS__, NULL});                                   \
		assert_string_equal(got, want);                                                              \
		free(got);                                                                                   \
	} while (0)

static void without_stop_strings_everything_is_released_at_once(void **state)
{
	char *got = run(NULL, 0, (const char *const[]){"a", "bc", NULL});

	(void)state;
	assert_string_equal(got, "a|bc|");
	free(got);
}

static void an_answer_ends_before_a_stop_string_that_is_spread_over_pieces(void **state)
{
	static const char *const stops[] = {"\n\n"};

	(void)state;
	CHECK("SELECT 1|#", stops, "SELECT 1", "\n\n");
	CHECK("SELECT 1||#", stops, "SELECT 1", "\n", "\nQuestion");
	CHECK("a#", stops, "a\n\nb");
}

static void what_only_looked_like_a_stop_string_is_released(void **state)
{
	static const char *const stops[] = {"END."};

	(void)state;
	CHECK("a||ENDING|", stops, "a", "END", "ING");
	CHECK("x|||EN", stops, "x", "E", "N");
	CHECK("|EEEN|E|END", stops, "E", "EENE", "END");
}

static void of_several_stop_strings_the_one_that_begins_first_ends_the_answer(void **state)
{
	static const char *const stops[] = {"bc", "abcd", "z"};

	(void)state;
	/* "abcd" begins before "bc", but is not whole when "bc" is. */
	CHECK("#", stops, "abcd");
	CHECK("a#", stops, "abc");
	CHECK("1|#", stops, "1", "z");
}

static void held_back_text_is_cut_at_whole_characters(void **state)
{
	static const char *const stops[] = {"é!"};

	(void)state;
	CHECK("caf|é?|", stops, "café", "?");
	CHECK("caf|#", stops, "café", "!");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_stop_strings_everything_is_released_at_once),
		cmocka_unit_test(an_answer_ends_before_a_stop_string_that_is_spread_over_pieces),
		cmocka_unit_test(what_only_looked_like_a_stop_string_is_released),
		cmocka_unit_test(of_several_stop_strings_the_one_that_begins_first_ends_the_answer),
		cmocka_unit_test(held_back_text_is_cut_at_whole_characters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
