#include "tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

struct work {
	struct aligned text;  /* a stretch of the text between added tokens */
	struct aligned part;  /* a stretch of that between normalised added tokens */
	struct aligned spare; /* scratch of the steps */
	struct spans words, spare_words;
	struct regex_match *match;
	struct bpe_work *bpe;
	struct work *next;
};

void token_ids_clear(struct token_ids *t)
{
	t->n = 0;
}

void token_ids_free(struct token_ids *t)
{
	free(t->ids);
	free(t->ends);
	*t = (struct token_ids)TOKEN_IDS_INIT;
}

void id_list_add(struct id_list *l, int32_t id)
{
	grow(&l->ids, &l->cap, l->n + 1, sizeof *l->ids);
	l->ids[l->n++] = id;
}

void tokenizer_set_template(struct tokenizer *t, bool bos, bool eos)
{
	t->prefix.n = t->suffix.n = 0;
	if (bos && t->bos >= 0)
		id_list_add(&t->prefix, t->bos);
	if (eos && t->eos >= 0)
		id_list_add(&t->suffix, t->eos);
}

bool tokenizer_id_taken(const struct tokenizer *t, int32_t id)
{
	if ((size_t)id < t->bpe.n && t->bpe.text[id])
		return true;
	for (size_t i = 0; i < t->added.n; i++) {
		if (t->added.list[i].id == id)
			return true;
	}
	return false;
}

static struct work *work_take(const struct tokenizer *t)
{
	struct tokenizer *m = (struct tokenizer *)t; /* the list of idle scratch is no part of its value */

	pthread_mutex_lock(&m->lock);
	struct work *w = m->idle;
	if (w)
		m->idle = w->next;
	pthread_mutex_unlock(&m->lock);
	if (w)
		return w;
	w = xcalloc(1, sizeof *w);
	w->match = regex_match_new();
	w->bpe = bpe_work_new();
	return w;
}

static void work_give(const struct tokenizer *t, struct work *w)
{
	struct tokenizer *m = (struct tokenizer *)t;

	pthread_mutex_lock(&m->lock);
	w->next = m->idle;
	m->idle = w;
	pthread_mutex_unlock(&m->lock);
}

static void work_free(struct work *w)
{
	struct aligned *texts[] = {&w->text, &w->part, &w->spare};

	for (size_t i = 0; i < 3; i++) {
		free(texts[i]->s);
		free(texts[i]->end);
	}
	free(w->words.list);
	free(w->spare_words.list);
	regex_match_free(w->match);
	bpe_work_free(w->bpe);
	free(w);
}

/* Adds the name of an id; of two for the same id the added token's stands, as when `tokenizers` decodes. */
static void add_name(struct tokenizer *t, int32_t id, const char *s, size_t len, bool special)
{
	t->tokens[id] = (struct token_name){s, (uint32_t)len, special};
}

int tokenizer_finish(struct tokenizer *t, struct error *err)
{
	struct work *w;

	bpe_finish(&t->bpe);
	t->n_tokens = t->bpe.n;
	for (size_t i = 0; i < t->added.n; i++) {
		if ((size_t)t->added.list[i].id >= t->n_tokens)
			t->n_tokens = (size_t)t->added.list[i].id + 1;
	}
	t->tokens = xcalloc(t->n_tokens, sizeof *t->tokens);
	for (size_t i = 0; i < t->bpe.n; i++)
		add_name(t, (int32_t)i, t->bpe.text[i], t->bpe.len[i], false);

	w = work_take(t);
	for (size_t i = 0; i < t->added.n; i++) {
		const struct added_token *a = &t->added.list[i];
		add_name(t, a->id, a->content, a->len, a->special);
		if (!a->normalized) {
			added_search_raw(&t->added, i);
			continue;
		}
		/* Pieces of a SentencePiece model are written in normalised form already. */
		w->text.n = 0;
		w->text.base = 0;
		aligned_add(&w->text, a->content, a->len, 0);
		if (t->from_json && normalizers_apply(&t->normalizers, &w->text, &w->spare, w->match, err)) {
			work_give(t, w);
			return error_context(err, "%s: added token \"%s\"", t->source, a->content);
		}
		added_search_normalized(&t->added, i, w->text.s ? w->text.s : "", w->text.n);
	}
	work_give(t, w);
	return decoders_check(&t->decoders, err) ? error_context(err, "%s", t->source) : 0;
}

