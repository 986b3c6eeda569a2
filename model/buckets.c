#include "model/buckets.h"

/* 16 up to 128; a quarter of the octave up to 512; above that a sixteenth to an eighth of n. */
static int step_of(int n)
{
	int step = 16;

	while (n > 8 * step && step < 64)
		step *= 2;
	while (n > 16 * step)
		step *= 2;
	return step;
}

int bucket_of(int n)
{
	int step = step_of(n);

	return (n + step - 1) / step * step;
}

int bucket_filling(int n)
{
	return step_of(n) - 1;
}
