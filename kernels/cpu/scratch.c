/* Scratch memory of a thread: grows to the largest request and lives as long as the thread. */
#include <stdlib.h>

#include "base/error.h"
#include "base/mem.h"
#include "kernels/cpu/simd.h"

#define ALIGNMENT 64

void *scratch(enum scratch_slot slot, size_t size)
{
	static _Thread_local struct {
		void *base; /* as allocated */
		char *data; /* aligned */
		size_t size;
	} slots[SCRATCH_SLOTS];

	if (size > slots[slot].size || !slots[slot].base) {
		free(slots[slot].base);
		slots[slot].base = xmalloc(size + ALIGNMENT);
		uintptr_t address = (uintptr_t)slots[slot].base;

		slots[slot].data = (char *)slots[slot].base + (ALIGNMENT - address % ALIGNMENT);
		slots[slot].size = size;
	}
	return slots[slot].data;
}
