#include "model/buckets.h"

int bucket_of(int n)
{
	int step = 16;

	/* 16 up to 128; a quarter of the octave up to 512; above that a sixteenth to an eighth of n */
	while (n > 8 * step && step < 64)
		step *= 2;
	while (n > 16 * step)
		step *= 2;
	return (n + step - 1) / step * step;
}
