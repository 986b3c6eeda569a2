/* http_request and http_download against a scripted server. */
#include "tests/unit/cmocka_all.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "net/http.h"
#include "tests/fakes/http_fake.h"

#define BIG 300000

static char dir[64], big[BIG + 1];
static struct digest big_digest;
static const struct http_options quick = {.backoff = 0.01, .retries = 3};

static int set_up(void **state)
{
	(void)state;
	unsetenv("http_proxy");
	for (size_t i = 0; i < BIG; i++)
		big[i] = (char)('a' + i * i % 26);
	digest_of(big, BIG, &big_digest);
	strcpy(dir, "/tmp/anneal-http-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	return tree_remove(dir, NULL);
}

#define START(...)                                                                                           \
	const struct fake_step steps[] = {__VA_ARGS__};                                                      \
	struct http_fake *fake = http_fake_start(steps, sizeof steps / sizeof *steps);                       \
	struct error e = ERROR_INIT;                                                                         \
	char url[128];                                                                                       \
	(void)state;                                                                                         \
	snprintf(url, sizeof url, "http://127.0.0.1:%d/f?sig=SECRET", http_fake_port(fake))

#define STOP() assert_string_equal(http_fake_stop(fake), "")

static char *target(const char *name)
{
	return path_join(dir, name);
}

/* Downloads to a new name and compares with big. */
static void download_big(const char *url, const char *name, const struct http_options *o, struct error *e)
{
	struct http_download_result r;
	char *path = target(name), *part = malloc(strlen(path) + 16);
	size_t n;

	int failed = http_download(url, path, &big_digest, o, &r, e);
	if (failed)
		fail_msg("%s", e->message);
	assert_int_equal(r.size, BIG);
	assert_true(digest_equal(&r.sha256, &big_digest));
	char *bytes = file_read(path, &n, e);
	assert_int_equal(n, BIG);
	assert_memory_equal(bytes, big, BIG);
	sprintf(part, "%s.part", path);
	assert_false(path_exists(part));
	sprintf(part, "%s.part.tag", path);
	assert_false(path_exists(part));
	http_download_result_free(&r);
	free(bytes);
	free(path);
	free(part);
}

static void a_file_is_downloaded_with_its_identity(void **state)
{
	START({.expect = "GET /f?sig=SECRET HTTP/1.1\r\n",
	       .refuse = "Range",
	       .status = 200,
	       .headers = "ETag: \"v1\"\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n",
	       .body = "hello"});
	struct http_download_result r;
	char *path = target("hello"), hex[65];

	assert_int_equal(http_download(url, path, NULL, NULL, &r, &e), 0);
	STOP();
	assert_int_equal(r.status, 200);
	assert_int_equal(r.size, 5);
	assert_string_equal(r.etag, "\"v1\"");
	assert_string_equal(r.last_modified, "Mon, 01 Jan 2024 00:00:00 GMT");
	assert_string_equal(r.url, url);
	digest_hex(&r.sha256, hex);
	assert_string_equal(hex, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
	http_download_result_free(&r);
	free(path);
}

static void a_broken_download_goes_on_where_it_broke(void **state)
{
	START({.refuse = "Range", .status = 200, .headers = "ETag: \"v1\"\r\n", .body = big, .cut = 100000},
	      {.expect = "Range: bytes=100000-\r\nIf-Range: \"v1\"\r\n",
	       .status = 200,
	       .headers = "ETag: \"v1\"\r\n",
	       .body = big,
	       .cut = 50000,
	       .ranges = true},
	      {.expect = "Range: bytes=150000-\r\n", .status = 503},
	      {.expect = "Range: bytes=150000-\r\n", .status = 0},
	      {.expect = "Range: bytes=150000-\r\n",
	       .status = 200,
	       .headers = "ETag: \"v1\"\r\n",
	       .body = big,
	       .ranges = true});

	download_big(url, "broken", &quick, &e);
	STOP();
}

static void a_changed_file_or_an_ignored_range_starts_anew(void **state)
{
	START({.status = 200, .headers = "ETag: \"v1\"\r\n", .body = "the old file's beginning", .cut = 10},
	      {.expect = "If-Range: \"v1\"\r\n",
	       .status = 200,
	       .headers = "ETag: \"v2\"\r\n",
	       .body = big,
	       .ranges = true,
	       .cut = 1000},
	      {.expect = "Range: bytes=1000-\r\nIf-Range: \"v2\"\r\n",
	       .status = 200,
	       .headers = "ETag: \"v2\"\r\n",
	       .body = big});

	download_big(url, "changed", &quick, &e);
	STOP();
}

static void a_later_call_continues_what_an_earlier_one_left(void **state)
{
	static const struct http_options once = {.retries = -1};
	START({.status = 200, .headers = "ETag: \"v1\"\r\n", .body = big, .cut = 200000},
	      {.expect = "Range: bytes=200000-\r\n",
	       .status = 200,
	       .headers = "ETag: \"v1\"\r\n",
	       .body = big,
	       .ranges = true});
	char *path = target("later");

	assert_int_equal(http_download(url, path, &big_digest, &once, NULL, &e), -1);
	assert_int_equal(e.class, ERR_INFRA);
	assert_false(path_exists(path));
	download_big(url, "later", &once, &e);
	STOP();
	free(path);
}

static void a_part_that_is_whole_already_is_recognised(void **state)
{
	START({.expect = "Range: bytes=300000-\r\n",
	       .status = 200,
	       .headers = "ETag: \"v1\"\r\n",
	       .body = big,
	       .ranges = true});
	char *part = target("whole.part"), *tag = target("whole.part.tag");

	assert_int_equal(file_write_atomic(part, big, BIG, &e), 0);
	assert_int_equal(file_write_atomic(tag, "\"v1\"", 4, &e), 0);
	download_big(url, "whole", &quick, &e);
	STOP();
	free(part);
	free(tag);
}

static void a_part_without_identity_or_with_a_weak_etag_is_not_continued(void **state)
{
	START({.refuse = "Range", .status = 200, .headers = "ETag: W/\"v1\"\r\n", .body = big, .cut = 1000},
	      {.refuse = "Range", .status = 200, .body = big});
	char *part = target("weak.part");

	assert_int_equal(file_write_atomic(part, "zzz", 3, &e), 0);
	download_big(url, "weak", &quick, &e);
	STOP();
	free(part);
}

static void a_lying_content_range_starts_anew(void **state)
{
	START({.status = 200, .headers = "ETag: \"v1\"\r\n", .body = big, .cut = 1000},
	      {.expect = "Range: bytes=1000-",
	       .status = 206,
	       .headers = "ETag: \"v1\"\r\nContent-Range: bytes 0-299999/300000\r\n",
	       .body = big},
	      {.refuse = "Range", .status = 200, .body = big});

	download_big(url, "lying", &quick, &e);
	STOP();
}

static void wrong_bytes_are_tried_once_more_then_refused(void **state)
{
	START({.status = 200, .body = "wrong"}, {.status = 200, .body = "wrong"},
	      {.status = 200, .body = "wrong"}, {.status = 200, .body = big});
	char *path = target("digest");

	assert_int_equal(http_download(url, path, &big_digest, &quick, NULL, &e), -1);
	assert_int_equal(e.class, ERR_INFRA);
	assert_non_null(strstr(e.message, "expected was"));
	assert_null(strstr(e.message, "SECRET"));
	assert_false(path_exists(path));
	download_big(url, "digest", &quick, &e);
	STOP();
	free(path);
}

static void passing_failures_are_tried_again_and_retry_after_is_kept(void **state)
{
	START({.status = 503}, {.status = 429, .headers = "Retry-After: 1\r\n"}, {.status = 500},
	      {.status = 200, .body = "ok"});
	const struct http_request q = {.method = "GET", .url = url};
	struct http_response r;
	double start = clock_mono();

	assert_int_equal(http_request(&q, &quick, &r, &e), 0);
	assert_true(clock_mono() - start >= 0.99);
	assert_int_equal(r.status, 200);
	assert_string_equal(r.body.data, "ok");
	http_response_free(&r);
	STOP();
}

static void what_stays_broken_is_an_error_with_class_and_hint(void **state)
{
	START({.status = 503}, {.status = 503}, {.status = 503}, {.status = 503},
	      {.status = 404, .headers = "Content-Type: text/plain\r\n", .body = "No such\nthing"},
	      {.status = 429}, {.status = 429}, {.status = 429}, {.status = 429}, {.status = 403});
	char *path = target("never");

	assert_int_equal(http_download(url, path, NULL, &quick, NULL, &e), -1);
	assert_int_equal(e.class, ERR_INFRA);
	assert_non_null(strstr(e.message, "/f: HTTP 503 (unavailable)"));
	assert_int_equal(http_download(url, path, NULL, &quick, NULL, &e), -1);
	assert_int_equal(e.class, ERR_USAGE);
	assert_non_null(strstr(e.message, "/f: HTTP 404 (not found): No such thing"));
	assert_null(strstr(e.message, "SECRET"));
	assert_true(e.hint[0]);
	assert_int_equal(http_download(url, path, NULL, &quick, NULL, &e), -1);
	assert_int_equal(e.class, ERR_INFRA);
	assert_int_equal(http_download(url, path, NULL, &quick, NULL, &e), -1);
	assert_int_equal(e.class, ERR_USAGE);
	STOP();
	/* Nobody listens there any more. */
	assert_int_equal(http_download(url, path, NULL, &quick, NULL, &e), -1);
	assert_int_equal(e.class, ERR_INFRA);
	assert_non_null(strstr(e.message, "127.0.0.1"));
	assert_int_equal(http_download("nonsense://x", path, NULL, &quick, NULL, &e), -1);
	assert_int_equal(e.class, ERR_USAGE);
	assert_int_equal(http_download("http://x/\r\nEvil: 1", path, NULL, &quick, NULL, &e), -1);
	assert_int_equal(e.class, ERR_USAGE);
	free(path);
}

static void redirects_keep_secrets_at_home(void **state)
{
	static const char *const headers[] = {"Authorization: Bearer T0KEN", "X-Plain: yes", NULL};
	static const struct http_options o = {.headers = headers, .retries = -1};
	const struct fake_step other_steps[] = {
		{.expect = "X-Plain: yes\r\n",
		 .refuse = "T0KEN",
		 .status = 302,
		 .headers = "Location: /second\r\n",
		 .body = "ignored"},
		{.expect = "GET /second HTTP/1.1", .refuse = "T0KEN", .status = 200, .body = "there"}};
	struct http_fake *other = http_fake_start(other_steps, 2);
	char location[128];
	snprintf(location, sizeof location, "Location: http://127.0.0.1:%d/other\r\n", http_fake_port(other));
	START({.expect = "Authorization: Bearer T0KEN\r\n", .status = 307, .headers = "Location: /same\r\n"},
	      {.expect = "GET /same HTTP/1.1\r\n", .status = 301, .headers = location});
	const struct http_request q = {.method = "GET", .url = url};
	struct http_response r;

	assert_int_equal(steps[1].refuse == NULL, 1);
	assert_int_equal(http_request(&q, &o, &r, &e), 0);
	assert_string_equal(r.body.data, "there");
	assert_non_null(strstr(r.url, "/second"));
	http_response_free(&r);
	STOP();
	assert_string_equal(http_fake_stop(other), "");
}

static void redirects_end(void **state)
{
	START({.status = 302, .headers = "Location: /a\r\n"}, {.status = 302, .headers = "Location: /a\r\n"},
	      {.status = 302, .headers = "Location: /a\r\n"}, {.status = 302, .headers = "Location: /a\r\n"},
	      {.status = 302, .headers = "Location: /a\r\n"}, {.status = 302, .headers = "Location: /a\r\n"},
	      {.status = 302, .headers = "Location: /a\r\n"}, {.status = 302, .headers = "Location: /a\r\n"},
	      {.status = 302, .headers = "Location: /a\r\n"}, {.status = 302, .headers = "Location: /a\r\n"},
	      {.status = 302, .headers = "Location: /a\r\n"},
	      {.status = 302, .headers = "Location: file:///etc/passwd\r\n"},
	      {.status = 302, .headers = "Location: /kept\r\n"}, {.status = 308});
	struct http_request q = {.method = "GET", .url = url};
	struct http_response r;

	assert_int_equal(http_request(&q, &quick, &r, &e), -1);
	assert_non_null(strstr(e.message, "too many redirects"));
	assert_int_equal(http_request(&q, &quick, &r, &e), -1);
	assert_int_equal(e.class, ERR_USAGE);
	q.keep_redirects = true;
	assert_int_equal(http_request(&q, &quick, &r, &e), 0);
	assert_int_equal(r.status, 302);
	char *to = http_response_header(&r, "location");
	assert_string_equal(to, "/kept");
	free(to);
	http_response_free(&r);
	q.keep_redirects = false; /* 308 without Location, as of resumable uploads, is no redirect */
	assert_int_equal(http_request(&q, &quick, &r, &e), 0);
	assert_int_equal(r.status, 308);
	http_response_free(&r);
	STOP();
}

static void bodies_are_sent_from_memory_and_from_a_file_and_not_twice(void **state)
{
	static const char *const headers[] = {"Content-Type: application/json", NULL};
	static const struct http_options o = {.headers = headers, .backoff = 0.01};
	START({.expect = "POST /f?sig=SECRET HTTP/1.1\r\n", .refuse = "Expect:", .status = 503},
	      {.expect = "\r\n\r\n{\"a\": 1}", .status = 500},
	      {.expect = "\r\n\r\n{\"a\": 1}", .status = 201, .headers = "X-Id: 7 \r\n", .body = "made"},
	      {.expect = "\r\n\r\nfgh", .status = 200}, {.expect = "Content-Length: 0\r\n", .status = 200},
	      {.expect = "DELETE /f", .status = 204});
	char *path = target("body");
	struct http_request q = {.method = "POST", .url = url, .body = "{\"a\": 1}", .body_size = 8};
	struct http_response r;

	assert_int_equal(http_request(&q, &o, &r, &e), 0); /* a POST is not repeated unless it may be */
	assert_int_equal(r.status, 503);
	http_response_free(&r);
	q.retry = true;
	assert_int_equal(http_request(&q, &o, &r, &e), 0);
	assert_int_equal(r.status, 201);
	char *id = http_response_header(&r, "x-ID");
	assert_string_equal(id, "7");
	free(id);
	http_response_free(&r);
	assert_int_equal(file_write_atomic(path, "abcdefghij", 10, &e), 0);
	FILE *f = fopen(path, "rb");
	q = (struct http_request){.method = "PUT",
				  .url = url,
				  .body_is_file = true,
				  .body_fd = fileno(f),
				  .body_offset = 5,
				  .body_size = 3};
	assert_int_equal(http_request(&q, &o, &r, &e), 0);
	http_response_free(&r);
	fclose(f);
	q = (struct http_request){.method = "PUT", .url = url};
	assert_int_equal(http_request(&q, &o, &r, &e), 0);
	http_response_free(&r);
	q = (struct http_request){.method = "DELETE", .url = url};
	assert_int_equal(http_request(&q, &o, &r, &e), 0);
	assert_int_equal(r.status, 204);
	http_response_free(&r);
	STOP();
	free(path);
}

static int take(const char *bytes, size_t n, void *arg)
{
	struct strbuf *b = arg;
	strbuf_add(b, bytes, n);
	return b->len > 18;
}

static void answers_can_be_streamed_stopped_and_limited(void **state)
{
	START({.status = 200, .body = "twelve bytes", .chunked = true}, {.status = 200, .body = big},
	      {.status = 400, .headers = "Content-Type: application/json\r\n", .body = "{\"error\": \"no\"}"},
	      {.status = 200, .body = "0123456789"},
	      {.expect = "HEAD /f", .status = 200, .headers = "X-Repo-Commit: abc\r\n", .body = "not sent"});
	struct strbuf got = STRBUF_INIT;
	struct http_request q = {.method = "POST", .url = url, .on_body = take, .arg = &got};
	struct http_response r;

	assert_int_equal(http_request(&q, &quick, &r, &e), 0);
	assert_string_equal(got.data, "twelve bytes");
	assert_int_equal(r.body.len, 0);
	http_response_free(&r);
	assert_int_equal(http_request(&q, &quick, &r, &e), -1);
	assert_int_equal(e.class, ERR_INTERRUPTED);
	strbuf_clear(&got);
	assert_int_equal(http_request(&q, &quick, &r, &e), 0); /* an error's body is not streamed */
	assert_int_equal(got.len, 0);
	http_status_error("POST", url, &r, &e);
	assert_non_null(strstr(e.message, "HTTP 400 (bad request): {\"error\": \"no\"}"));
	http_response_free(&r);
	q = (struct http_request){.method = "GET", .url = url, .max_body = 9};
	assert_int_equal(http_request(&q, &quick, &r, &e), -1);
	assert_non_null(strstr(e.message, "larger than 9 bytes"));
	assert_int_equal(http_head(url, &quick, &r, &e), 0);
	char *commit = http_response_header(&r, "X-Repo-Commit");
	assert_string_equal(commit, "abc");
	free(commit);
	http_response_free(&r);
	STOP();
	strbuf_free(&got);
}

static void a_stalled_connection_is_given_up_and_continued(void **state)
{
	static const struct http_options o = {.backoff = 0.01, .stall_timeout = 1};
	START({.status = 200, .headers = "ETag: \"v1\"\r\n", .body = big, .stall_ms = 2500},
	      {.expect = "Range: bytes=150000-",
	       .status = 200,
	       .headers = "ETag: \"v1\"\r\n",
	       .body = big,
	       .ranges = true});

	download_big(url, "stalled", &o, &e);
	STOP();
}

static uint64_t last_done, last_total;

static int watch(uint64_t done, uint64_t total, void *arg)
{
	last_done = done;
	last_total = total;
	return arg && done > 100000;
}

static void progress_is_told_and_can_stop_the_transfer(void **state)
{
	struct http_options o = {.on_progress = watch, .backoff = 0.01};
	START({.status = 200, .headers = "ETag: \"v1\"\r\n", .body = big, .cut = 200000},
	      {.status = 200, .headers = "ETag: \"v1\"\r\n", .body = big, .ranges = true},
	      {.status = 200, .headers = "ETag: \"v1\"\r\n", .body = big, .stall_ms = 1500});
	char *path = target("stopped");

	download_big(url, "watched", &o, &e);
	assert_int_equal(last_done, BIG);
	assert_int_equal(last_total, BIG);
	o.arg = &o;
	assert_int_equal(http_download(url, path, NULL, &o, NULL, &e), -1);
	assert_int_equal(e.class, ERR_INTERRUPTED);
	assert_false(path_exists(path));
	STOP();
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_is_downloaded_with_its_identity),
		cmocka_unit_test(a_broken_download_goes_on_where_it_broke),
		cmocka_unit_test(a_changed_file_or_an_ignored_range_starts_anew),
		cmocka_unit_test(a_later_call_continues_what_an_earlier_one_left),
		cmocka_unit_test(a_part_that_is_whole_already_is_recognised),
		cmocka_unit_test(a_part_without_identity_or_with_a_weak_etag_is_not_continued),
		cmocka_unit_test(a_lying_content_range_starts_anew),
		cmocka_unit_test(wrong_bytes_are_tried_once_more_then_refused),
		cmocka_unit_test(passing_failures_are_tried_again_and_retry_after_is_kept),
		cmocka_unit_test(what_stays_broken_is_an_error_with_class_and_hint),
		cmocka_unit_test(redirects_keep_secrets_at_home),
		cmocka_unit_test(redirects_end),
		cmocka_unit_test(bodies_are_sent_from_memory_and_from_a_file_and_not_twice),
		cmocka_unit_test(answers_can_be_streamed_stopped_and_limited),
		cmocka_unit_test(a_stalled_connection_is_given_up_and_continued),
		cmocka_unit_test(progress_is_told_and_can_stop_the_transfer),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
