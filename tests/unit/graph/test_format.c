/* The formatter: what it makes of the corpus's good files, and whether HCL's own parser and formatter agree. */
#include "tests/unit/cmocka_all.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "tests/unit/graph/dump.h"
#include "tests/unit/graph/kinds.h"

#define CORPUS "tests/unit/graph/corpus"

static bool format(const char *text, size_t len, struct strbuf *out)
{
	struct diags d = DIAGS_INIT;
	bool ok = graph_format("test", text, len, out, &d) == 0;

	diags_free(&d);
	return ok;
}

static void formats_to(const char *text, const char *expected)
{
	struct strbuf out = STRBUF_INIT;

	assert_true(format(text, strlen(text), &out));
	assert_string_equal(out.data ? out.data : "", expected);
	strbuf_free(&out);
}

static void dump(const char *text, size_t len, struct strbuf *out)
{
	struct graph_options o = {.kinds = test_kinds};
	struct diags d = DIAGS_INIT;
	struct graph *g = graph_load_text("good", "dir", text, len, &o, &d);

	if (!g) {
		diags_render(&d, false, out);
		fail_msg("%s", out->data);
	}
	graph_dump(g, out);
	graph_free(g);
	diags_free(&d);
}

static int is_good(const struct dirent *e)
{
	return str_starts(e->d_name, "good-") && str_ends(e->d_name, ".graph");
}

static int is_graph(const struct dirent *e)
{
	return str_ends(e->d_name, ".graph");
}

static void good_files_load_and_have_their_canonical_form(void **state)
{
	struct dirent **files;
	int n = scandir(CORPUS, &files, is_good, alphasort);

	(void)state;
	assert_true(n >= 10);
	for (int i = 0; i < n; i++) {
		struct strbuf out = STRBUF_INIT, again = STRBUF_INIT, before = STRBUF_INIT,
			      after = STRBUF_INIT;
		char *path = path_join(CORPUS, files[i]->d_name);
		size_t size, expected_size;
		char *text = file_read(path, &size, NULL);
		strcpy(strrchr(path, '.'), ".fmt");
		char *expected = file_read(path, &expected_size, NULL);
		assert_non_null(text);
		assert_non_null(expected);
		assert_true(format(text, size, &out));
		assert_string_equal(out.data, expected);
		assert_true(format(out.data, out.len, &again));
		assert_string_equal(again.data, expected);
		dump(text, size, &before);
		dump(out.data, out.len, &after);
		assert_string_equal(before.data, after.data);
		strbuf_free(&out);
		strbuf_free(&again);
		strbuf_free(&before);
		strbuf_free(&after);
		free(text);
		free(expected);
		free(path);
		free(files[i]);
	}
	free(files);
}

static void a_file_with_mistakes_is_not_formatted(void **state)
{
	struct strbuf out = STRBUF_INIT;

	(void)state;
	assert_false(format("stage \"x\" {\n  a: 1\n}\n", 20, &out));
	assert_int_equal(out.len, 0);
	strbuf_free(&out);
}

static void blanks_and_blank_lines_are_decided(void **state)
{
	(void)state;
	formats_to("\n\nstage  x{\na=1\nlong=[1,2 ,3]\n\n\n\nb={c=d.e}#x  \n}",
		   "stage \"x\" {\n  a    = 1\n"
		   "  long = [1, 2, 3]\n\n  b = { c = d.e } "
		   "#x\n}\n");
	formats_to("", "");
	formats_to("  \n\n", "");
	formats_to("stage \"x\" {}\n", "stage \"x\" {}\n");
}

static void line_ends_and_the_byte_order_mark_are_normalised(void **state)
{
	(void)state;
	formats_to("\xef\xbb\xbf"
		   "stage \"x\" { # c\r\n  a = <<EOT\r\n  b\r\nEOT\r\n/* d\r\n e */\r\n}\r\n",
		   "stage \"x\" { # c\n  a = <<EOT\n  b\nEOT\n  /* d\n e */\n}\n");
}

static void a_lone_interpolation_loses_its_quotes(void **state)
{
	(void)state;
	formats_to(
		"stage \"x\" {\n  a = \"${ param.x }\"\n  b = \"${ param.x }/${env.Y }\"\n  c = [\"${ "
		"param.x}\"]\n}\n",
		"stage \"x\" {\n  a = param.x\n  b = \"${param.x}/${env.Y}\"\n  c = [\"${param.x}\"]\n}\n");
}

/* ---- against terraform ---- */

static bool have_terraform(void)
{
	return system("command -v terraform >/dev/null 2>&1") == 0;
}

static void put(const char *dir, int number, const char *suffix, const char *text, size_t len)
{
	char path[256];

	snprintf(path, sizeof path, "%s/%06d%s", dir, number, suffix);
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

static uint64_t random_state;

static uint32_t draw(uint32_t below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 33) % below;
}

