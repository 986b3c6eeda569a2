/* Ids for tokenizer_compare.py, which compiles and runs it:
 *     tokenizer_ids encode PATH FLAGS   JSON strings on stdin, one a line -> {"ids", "ends", "text"} a line
 *     tokenizer_ids write PATH DIR      the tokenizer.json and tokenizer_config.json of PATH into DIR
 *     tokenizer_ids bytes TEXTS N DIR   learns N merges from the JSON strings in the file TEXTS, one a line */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "tokenizer/tokenizer.h"

static int fail(const struct error *err)
{
	fprintf(stderr, "%s (%s)\n", err->message, err->hint);
	return 1;
}

static int encode(const struct tokenizer *t, unsigned flags)
{
	struct error err = ERROR_INIT;
	struct token_ids ids = TOKEN_IDS_INIT;
	struct strbuf text = STRBUF_INIT;
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;

	while ((n = getline(&line, &cap, stdin)) > 0) {
		json_t *s = json_parse(line, (size_t)n, "stdin", &err);
		token_ids_clear(&ids);
		strbuf_clear(&text);
		if (!s ||
		    tokenizer_encode(t, json_string_value(s), json_string_length(s), flags, &ids, &err) ||
		    tokenizer_decode(t, ids.ids, ids.n, 0, &text, &err))
			return fail(&err);
		printf("{\"ids\": [");
		for (size_t i = 0; i < ids.n; i++)
			printf(i ? ", %d" : "%d", (int)ids.ids[i]);
		printf("], \"ends\": [");
		for (size_t i = 0; i < ids.n; i++)
			printf(i ? ", %u" : "%u", (unsigned)ids.ends[i]);
		struct strbuf quoted = STRBUF_INIT;
		strbuf_add_json(&quoted, text.data ? text.data : "", text.len);
		printf("], \"text\": %s}\n", quoted.data);
		strbuf_free(&quoted);
		json_decref(s);
	}
	free(line);
	token_ids_free(&ids);
	strbuf_free(&text);
	return 0;
}

static int learn(const char *texts, size_t merges, const char *dir)
{
	struct error err = ERROR_INIT;
	struct bpe_merges learnt = BPE_MERGES_INIT;
	const char **list = NULL;
	size_t *lengths = NULL, n = 0, cap = 0, cap2 = 0, size;
	char *bytes = file_read(texts, &size, &err);

	if (!bytes)
		return fail(&err);
	for (char *line = bytes, *end; (end = strchr(line, '\n')); line = end + 1, n++) {
		json_t *s = json_parse(line, (size_t)(end - line), texts, &err);
		if (!s)
			return fail(&err);
		grow(&list, &cap, n + 1, sizeof *list);
		grow(&lengths, &cap2, n + 1, sizeof *lengths);
		list[n] = xstrndup(json_string_value(s), json_string_length(s));
		lengths[n] = json_string_length(s);
		json_decref(s);
	}
	if (tokenizer_train_bpe(list, lengths, n, merges, &learnt, &err) ||
	    tokenizer_write_bytes(dir, &learnt, &err))
		return fail(&err);
	return 0;
}

int main(int argc, char **argv)
{
	struct error err = ERROR_INIT;
	struct tokenizer *t;

	if (argc == 5 && strcmp(argv[1], "bytes") == 0)
		return learn(argv[2], strtoul(argv[3], NULL, 10), argv[4]);
	if (argc != 4)
		return 2;
	if (tokenizer_open(argv[2], &t, &err))
		return fail(&err);
	if (strcmp(argv[1], "encode") == 0)
		return encode(t, (unsigned)strtoul(argv[3], NULL, 10));
	char *json = path_join(argv[3], "tokenizer.json"),
	     *config = path_join(argv[3], "tokenizer_config.json");
	if (tokenizer_write_json(t, json, &err) || tokenizer_write_config(t, config, &err))
		return fail(&err);
	return 0;
}
