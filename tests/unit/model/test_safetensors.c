/* Files that are right, as the safetensors library writes them, and files that are wrong in every way. */
#include "tests/unit/cmocka_all.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/safetensors.h"

static struct error err;
static char dir[64];

static int make_dir(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/anneal-safetensors-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	(void)state;
	return tree_remove(dir, &err);
}

static void check(int failed)
{
	if (failed)
		fail_msg("%s", err.message);
}

/* A file with this header and data bytes of zeros; length replaces the header's when it is not negative. */
static char *write_file(const char *name, const char *header, size_t data, int64_t length)
{
	char *path = path_join(dir, name);
	struct strbuf b = STRBUF_INIT;
	uint64_t n = length < 0 ? strlen(header) : (uint64_t)length;

	for (int i = 0; i < 8; i++)
		strbuf_addc(&b, (char)(n >> (8 * i)));
	strbuf_adds(&b, header);
	for (size_t i = 0; i < data; i++)
		strbuf_addc(&b, 0);
	check(file_write_atomic(path, b.data, b.len, &err));
	strbuf_free(&b);
	return path;
}

static void refused(const char *header, size_t data, int64_t length, const char *message)
{
	char *path = write_file("bad.safetensors", header, data, length);
	struct tensors *t = NULL;

	memset(&err, 0, sizeof err);
	assert_int_equal(tensors_open(path, &t, &err), -1);
	assert_int_equal(err.class, ERR_USAGE);
	if (!strstr(err.message, message))
		fail_msg("\"%s\" does not say \"%s\"", err.message, message);
	assert_non_null(strstr(err.message, "bad.safetensors"));
	free(path);
}

static void a_good_file_reads_whatever_the_order_of_its_header(void **state)
{
	(void)state;
	char *path = write_file(
		"good.safetensors",
		"{\"b\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[12,20]},\"__metadata__\":{\"k\":"
		"\"v\"},"
		"\"\\u00e9\":{\"dtype\":\"F32\",\"shape\":[1,3],\"data_offsets\":[0,12]},"
		"\"empty\":{\"dtype\":\"BF16\",\"shape\":[4,0,7],\"data_offsets\":[12,12]}}   ",
		20, -1);
	struct tensors *t;

	check(tensors_open(path, &t, &err));
	assert_int_equal(tensors_count(t), 3);
	assert_string_equal(tensors_at(t, 0)->name, "b");
	assert_int_equal(tensor_elements(tensors_at(t, 0)), 1);
	const struct tensor *e = tensors_find(t, "\xc3\xa9");
	assert_non_null(e);
	assert_int_equal(e->ndims, 2);
	assert_int_equal(e->shape[1], 3);
	assert_int_equal(tensor_elements(tensors_find(t, "empty")), 0);
	assert_null(tensors_find(t, "absent"));
	assert_string_equal(tensors_metadata(t, "k"), "v");
	assert_null(tensors_metadata(t, "x"));
	float x;
	assert_int_equal(tensor_to_f32(tensors_at(t, 0), &x, &err), -1);
	assert_non_null(strstr(err.message, "tensor b is I64"));
	tensors_close(t);
	free(path);
}

static void hostile_headers_are_refused_with_a_reason(void **state)
{
	(void)state;
	const char *one = "{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";

	refused(one, 8, INT64_MAX, "a header of 9223372036854775807 bytes");
	refused(one, 8, 1000, "cut off: a header of 1000 bytes");
	refused(one, 8, 0, "not a JSON object");
	refused("[1]     ", 0, -1, "not a JSON object");
	refused("{\"w\":", 8, -1, "not valid JSON");
	refused("{\"w\":1}", 0, -1, "tensor w: its entry must be an object, is an integer");
	refused("{\"w\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, -1, "\"dtype\" is missing");
	refused("{\"w\":{\"dtype\":\"F8_E4M3\",\"shape\":[8],\"data_offsets\":[0,8]}}", 8, -1,
		"\"F8_E4M3\" is not supported");
	refused("{\"w\":{\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]}}", 8, -1,
		"\"shape\" must be a list");
	refused("{\"w\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, -1, "not a size");
	refused("{\"w\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, -1, "not a size");
	refused("{\"w\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8, -1,
		"at most 8");
	refused("{\"w\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,8],\"data_offsets\":[0,0]}}", 0, -1,
		"too large");
	refused("{\"w\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,8,0],\"data_offsets\":[0,0]}}", 0,
		-1, "too large");
	refused("{\"w\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]}}", 0, -1,
		"not valid JSON");
	refused("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, -1,
		"must be [begin, end]");
	refused("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, -1,
		"must be [begin, end]");
	refused("{\"w\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, -1, "must be [begin, end]");
	refused("{\"w\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, -1,
		"need 12 bytes, \"data_offsets\" give 8");
	refused(one, 7, -1, "cut off: tensor w needs 8 bytes of data, the file has 7");
	refused(one, 9, -1, "1 bytes after the last tensor belong to none");
	refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
		"\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
		8, -1, "tensor b begins at byte 4 of the data, expected 8 (overlap)");
	refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
		"\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
		12, -1, "tensor b begins at byte 8 of the data, expected 4 (gap)");
	refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
		"\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
		8, -1, "duplicate");
	refused("{\"__metadata__\":{\"a\":1}}", 0, -1, "must be a string");
	refused("{\"__metadata__\":[]}", 0, -1, "must be an object");
	refused("{\"\xff\":{}}", 0, -1, "not valid JSON");
}