static int read_dir(struct tokenizer *t, const char *dir, struct error *err)
{
	char *json = path_join(dir, "tokenizer.json"), *model = path_join(dir, "tokenizer.model");
	int failed = -1;

	if (path_exists(json))
		failed = tokenizer_read_json(t, json, err);
	else if (path_exists(model))
		failed = tokenizer_read_model(t, model, err);
	else {
		error_set(err, ERR_USAGE, "%s has no tokenizer.json and no tokenizer.model", dir);
		error_hint(err, "a model directory needs one of the two beside its config.json");
	}
	free(json);
	free(model);
	return failed;
}

int tokenizer_open(const char *path, struct tokenizer **out, struct error *err)
{
	struct tokenizer *t = xcalloc(1, sizeof *t);
	char *dir = path_is_dir(path) ? xstrdup(path) : path_dir(path);
	int failed;

	t->bos = t->eos = t->pad = t->unk = t->bpe.unk = -1;
	pthread_mutex_init(&t->lock, NULL);
	if (path_is_dir(path))
		failed = read_dir(t, path, err);
	else if (str_ends(path, ".json"))
		failed = tokenizer_read_json(t, path, err);
	else
		failed = tokenizer_read_model(t, path, err);
	failed = failed || tokenizer_read_config(t, dir, err) || tokenizer_finish(t, err);
	free(dir);
	if (failed) {
		tokenizer_free(t);
		return -1;
	}
	*out = t;
	return 0;
}

void tokenizer_free(struct tokenizer *t)
{
	if (!t)
		return;
	for (struct work *w = t->idle, *next; w; w = next) {
		next = w->next;
		work_free(w);
	}
	pthread_mutex_destroy(&t->lock);
	free(t->source);
	free(t->spm.score);
	free(t->spm.type);
	added_free(&t->added);
	normalizers_free(&t->normalizers);
	pretokenizers_free(&t->pretokenizers);
	bpe_free(&t->bpe);
	free(t->prefix.ids);
	free(t->suffix.ids);
	decoders_free(&t->decoders);
	free(t->tokens);
	free(t);
}

/* Bytes [from, to) of normalised text, in which there is no added token. */
static int encode_part(const struct tokenizer *t, struct work *w, size_t from, size_t to,
		       struct token_ids *out, struct error *err)
{
	if (from == to)
		return 0;
	if (t->pretokenizers.n == 0) {
		bpe_encode(&t->bpe, w->bpe, &w->text, from, to, out);
		return 0;
	}
	w->part.n = 0;
	w->part.base = aligned_begin(&w->text, from);
	aligned_copy(&w->part, &w->text, from, to);
	if (pretokenizers_apply(&t->pretokenizers, &w->part, &w->spare, &w->words, &w->spare_words, w->match,
				err))
		return -1;
	for (size_t i = 0; i < w->words.n; i++)
		bpe_encode(&t->bpe, w->bpe, &w->part, w->words.list[i].from, w->words.list[i].to, out);
	return 0;
}

/* Bytes [from, to) of the text, in which there is no added token that is searched before normalisation. */
static int encode_stretch(const struct tokenizer *t, struct work *w, const char *text, size_t from, size_t to,
			  bool plain, struct token_ids *out, struct error *err)
{
	size_t begin, end;
	ptrdiff_t token;

	if (from == to)
		return 0;
	w->text.n = 0;
	w->text.base = (uint32_t)from;
	aligned_reserve(&w->text, to - from);
	memcpy(w->text.s, text + from, to - from);
	for (size_t i = from; i < to; i++)
		w->text.end[i - from] = (uint32_t)i + 1;
	w->text.n = to - from;
	if (normalizers_apply(&t->normalizers, &w->text, &w->spare, w->match, err))
		return -1;
	from = 0;
	while ((token = added_next(&t->added, &t->added.normalized, plain, w->text.s, w->text.n, from, &begin,
				   &end)) >= 0) {
		if (encode_part(t, w, from, begin, out, err))
			return -1;
		token_ids_add(out, t->added.list[token].id, aligned_begin(&w->text, end));
		from = end;
	}
	return encode_part(t, w, from, w->text.n, out, err);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags,
		     struct token_ids *out, struct error *err)
{
	bool plain = flags & TOKENIZER_PLAIN_SPECIAL;
	size_t before = out->n, from = 0, begin, end, valid = utf8_valid(text, n);
	ptrdiff_t token;
	int failed = 0;

