/* serve/: a real small model behind a real socket. The client is a dozen lines of its own, so that what is on the wire is
 * what is checked. */
#include "tests/unit/cmocka_all.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/transformer.h"
#include "serve/server.h"

#define MODEL  SHARED_DATA "stories260K"
#define GREEDY SHARED_DATA "golden/stories260K_greedy.json"

static struct server *server;

static int start(void **state)
{
	struct error err = ERROR_INIT;
	struct server_options o = {
		.model = MODEL, .name = "stories", .max_tokens = 400, .body_limit = 4096, .queue = 40};

	(void)state;
	if (!path_exists(MODEL "/config.json"))
		return 0;
	if (server_start(&o, &server, &err)) {
		print_error("%s (%s)\n", err.message, err.hint);
		return -1;
	}
	return 0;
}

static int stop(void **state)
{
	(void)state;
	server_stop(server);
	server = NULL;
	return 0;
}

/* A device that fails on demand. */
static atomic_bool failing;

int __real_transformer_decode(struct transformer *t, struct kv_cache *k, const struct decode_item *items,
			      int count, float *logits, int32_t *chosen, struct error *err);
int __wrap_transformer_decode(struct transformer *t, struct kv_cache *k, const struct decode_item *items,
			      int count, float *logits, int32_t *chosen, struct error *err);

int __wrap_transformer_decode(struct transformer *t, struct kv_cache *k, const struct decode_item *items,
			      int count, float *logits, int32_t *chosen, struct error *err)
{
	if (atomic_load(&failing))
		return error_set(err, ERR_INFRA, "the device fell off the bus");
	return __real_transformer_decode(t, k, items, count, logits, chosen, err);
}

/* ---- a client ---- */

static int dial(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
				 .sin_port = htons((uint16_t)server_port(server)),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
	return fd;
}

static void send_text(int fd, const char *text, size_t n)
{
	while (n) {
		ssize_t k = send(fd, text, n, MSG_NOSIGNAL);
		assert_true(k > 0);
		text += k;
		n -= (size_t)k;
	}
}

static void send_request(int fd, const char *method, const char *path, const char *body)
{
	struct strbuf b = STRBUF_INIT;

	strbuf_addf(&b, "%s %s HTTP/1.1\r\nHost: here\r\nConnection: close\r\n", method, path);
	if (body)
		strbuf_addf(&b, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
	strbuf_adds(&b, "\r\n");
	if (body)
		strbuf_adds(&b, body);
	send_text(fd, b.data, b.len);
	strbuf_free(&b);
}

struct answer {
	int status;
	char *head;   /* lines, with the status line */
	char *body;   /* chunks put together */
	size_t len;   /* of body */
	json_t *json; /* NULL when the body is none */
};

static void answer_free(struct answer *a)
{
	json_decref(a->json);
	free(a->head);
	free(a->body);
}

/* Reads until the server closes, 20 s at most. */
static struct answer receive(int fd)
{
	struct strbuf all = STRBUF_INIT, body = STRBUF_INIT;
	struct answer a = {0};
	double until = clock_mono() + 20;

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		assert_true(clock_mono() < until);
		if (poll(&p, 1, 1000) <= 0)
			continue;
		ssize_t n = recv(fd, strbuf_reserve(&all, 65536), 65536, 0);
		assert_true(n >= 0);
		if (n == 0)
			break;
		all.len += (size_t)n;
	}
	close(fd);
	strbuf_addc(&all, '\0');
	char *end = strstr(all.data, "\r\n\r\n");
	assert_non_null(end);
	a.head = xstrndup(all.data, (size_t)(end - all.data));
	assert_int_equal(sscanf(a.head, "HTTP/1.1 %d", &a.status), 1);
	const char *data = end + 4, *last = all.data + all.len - 1;
	if (strcasestr(a.head, "Transfer-Encoding: chunked")) {
		for (;;) {
			char *line;
			size_t n = strtoul(data, &line, 16);
			assert_true(line > data && line[0] == '\r');
			if (n == 0)
				break;
			assert_true((size_t)(last - line) > n + 2);
			strbuf_add(&body, line + 2, n);
			data = line + 2 + n + 2;
		}
	} else {
		strbuf_add(&body, data, (size_t)(last - data));
	}
	a.len = body.len;
	a.body = strbuf_steal(&body);
	a.json = json_loadb(a.body, a.len, 0, NULL);
	strbuf_free(&all);
	return a;
}

