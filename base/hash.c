#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/mem.h"

struct hasher {
	EVP_MD_CTX *ctx;
};

/* Fetched once: an implicit fetch per message costs more than hashing a key's record. */
static const EVP_MD *sha256(void)
{
	static EVP_MD *md;

	if (!md) {
		md = EVP_MD_fetch(NULL, "SHA256", NULL);
		if (!md)
			abort();
	}
	return md;
}

struct hasher *hasher_new(void)
{
	struct hasher *h = xmalloc(sizeof *h);

	h->ctx = EVP_MD_CTX_new();
	if (!h->ctx || !EVP_DigestInit_ex2(h->ctx, sha256(), NULL))
		abort();
	return h;
}

void hasher_add(struct hasher *h, const void *bytes, size_t n)
{
	if (!EVP_DigestUpdate(h->ctx, bytes, n))
		abort();
}

void hasher_finish(struct hasher *h, struct digest *out)
{
	if (!EVP_DigestFinal_ex(h->ctx, out->bytes, NULL) || !EVP_DigestInit_ex2(h->ctx, sha256(), NULL))
		abort();
}

void hasher_free(struct hasher *h)
{
	if (!h)
		return;
	EVP_MD_CTX_free(h->ctx);
	free(h);
}

void digest_of(const void *bytes, size_t n, struct digest *out)
{
	static _Thread_local EVP_MD_CTX *ctx;

	if (!ctx)
		ctx = EVP_MD_CTX_new();
	if (!ctx || !EVP_DigestInit_ex2(ctx, sha256(), NULL) || !EVP_DigestUpdate(ctx, bytes, n) ||
	    !EVP_DigestFinal_ex(ctx, out->bytes, NULL))
		abort();
}

int digest_of_file(const char *path, struct digest *out, uint64_t *size, struct error *err)
{
	const size_t piece = (size_t)1 << 20;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t total = 0;

	if (fd < 0)
		return error_errno(err, error_class_of_errno(errno), "%s", path);
	char *buf = xmalloc(piece);
	struct hasher *h = hasher_new();
	ssize_t n;
	while ((n = read(fd, buf, piece)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		hasher_add(h, buf, (size_t)n);
		total += (uint64_t)n;
	}
	int failed = n < 0 ? error_errno(err, error_class_of_errno(errno), "%s", path) : 0;
	hasher_finish(h, out);
	hasher_free(h);
	free(buf);
	close(fd);
	if (size)
		*size = total;
	return failed;
}

void digest_hex(const struct digest *d, char out[65])
{
	static const char hex[] = "0123456789abcdef";

	for (size_t i = 0; i < 32; i++) {
		out[2 * i] = hex[d->bytes[i] >> 4];
		out[2 * i + 1] = hex[d->bytes[i] & 15];
	}
	out[64] = '\0';
}

void digest_text(const struct digest *d, char out[DIGEST_TEXT_SIZE])
{
	memcpy(out, "sha256:", 7);
	digest_hex(d, out + 7);
}

static int nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

bool digest_parse(const char *s, struct digest *out)
{
	if (strncmp(s, "sha256:", 7) == 0)
		s += 7;
	for (size_t i = 0; i < 32; i++) {
		int hi = nibble(s[2 * i]), lo = hi < 0 ? -1 : nibble(s[2 * i + 1]);
		if (lo < 0)
			return false;
		out->bytes[i] = (uint8_t)(hi << 4 | lo);
	}
	return s[64] == '\0';
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
	return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}
