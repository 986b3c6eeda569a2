/* serve/client: endpoints of every flavour, played by a thread that answers from a script. */
#include "tests/unit/cmocka_all.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "serve/client.h"
#include "serve/server.h"

/* One answer of the script: what the request line begins with, and what goes back. */
struct scene {
	const char *request, *status, *body;
};

struct stage {
	const struct scene *scenes;
	size_t n;
	int fd;
	char url[64];
	char last[4096]; /* the last request */
	pthread_t thread;
	bool wrong; /* a request was not the one of the script */
};

static void answer(struct stage *s, int fd, const struct scene *scene)
{
	struct strbuf out = STRBUF_INIT;
	size_t got = 0, want = SIZE_MAX;

	while (got < want && got < sizeof s->last - 1) {
		ssize_t n = recv(fd, s->last + got, sizeof s->last - 1 - got, 0);
		if (n <= 0)
			break;
		got += (size_t)n;
		s->last[got] = '\0';
		char *end = strstr(s->last, "\r\n\r\n"), *length = strcasestr(s->last, "Content-Length:");
		if (end)
			want = (size_t)(end + 4 - s->last) + (length ? strtoul(length + 15, NULL, 10) : 0);
	}
	if (!str_starts(s->last, scene->request))
		s->wrong = true;
	strbuf_addf(&out,
		    "HTTP/1.1 %s\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: "
		    "%zu\r\n\r\n%s",
		    scene->status, strlen(scene->body), scene->body);
	send(fd, out.data, out.len, MSG_NOSIGNAL);
	strbuf_free(&out);
}

static void *play(void *arg)
{
	struct stage *s = arg;

	for (size_t i = 0; i < s->n; i++) {
		struct pollfd p = {.fd = s->fd, .events = POLLIN};
		if (poll(&p, 1, 10000) <= 0) {
			s->wrong = true;
			break;
		}
		int fd = accept(s->fd, NULL, NULL);
		answer(s, fd, s->scenes + i);
		close(fd);
	}
	return NULL;
}

static void raise_curtain(struct stage *s, const struct scene *scenes, size_t n)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof at;

	memset(s, 0, sizeof *s);
	s->scenes = scenes;
	s->n = n;
	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(s->fd, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(listen(s->fd, 8), 0);
	getsockname(s->fd, (struct sockaddr *)&at, &len);
	snprintf(s->url, sizeof s->url, "http://127.0.0.1:%d", ntohs(at.sin_port));
	assert_int_equal(pthread_create(&s->thread, NULL, play, s), 0);
}

static void drop_curtain(struct stage *s)
{
	pthread_join(s->thread, NULL);
	close(s->fd);
	assert_false(s->wrong);
}

static const struct endpoint_question question = {.prompt = "Q: 1+1?\nA:", .max_tokens = 9};

/* Waits, asks, and checks the answer, or the error's text when says is given. */
static void check(const struct scene *scenes, size_t n, enum flavour flavour, const char *suffix,
		  const char *text, const char *says)
{
	struct error err = ERROR_INIT;
	struct endpoint_answer a = {0};
	struct stage s;
	char url[96];

	raise_curtain(&s, scenes, n);
	snprintf(url, sizeof url, "%s%s", s.url, suffix);
	struct endpoint e = {
		.url = url, .flavour = flavour, .timeout = 10, .direct = true, .token = "sesame"};
	int code = endpoint_wait(&e, 10, &err);
	if (code == 0)
		code = endpoint_ask(&e, &question, &a, &err);
	if (says) {
		assert_int_equal(code, -1);
		if (!strstr(err.message, says))
			fail_msg("\"%s\" does not say \"%s\"", err.message, says);
		assert_null(strstr(err.message, "sesame"));
	} else {
		if (code)
			fail_msg("%s", err.message);
		assert_string_equal(a.text.data, text);
		assert_non_null(strcasestr(s.last, "Authorization: Bearer sesame"));
	}
	drop_curtain(&s);
	answer_free(&a);
	free(e.model);
}

#define CHECK(flavour, suffix, text, says, ...)                                                              \
	do {                                                                                                 \
		static const struct scene scenes[] = {__VA_ARGS__};                                          \
		check(scenes, sizeof scenes / sizeof *scenes, flavour, suffix, text, says);                  \
	} while (0)

static void an_openai_endpoint_is_found_out_and_streamed(void **state)
{
	(void)state;
	CHECK(FLAVOUR_AUTO, "", " two", NULL, {"GET /health", "200 OK", ""},
	      {"GET /v1/models", "200 OK", "{\"data\":[{\"id\":\"m\"}]}"},
	      {"POST /v1/completions", "200 OK",
	       "data: {\"choices\":[{\"text\":\" t\"}]}\r\n\r\n: a comment\n\ndata: "
	       "{\"choices\":[{\"text\":\"wo\","
	       "\"finish_reason\":\"stop\"}]}\n\ndata: "
	       "{\"choices\":[],\"usage\":{\"completion_tokens\":2}}\n\n"
	       "data: [DONE]\n\n"});
}

