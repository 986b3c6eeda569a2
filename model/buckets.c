#include "model/buckets.h"

int bucket_of(int n)
{
	int step = 16;

	while (n > 16 * step)
		step *= 2;
	return (n + step - 1) / step * step;
}
