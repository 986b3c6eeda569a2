/* tokenizer.model: SentencePiece's protobuf (sentencepiece_model.proto), of which a BPE model's pieces,
 * trainer_spec and normalizer_spec matter. It becomes the same pipeline that transformers' conversion to
 * tokenizer.json gives: white space rules and "▁" as normalizers, user-defined pieces as added tokens,
 * merging by score. */
#include "tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* A protobuf message that is being read. Wire format: protobuf.dev/programming-guides/encoding. */
struct message {
	const uint8_t *p, *end;
	const uint8_t *start; /* of the file, for error offsets */
	const char *path;
	struct error *err;
};

struct field {
	uint32_t number;
	uint32_t wire;  /* 0 varint, 1 64-bit, 2 bytes, 5 32-bit */
	uint64_t value; /* varint, or fixed bits */
	const uint8_t *bytes;
	size_t len;
};

static int broken(const struct message *m, const char *what)
{
	error_set(m->err, ERR_USAGE, "%s: not a SentencePiece model: %s at byte %zu", m->path, what,
		  (size_t)(m->p - m->start));
	return error_hint(m->err, "the file is damaged or cut off; fetch it again");
}

static int read_varint(struct message *m, uint64_t *out)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		if (m->p == m->end)
			return broken(m, "cut off inside a number");
		uint8_t b = *m->p++;
		v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80)) {
			*out = v;
			return 0;
		}
	}
	return broken(m, "a number of more than 64 bits");
}