static struct answer ask(const char *method, const char *path, const char *body)
{
	int fd = dial();

	send_request(fd, method, path, body);
	return receive(fd);
}

static const char *text_at(const json_t *j, const char *list, const char *key)
{
	const json_t *first = json_array_get(json_object_get(j, list), 0);

	return json_string_value(key ? json_object_get(first, key) : first);
}

#define NEED_SERVER()                                                                                        \
	do {                                                                                                 \
		(void)state;                                                                                 \
		SKIP_WITHOUT(MODEL "/config.json");                                                          \
	} while (0)

/* What the model says greedily after <bos>, from the reference's ids. */
static char *greedy_text(size_t *tokens)
{
	struct error err = ERROR_INIT;
	struct tokenizer *t;
	struct strbuf text = STRBUF_INIT;
	json_t *golden = json_read(GREEDY, &err), *ids = json_object_get(golden, "greedy_ids");
	int32_t list[4096];

	assert_int_equal(tokenizer_open(MODEL, &t, &err), 0);
	*tokens = 0;
	for (size_t i = 0; i < json_array_size(ids) && i < 33; i++)
		list[(*tokens)++] = (int32_t)json_integer_value(json_array_get(ids, i));
	assert_int_equal(tokenizer_decode(t, list, *tokens, TOKENIZER_SKIP_SPECIAL, &text, &err), 0);
	tokenizer_free(t);
	json_decref(golden);
	--*tokens; /* without <bos> */
	return strbuf_steal(&text);
}

/* ---- OpenAI ---- */

static void health_and_models_are_told(void **state)
{
	NEED_SERVER();
	struct answer a = ask("GET", "/health", NULL);
	assert_int_equal(a.status, 200);
	assert_int_equal(a.len, 0);
	answer_free(&a);
	a = ask("GET", "/v1/models", NULL);
	assert_int_equal(a.status, 200);
	assert_string_equal(text_at(a.json, "data", "id"), "stories");
	answer_free(&a);
}

static void a_greedy_completion_is_the_references(void **state)
{
	size_t n;

	NEED_SERVER();
	char *want = greedy_text(&n);
	struct strbuf body = STRBUF_INIT;
	strbuf_addf(&body, "{\"model\":\"stories\",\"prompt\":[1],\"max_tokens\":%zu,\"temperature\":0}", n);
	struct answer a = ask("POST", "/v1/completions", body.data);
	assert_int_equal(a.status, 200);
	/* The answer keeps the blank that decoding drops in front of a whole text. */
	const char *got = text_at(a.json, "choices", "text");
	assert_string_equal(got + (*got == ' '), want);
	assert_string_equal(text_at(a.json, "choices", "finish_reason"), "length");
	const json_t *usage = json_object_get(a.json, "usage");
	assert_int_equal(json_integer_value(json_object_get(usage, "prompt_tokens")), 1);
	assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), (int)n);
	assert_int_equal(json_integer_value(json_object_get(usage, "total_tokens")), (int)n + 1);
	answer_free(&a);
	strbuf_free(&body);
	free(want);
}

