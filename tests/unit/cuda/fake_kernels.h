/* Kernels that are right, and wrong in the ways that the fake of the CUDA runtime has to notice (fake_kernels.cu). */
#ifndef TESTS_UNIT_CUDA_FAKE_KERNELS_H
#define TESTS_UNIT_CUDA_FAKE_KERNELS_H

#ifdef __cplusplus
extern "C" {
#endif

struct device;

enum mistake {
	NO_MISTAKE,
	NO_BARRIER,      /* between writing shared memory and reading what others wrote */
	UNEVEN_BARRIER,  /* which half of the threads reach */
	UNEVEN_SHUFFLE,  /* which one lane of the mask does not reach */
	NO_COPY_WAIT,    /* between cp.async and reading what it copies */
	NO_GRID_WAIT,    /* for the kernel before */
	NEXT_TOO_EARLY,  /* the next kernel may begin before that wait */
	AHEAD_OF_ANY,    /* weights are read before that wait, whatever the kernel before does */
	AHEAD_OF_NEXT,   /* the same, and grid_next, behind one that calls grid_next: no mistake */
	BEYOND_MEMORY,   /* one element after x is written */
	BEYOND_SHARED,   /* one element after the dynamic shared memory is written */
	TOO_MUCH_SHARED, /* more than a block can have */
};

/* x (64), in device memory: reversed, by one block of as many threads. */
void fake_reverse(struct device *d, enum mistake mistake, float *x);

#ifdef __cplusplus
}
#endif
#endif
