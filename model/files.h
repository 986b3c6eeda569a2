/* What of a model directory is not weights: copied byte for byte, its JSON edited as text so that nothing else in it
 * changes. */
#ifndef MODEL_FILES_H
#define MODEL_FILES_H

#include <stdbool.h>

#include "base/error.h"
#include "base/str.h"

/* Copies the regular files at the top of from into to (made if missing): tokenizer, chat template, licence … Left out
 * are weights in any format and their indexes, config.json, README.md, hidden files, and subdirectories; and
 * generation_config.json unless generation is set. */
int model_files_copy(const char *from, const char *to, bool generation, struct error *err);

/* json: the text of an object. Gives the same text with the string member key set to value (added at the front when it
 * is missing). */
int json_text_set(const char *json, const char *key, const char *value, struct strbuf *out,
		  struct error *err);
/* The same text without the member key; *found says whether it was there. */
int json_text_drop(const char *json, const char *key, bool *found, struct strbuf *out, struct error *err);

#endif