static void a_stream_adds_up_to_the_whole_answer(void **state)
{
	static const char ask_for[] =
		"{\"prompt\":\"Once upon a time\",\"max_tokens\":40,\"temperature\":0%s}";
	char body[256];
	struct strbuf sum = STRBUF_INIT;
	size_t events = 0;
	bool done = false;

	NEED_SERVER();
	snprintf(body, sizeof body, ask_for, "");
	struct answer whole = ask("POST", "/v1/completions", body);
	snprintf(body, sizeof body, ask_for, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
	struct answer a = ask("POST", "/v1/completions", body);
	assert_int_equal(a.status, 200);
	assert_non_null(strcasestr(a.head, "Content-Type: text/event-stream"));
	json_t *usage = NULL;
	for (char *line = strtok(a.body, "\n"); line; line = strtok(NULL, "\n")) {
		assert_false(done);
		assert_true(str_starts(line, "data: "));
		if ((done = !strcmp(line, "data: [DONE]")))
			continue;
		json_t *j = json_loads(line + 6, 0, NULL);
		assert_non_null(j);
		events++;
		if (json_array_size(json_object_get(j, "choices"))) {
			assert_null(usage);
			strbuf_adds(&sum, text_at(j, "choices", "text"));
		} else {
			usage = json_incref(json_object_get(j, "usage"));
		}
		json_decref(j);
	}
	assert_true(done);
	/* Text and usage at least; how much text an event holds depends on how fast the client reads. */
	assert_true(events >= 2);
	assert_string_equal(sum.data, text_at(whole.json, "choices", "text"));
	assert_true(json_equal(usage, json_object_get(whole.json, "usage")));
	json_decref(usage);
	strbuf_free(&sum);
	answer_free(&a);
	answer_free(&whole);
}

static void a_stop_string_ends_the_answer_before_it(void **state)
{
	NEED_SERVER();
	struct answer a = ask("POST", "/v1/completions",
			      "{\"prompt\":\"Once upon a time\",\"max_tokens\":80,\"temperature\":0}");
	struct answer b = ask("POST", "/v1/completions",
			      "{\"prompt\":\"Once upon a "
			      "time\",\"max_tokens\":80,\"temperature\":0,\"stop\":[\"xyz\",\". \"]}");
	const char *whole = text_at(a.json, "choices", "text"), *cut = text_at(b.json, "choices", "text");
	const char *at = strstr(whole, ". ");
	assert_non_null(at);
	assert_int_equal(strlen(cut), at - whole);
	assert_memory_equal(cut, whole, strlen(cut));
	assert_string_equal(text_at(b.json, "choices", "finish_reason"), "stop");
	answer_free(&a);
	answer_free(&b);
}

static void several_prompts_are_answered_in_their_order(void **state)
{
	NEED_SERVER();
	struct answer a = ask("POST", "/v1/completions",
			      "{\"prompt\":[\"Once\",\"The "
			      "dog\",\"Once\"],\"max_tokens\":8,\"temperature\":0,\"echo\":true}");
	assert_int_equal(a.status, 200);
	json_t *choices = json_object_get(a.json, "choices");
	assert_int_equal(json_array_size(choices), 3);
	const char *first = json_string_value(json_object_get(json_array_get(choices, 0), "text"));
	const char *second = json_string_value(json_object_get(json_array_get(choices, 1), "text"));
	assert_true(str_starts(first, "Once"));
	assert_true(str_starts(second, "The dog"));
	assert_string_equal(json_string_value(json_object_get(json_array_get(choices, 2), "text")), first);
	assert_int_equal(json_integer_value(json_object_get(json_array_get(choices, 2), "index")), 2);
	answer_free(&a);
}

static void the_same_seed_gives_the_same_sample(void **state)
{
	static const char body[] = "{\"prompt\":\"Once\",\"max_tokens\":30,\"temperature\":1,\"seed\":%d}";
	char text[3][256];

	NEED_SERVER();
	for (int i = 0; i < 3; i++) {
		char b[128];
		snprintf(b, sizeof b, body, i < 2 ? 7 : 8);
		struct answer a = ask("POST", "/v1/completions", b);
		snprintf(text[i], sizeof text[i], "%s", text_at(a.json, "choices", "text"));
		answer_free(&a);
	}
	assert_string_equal(text[0], text[1]);
	assert_string_not_equal(text[0], text[2]);
}

/* ---- vLLM ---- */

static void generate_answers_with_the_prompt_in_front(void **state)
{
	NEED_SERVER();
	struct answer a = ask("POST", "/v1/completions",
			      "{\"prompt\":\"Once upon\",\"max_tokens\":20,\"temperature\":0}");
	struct answer b = ask("POST", "/generate",
			      "{\"prompt\":\"Once upon\",\"max_tokens\":20,\"temperature\":0}");
	struct answer c = ask(
		"POST", "/generate",
		"{\"prompt\":\"Once upon\",\"max_tokens\":20,\"temperature\":0,\"stream\":true}");
	struct strbuf want = STRBUF_INIT;
	strbuf_addf(&want, "Once upon%s", text_at(a.json, "choices", "text"));
	assert_string_equal(text_at(b.json, "text", NULL), want.data);
	/* The last line of the stream has all of it. */
	assert_true(c.len > 0 && c.body[c.len - 1] == '\n');
	c.body[c.len - 1] = '\0';
	char *last = strrchr(c.body, '\n');
	json_t *j = json_loads(last ? last + 1 : c.body, 0, NULL);
	assert_string_equal(text_at(j, "text", NULL), want.data);
	json_decref(j);
	strbuf_free(&want);
	answer_free(&a);
	answer_free(&b);
	answer_free(&c);
}

/* ---- what is refused ---- */

static void wrong_requests_are_told_what_is_wrong(void **state)
{
	static const struct {
		const char *method, *path, *body;
		int status;
		const char *param, *says;
	} cases[] = {
		{"GET", "/nowhere", NULL, 404, NULL, "/nowhere"},
		{"GET", "/generate", NULL, 405, NULL, "POST"},
		{"POST", "/health", "{}", 405, NULL, "GET"},
		{"POST", "/v1/completions", "{\"prompt\": ", 400, NULL, "the body"},
		{"POST", "/v1/completions", "", 400, NULL, "the body"},
		{"POST", "/v1/completions", "[1]", 400, NULL, "object"},
		{"POST", "/v1/completions", "{}", 400, "prompt", "missing"},
		{"POST", "/v1/completions", "{\"prompt\":{}}", 400, "prompt", "an object"},
		{"POST", "/v1/completions", "{\"prompt\":[]}", 400, "prompt", "empty"},
		{"POST", "/v1/completions", "{\"prompt\":[\"a\",1]}", 400, "prompt", "an integer"},
		{"POST", "/v1/completions", "{\"prompt\":[512]}", 400, "prompt", "512"},
		{"POST", "/v1/completions", "{\"prompt\":[-1]}", 400, "prompt", "-1"},
		{"POST", "/v1/completions", "{\"prompt\":\"a\",\"model\":\"gpt-4\"}", 404, "model",
		 "stories"},
		{"POST", "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":401}", 400, "max_tokens",
		 "400"},
		{"POST", "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":\"9\"}", 400, "max_tokens",
		 "a string"},
		{"POST", "/v1/completions", "{\"prompt\":\"a\",\"temperature\":-1}", 400, "temperature",
		 "-1"},
		{"POST", "/v1/completions", "{\"prompt\":\"a\",\"top_p\":0}", 400, "top_p", "above 0"},
		{"POST", "/v1/completions", "{\"prompt\":\"a\",\"n\":2}", 400, "n", "1"},
		{"POST", "/v1/completions", "{\"prompt\":\"a\",\"logprobs\":1}", 400, "logprobs",
		 "not there"},
		{"POST", "/v1/completions", "{\"prompt\":\"a\",\"stop\":[\"\"]}", 400, "stop", "empty"},
		{"POST", "/v1/completions", "{\"prompt\":\"a\",\"stop\":7}", 400, "stop", "an integer"},
		{"POST", "/v1/completions", "{\"prompt\":\"a\",\"tempreature\":1}", 400, "tempreature",
		 "unknown"},
		{"POST", "/generate", "{\"prompt\":\"a\",\"tempreature\":1}", 400, "tempreature", "unknown"},
		{"POST", "/generate", "{\"prompt\":[\"a\"]}", 400, "prompt", "a string"},
		{"POST", "/generate", "{\"prompt\":\"a\",\"use_beam_search\":true}", 400, "use_beam_search",
		 "false"},
	};

	NEED_SERVER();
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct answer a = ask(cases[i].method, cases[i].path, cases[i].body);
		json_t *error = json_object_get(a.json, "error");
		const char *param = json_string_value(json_object_get(error, "param"));
		const char *message = json_string_value(json_object_get(error, "message"));
		if (a.status != cases[i].status || !message || !strstr(message, cases[i].says))
			fail_msg("%s %s: %d %s", cases[i].path, cases[i].body ? cases[i].body : "", a.status,
				 a.body);
		assert_string_equal(param ? param : "", cases[i].param ? cases[i].param : "");
		answer_free(&a);
	}
}

