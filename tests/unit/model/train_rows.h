/* Real rows for training tests: sql_create_context, one token per UTF-8 byte as the byte pieces of stories260K have it
 * (id = byte + 3), so that no tokenizer takes part. tests/reference/train_reference.py makes the same. */
#ifndef TESTS_UNIT_MODEL_TRAIN_ROWS_H
#define TESTS_UNIT_MODEL_TRAIN_ROWS_H

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "model/trainer.h"

#define STORIES  SHARED_DATA "stories260K"
#define SQL_ROWS SHARED_DATA "sql_create_context/rows.jsonl"

/* Up to n rows cut to most tokens; labels begin at the answer. Gives how many there are. */
static inline size_t rows_load(struct train_sequence *out, size_t n, int most)
{
	FILE *f = fopen(SQL_ROWS, "rb");
	char *line = NULL;
	size_t cap = 0, count = 0;

	while (f && count < n && getline(&line, &cap, f) > 0) {
		json_t *row = json_loads(line, 0, NULL);
		struct strbuf b = STRBUF_INIT;
		strbuf_addf(&b, "Question: %s Answer: ", json_string_value(json_object_get(row, "question")));
		int start = (int)b.len + 1;
		strbuf_adds(&b, json_string_value(json_object_get(row, "answer")));
		int32_t *ids = xcalloc(b.len + 2, sizeof *ids);
		ids[0] = 1;
		for (size_t i = 0; i < b.len; i++)
			ids[i + 1] = (uint8_t)b.data[i] + 3;
		ids[b.len + 1] = 2;
		int length = (int)b.len + 2 < most ? (int)b.len + 2 : most;
		out[count] = (struct train_sequence){ids, length, start, (int64_t)count};
		count++;
		strbuf_free(&b);
		json_decref(row);
	}
	if (f)
		fclose(f);
	free(line);
	return count;
}

static inline void rows_free(struct train_sequence *rows, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free((void *)(uintptr_t)rows[i].ids);
}

#endif
