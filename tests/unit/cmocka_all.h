/* cmocka wants these four before itself. */
#ifndef TESTS_UNIT_CMOCKA_ALL_H
#define TESTS_UNIT_CMOCKA_ALL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

/* The folder with real data beside the project. A test that needs it skips with a message where it is absent. */
#define SHARED_DATA "../shared/data/"
#define SKIP_WITHOUT(path)                                                                                   \
	do {                                                                                                 \
		FILE *skip_file = fopen(path, "rb");                                                         \
		if (!skip_file) {                                                                            \
			print_message("skipped: %s is not here\n", path);                                    \
			skip();                                                                              \
		}                                                                                            \
		fclose(skip_file);                                                                           \
	} while (0)

#endif
