/* What the numeric core's tests use of cmocka, for machines that do not have it (builds with ANNEAL_CORE_ONLY). The first
 * failure ends a test, as there. One file per program includes this. */
#ifndef TESTS_UNIT_CMOCKA_MIN_H
#define TESTS_UNIT_CMOCKA_MIN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
	const char *name;
	void (*test)(void **state);
	int (*setup)(void **state);    /* may be NULL; nonzero: the test fails */
	int (*teardown)(void **state); /* the same; runs whatever the test did */
};

#define cmocka_unit_test(f)                                     {#f, f, NULL, NULL}
#define cmocka_unit_test_setup_teardown(f, setup, teardown)     {#f, f, setup, teardown}
#define cmocka_run_group_tests(tests, group_setup, group_teardown)                                                     \
	test_run_all(tests, sizeof(tests) / sizeof *(tests), group_setup, group_teardown)

enum test_end { TEST_PASSED, TEST_FAILED, TEST_SKIPPED };
static jmp_buf test_leave;

static inline void print_message(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline void print_message(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
}

static inline _Noreturn void test_fail(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static inline _Noreturn void test_fail(const char *file, int line, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fprintf(stderr, "%s:%d: error: ", file, line);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	va_end(args);
	longjmp(test_leave, TEST_FAILED);
}

static inline void test_true(int holds, const char *text, const char *file, int line)
{
	if (!holds)
		test_fail(file, line, "%s does not hold", text);
}

static inline void test_ints(long long a, long long b, int equal, const char *file, int line)
{
	if ((a == b) != equal)
		test_fail(file, line, "%lld %s %lld", a, equal ? "!=" : "==", b);
}

static inline void test_strings(const char *a, const char *b, int equal, const char *file, int line)
{
	if ((strcmp(a, b) == 0) != equal)
		test_fail(file, line, "\"%s\" %s \"%s\"", a, equal ? "!=" : "==", b);
}

static inline void test_memory(const void *a, const void *b, size_t n, int equal, const char *file, int line)
{
	const unsigned char *x = a, *y = b;
	size_t i = 0;

	while (i < n && x[i] == y[i])
		i++;
	if ((i == n) != equal)
		test_fail(file, line, equal ? "%zu bytes differ, first at %zu" : "%zu bytes are the same%.0zu", n, i);
}

static inline void test_range(unsigned long long v, unsigned long long low, unsigned long long high, const char *file, int line)
{
	if (v < low || v > high)
		test_fail(file, line, "%llu is not in %llu to %llu", v, low, high);
}

#define assert_true(c)                    test_true(!!(c), #c, __FILE__, __LINE__)
#define assert_false(c)                   test_true(!(c), "!(" #c ")", __FILE__, __LINE__)
#define assert_non_null(p)                test_true((p) != NULL, #p " != NULL", __FILE__, __LINE__)
#define assert_null(p)                    test_true((p) == NULL, #p " == NULL", __FILE__, __LINE__)
#define assert_ptr_equal(a, b)            test_true((const void *)(a) == (const void *)(b), #a " == " #b, __FILE__, __LINE__)
#define assert_int_equal(a, b)            test_ints((long long)(a), (long long)(b), 1, __FILE__, __LINE__)
#define assert_int_not_equal(a, b)        test_ints((long long)(a), (long long)(b), 0, __FILE__, __LINE__)
#define assert_string_equal(a, b)         test_strings(a, b, 1, __FILE__, __LINE__)
#define assert_string_not_equal(a, b)     test_strings(a, b, 0, __FILE__, __LINE__)
#define assert_memory_equal(a, b, n)      test_memory(a, b, n, 1, __FILE__, __LINE__)
#define assert_memory_not_equal(a, b, n)  test_memory(a, b, n, 0, __FILE__, __LINE__)
#define assert_in_range(v, low, high)                                                                                  \
	test_range((unsigned long long)(v), (unsigned long long)(low), (unsigned long long)(high), __FILE__, __LINE__)
#define fail_msg(...)                     test_fail(__FILE__, __LINE__, __VA_ARGS__)
#define skip()                            longjmp(test_leave, TEST_SKIPPED)

static inline enum test_end test_run(const struct CMUnitTest *t, void **state)
{
	int how = setjmp(test_leave);

	if (how)
		return (enum test_end)how;
	if (t->setup && t->setup(state))
		test_fail(__FILE__, __LINE__, "the setup failed");
	t->test(state);
	return TEST_PASSED;
}

static inline int test_run_all(const struct CMUnitTest *tests, size_t n, int (*setup)(void **), int (*teardown)(void **))
{
	static const char *const words[] = {"[       OK ]", "[  FAILED  ]", "[  SKIPPED ]"};
	void *state = NULL;
	int count[3] = {0, 0, 0};

	if (setup && setup(&state)) {
		fprintf(stderr, "the group's setup failed\n");
		return 1;
	}
	for (size_t i = 0; i < n; i++) {
		void *own = NULL;

		printf("[ RUN      ] %s\n", tests[i].name);
		fflush(stdout);
		enum test_end end = test_run(&tests[i], &own);

		if (tests[i].teardown && tests[i].teardown(&own))
			end = TEST_FAILED;
		printf("%s %s\n", words[end], tests[i].name);
		count[end]++;
	}
	if (teardown && teardown(&state))
		count[TEST_FAILED]++;
	printf("[==========] %d passed, %d failed, %d skipped\n", count[TEST_PASSED], count[TEST_FAILED], count[TEST_SKIPPED]);
	return count[TEST_FAILED];
}

#endif
