/* A registry for tests that need no stage kind. */
#include "stages/registry.h"

const struct stage_kind *const stage_kinds[] = {NULL};

const struct kind_schema *const *stage_schemas(void)
{
	static const struct kind_schema *const none[] = {NULL};

	return none;
}