static void every_prefix_of_a_real_file_is_refused(void **state)
{
	(void)state;
	const char *real = SHARED_DATA "stories260K/model.safetensors";
	SKIP_WITHOUT(real);
	size_t n;
	char *bytes = file_read(real, &n, &err), *path = path_join(dir, "prefix.safetensors");
	struct tensors *t;

	for (size_t size = 0; size < n; size += size < 5000 ? 211 : 100043) {
		check(file_write_atomic(path, bytes, size, &err));
		assert_int_equal(tensors_open(path, &t, &err), -1);
	}
	for (size_t at = 0; at < 5000; at += 47) { /* damaged, but never a crash */
		bytes[at] ^= 0x11;
		check(file_write_atomic(path, bytes, n, &err));
		if (tensors_open(path, &t, &err) == 0)
			tensors_close(t);
		bytes[at] ^= 0x11;
	}
	free(bytes);
	free(path);
}

static void the_writer_lays_files_out_as_the_library_does(void **state)
{
	(void)state;
	/* Written by safetensors 0.4 and 0.5: save_file of these tensors with metadata {"format": "pt"}. */
	const char *header = "{\"__metadata__\":{\"format\":\"pt\"},"
			     "\"i\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
			     "\"a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[8,16]},"
			     "\"z\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[16,20]},"
			     "\"h\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[20,24]},"
			     "\"b\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[24,26]},"
			     "\"u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[26,29]}}";
	const struct tensor list[] = {
		{.name = "u", .dtype = TENSOR_U8, .ndims = 1, .shape = {3}},
		{.name = "b", .dtype = TENSOR_F16, .ndims = 1, .shape = {1}},
		{.name = "z", .dtype = TENSOR_F32, .ndims = 1, .shape = {1}},
		{.name = "h", .dtype = TENSOR_BF16, .ndims = 1, .shape = {2}},
		{.name = "a", .dtype = TENSOR_F32, .ndims = 2, .shape = {2, 1}},
		{.name = "i", .dtype = TENSOR_I64, .ndims = 1, .shape = {1}},
	};
	const size_t order[] = {5, 4, 2, 3, 1, 0};
	char *path = path_join(dir, "out.safetensors");
	struct tensors_writer *w;
	uint8_t data[29];

	for (int i = 0; i < 29; i++)
		data[i] = (uint8_t)(i + 1);
	check(tensors_create(path, list, 6, NULL, &w, &err));
	assert_memory_equal(tensors_order(w), order, sizeof order);
	check(tensors_add(w, data, 11, &err)); /* any split */
	check(tensors_add(w, data + 11, 0, &err));
	check(tensors_add(w, data + 11, 18, &err));
	check(tensors_commit(w, &err));
	size_t n, length = (strlen(header) + 7) / 8 * 8;
	char *bytes = file_read(path, &n, &err);
	assert_int_equal(n, 8 + length + 29);
	assert_int_equal((uint8_t)bytes[0] | (uint8_t)bytes[1] << 8, length);
	assert_memory_equal(bytes + 8, header, strlen(header));
	for (size_t i = strlen(header); i < length; i++)
		assert_int_equal(bytes[8 + i], ' ');
	assert_memory_equal(bytes + 8 + length, data, 29);
	struct tensors *t;
	check(tensors_open(path, &t, &err));
	assert_int_equal(tensors_count(t), 6);
	assert_memory_equal(tensors_find(t, "u")->data, data + 26, 3);
	tensors_close(t);
	free(bytes);
	free(path);
}