static void a_prompt_that_is_too_long_is_refused(void **state)
{
	struct strbuf b = STRBUF_INIT;

	NEED_SERVER();
	strbuf_adds(&b, "{\"prompt\":[1");
	for (int i = 1; i < 512; i++)
		strbuf_adds(&b, ",5");
	strbuf_adds(&b, "]}");
	struct answer a = ask("POST", "/v1/completions", b.data);
	assert_int_equal(a.status, 400);
	assert_non_null(strstr(a.body, "context_length_exceeded"));
	assert_non_null(strstr(a.body, "512 tokens"));
	answer_free(&a);
	strbuf_free(&b);
}

static void a_body_that_is_too_large_is_refused(void **state)
{
	struct strbuf b = STRBUF_INIT;

	NEED_SERVER();
	/* Announced: the answer comes before the body is sent. */
	int fd = dial();
	static const char head[] = "POST /generate HTTP/1.1\r\nHost: h\r\nConnection: "
				   "close\r\nContent-Length: 99999999999\r\n\r\n";
	send_text(fd, head, strlen(head));
	struct answer a = receive(fd);
	assert_int_equal(a.status, 413);
	answer_free(&a);
	/* Not announced: in chunks. */
	fd = dial();
	strbuf_adds(&b, "POST /generate HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: "
			"chunked\r\n\r\n");
	for (int i = 0; i < 5; i++) {
		strbuf_adds(&b, "400\r\n");
		for (int k = 0; k < 1024; k++)
			strbuf_addc(&b, ' ');
		strbuf_adds(&b, "\r\n");
	}
	strbuf_adds(&b, "0\r\n\r\n");
	send_text(fd, b.data, b.len);
	a = receive(fd);
	assert_int_equal(a.status, 413);
	answer_free(&a);
	strbuf_free(&b);
}

