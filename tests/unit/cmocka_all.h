/* cmocka, which wants these four before itself; or what the numeric core's tests use of it, where it is missing. */
#ifndef TESTS_UNIT_CMOCKA_ALL_H
#define TESTS_UNIT_CMOCKA_ALL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef CMOCKA_MIN
#include "tests/unit/cmocka_min.h"
#else
#include <cmocka.h>
#endif

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
