/* Passes of nearly the same size share a recording: their tokens are rounded up to a bucket and the rest is filled with a
 * sequence of its own that carries no label. */
#ifndef MODEL_BUCKETS_H
#define MODEL_BUCKETS_H

/* The smallest bucket that holds n >= 1: multiples of 16 up to 128 and of a quarter of the octave up to 512, sizes at which a pass
 * is bound by the bytes of its weights and filling costs little; above that of a sixteenth to an eighth of n. */
int bucket_of(int n);
/* The most tokens that a pass over at most n is filled with. */
int bucket_filling(int n);

#endif