/* ---- clients that go, servers that stop ---- */

static void a_client_that_goes_away_does_not_hold_up_the_next(void **state)
{
	static const char endless[] = "{\"prompt\":\"Once\",\"max_tokens\":400,\"temperature\":1,\"ignore_"
				      "eos\":true,\"stream\":%s}";
	char body[160];

	NEED_SERVER();
	for (int i = 0; i < 24; i++) {
		int fd = dial();
		snprintf(body, sizeof body, endless, i & 1 ? "true" : "false");
		send_request(fd, "POST", "/v1/completions", body);
		close(fd);
	}
	double began = clock_mono();
	struct answer a = {0};
	/* The queue may be full for a moment, until the server has noticed. */
	do {
		answer_free(&a);
		a = ask("POST", "/v1/completions", "{\"prompt\":\"Once\",\"max_tokens\":1}");
	} while (a.status == 429 && clock_mono() - began < 15);
	assert_int_equal(a.status, 200);
	answer_free(&a);
}

static void many_clients_at_once_are_all_answered(void **state)
{
	int fds[8];

	NEED_SERVER();
	for (int i = 0; i < 8; i++) {
		fds[i] = dial();
		send_request(fds[i], "POST", "/v1/completions",
			     "{\"prompt\":\"Once upon a time\",\"max_tokens\":12,\"temperature\":0}");
	}
	char *first = NULL;
	for (int i = 0; i < 8; i++) {
		struct answer a = receive(fds[i]);
		assert_int_equal(a.status, 200);
		const char *text = text_at(a.json, "choices", "text");
		if (!first)
			first = xstrdup(text);
		assert_string_equal(text, first);
		answer_free(&a);
	}
	free(first);
}

