/* Every stage kind there is. */
#ifndef STAGES_REGISTRY_H
#define STAGES_REGISTRY_H

#include "runtime/stage.h"

/* NULL-terminated, in the order of the reference page. */
extern const struct stage_kind *const stage_kinds[];
/* The same as schemas, for graph_load. NULL-terminated; built at the first call. */
const struct kind_schema *const *stage_schemas(void);

#endif