static void the_writer_notices_wrong_amounts_and_names(void **state)
{
	(void)state;
	const struct tensor list[] = {{.name = "a", .dtype = TENSOR_F32, .ndims = 1, .shape = {2}},
				      {.name = "a", .dtype = TENSOR_U8, .ndims = 1, .shape = {2}}};
	char *path = path_join(dir, "wrong.safetensors");
	struct tensors_writer *w;

	assert_int_equal(tensors_create(path, list, 2, NULL, &w, &err), -1);
	assert_non_null(strstr(err.message, "declared twice"));
	check(tensors_create(path, list, 1, NULL, &w, &err));
	check(tensors_add(w, "1234", 4, &err));
	assert_int_equal(tensors_commit(w, &err), -1);
	assert_non_null(strstr(err.message, "4 bytes were given of the 8"));
	assert_false(path_exists(path));
	check(tensors_create(path, list, 1, NULL, &w, &err));
	assert_int_equal(tensors_add(w, "123456789", 9, &err), -1);
	tensors_abandon(w);
	assert_false(path_exists(path));
	free(path);
}

/* ---- directories ---- */

static void write_index(const char *text)
{
	char *path = path_join(dir, "model.safetensors.index.json");

	check(file_write_atomic(path, text, strlen(text), &err));
	free(path);
}

static void index_refused(const char *index, const char *message)
{
	struct tensors *t;

	write_index(index);
	memset(&err, 0, sizeof err);
	assert_int_equal(tensors_open(dir, &t, &err), -1);
	if (!strstr(err.message, message))
		fail_msg("\"%s\" does not say \"%s\"", err.message, message);
}

static void an_index_and_its_shards_must_agree(void **state)
{
	(void)state;
	struct tensors *t;

	assert_int_equal(tensors_open(dir, &t, &err), -1);
	assert_non_null(strstr(err.message, "no model.safetensors"));
	free(write_file("s1.safetensors", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
			1, -1));
	free(write_file("s2.safetensors", "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
			1, -1));
	write_index("{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}");
	check(tensors_open(dir, &t, &err));
	assert_int_equal(tensors_count(t), 2);
	assert_string_equal(path_base(tensors_find(t, "b")->file), "s2.safetensors");
	tensors_close(t);
	index_refused("{\"weight_map\":{\"a\":\"s2.safetensors\",\"b\":\"s1.safetensors\"}}",
		      "tensor a: expected in s2.safetensors, found in s1.safetensors");
	index_refused("{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\",\"c\":\"s2."
		      "safetensors\"}}",
		      "tensor c: expected in s2.safetensors, found nowhere");
	index_refused("{\"weight_map\":{\"a\":\"s1.safetensors\",\"x\":\"s2.safetensors\"}}",
		      "tensor b is not in the index");
	index_refused("{\"weight_map\":{\"a\":\"s3.safetensors\"}}", "s3.safetensors: the shard is missing");
	index_refused("{\"weight_map\":{\"a\":\"../s1.safetensors\"}}", "not a plain file name");
	index_refused("{\"weight_map\":{\"a\":\"\"}}", "not a plain file name");
	index_refused("{\"weight_map\":{\"a\":7}}", "must be a file name");
	index_refused("{}", "\"weight_map\" is missing");
	free(write_file("s2.safetensors",
			"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
			"\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
			2, -1));
	index_refused("{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}",
		      "tensor a is in");
}

static void pickled_weights_are_named_in_the_hint(void **state)
{
	(void)state;
	char *path = path_join(dir, "pytorch_model.bin");
	struct tensors *t;

	check(file_write_atomic(path, "x", 1, &err));
	assert_int_equal(tensors_open(dir, &t, &err), -1);
	assert_non_null(strstr(err.hint, "pytorch_model.bin"));
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_good_file_reads_whatever_the_order_of_its_header, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(hostile_headers_are_refused_with_a_reason, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(every_prefix_of_a_real_file_is_refused, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(the_writer_lays_files_out_as_the_library_does, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(the_writer_notices_wrong_amounts_and_names, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(an_index_and_its_shards_must_agree, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(pickled_weights_are_named_in_the_hint, make_dir, remove_dir),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
