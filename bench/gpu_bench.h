/* What the parts of bench_gpu share: the card, its two measured ceilings, and rows of figures, which go to a table on stdout
 * and, one JSON object a line, to a file. */
#ifndef BENCH_GPU_BENCH_H
#define BENCH_GPU_BENCH_H

#include <stdbool.h>
#include <stdio.h>

#include "kernels/kernels.h"
#include "model/model.h"

struct bench {
	bool small;           /* tiny shapes and few repetitions: whether it runs, not how fast */
	const char *sections; /* "epoch,decode", or NULL: all */
	const char *weights;  /* "nf4" or "resident", or NULL: both */
	FILE *json;           /* or NULL */
	struct device_info info;
	double bandwidth;           /* measured: bytes read and written a second */
	double flops;               /* measured: operations a second of a large bf16 product */
	struct model_config config; /* Gemma 2B's, or a tiny one */
	char dir[256];              /* of the model's files; "" before they are made */
};

/* One row. */
struct figure {
	const char *workload; /* what it is compared by: "epoch", "decode-1" … */
	const char *name;
	const char *unit; /* "ms", "us", "GB": less is better; "tokens/s", "GB/s", "TFLOP/s": more */
	double achieved;
	double limit;  /* what bytes or operations allow on this card; 0: not known */
	double target; /* of achieved, or with `share` of its part of the limit; 0: none */
	bool share, predicted;
	const char *note; /* or NULL */
};

void bench_heading(const char *title);
void bench_row(struct bench *b, const struct figure *f);
bool bench_wants(const struct bench *b, const char *section);

/* Seconds in which this card can move so many bytes and do so many operations at the same time. */
double bench_limit(const struct bench *b, double bytes, double flops);
/* The same workload on an L4, told at the end: by its limit there, and at the part of the limit that is reached here. */
void bench_predict(struct bench *b, const char *name, double bytes, double flops, double seconds);
void bench_predictions(struct bench *b);

/* Prints err and ends the program if failed. */
void bench_must(int failed, const struct error *err);
struct device *bench_open(enum dtype act);
void *bench_room(struct device *d, size_t bytes);
/* n random activations between -scale and scale, in the device's memory. */
void *bench_random(struct device *d, size_t n, float scale);
float *bench_random_f32(struct device *d, size_t n, float scale);

/* What is timed: asks the device for the i-th of several like things (other weights each, so that they are read from memory). */
typedef void bench_run(struct device *d, void *arg, int i);
/* Median seconds of one, after warming up, from replays of a recording of many. */
double bench_time(const struct bench *b, struct device *d, bench_run *run, void *arg, int variants);
double bench_median(double *x, int n);

/* The sections. */
void bench_products(struct bench *b);
void bench_attention(struct bench *b);
void bench_operations(struct bench *b);
void bench_model(struct bench *b); /* training and decoding */
void bench_files_remove(struct bench *b);

#endif
