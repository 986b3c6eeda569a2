/* JSON documents (jansson) with errors that name file, line and column. For the small ones: configurations,
 * reports, safetensors headers. Datasets are read by data/, which streams. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>

#include "base/error.h"
#include "base/str.h"

/* Parses n bytes; name is what errors call them. Duplicate keys are an error. NULL and ERR_USAGE when it is not
 * JSON. The caller json_decrefs the result. */
json_t *json_parse(const char *text, size_t n, const char *name, struct error *err);
json_t *json_read(const char *path, struct error *err);
/* Pretty-printed with 2 spaces, keys in insertion order, a newline at the end; written atomically. */
int json_write(const char *path, const json_t *j, struct error *err);

/* Members of an object. A missing or null key gives 0 and leaves *out alone (its default); 1 when it was there;
 * -1 and ERR_USAGE when it has another type or does not fit: "NAME: key must be an integer, is a string". */
int json_get_i64(const json_t *obj, const char *key, int64_t *out, const char *name, struct error *err);
int json_get_f64(const json_t *obj, const char *key, double *out, const char *name, struct error *err);
int json_get_bool(const json_t *obj, const char *key, bool *out, const char *name, struct error *err);
/* *out points into obj. */
int json_get_str(const json_t *obj, const char *key, const char **out, const char *name, struct error *err);
/* "an object", "a string", "null" …, for messages. */
const char *json_kind(const json_t *j);

#endif
