/* Runs a fuzz target without a fuzzer: over every file of a folder and over changed copies of it, always the same
 * ones, so that the target is exercised by every test run.
 *   fuzz_X_replay FOLDER */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"

#define COPIES 40

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t state = 88172645463325252u;

static size_t draw(size_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (size_t)(state >> 20) % below;
}

/* One to four bytes set, doubled or removed, or the end cut off. data has room for four more. */
static size_t change(uint8_t *data, size_t size)
{
	for (size_t i = 0, n = 1 + draw(4); i < n && size; i++) {
		size_t at = draw(size);
		switch (draw(5)) {
		case 0: data[at] = (uint8_t)draw(256); break;
		case 1: data[at] = (uint8_t) "{}[]=\"\\\n\r#/*<>$%.,:-_ \t'0aE"[draw(28)]; break;
		case 2:
			memmove(data + at + 1, data + at, size - at);
			size++;
			break;
		case 3:
			memmove(data + at, data + at + 1, size - at - 1);
			size--;
			break;
		case 4: size = draw(8) ? size : at; break;
		}
	}
	return size;
}

static int not_hidden(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

int main(int argc, char **argv)
{
	struct dirent **files;
	int n = argc == 2 ? scandir(argv[1], &files, not_hidden, alphasort) : -1;

	if (n <= 0) {
		fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
		return 2;
	}
	for (int i = 0; i < n; i++) {
		struct error err = ERROR_INIT;
		size_t size;
		char *path = path_join(argv[1], files[i]->d_name), *text = file_read(path, &size, &err);
		if (!text) {
			fprintf(stderr, "%s\n", err.message);
			return 1;
		}
		LLVMFuzzerTestOneInput((const uint8_t *)text, size);
		for (int k = 0; k < COPIES; k++) {
			/* Exactly as large as its text, so that a read behind the end is seen. */
			uint8_t *copy = xmalloc(size + 4);
			memcpy(copy, text, size);
			size_t len = change(copy, size);
			copy = xrealloc(copy, len);
			LLVMFuzzerTestOneInput(copy, len);
			free(copy);
		}
		free(text);
		free(path);
		free(files[i]);
	}
	free(files);
	return 0;
}