	if (valid != n)
		return error_set(err, ERR_USAGE, "the text is not valid UTF-8 at byte %zu", valid);
	if (n >= UINT32_MAX)
		return error_set(err, ERR_USAGE, "a text of %zu bytes is too long for the tokenizer", n);
	if (flags & TOKENIZER_ADD_SPECIAL) {
		for (size_t i = 0; i < t->prefix.n; i++)
			token_ids_add(out, t->prefix.ids[i], 0);
	}
	struct work *w = work_take(t);
	while (!failed &&
	       (token = added_next(&t->added, &t->added.raw, plain, text, n, from, &begin, &end)) >= 0) {
		failed = encode_stretch(t, w, text, from, begin, plain, out, err);
		token_ids_add(out, t->added.list[token].id, (uint32_t)end);
		from = end;
	}
	failed = failed || encode_stretch(t, w, text, from, n, plain, out, err);
	work_give(t, w);
	if (failed) {
		out->n = before;
		return -1;
	}
	if (flags & TOKENIZER_ADD_SPECIAL) {
		for (size_t i = 0; i < t->suffix.n; i++)
			token_ids_add(out, t->suffix.ids[i], (uint32_t)n);
	}
	return 0;
}

struct token_stream {
	const struct tokenizer *t;
	unsigned flags;
	struct decoding decoding;
};

static int decode_one(const struct tokenizer *t, struct decoding *d, int32_t id, unsigned flags,
		      struct strbuf *out, struct error *err)
{
	if (id < 0 || (size_t)id >= t->n_tokens || !t->tokens[id].s)
		return error_set(err, ERR_USAGE, "the vocabulary has no token %d (its ids are below %zu)",
				 (int)id, t->n_tokens);
	if (!(flags & TOKENIZER_SKIP_SPECIAL && t->tokens[id].special))
		decoding_add(d, t->tokens[id].s, t->tokens[id].len, out);
	return 0;
}

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, unsigned flags,
		     struct strbuf *out, struct error *err)
{
	struct decoding d;
	size_t before = out->len;
	int failed = 0;

	decoding_init(&d, &t->decoders);
	for (size_t i = 0; i < n && !failed; i++)
		failed = decode_one(t, &d, ids[i], flags, out, err);
	decoding_finish(&d, out);
	decoding_free(&d);
	if (failed && out->data)
		out->data[out->len = before] = '\0';
	return failed;
}

struct token_stream *token_stream_new(const struct tokenizer *t, unsigned flags)
{
	struct token_stream *s = xmalloc(sizeof *s);

	s->t = t;
	s->flags = flags;
	decoding_init(&s->decoding, &t->decoders);
	return s;
}

int token_stream_add(struct token_stream *s, int32_t id, struct strbuf *out, struct error *err)
{
	return decode_one(s->t, &s->decoding, id, s->flags, out, err);
}

void token_stream_finish(struct token_stream *s, struct strbuf *out)
{
	decoding_finish(&s->decoding, out);
}

void token_stream_free(struct token_stream *s)
{
	if (!s)
		return;
	decoding_free(&s->decoding);
	free(s);
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
	return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
	return t->eos;
}

int32_t tokenizer_pad(const struct tokenizer *t)
{
	return t->pad;
}

int32_t tokenizer_unk(const struct tokenizer *t)
{
	return t->unk;
}

size_t tokenizer_vocab_size(const struct tokenizer *t)
{
	return t->n_tokens;
}

const char *tokenizer_token(const struct tokenizer *t, int32_t id)
{
	return id >= 0 && (size_t)id < t->n_tokens ? t->tokens[id].s : NULL;
}

int32_t tokenizer_id(const struct tokenizer *t, const char *token)
{
	size_t len = strlen(token);
	int32_t i = strmap_get(&t->added.index, token, len);

	return i >= 0 ? t->added.list[i].id : strmap_get(&t->bpe.index, token, len);
}
