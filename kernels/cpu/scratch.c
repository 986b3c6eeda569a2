/* Scratch memory of a thread: grows to the largest request and goes with the thread. */
#include <pthread.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/mem.h"
#include "kernels/cpu/simd.h"

#define ALIGNMENT 64

struct area {
	void *base; /* as allocated */
	char *data; /* aligned */
	size_t size;
};

static pthread_key_t key; /* of each thread's areas, for the sake of its destructor */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void release(void *areas)
{
	for (struct area *a = areas; a < (struct area *)areas + SCRATCH_SLOTS; a++) {
		free(a->base);
		*a = (struct area){0};
	}
}

static void make_key(void)
{
	pthread_key_create(&key, release);
}

void *scratch(enum scratch_slot slot, size_t size)
{
	static _Thread_local struct area slots[SCRATCH_SLOTS];

	if (size > slots[slot].size || !slots[slot].base) {
		pthread_once(&once, make_key);
		pthread_setspecific(key, slots);
		free(slots[slot].base);
		slots[slot].base = xmalloc(size + ALIGNMENT);
		uintptr_t address = (uintptr_t)slots[slot].base;

		slots[slot].data = (char *)slots[slot].base + (ALIGNMENT - address % ALIGNMENT);
		slots[slot].size = size;
	}
	return slots[slot].data;
}
