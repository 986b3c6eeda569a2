/* Splits and slices as the datasets library has them. */
#include "tests/unit/data/data_test.h"

#include "data/split.h"

static void slices_are_those_of_datasets(void **state)
{
	/* ReadInstruction.from_spec(text).to_absolute({"train": n}), datasets 2.19 */
	static const struct {
		const char *text;
		uint64_t n, first, end;
	} cases[] = {
		{"train", 10, 0, 10},
		{"train[:10%]", 78577, 0, 7858},
		{"train[10%:20%]", 78577, 7858, 15715},
		{"train[-10%:]", 78577, 70719, 78577},
		{"train[:50%]", 5, 0, 2}, /* 2.5 rounds to the even 2 */
		{"train[:50%]", 7, 0, 4}, /* 3.5 to 4 */
		{"train[10:20]", 100, 10, 20},
		{"train[10:20]", 15, 10, 15},
		{"train[-5:]", 100, 95, 100},
		{"train[-5:]", 3, 0, 3},
		{"train[:-5]", 100, 0, 95},
		{"train[20:10]", 100, 20, 20},
		{"train[:]", 4, 0, 4},
		{"train[1_000:]", 2000, 1000, 2000},
		{"train[:1%](pct1_dropremainder)", 250, 0, 2},
		{"train[99%:](closest)", 250, 248, 250}, /* 247.5 */
		{"train[:100%]", 0, 0, 0},
	};
	struct split_spec s;
	struct error e = ERROR_INIT;
	uint64_t first, end;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		assert_int_equal(split_parse(cases[i].text, &s, &e), 0);
		assert_string_equal(s.name, "train");
		assert_int_equal(split_range(&s, cases[i].n, &first, &end, &e), 0);
		if (first != cases[i].first || end != cases[i].end)
			fail_msg("%s of %lu: %lu:%lu", cases[i].text, cases[i].n, first, end);
	}
	assert_int_equal(split_parse("train[:1%](pct1_dropremainder)", &s, &e), 0);
	assert_int_equal(split_range(&s, 99, &first, &end, &e), -1);
	static const char *const wrong[] = {"",
					    "[:1]",
					    "train[",
					    "train[1]",
					    "train[a:b]",
					    "train[:101%]",
					    "train[10%:20]",
					    "train+test",
					    "train[:5](up)",
					    "train[:-]",
					    "train x",
					    "train[:5]x",
					    "train[1:2:3]",
					    "train[:99999999999999999999]"};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		assert_int_equal(split_parse(wrong[i], &s, &e), -1);
		assert_int_equal(e.class, ERR_USAGE);
	}
}

/* The names picked, joined by spaces, or the error's message. */
static char *pick(const char *files, const char *readme, const char *config, const char *split)
{
	const char *names[32];
	size_t picked[32], n = 0, count;
	struct error e = ERROR_INIT;
	struct strbuf b = STRBUF_INIT;
	char *copy = strdup(files);

	for (char *p = strtok(copy, "|"); p; p = strtok(NULL, "|"))
		names[n++] = p;
	strbuf_reserve(&b, 0)[0] = '\0';
	if (split_files(names, n, readme, config, split, picked, &count, &e) < 0) {
		strbuf_adds(&b, e.message);
	} else {
		for (size_t i = 0; i < count; i++)
			strbuf_addf(&b, "%s%s", i ? "|" : "", names[picked[i]]);
	}
	free(copy);
	return strbuf_steal(&b);
}

static void expect(const char *files, const char *readme, const char *split, const char *expected)
{
	char *out = pick(files, readme, NULL, split);
	assert_string_equal(out, expected);
	free(out);
}

