/* The frames between runner and worker. */
#include "runtime/protocol.h"

#include <string.h>

#include <msgpack.h>

enum {
	FIELD_TYPE,
	FIELD_CODE,
	FIELD_STEP,
	FIELD_DONE,
	FIELD_TOTAL,
	FIELD_VALUE,
	FIELD_NAME,
	FIELD_TEXT,
	FIELD_HINT,
	NFIELDS
};

static int write_strbuf(void *data, const char *bytes, size_t n)
{
	strbuf_add(data, bytes, n);
	return 0;
}

static void pack_text(msgpack_packer *pk, const char *s)
{
	size_t n = s ? strnlen(s, MESSAGE_TEXT_MAX) : 0;

	msgpack_pack_bin(pk, n);
	msgpack_pack_bin_body(pk, s ? s : "", n);
}

void message_pack(struct strbuf *out, const struct message *m)
{
	size_t start = out->len;
	msgpack_packer pk;

	strbuf_add(out, "\0\0\0\0", 4);
	msgpack_packer_init(&pk, out, write_strbuf);
	msgpack_pack_array(&pk, NFIELDS);
	msgpack_pack_int(&pk, (int)m->type);
	msgpack_pack_int64(&pk, m->code);
	msgpack_pack_int64(&pk, m->step);
	msgpack_pack_uint64(&pk, m->done);
	msgpack_pack_uint64(&pk, m->total);
	msgpack_pack_double(&pk, m->value);
	pack_text(&pk, m->name);
	pack_text(&pk, m->text);
	pack_text(&pk, m->hint);
	size_t n = out->len - start - 4;
	for (size_t i = 0; i < 4; i++)
		out->data[start + i] = (char)(n >> (24 - 8 * i) & 255);
}

static bool take_i64(const msgpack_object *o, int64_t *out)
{
	if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
		*out = o->via.i64;
	else if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER && o->via.u64 <= INT64_MAX)
		*out = (int64_t)o->via.u64;
	else
		return false;
	return true;
}

static bool take_u64(const msgpack_object *o, uint64_t *out)
{
	*out = o->via.u64;
	return o->type == MSGPACK_OBJECT_POSITIVE_INTEGER;
}

static bool take_text(const msgpack_object *o, struct arena *a, const char **out)
{
	if (o->type != MSGPACK_OBJECT_BIN)
		return false;
	*out = arena_strndup(a, o->via.bin.ptr, o->via.bin.size);
	return true;
}

static bool take_fields(const msgpack_object *root, struct message *m, struct arena *a)
{
	int64_t type;

	if (root->type != MSGPACK_OBJECT_ARRAY || root->via.array.size != NFIELDS)
		return false;
	const msgpack_object *f = root->via.array.ptr;
	if (!take_i64(&f[FIELD_TYPE], &type) || type < MESSAGE_LOG || type > MESSAGE_SAVED)
		return false;
	m->type = (enum message_type)type;
	if (f[FIELD_VALUE].type != MSGPACK_OBJECT_FLOAT64)
		return false;
	m->value = f[FIELD_VALUE].via.f64;
	return take_i64(&f[FIELD_CODE], &m->code) && take_i64(&f[FIELD_STEP], &m->step) &&
	       take_u64(&f[FIELD_DONE], &m->done) && take_u64(&f[FIELD_TOTAL], &m->total) &&
	       take_text(&f[FIELD_NAME], a, &m->name) && take_text(&f[FIELD_TEXT], a, &m->text) &&
	       take_text(&f[FIELD_HINT], a, &m->hint);
}

long message_unpack(const char *bytes, size_t n, struct message *m, struct arena *a, struct error *err)
{
	size_t length = 0, used = 0;
	msgpack_unpacked unpacked;

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
	msgpack_unpacked_init(&unpacked);
	msgpack_unpack_return rc = msgpack_unpack_next(&unpacked, bytes + 4, length, &used);
	bool ok = rc == MSGPACK_UNPACK_SUCCESS && used == length && take_fields(&unpacked.data, m, a);
	msgpack_unpacked_destroy(&unpacked);
	if (!ok)
		return error_set(err, ERR_STAGE, "the worker sent %zu bytes that are no message", length);
	return (long)(4 + length);
}
