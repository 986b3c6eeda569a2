#include "data/thrift.h"

#define DEPTH_MAX 32

static uint8_t byte(struct thrift *t)
{
	if (t->bad || t->p == t->end) {
		t->bad = true;
		return 0;
	}
	return *t->p++;
}

static uint64_t varint(struct thrift *t)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t b = byte(t);
		v |= (uint64_t)(b & 0x7f) << shift;
		if (b < 0x80)
			return t->bad ? 0 : v;
	}
	t->bad = true;
	return 0;
}

static int64_t zigzag(struct thrift *t)
{
	uint64_t v = varint(t);
	return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

bool thrift_next(struct thrift *t, struct thrift_field *f)
{
	uint8_t head = byte(t);

	f->type = (enum thrift_type)(head & 0x0f);
	if (t->bad || f->type == THRIFT_STOP)
		return false;
	int64_t id = head >> 4 ? f->id + (head >> 4) : zigzag(t);
	if (f->type > THRIFT_STRUCT || id <= 0 || id > INT16_MAX)
		t->bad = true;
	f->id = (int)id;
	return !t->bad;
}

static const uint8_t *binary(struct thrift *t, size_t *n)
{
	uint64_t len = varint(t);

	if (t->bad || len > (uint64_t)(t->end - t->p)) {
		t->bad = true;
		*n = 0;
		return NULL;
	}
	const uint8_t *p = t->p;
	t->p += len;
	*n = (size_t)len;
	return p;
}

static size_t list_head(struct thrift *t, enum thrift_type *element)
{
	uint8_t head = byte(t);
	uint64_t n = head >> 4;

	*element = (enum thrift_type)(head & 0x0f);
	if (n == 15)
		n = varint(t);
	/* Every element takes a byte at least. */
	if (n > (uint64_t)(t->end - t->p))
		t->bad = true;
	return t->bad ? 0 : (size_t)n;
}

static void skip(struct thrift *t, enum thrift_type type, int depth);

static void skip_elements(struct thrift *t, size_t n, enum thrift_type key, enum thrift_type value, int depth)
{
	for (size_t i = 0; i < n && !t->bad; i++) {
		/* A boolean that is an element takes a byte of its own. */
		if (key != THRIFT_STOP)
			skip(t, key <= THRIFT_FALSE ? THRIFT_I8 : key, depth);
		skip(t, value <= THRIFT_FALSE ? THRIFT_I8 : value, depth);
	}
}

static void skip(struct thrift *t, enum thrift_type type, int depth)
{
	struct thrift_field f = {0, THRIFT_STOP};
	enum thrift_type element;
	size_t n;

	if (depth > DEPTH_MAX)
		t->bad = true;
	if (t->bad)
		return;
	switch (type) {
	case THRIFT_TRUE:
	case THRIFT_FALSE: return;
	case THRIFT_I8: byte(t); return;
	case THRIFT_I16:
	case THRIFT_I32:
	case THRIFT_I64: varint(t); return;
	case THRIFT_DOUBLE:
		if (t->end - t->p < 8)
			t->bad = true;
		else
			t->p += 8;
		return;
	case THRIFT_BINARY: binary(t, &n); return;
	case THRIFT_LIST:
	case THRIFT_SET:
		n = list_head(t, &element);
		skip_elements(t, n, THRIFT_STOP, element, depth + 1);
		return;
	case THRIFT_MAP:
		n = (size_t)varint(t);
		if (n > (size_t)(t->end - t->p))
			t->bad = true;
		if (n && !t->bad) {
			uint8_t types = byte(t);
			enum thrift_type key = (enum thrift_type)(types >> 4);
			t->bad = t->bad || key == THRIFT_STOP;
			skip_elements(t, n, key, (enum thrift_type)(types & 0x0f), depth + 1);
		}
		return;
	case THRIFT_STRUCT:
		while (thrift_next(t, &f))
			skip(t, f.type, depth + 1);
		return;
	case THRIFT_STOP: break;
	}
	t->bad = true;
}

void thrift_skip(struct thrift *t, enum thrift_type type)
{
	skip(t, type, 0);
}

int64_t thrift_int(struct thrift *t, const struct thrift_field *f)
{
	if (f->type == THRIFT_I8)
		return (int8_t)byte(t);
	if (f->type >= THRIFT_I16 && f->type <= THRIFT_I64)
		return zigzag(t);
	thrift_skip(t, f->type);
	return 0;
}

bool thrift_bool(struct thrift *t, const struct thrift_field *f)
{
	if (f->type > THRIFT_FALSE)
		thrift_skip(t, f->type);
	return f->type == THRIFT_TRUE;
}

const uint8_t *thrift_binary(struct thrift *t, const struct thrift_field *f, size_t *n)
{
	*n = 0;
	if (f->type == THRIFT_BINARY)
		return binary(t, n);
	thrift_skip(t, f->type);
	return NULL;
}

size_t thrift_list(struct thrift *t, const struct thrift_field *f, enum thrift_type element)
{
	enum thrift_type found;

	if (f->type != THRIFT_LIST) {
		thrift_skip(t, f->type);
		return 0;
	}
	size_t n = list_head(t, &found);
	if (found == element || n == 0)
		return n;
	skip_elements(t, n, THRIFT_STOP, found, 1);
	return 0;
}

const uint8_t *thrift_element(struct thrift *t, size_t *n)
{
	return binary(t, n);
}

bool thrift_struct(struct thrift *t, const struct thrift_field *f)
{
	if (f->type == THRIFT_STRUCT)
		return true;
	thrift_skip(t, f->type);
	return false;
}
