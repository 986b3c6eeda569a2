#include "tokenizer/decoder.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tokenizer/chars.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

struct decoder *decoders_add(struct decoders *ds, enum decoder_kind kind)
{
	if (ds->n == DECODERS_MAX)
		return NULL;
	ds->list[ds->n] = (struct decoder){.kind = kind};
	return &ds->list[ds->n++];
}

int decoders_check(const struct decoders *ds, struct error *err)
{
	bool fused = false;

	for (size_t i = 0; i < ds->n; i++) {
		const struct decoder *d = &ds->list[i];
		if (fused && d->kind == DECODE_STRIP && d->right)
			return error_set(err, ERR_USAGE,
					 "a Strip decoder with \"stop\" behind Fuse is not supported");
		if (fused && d->kind == DECODE_REPLACE && d->text_len &&
		    utf8_length(d->text[0]) != d->text_len)
			return error_set(
				err, ERR_USAGE,
				"a Replace decoder of several characters behind Fuse is not supported");
		if (fused && (d->kind == DECODE_METASPACE || d->kind == DECODE_BYTE_FALLBACK))
			return error_set(err, ERR_USAGE,
					 "a Metaspace or ByteFallback decoder behind Fuse is not supported");
		fused |= d->kind == DECODE_FUSE || d->kind == DECODE_BYTE_LEVEL;
	}
	return 0;
}

void decoders_free(struct decoders *ds)
{
	for (size_t i = 0; i < ds->n; i++) {
		free(ds->list[i].text);
		free(ds->list[i].content);
	}
	ds->n = 0;
}

void decoding_init(struct decoding *d, const struct decoders *ds)
{
	memset(d, 0, sizeof *d);
	d->ds = ds;
}

void decoding_free(struct decoding *d)
{
	for (size_t i = 0; i < d->ds->n; i++) {
		strbuf_free(&d->step[i].held);
		strbuf_free(&d->step[i].made);
	}
}

static void emit(struct decoding *d, size_t step, const char *s, size_t n, struct strbuf *out);

static bool is_fused(const struct decoding *d, size_t step)
{
	for (size_t i = 0; i < step; i++) {
		if (d->ds->list[i].kind == DECODE_FUSE || d->ds->list[i].kind == DECODE_BYTE_LEVEL)
			return true;
	}
	return false;
}

static void replace(const struct decoder *p, const char *s, size_t n, const char *content, size_t content_len,
		    struct strbuf *made)
{
	const char *end = s + n, *hit;

	while (p->text_len && (hit = memmem(s, (size_t)(end - s), p->text, p->text_len))) {
		strbuf_add(made, s, (size_t)(hit - s));
		strbuf_add(made, content, content_len);
		s = hit + p->text_len;
	}
	strbuf_add(made, s, (size_t)(end - s));
}

static void strip(struct decoding *d, size_t step, const char *s, size_t n, struct strbuf *out)
{
	const struct decoder *p = &d->ds->list[step];
	bool fused = is_fused(d, step);
	size_t taken = fused ? d->step[step].stripped : 0;

	if (!fused || !d->step[step].started) {
		while (taken < p->left && n >= p->text_len && memcmp(s, p->text, p->text_len) == 0) {
			s += p->text_len;
			n -= p->text_len;
			taken++;
		}
		d->step[step].stripped = taken;
		d->step[step].started = n > 0;
	}
	for (size_t i = 0; i < p->right && n >= p->text_len; i++) {
		if (memcmp(s + n - p->text_len, p->text, p->text_len) != 0)
			break;
		n -= p->text_len;
	}
	emit(d, step + 1, s, n, out);
}

/* The value of "<0xHH>", -1 for other tokens. */
static int byte_token(const char *s, size_t n)
{
	int v = 0;

	if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
		return -1;
	for (int i = 3; i < 5; i++) {
		char c = s[i];
		if (c >= '0' && c <= '9')
			v = v * 16 + (c - '0');
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			v = v * 16 + ((c | 0x20) - 'a' + 10);
		else
			return -1;
	}
	return v;
}

static void end_byte_run(struct decoding *d, size_t step, struct strbuf *out)
{
	struct strbuf *held = &d->step[step].held;
	size_t n = held->len;

	if (n == 0)
		return;
	if (utf8_valid(held->data, n) == n) {
		emit(d, step + 1, held->data, n, out);
	} else {
		for (size_t i = 0; i < n; i++)
			emit(d, step + 1, REPLACEMENT, 3, out);
	}
	strbuf_clear(held);
}

