#include "model/files.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

struct copy {
	const char *to;
	bool generation;
};

static bool is_weights(const char *name)
{
	static const char *const ends[] = {".safetensors", ".safetensors.index.json",
					   ".bin",         ".bin.index.json",
					   ".pt",          ".pth",
					   ".gguf",        ".h5",
					   ".msgpack",     ".onnx",
					   ".ckpt",        ".tflite"};

	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
		if (str_ends(name, ends[i]))
			return true;
	}
	return false;
}

static int copy_one(const char *relative, const char *path, void *arg, struct error *err)
{
	const struct copy *c = arg;

	if (strchr(relative, '/') || relative[0] == '.' || is_weights(relative) ||
	    strcmp(relative, "config.json") == 0 || strcmp(relative, "README.md") == 0 ||
	    (!c->generation && strcmp(relative, "generation_config.json") == 0))
		return 0;
	char *to = path_join(c->to, relative);
	int failed = file_copy(path, to, err);
	free(to);
	return failed;
}

int model_files_copy(const char *from, const char *to, bool generation, struct error *err)
{
	struct copy c = {to, generation};

	return dir_create(to, err) || tree_walk(from, copy_one, &c, err) ? -1 : 0;
}

/* The end of the JSON string that begins at s (its opening quote), one past the closing quote. */
static const char *string_end(const char *s)
{
	for (s++; *s != '"'; s++) {
		if (*s == '\\')
			s++;
	}
	return s + 1;
}

static const char *skip_space(const char *s)
{
	return s + strspn(s, " \t\r\n");
}

/* One past the value at s. The text is valid JSON. */
static const char *value_end(const char *s)
{
	int depth = 0;

	for (;;) {
		if (*s == '"') {
			s = string_end(s);
		} else if (*s == '{' || *s == '[') {
			depth++;
			s++;
		} else if (depth && (*s == '}' || *s == ']')) {
			depth--;
			s++;
		} else if (depth) {
			s++;
			continue;
		} else {
			return s + strcspn(s, ",}] \t\r\n");
		}
		if (!depth)
			return s;
	}
}

/* Where a member stands in the text of an object. */
struct member {
	const char *key, *value, *end; /* its opening quote, its value, one past that */
	const char *previous;          /* one past the value of the member before, or NULL */
};

static bool find_member(const char *json, const char *key, struct member *out)
{
	const char *previous = NULL, *s = skip_space(skip_space(json) + 1);

	while (*s == '"') {
		const char *end = string_end(s), *value = skip_space(skip_space(end) + 1);
		*out = (struct member){s, value, value_end(value), previous};
		if ((size_t)(end - s) == strlen(key) + 2 && strncmp(s + 1, key, strlen(key)) == 0)
			return true;
		previous = out->end;
		s = skip_space(out->end);
		if (*s == ',')
			s = skip_space(s + 1);
	}
	return false;
}

static int check_object(const char *json, struct error *err)
{
	json_t *j = json_parse(json, strlen(json), "config.json", err);
	int failed = j ? 0 : -1;

	if (j && !json_is_object(j))
		failed = error_set(err, ERR_USAGE, "config.json: must be a JSON object, is %s", json_kind(j));
	json_decref(j);
	return failed;
}

int json_text_set(const char *json, const char *key, const char *value, struct strbuf *out, struct error *err)
{
	struct member m;

	if (check_object(json, err))
		return -1;
	if (find_member(json, key, &m)) {
		strbuf_add(out, json, (size_t)(m.value - json));
		strbuf_add_json(out, value, strlen(value));
		strbuf_adds(out, m.end);
		return 0;
	}
	const char *brace = skip_space(json), *next = skip_space(brace + 1);
	strbuf_add(out, json, (size_t)(brace + 1 - json));
	strbuf_adds(out, "\n  ");
	strbuf_add_json(out, key, strlen(key));
	strbuf_adds(out, ": ");
	strbuf_add_json(out, value, strlen(value));
	strbuf_adds(out, *next == '}' ? "\n" : ",");
	strbuf_adds(out, brace + 1);
	return 0;
}

int json_text_drop(const char *json, const char *key, bool *found, struct strbuf *out, struct error *err)
{
	struct member m;

	if (check_object(json, err))
		return -1;
	*found = find_member(json, key, &m);
	if (!*found) {
		strbuf_adds(out, json);
		return 0;
	}
	const char *rest = skip_space(m.end);
	if (m.previous) { /* ", key: value" goes */
		strbuf_add(out, json, (size_t)(m.previous - json));
		strbuf_adds(out, m.end);
	} else { /* the first one: "key: value, " goes */
		strbuf_add(out, json, (size_t)(m.key - json));
		strbuf_adds(out, *rest == ',' ? skip_space(rest + 1) : rest);
	}
	return 0;
}
