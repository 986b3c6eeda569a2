/* SHA-256 digests: what names every artifact and every key. Through OpenSSL's libcrypto (FIPS 180-4). */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct digest {
	uint8_t bytes[32];
};

/* "sha256:" and 64 hex digits, with the terminator. */
#define DIGEST_TEXT_SIZE 72

struct hasher; /* a running SHA-256 */

struct hasher *hasher_new(void);
void hasher_add(struct hasher *h, const void *bytes, size_t n);
/* Writes the digest and makes h ready for a new message. */
void hasher_finish(struct hasher *h, struct digest *out);
void hasher_free(struct hasher *h);

/* The digest of n bytes in one call; the fast path for small records. */
void digest_of(const void *bytes, size_t n, struct digest *out);
/* The digest of the regular file at path, read in 1 MiB pieces; *size gets its length when size is not NULL. */
int digest_of_file(const char *path, struct digest *out, uint64_t *size, struct error *err);

/* 64 lower-case hex digits and a terminator. */
void digest_hex(const struct digest *d, char out[65]);
/* "sha256:<hex>". */
void digest_text(const struct digest *d, char out[DIGEST_TEXT_SIZE]);
/* Accepts both spellings; false when s is neither. */
bool digest_parse(const char *s, struct digest *out);
bool digest_equal(const struct digest *a, const struct digest *b);

#endif