/* What the bytes at s begin with: a whole character (its length, *valid), the start of one that n cuts off
 * (0), or something that is none: the length of what one U+FFFD stands for, as Rust's from_utf8_lossy counts
 * it. */
static size_t lossy_length(const char *s, size_t n, bool *valid)
{
	uint8_t c = (uint8_t)s[0];
	size_t len = utf8_length(s[0]);
	/* The second byte excludes overlong forms, surrogates and code points above U+10FFFF. */
	uint8_t low = c == 0xe0   ? 0xa0
		      : c == 0xf0 ? 0x90
				  : 0x80,
		high = c == 0xed   ? 0x9f
		       : c == 0xf4 ? 0x8f
				   : 0xbf;

	*valid = false;
	if (c >= 0x80 && (c < 0xc2 || c > 0xf4))
		return 1;
	for (size_t i = 1; i < len; i++) {
		if (i == n)
			return 0;
		uint8_t b = (uint8_t)s[i];
		if (b < low || b > high)
			return i;
		low = 0x80;
		high = 0xbf;
	}
	*valid = true;
	return len;
}

/* Passes on what is settled of the held bytes; all of it at the end. */
static void settle_bytes(struct decoding *d, size_t step, bool end, struct strbuf *out)
{
	struct strbuf *held = &d->step[step].held, *made = &d->step[step].made;
	size_t i = 0;
	bool valid;

	strbuf_clear(made);
	for (size_t len; i < held->len; i += len) {
		len = lossy_length(held->data + i, held->len - i, &valid);
		if (len == 0 && !end)
			break;
		if (len == 0)
			len = held->len - i;
		if (valid)
			strbuf_add(made, held->data + i, len);
		else
			strbuf_add(made, REPLACEMENT, 3);
	}
	if (i && i < held->len)
		memmove(held->data, held->data + i, held->len - i);
	held->len -= i;
	if (made->len)
		emit(d, step + 1, made->data, made->len, out);
}

static void byte_level(struct decoding *d, size_t step, const char *s, size_t n, struct strbuf *out)
{
	struct strbuf *held = &d->step[step].held;
	size_t before = held->len;
	uint32_t cp;

	for (size_t i = 0, len; i < n; i += len) {
		len = utf8_decode(s + i, n - i, &cp);
		int b = byte_level_byte(cp);
		if (b < 0) { /* not of the alphabet: the whole token stands for itself */
			held->len = before;
			strbuf_add(held, s, n);
			break;
		}
		strbuf_addc(held, (char)b);
	}
	settle_bytes(d, step, false, out);
}

static void emit(struct decoding *d, size_t step, const char *s, size_t n, struct strbuf *out)
{
	if (step == d->ds->n) {
		strbuf_add(out, s, n);
		return;
	}
	const struct decoder *p = &d->ds->list[step];
	struct strbuf *made = &d->step[step].made;
	switch (p->kind) {
	case DECODE_REPLACE:
		strbuf_clear(made);
		replace(p, s, n, p->content, p->content_len, made);
		emit(d, step + 1, made->data, made->len, out);
		break;
	case DECODE_METASPACE:
		strbuf_clear(made);
		replace(p, s, n, " ", p->keep_first || d->step[step].started, made);
		d->step[step].started = true;
		emit(d, step + 1, made->data, made->len, out);
		break;
	case DECODE_BYTE_FALLBACK: {
		int b = byte_token(s, n);
		if (b >= 0) {
			strbuf_addc(&d->step[step].held, (char)b);
			break;
		}
		end_byte_run(d, step, out);
		emit(d, step + 1, s, n, out);
		break;
	}
	case DECODE_FUSE: emit(d, step + 1, s, n, out); break;
	case DECODE_STRIP: strip(d, step, s, n, out); break;
	case DECODE_BYTE_LEVEL: byte_level(d, step, s, n, out); break;
	}
}

void decoding_add(struct decoding *d, const char *token, size_t n, struct strbuf *out)
{
	if (d->ds->n == 0 && d->any)
		strbuf_addc(out, ' ');
	d->any = true;
	emit(d, 0, token, n, out);
}

void decoding_finish(struct decoding *d, struct strbuf *out)
{
	for (size_t i = 0; i < d->ds->n; i++) {
		if (d->ds->list[i].kind == DECODE_BYTE_FALLBACK)
			end_byte_run(d, i, out);
		else if (d->ds->list[i].kind == DECODE_BYTE_LEVEL)
			settle_bytes(d, i, true, out);
		d->step[i].stripped = 0;
		d->step[i].started = false;
	}
	d->any = false;
}
