/* Libraries that are loaded at their first use. libcurl, libarchive and libmicrohttpd bring some forty
 * shared objects along; linking them costs every `anneal` start 3 to 5 ms, and most starts need none of them.
 *
 *     #define CURL_FUNCTIONS(F) F(curl_easy_init) F(curl_easy_perform)
 *     #define DECLARE(name) static __typeof__(name) *p_##name;
 *     CURL_FUNCTIONS(DECLARE)
 *     #define SYMBOL(name) {#name, (void **)&p_##name},
 *     static const struct dynlib_symbol symbols[] = {CURL_FUNCTIONS(SYMBOL) {NULL, NULL}};
 */
#ifndef BASE_DYNLIB_H
#define BASE_DYNLIB_H

#include "base/error.h"

struct dynlib_symbol {
	const char *name;
	void **pointer; /* filled by dynlib_load */
};

/* Loads soname ("libcurl.so.4") and fills every symbol, up to the entry whose name is NULL. Does nothing when
 * the first pointer is filled already. ERR_INFRA, with a hint that names package, when it cannot. */
int dynlib_load(const char *soname, const char *package, const struct dynlib_symbol *symbols,
		struct error *err);

#endif