static void vllm_and_vertex_answers_lose_their_decoration(void **state)
{
	(void)state;
	CHECK(FLAVOUR_AUTO, "", " two", NULL, {"GET /health", "200 OK", ""},
	      {"GET /v1/models", "404 Not Found", ""},
	      {"POST /generate", "200 OK", "{\"text\":[\"Q: 1+1?\\nA: two\"]}"});
	CHECK(FLAVOUR_VLLM, "", " two", NULL, {"GET /health", "404 Not Found", ""},
	      {"POST /generate", "200 OK",
	       "{\"predictions\":[\"Prompt:\\nQ: 1+1?\\nA:\\nOutput:\\n two\"]}"});
	CHECK(FLAVOUR_AUTO, "/v1/endpoints/7:predict", "two", NULL,
	      {"POST /v1/endpoints/7:predict", "200 OK", "{\"predictions\":[\"two\"]}"});
}

static void an_endpoint_that_is_not_ready_is_waited_for(void **state)
{
	(void)state;
	CHECK(FLAVOUR_VLLM, "", "two", NULL, {"GET /health", "503 Service Unavailable", ""},
	      {"GET /health", "429 Too Many Requests", ""}, {"GET /health", "200 OK", ""},
	      {"POST /generate", "503 Service Unavailable", ""},
	      {"POST /generate", "200 OK", "{\"text\":[\"two\"]}"});
}

static void answers_that_are_none_are_errors_that_say_what_came(void **state)
{
	(void)state;
	CHECK(FLAVOUR_VLLM, "", NULL, "neither \"text\" nor \"predictions\"", {"GET /health", "200 OK", ""},
	      {"POST /generate", "200 OK", "{\"txt\":1}"});
	CHECK(FLAVOUR_VLLM, "", NULL, "an empty body", {"GET /health", "200 OK", ""},
	      {"POST /generate", "200 OK", ""});
	CHECK(FLAVOUR_VLLM, "", NULL, "no such thing", {"GET /health", "200 OK", ""},
	      {"POST /generate", "400 Bad Request", "no such thing"});
	CHECK(FLAVOUR_AUTO, "", NULL, "before [DONE]", {"GET /health", "200 OK", ""},
	      {"GET /v1/models", "200 OK", "{\"data\":[{\"id\":\"m\"}]}"},
	      {"POST /v1/completions", "200 OK", "data: {\"choices\":[{\"text\":\" t\"}]}\n\n"});
	CHECK(FLAVOUR_AUTO, "", NULL, "out of memory", {"GET /health", "200 OK", ""},
	      {"GET /v1/models", "200 OK", "{\"data\":[{\"id\":\"m\"}]}"},
	      {"POST /v1/completions", "200 OK", "data: {\"error\":{\"message\":\"out of memory\"}}\n\n"});
	CHECK(FLAVOUR_OPENAI, "", NULL, "lists no model", {"GET /health", "200 OK", ""},
	      {"GET /v1/models", "200 OK", "{\"data\":[]}"});
}

static void nobody_there_is_told_when_the_time_is_up(void **state)
{
	struct error err = ERROR_INIT;
	/* Port 1 on this machine: nobody listens. */
	struct endpoint e = {.url = "http://127.0.0.1:1", .timeout = 1, .direct = true};

	(void)state;
	assert_int_equal(endpoint_wait(&e, 0.3, &err), -1);
	assert_int_equal(err.class, ERR_INFRA);
	assert_non_null(strstr(err.message, "was not ready"));
}

static void our_own_server_is_an_openai_endpoint_that_counts(void **state)
{
	struct error err = ERROR_INIT;
	struct server_options o = {.model = SHARED_DATA "stories260K"};
	struct endpoint_question q = {.prompt = "Once upon a time", .max_tokens = 12};
	struct endpoint_answer a, b;
	struct server *s;

	(void)state;
	SKIP_WITHOUT(SHARED_DATA "stories260K/config.json");
	assert_int_equal(server_start(&o, &s, &err), 0);
	struct endpoint e = {.url = server_url(s), .timeout = 20, .direct = true};
	assert_int_equal(endpoint_wait(&e, 10, &err), 0);
	assert_int_equal(e.flavour, FLAVOUR_OPENAI);
	assert_string_equal(e.model, "stories260K");
	assert_int_equal(endpoint_ask(&e, &q, &a, &err), 0);
	assert_string_equal(a.finish, "length");
	assert_int_equal(a.tokens, 12);
	assert_true(a.prompt_tokens > 1);
	assert_true(a.first_token > 0 && a.first_token <= a.seconds);
	e.flavour = FLAVOUR_VLLM;
	assert_int_equal(endpoint_ask(&e, &q, &b, &err), 0);
	assert_string_equal(b.text.data, a.text.data);
	assert_string_equal(b.finish, "");
	assert_true(b.tokens < 0 && b.first_token < 0);
	answer_free(&a);
	answer_free(&b);
	free(e.model);
	server_stop(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_openai_endpoint_is_found_out_and_streamed),
		cmocka_unit_test(vllm_and_vertex_answers_lose_their_decoration),
		cmocka_unit_test(an_endpoint_that_is_not_ready_is_waited_for),
		cmocka_unit_test(answers_that_are_none_are_errors_that_say_what_came),
		cmocka_unit_test(nobody_there_is_told_when_the_time_is_up),
		cmocka_unit_test(our_own_server_is_an_openai_endpoint_that_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