static void files_are_found_by_the_rules_of_datasets(void **state)
{
	(void)state;
	expect("sql_create_context_v4.json|README.md|.gitattributes", NULL, "train",
	       "sql_create_context_v4.json");
	expect("b.jsonl|a.jsonl", NULL, "train", "a.jsonl|b.jsonl");
	expect("b.jsonl|a.jsonl", NULL, "test", "the dataset has no split \"test\"; there is train");
	expect("data/train-00001-of-00002-abc.parquet|data/train-00000-of-00002-abc.parquet|data/"
	       "extra-00000-of-00001.parquet|x.csv",
	       NULL, "train", "data/train-00000-of-00002-abc.parquet|data/train-00001-of-00002-abc.parquet");
	expect("data/train-00000-of-00001.parquet|data/extra-00000-of-00001.parquet", NULL, "extra",
	       "data/extra-00000-of-00001.parquet");
	expect("my-train.jsonl|my_dev.jsonl|other.jsonl|test1.jsonl", NULL, "validation", "my_dev.jsonl");
	expect("my-train.jsonl|my_dev.jsonl|other.jsonl|test1.jsonl", NULL, "test", "test1.jsonl");
	expect("my-train.jsonl|my_dev.jsonl|other.jsonl", NULL, "train", "my-train.jsonl");
	expect("strain.jsonl|trained.jsonl|contest.jsonl", NULL, "train",
	       "contest.jsonl|strain.jsonl|trained.jsonl");
	expect("training/a.csv|x/test-2/b.csv|train.csv", NULL, "train", "training/a.csv");
	expect("training/a.csv|x/test-2/b.csv|train.csv", NULL, "test", "x/test-2/b.csv");
	expect("train.csv|test.csv", NULL, "tset",
	       "the dataset has no split \"tset\"; there are train, test");
	expect("a.csv|b.csv|c.jsonl|.h.csv|__x__/d.csv|config.json|LICENSE", NULL, "train", "a.csv|b.csv");
	expect("a.csv|b.jsonl", NULL, "train", "b.jsonl");
	expect("a.csv.gz|b.csv.gz|c.json", NULL, "train", "a.csv.gz|b.csv.gz");
	expect("LICENSE", NULL, "train", "there is no data file in the dataset");
}

static void the_card_decides_where_it_lists_files(void **state)
{
	static const char pushed[] =
		"---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
		"    path: data/train-*\n  - split: test\n    path: \"held/**/t?.jsonl\"\n"
		"dataset_info:\n  features:\n  - name: x\n---\n# text\nconfigs:\n  nonsense\n";
	static const char lists[] =
		"---\nconfigs:\n  - config_name: en\n    data_files:\n      - split: train\n        path:\n"
		"          - a.jsonl\n          - b.jsonl\n  - config_name: de\n    default: true\n"
		"    data_files: \"c*.jsonl\"\n---\n";
	static const char odd[] = "---\nconfigs:\n- config_name: x\n  data_files: a.csv\n  sep: \";\"\n---\n";
	static const char files[] =
		"data/train-0.jsonl|held/t1.jsonl|held/x/t2.jsonl|test.jsonl|a.jsonl|b.jsonl|c1.jsonl";

	(void)state;
	expect(files, pushed, "train", "data/train-0.jsonl");
	expect(files, pushed, "test", "held/t1.jsonl|held/x/t2.jsonl");
	expect(files, pushed, "dev", "the dataset has no split \"dev\"; there are train, test");
	expect(files, lists, "train", "c1.jsonl");
	char *out = pick(files, lists, "en", "train");
	assert_string_equal(out, "a.jsonl|b.jsonl");
	free(out);
	out = pick(files, lists, "fr", "train");
	assert_string_equal(out, "the dataset has no config \"fr\"; there are de, en");
	free(out);
	expect("a.csv", odd, "train",
	       "README.md:5: `configs` of the dataset's card: this line is not understood");
	expect("a.csv", "# no header\n", "train", "a.csv");
	expect("a.csv", "---\nlicense: mit\n---\nconfigs:\n", "train", "a.csv");
	expect("z.csv", pushed, "train",
	       "the dataset's card lists \"data/train-*\" for split \"train\", but no data file matches");
}

static void globs_match_whole_paths(void **state)
{
	static const struct {
		const char *pattern, *path;
		bool matches;
	} cases[] = {
		{"*.csv", "a.csv", true},
		{"*.csv", "d/a.csv", false},
		{"**", "d/e/a.csv", true},
		{"**/a", "a", true},
		{"**/a", "x/a", true},
		{"**/a", "xa", false},
		{"a/**/b", "a/b", true},
		{"a/**/b", "a/x/y/b", true},
		{"a/**/b", "ab", false},
		{"[a-c]?[!x]", "bqy", true},
		{"[a-c]?[!x]", "bqx", false},
		{"a*b*c", "aXbYbZc", true},
		{"a*b*c", "aXbYbZ", false},
		{"d/*/x*", "d/e/xyz", true},
		{"d/*/x*", "d/e/f/xyz", false},
		{"**/t*/[0-9]*", "q/t1/9z", true},
		{"", "", true},
		{"a", "", false},
		{"[", "[", false},
		{"**.json", "a/b.json", true},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		if (split_glob(cases[i].pattern, cases[i].path) != cases[i].matches)
			fail_msg("%s on %s", cases[i].pattern, cases[i].path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slices_are_those_of_datasets),
		cmocka_unit_test(files_are_found_by_the_rules_of_datasets),
		cmocka_unit_test(the_card_decides_where_it_lists_files),
		cmocka_unit_test(globs_match_whole_paths),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