/* 1 and the next field, 0 at the end of the message, -1 when it is malformed. */
static int read_field(struct message *m, struct field *f)
{
	uint64_t tag = 0, len = 0;

	if (m->p == m->end)
		return 0;
	if (read_varint(m, &tag))
		return -1;
	if (tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
		return broken(m, "a field number out of range");
	*f = (struct field){.number = (uint32_t)(tag >> 3), .wire = tag & 7};
	switch (f->wire) {
	case 0: return read_varint(m, &f->value) ? -1 : 1;
	case 1: len = 8; break;
	case 5: len = 4; break;
	case 2:
		if (read_varint(m, &len))
			return -1;
		break;
	default: return broken(m, "an unknown wire type");
	}
	if (len > (uint64_t)(m->end - m->p))
		return broken(m, "a length beyond the end");
	f->bytes = m->p;
	f->len = (size_t)len;
	m->p += len;
	if (f->wire == 5) {
		uint32_t bits;
		memcpy(&bits, f->bytes, 4);
		f->value = bits;
	}
	return 1;
}

static struct message inner(const struct message *m, const struct field *f)
{
	return (struct message){f->bytes, f->bytes + f->len, m->start, m->path, m->err};
}

/* trainer_spec and normalizer_spec, with the defaults of the proto. */
struct specs {
	int64_t model_type; /* 1 unigram, 2 bpe, 3 word, 4 char */
	int64_t unk, bos, eos, pad;
	bool byte_fallback, suffix_space;
	bool dummy_prefix, remove_extra, escape;
	size_t charsmap; /* bytes of precompiled_charsmap */
};

static int read_piece(struct tokenizer *t, struct message m, size_t id)
{
	const char *text = NULL;
	size_t len = 0;
	float score = 0;
	uint64_t type = PIECE_NORMAL;
	struct field f;
	int more;

	while ((more = read_field(&m, &f)) > 0) {
		uint32_t bits = (uint32_t)f.value;
		if (f.number == 1 && f.wire == 2) {
			text = (const char *)f.bytes;
			len = f.len;
		} else if (f.number == 2 && f.wire == 5) {
			memcpy(&score, &bits, 4);
		} else if (f.number == 3 && f.wire == 0) {
			type = f.value;
		}
	}
	if (more < 0)
		return -1;
	if (len == 0 || utf8_valid(text, len) != len)
		return error_set(m.err, ERR_USAGE, "%s: piece %zu is empty or not valid UTF-8", m.path, id);
	if (type < PIECE_NORMAL || type > PIECE_BYTE || type == PIECE_UNUSED)
		return error_set(m.err, ERR_USAGE,
				 "%s: piece %zu (\"%.*s\") has type %llu, which is not supported", m.path, id,
				 (int)(len < 80 ? len : 80), text, (unsigned long long)type);
	if (score != score)
		return error_set(m.err, ERR_USAGE, "%s: piece %zu has no number as its score", m.path, id);
	if (bpe_add(&t->bpe, text, len, (int32_t)id))
		return error_set(m.err, ERR_USAGE, "%s: piece %zu (\"%.*s\") is there twice", m.path, id,
				 (int)(len < 80 ? len : 80), text);
	t->spm.score[id] = score;
	t->spm.type[id] = (uint8_t)type;
	return 0;
}

static int read_trainer(struct message m, struct specs *s)
{
	struct field f;
	int more;

	while ((more = read_field(&m, &f)) > 0) {
		if (f.wire != 0)
			continue;
		switch (f.number) {
		case 3: s->model_type = (int64_t)f.value; break;
		case 24: s->suffix_space = f.value; break;
		case 35: s->byte_fallback = f.value; break;
		case 40: s->unk = (int64_t)f.value; break;
		case 41: s->bos = (int64_t)f.value; break;
		case 42: s->eos = (int64_t)f.value; break;
		case 43: s->pad = (int64_t)f.value; break;
		default: break;
		}
	}
	return more;
}

static int read_normalizer(struct message m, struct specs *s)
{
	struct field f;
	int more;

	while ((more = read_field(&m, &f)) > 0) {
		if (f.number == 2 && f.wire == 2)
			s->charsmap = f.len;
		else if (f.number == 3 && f.wire == 0)
			s->dummy_prefix = f.value;
		else if (f.number == 4 && f.wire == 0)
			s->remove_extra = f.value;
		else if (f.number == 5 && f.wire == 0)
			s->escape = f.value;
	}
	return more;
}

static struct normalizer *add_normalizer(struct tokenizer *t, enum normalizer_kind kind, const char *content)
{
	struct normalizer *z = normalizers_add(&t->normalizers, kind);

	z->content = xstrdup(content);
	z->content_len = strlen(content);
	return z;
}

/* SentencePiece's Normalizer::Normalize with the identity map, step by step. */
static int make_normalizers(struct tokenizer *t, struct error *err)
{
	const char *space = t->spm.escape ? LOWER_ONE_EIGHTH : " ";

	if (t->spm.remove_extra) {
		const char *ends = t->spm.escape ? "\\A +|[ " LOWER_ONE_EIGHTH "]+\\z" : "\\A +| +\\z";
		struct normalizer *runs = add_normalizer(t, NORMALIZE_REPLACE_REGEX, " ");
		if (regex_compile(" {2,}", 5, &runs->regex, err))
			return -1;
		struct normalizer *z = add_normalizer(t, NORMALIZE_REPLACE_REGEX, "");
		if (regex_compile(ends, strlen(ends), &z->regex, err))
			return -1;
	}
	if (t->spm.dummy_prefix)
		add_normalizer(t, NORMALIZE_PREPEND, space);
	if (t->spm.escape) {
		struct normalizer *z = add_normalizer(t, NORMALIZE_REPLACE, space);
		z->text = xstrdup(" ");
		z->text_len = 1;
	}
	return 0;
}

static void add_decoder(struct tokenizer *t, enum decoder_kind kind, const char *text, const char *content)
{
	struct decoder *d = decoders_add(&t->decoders, kind);

	d->text = xstrdup(text);
	d->text_len = strlen(text);
	d->content = xstrdup(content);
	d->content_len = strlen(content);
	d->left = kind == DECODE_STRIP;
}

static void make_decoders(struct tokenizer *t)
{
	if (t->spm.escape)
		add_decoder(t, DECODE_REPLACE, LOWER_ONE_EIGHTH, " ");
	if (t->bpe.byte_fallback)
		add_decoder(t, DECODE_BYTE_FALLBACK, "", "");
	add_decoder(t, DECODE_FUSE, "", "");
	if (t->spm.dummy_prefix)
		add_decoder(t, DECODE_STRIP, " ", "");
}

/* A key that sorts as -score: IEEE 754 bits sort as sign and magnitude. Never RANK_NONE for a number. */
static uint32_t score_rank(float score)
{
	uint32_t bits;
	float negated = 0.0f - score; /* also turns -0 into 0 */

	memcpy(&bits, &negated, 4);
	return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static int32_t special_id(const struct tokenizer *t, int64_t id)
{
	return id >= 0 && (uint64_t)id < t->bpe.n ? (int32_t)id : -1;
}

static int build(struct tokenizer *t, const struct specs *s, struct error *err)
{
	struct bpe *b = &t->bpe;

	if (s->model_type != 2) {
		error_set(err, ERR_USAGE, "%s: a SentencePiece model of type %s; only BPE is supported",
			  t->source,
			  s->model_type == 1   ? "Unigram"
			  : s->model_type == 3 ? "Word"
					       : "Char");
		return error_hint(
			err, "use a model whose tokenizer is BPE, such as Gemma, Llama, Mistral or Qwen");
	}
	if (s->charsmap)
		return error_set(err, ERR_USAGE,
				 "%s: normalizer_spec.precompiled_charsmap (%zu bytes) is not supported; "
				 "only the identity "
				 "normalization is",
				 t->source, s->charsmap);
	if (s->suffix_space)
		return error_set(err, ERR_USAGE,
				 "%s: trainer_spec.treat_whitespace_as_suffix is not supported", t->source);
	t->spm.dummy_prefix = s->dummy_prefix;
	t->spm.remove_extra = s->remove_extra;
	t->spm.escape = s->escape;
	b->by_score = b->fuse_unk = true;
	b->byte_fallback = s->byte_fallback;
	b->rank = xmalloc(b->n * sizeof *b->rank);
	for (size_t i = 0; i < b->n; i++) {
		uint8_t type = t->spm.type[i];
		b->rank[i] = type == PIECE_NORMAL || type == PIECE_USER ? score_rank(t->spm.score[i])
									: RANK_NONE;
		if (type == PIECE_UNKNOWN) {
			if (b->unk >= 0)
				return error_set(err, ERR_USAGE,
						 "%s: pieces %d and %zu are both the unknown one", t->source,
						 (int)b->unk, i);
			b->unk = (int32_t)i;
		}
		bool special = type == PIECE_UNKNOWN || type == PIECE_CONTROL;
		if (special || type == PIECE_USER)
			added_add(&t->added, (struct added_token){.content = b->text[i],
								  .len = b->len[i],
								  .id = (int32_t)i,
								  .special = special,
								  .normalized = type == PIECE_USER});
	}
	if (b->unk < 0)
		return error_set(err, ERR_USAGE, "%s: no piece is the unknown one", t->source);
	t->unk = b->unk;
	t->bos = special_id(t, s->bos);
	t->eos = special_id(t, s->eos);
	t->pad = special_id(t, s->pad);
	tokenizer_set_template(t, true, false);
	make_decoders(t);
	return make_normalizers(t, err);
}

int tokenizer_read_model(struct tokenizer *t, const char *path, struct error *err)
{
	struct specs specs = {.model_type = 1,
			      .unk = 0,
			      .bos = 1,
			      .eos = 2,
			      .pad = -1,
			      .dummy_prefix = true,
			      .remove_extra = true,
			      .escape = true};
	struct file_map map;
	struct field f;
	size_t n = 0;
	int more;

	t->source = xstrdup(path);
	if (file_map(path, &map, err))
		return -1;
	struct message file = {map.data, map.data + map.size, map.data, path, err}, m = file;
	while ((more = read_field(&m, &f)) > 0)
		n += f.number == 1 && f.wire == 2;
	if (more == 0 && (n == 0 || n > TOKENIZER_MAX_ID))
		more = error_set(err, ERR_USAGE, "%s: not a SentencePiece model: it has %zu pieces", path, n);
	if (more == 0) {
		bpe_reserve(&t->bpe, n);
		t->spm.score = xcalloc(n, sizeof *t->spm.score);
		t->spm.type = xcalloc(n, sizeof *t->spm.type);
	}
	size_t id = 0;
	for (m = file; more == 0 && read_field(&m, &f) > 0;) {
		if (f.wire != 2)
			continue;
		if (f.number == 1)
			more = read_piece(t, inner(&m, &f), id++);
		else if (f.number == 2)
			more = read_trainer(inner(&m, &f), &specs);
		else if (f.number == 3)
			more = read_normalizer(inner(&m, &f), &specs);
	}
	if (more == 0)
		more = build(t, &specs, err);
	file_unmap(&map);
	return more;
}