/* One to three small changes: a piece of text put in, a few bytes taken out, doubled or swapped. */
static void mutate(struct strbuf *b)
{
	static const char *const bits[] = {
		"\n",
		" ",
		"  ",
		"#x\n",
		"# é 👩‍💻 c\n",
		"//y\n",
		"/* z */",
		"/* a\n b */",
		"\"",
		"{",
		"}",
		"[",
		"]",
		",",
		"=",
		".",
		"-1",
		"1.5e3",
		"007",
		"true",
		"\"a\"",
		"\"${param.p}\"",
		"\"$${x}\"",
		"\"%%{y}\"",
		"\"é\"",
		"<<E\n  a\nE\n",
		"<<-E\n  ${param.p}\n b\n  E\n",
		"x",
		"for",
		"in",
		"if",
		"null",
		"a = b.c\n",
		"stage y {}\n",
		"$",
		"%",
		"\\",
		"\r\n",
		"\t",
		"[1, 2,]",
		"{ a = 1, }",
		"{\n a = 1\n bb = 2 # c\n}",
		"bb   =  2 # d\n",
		"\\u00e9",
		"-",
		"--",
	};

	for (uint32_t i = 0, n = 1 + draw(3); i < n; i++) {
		size_t at = b->len ? draw((uint32_t)b->len) : 0, some = 1 + draw(8);
		const char *bit = bits[draw(sizeof bits / sizeof *bits)];
		struct strbuf new = STRBUF_INIT;
		some = at + some > b->len ? b->len - at : some;
		/* Halves of characters and of emoji are left alone: counts of columns differ for them. */
		bool ascii = true;
		for (size_t k = at ? at - 1 : 0; k < b->len && k <= at + some; k++)
			ascii &= b->data[k] >= 0;
		if (!ascii)
			continue;
		strbuf_add(&new, b->data, at);
		switch (draw(4)) {
		case 0:
		case 1: strbuf_adds(&new, bit); break;
		case 2: at += some; break;
		case 3: strbuf_add(&new, b->data + at, some); break;
		}
		strbuf_add(&new, b->data + at, b->len - at);
		strbuf_free(b);
		*b = new;
	}
}

/* Files that our parser accepts go to terraform as they are and formatted; it formats them all in place. It must
 * accept every one, and leave the formatted ones as they are. */
static void hcl_accepts_what_is_accepted_and_keeps_what_is_formatted(void **state)
{
	char dir[] = "/tmp/anneal-fmt-XXXXXX", command[512], path[256];
	struct dirent **files;
	struct strbuf *formatted = NULL;
	size_t cap = 0;
	int count = 0, wrong = 0;

	(void)state;
	if (!have_terraform()) {
		print_message("skipped: terraform is not here\n");
		skip();
	}
	int n = scandir(CORPUS, &files, is_graph, alphasort);
	assert_non_null(mkdtemp(dir));
	random_state = 88172645463325252u;
	for (int i = 0; i < n; i++) {
		size_t size;
		char *file = path_join(CORPUS, files[i]->d_name), *text = file_read(file, &size, NULL);
		for (int k = 0; k < (is_good(files[i]) ? 120 : 6); k++) {
			struct strbuf b = STRBUF_INIT, out = STRBUF_INIT;
			strbuf_add(&b, text, size);
			if (k)
				mutate(&b);
			if (format(b.data, b.len, &out)) {
				if (!out.data)
					strbuf_adds(&out, "");
				put(dir, count, ".in.tf", b.data, b.len);
				put(dir, count, ".out.tf", out.data, out.len);
				grow(&formatted, &cap, (size_t)count + 1, sizeof *formatted);
				formatted[count++] = out;
			} else {
				strbuf_free(&out);
			}
			strbuf_free(&b);
		}
		free(text);
		free(file);
		free(files[i]);
	}
	free(files);
	assert_true(count > 300);
	snprintf(command, sizeof command,
		 "TF_CLI_CONFIG_FILE=/dev/null CHECKPOINT_DISABLE=1 terraform fmt -list=false -no-color %s "
		 ">%s/messages 2>&1",
		 dir, dir);
	int rc = system(command);
	snprintf(path, sizeof path, "%s/messages", dir);
	if (rc) {
		size_t size;
		char *text = file_read(path, &size, NULL);
		print_error("terraform refuses what is accepted here, in %s:\n%.4000s\n", dir, text);
		free(text);
		wrong++;
	}
	for (int i = 0; i < count; i++) {
		size_t size;
		snprintf(path, sizeof path, "%s/%06d.out.tf", dir, i);
		char *text = file_read(path, &size, NULL);
		if (size != formatted[i].len || memcmp(text, formatted[i].data, size)) {
			if (wrong++ < 5)
				print_error("%s\n--- formatted here\n%s--- by terraform\n%s", path,
					    formatted[i].data, text);
		}
		free(text);
		strbuf_free(&formatted[i]);
	}
	free(formatted);
	if (!wrong)
		assert_int_equal(tree_remove(dir, NULL), 0);
	assert_int_equal(wrong, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_files_load_and_have_their_canonical_form),
		cmocka_unit_test(a_file_with_mistakes_is_not_formatted),
		cmocka_unit_test(blanks_and_blank_lines_are_decided),
		cmocka_unit_test(line_ends_and_the_byte_order_mark_are_normalised),
		cmocka_unit_test(a_lone_interpolation_loses_its_quotes),
		cmocka_unit_test(hcl_accepts_what_is_accepted_and_keeps_what_is_formatted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
