/* One request and its answer, redirects included, without trying again: what http.c and download.c share. */
#ifndef NET_EXCHANGE_H
#define NET_EXCHANGE_H

#include "net/http.h"

enum exchange_result {
	EXCHANGE_ANSWERED, /* there is a status; headers are complete, the body went to the sink */
	EXCHANGE_BROKEN,   /* the network failed in a way that may pass; err says how */
	EXCHANGE_HOPELESS, /* err says why there is no use in another try */
};

struct exchange {
	const struct http_request *request;
	const struct http_options *options;
	uint64_t from;        /* > 0: ask for the bytes from there on */
	const char *if_range; /* with from: the validator */
	long low_speed;       /* bytes a second below which the transfer counts as stalled */
	uint64_t progress_base,
		progress_total; /* for options->on_progress: added to the bytes received; 0 = unknown */
	/* Gets the body of the last answer when its status is 2xx; other bodies go to response->body, cut at 4 KiB.
	 * Not 0 = stop; the sink has filled err then. */
	int (*sink)(struct exchange *x, const char *bytes, size_t n);
	void *arg;
	struct error *err;

	struct http_response *response; /* filled */
	uint64_t received;              /* bytes that the sink got */
	uint64_t wire;                  /* body bytes of the last answer as curl counts them */
	double retry_after;             /* seconds, from the answer; 0 = none */
	bool stopped;                   /* the sink or on_progress stopped it */
};

enum exchange_result exchange_run(struct exchange *x);

/* Whether a status may pass by itself: 408, 429, 5xx. */
bool exchange_passing_status(long status);
/* Sleeps before attempt n (0 = the first repetition) as http.h says; -1 and ERR_INTERRUPTED when on_progress stops
 * it. */
int exchange_wait(const struct http_options *o, int n, double retry_after, uint64_t done, uint64_t total,
		  struct error *err);
/* How many repetitions the options allow. */
int exchange_retries(const struct http_options *o);
/* The address without query and fragment, for messages; the caller frees it. */
char *exchange_public_url(const char *url);

#endif