static void a_server_stops_while_it_answers(void **state)
{
	struct error err = ERROR_INIT;
	struct server_options o = {.model = MODEL};
	struct server *other, *kept = server;

	NEED_SERVER();
	assert_int_equal(server_start(&o, &other, &err), 0);
	assert_string_equal(server_name(other), "stories260K");
	server = other;
	int fd = dial();
	send_request(fd, "POST", "/v1/completions",
		     "{\"prompt\":\"Once\",\"max_tokens\":500,\"ignore_eos\":true,\"stream\":true}");
	struct pollfd p = {.fd = fd, .events = POLLIN};
	poll(&p, 1, 10000);
	double began = clock_mono();
	server_stop(other);
	assert_true(clock_mono() - began < 10);
	server = kept;
	close(fd);
}

static void a_server_whose_device_fails_is_not_healthy(void **state)
{
	static const char *const paths[] = {"/v1/completions", "/generate"};
	struct error err = ERROR_INIT;
	struct server_options o = {.model = MODEL, .slots = 2};
	struct server *other, *kept = server;

	NEED_SERVER();
	assert_int_equal(server_start(&o, &other, &err), 0);
	assert_non_null(strstr(server_device_text(other), "fp32"));
	server = other;
	atomic_store(&failing, true);
	struct answer a = ask("POST", "/v1/completions", "{\"prompt\":\"Once\"}");
	atomic_store(&failing, false);
	assert_int_equal(a.status, 500);
	assert_non_null(strstr(a.body, "the device fell off the bus"));
	answer_free(&a);
	for (size_t i = 0; i < 2; i++) {
		a = ask("POST", paths[i], "{\"prompt\":\"Once\"}");
		assert_int_equal(a.status, 503);
		assert_non_null(strstr(a.body, "the device fell off the bus"));
		answer_free(&a);
	}
	a = ask("GET", "/health", NULL);
	assert_int_equal(a.status, 503);
	answer_free(&a);
	server_stop(other);
	server = kept;
}

static void what_cannot_be_served_is_told(void **state)
{
	struct error err = ERROR_INIT;
	struct server_options o = {.model = "/nowhere/at/all"};
	struct server *other;

	NEED_SERVER();
	assert_int_equal(server_start(&o, &other, &err), -1);
	assert_int_equal(err.class, ERR_USAGE);
	o.model = MODEL;
	o.port = server_port(server);
	assert_int_equal(server_start(&o, &other, &err), -1);
	assert_int_equal(err.class, ERR_INFRA);
	assert_non_null(strstr(err.message, "in use"));
	o.port = 70000;
	assert_int_equal(server_start(&o, &other, &err), -1);
	assert_int_equal(err.class, ERR_USAGE);
	o.port = 0;
	o.context = 100000;
	assert_int_equal(server_start(&o, &other, &err), -1);
	assert_non_null(strstr(err.message, "512"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(health_and_models_are_told),
		cmocka_unit_test(a_greedy_completion_is_the_references),
		cmocka_unit_test(a_stream_adds_up_to_the_whole_answer),
		cmocka_unit_test(a_stop_string_ends_the_answer_before_it),
		cmocka_unit_test(several_prompts_are_answered_in_their_order),
		cmocka_unit_test(the_same_seed_gives_the_same_sample),
		cmocka_unit_test(generate_answers_with_the_prompt_in_front),
		cmocka_unit_test(wrong_requests_are_told_what_is_wrong),
		cmocka_unit_test(a_prompt_that_is_too_long_is_refused),
		cmocka_unit_test(a_body_that_is_too_large_is_refused),
		cmocka_unit_test(a_client_that_goes_away_does_not_hold_up_the_next),
		cmocka_unit_test(many_clients_at_once_are_all_answered),
		cmocka_unit_test(a_server_stops_while_it_answers),
		cmocka_unit_test(a_server_whose_device_fails_is_not_healthy),
		cmocka_unit_test(what_cannot_be_served_is_told),
	};

	return cmocka_run_group_tests(tests, start, stop);
}
