/* Passes of nearly the same size share a recording: their tokens are rounded up to a bucket and the rest is filled with a
 * sequence of its own that carries no label. */
#ifndef MODEL_BUCKETS_H
#define MODEL_BUCKETS_H

/* The smallest bucket that holds n >= 1: multiples of 16 up to 256, then of an eighth to a sixteenth of the size, so that
 * above 128 less than an eighth of a pass is filling; about 8 buckets to an octave. */
int bucket_of(int n);

#endif
