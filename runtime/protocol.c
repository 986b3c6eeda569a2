/* The frames between runner and worker. */
#include "runtime/protocol.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/canon.h"

#define FIELDS 9

static int64_t to_signed(uint64_t v)
{
	return v > INT64_MAX ? INT64_MAX : (int64_t)v;
}

static void add_text(struct strbuf *out, const char *s)
{
	if (!s || strnlen(s, MESSAGE_TEXT_MAX + 1) <= MESSAGE_TEXT_MAX) {
		canon_str(out, s ? s : "");
		return;
	}
	char *cut = xstrndup(s, MESSAGE_TEXT_MAX);
	canon_str(out, cut);
	free(cut);
}

void message_pack(struct strbuf *out, const struct message *m)
{
	size_t start = out->len;

	strbuf_add(out, "\0\0\0\0", 4);
	canon_array(out, FIELDS);
	canon_int(out, (int64_t)m->type);
	canon_int(out, m->code);
	canon_int(out, m->step);
	canon_int(out, to_signed(m->done));
	canon_int(out, to_signed(m->total));
	canon_float(out, m->value);
	add_text(out, m->name);
	add_text(out, m->text);
	add_text(out, m->hint);
	size_t n = out->len - start - 4;
	for (size_t i = 0; i < 4; i++)
		out->data[start + i] = (char)(n >> (24 - 8 * i) & 255);
}

static bool take_fields(struct canon *c, struct message *m, struct arena *a)
{
	int64_t type, done, total;
	struct canon_item value;
	size_t n;

	if (!canon_get_array(c, &n) || n != FIELDS || !canon_get_int(c, &type) ||
	    !canon_get_int(c, &m->code) || !canon_get_int(c, &m->step) || !canon_get_int(c, &done) ||
	    !canon_get_int(c, &total) || !canon_next(c, &value) || !canon_get_str(c, a, &m->name) ||
	    !canon_get_str(c, a, &m->text) || !canon_get_str(c, a, &m->hint))
		return false;
	if (type < MESSAGE_LOG || type > MESSAGE_SAVED || done < 0 || total < 0 ||
	    value.type != CANON_FLOAT || !m->name || !m->text || !m->hint || c->p != c->end)
		return false;
	m->type = (enum message_type)type;
	m->done = (uint64_t)done;
	m->total = (uint64_t)total;
	m->value = value.f;
	return true;
}

long message_unpack(const char *bytes, size_t n, struct message *m, struct arena *a, struct error *err)
{
	size_t length = 0;

	if (n < 4)
		return 0;
	for (size_t i = 0; i < 4; i++)
		length = length << 8 | (uint8_t)bytes[i];
	if (length == 0 || length > MESSAGE_MAX)
		return error_set(err, ERR_STAGE, "the worker sent a frame of %zu bytes: it is out of step",
				 length);
	if (n - 4 < length)
		return 0;
	memset(m, 0, sizeof *m);
	struct canon c = canon_open(bytes + 4, length);
	if (!take_fields(&c, m, a))
		return error_set(err, ERR_STAGE, "the worker sent %zu bytes that are no message", length);
	return (long)(4 + length);
}
