#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

json_t *json_parse(const char *text, size_t n, const char *name, struct error *err)
{
	json_error_t e;
	json_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);

	if (!j)
		error_set(err, ERR_USAGE, "%s:%d:%d: not valid JSON: %s", name, e.line, e.column, e.text);
	return j;
}

json_t *json_read(const char *path, struct error *err)
{
	size_t n;
	char *text = file_read(path, &n, err);
	json_t *j = text ? json_parse(text, n, path, err) : NULL;

	free(text);
	return j;
}

int json_write(const char *path, const json_t *j, struct error *err)
{
	char *text = json_dumps(j, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_ENCODE_ANY);

	if (!text)
		return error_set(err, ERR_INFRA, "%s: JSON could not be written", path);
	size_t n = strlen(text);
	text[n] = '\n'; /* in place of the terminator */
	int failed = file_write_atomic(path, text, n + 1, err);
	free(text);
	return failed;
}

const char *json_kind(const json_t *j)
{
	switch (json_typeof(j)) {
	case JSON_OBJECT: return "an object";
	case JSON_ARRAY: return "an array";
	case JSON_STRING: return "a string";
	case JSON_INTEGER: return "an integer";
	case JSON_REAL: return "a number";
	case JSON_TRUE:
	case JSON_FALSE: return "a boolean";
	case JSON_NULL: break;
	}
	return "null";
}

static int member(const json_t *obj, const char *key, json_t **out)
{
	*out = json_object_get(obj, key);
	return *out && !json_is_null(*out);
}

static int mismatch(const char *name, const char *key, const char *want, const json_t *j, struct error *err)
{
	return error_set(err, ERR_USAGE, "%s: \"%s\" must be %s, is %s", name, key, want, json_kind(j));
}

int json_get_i64(const json_t *obj, const char *key, int64_t *out, const char *name, struct error *err)
{
	json_t *j;

	if (!member(obj, key, &j))
		return 0;
	if (!json_is_integer(j))
		return mismatch(name, key, "an integer", j, err);
	*out = json_integer_value(j);
	return 1;
}

int json_get_f64(const json_t *obj, const char *key, double *out, const char *name, struct error *err)
{
	json_t *j;

	if (!member(obj, key, &j))
		return 0;
	if (!json_is_number(j))
		return mismatch(name, key, "a number", j, err);
	*out = json_number_value(j);
	return 1;
}

int json_get_bool(const json_t *obj, const char *key, bool *out, const char *name, struct error *err)
{
	json_t *j;

	if (!member(obj, key, &j))
		return 0;
	if (!json_is_boolean(j))
		return mismatch(name, key, "true or false", j, err);
	*out = json_is_true(j);
	return 1;
}

int json_get_str(const json_t *obj, const char *key, const char **out, const char *name, struct error *err)
{
	json_t *j;

	if (!member(obj, key, &j))
		return 0;
	if (!json_is_string(j))
		return mismatch(name, key, "a string", j, err);
	*out = json_string_value(j);
	return 1;
}
