/* Strings: a growable buffer, UTF-8, number parsing that accepts the whole text or fails, nearest names. */
#ifndef BASE_STR_H
#define BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A growable byte string. data is NULL while cap is 0, else always NUL-terminated behind len bytes. */
struct strbuf {
	char *data;
	size_t len; /* bytes, without the terminator */
	size_t cap; /* bytes allocated */
};

#define STRBUF_INIT                                                                                          \
	{                                                                                                    \
		NULL, 0, 0                                                                                   \
	}

void strbuf_add(struct strbuf *b, const void *bytes, size_t n);
void strbuf_adds(struct strbuf *b, const char *s);
void strbuf_addc(struct strbuf *b, char c);
void strbuf_addf(struct strbuf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Appends s as a JSON string with its quotes (invalid UTF-8 becomes U+FFFD). */
void strbuf_add_json(struct strbuf *b, const char *s, size_t n);
/* Makes room for n more bytes and returns where they go; the caller adds to len itself. */
char *strbuf_reserve(struct strbuf *b, size_t n);
void strbuf_clear(struct strbuf *b); /* len 0, memory kept */
void strbuf_free(struct strbuf *b);
/* The NUL-terminated string; the caller frees it; b is empty afterwards. Never NULL. */
char *strbuf_steal(struct strbuf *b);

/* Bytes of the UTF-8 sequence at s (1..4; at most n are read), its code point in *cp; 0 when it is not valid
 * UTF-8 (overlong, surrogate, above U+10FFFF, cut off). */
size_t utf8_decode(const char *s, size_t n, uint32_t *cp);
/* Writes cp and returns the bytes written (1..4). cp must be a valid scalar value. */
size_t utf8_encode(uint32_t cp, char out[4]);
/* The offset of the first invalid byte, or n when all of s is valid. */
size_t utf8_valid(const char *s, size_t n);

/* The whole of s as a number; false when it is not one, has trailing text or does not fit. */
bool parse_i64(const char *s, int64_t *out);
bool parse_u64(const char *s, uint64_t *out);
bool parse_f64(const char *s, double *out); /* decimal notation only; no inf, nan, hex */

/* Shortest decimal text that reads back as exactly v ("0.0002", "1e-08", "3"). Writes at most 32 bytes. */
void format_f64(double v, char out[32]);
/* "1.5 GiB", "812 B", for people. Writes at most 16 bytes. */
void format_bytes(uint64_t n, char out[16]);
/* "830 ms", "12.4 s", "3 min 20 s", "2 h 05 min", for people. Writes at most 24 bytes. */
void format_duration(double seconds, char out[24]);

/* The candidate nearest to name by Damerau-Levenshtein distance, if it is near enough to be a likely typo
 * (at most a third of the longer one's length, at least 1); else NULL. */
const char *nearest_name(const char *name, const char *const *candidates, size_t n);

bool str_starts(const char *s, const char *prefix);
bool str_ends(const char *s, const char *suffix);

#endif
