#include "stages/registry.h"

extern const struct stage_kind stage_dataset_fetch, stage_shuffle_select, stage_template_transform,
	stage_model_fetch, stage_model_init, stage_tokenize, stage_qlora_train, stage_merge, stage_export,
	stage_serve_warmup, stage_exec;

const struct stage_kind *const stage_kinds[] = {
	&stage_dataset_fetch, &stage_shuffle_select, &stage_template_transform,
	&stage_model_fetch,   &stage_model_init,     &stage_tokenize,
	&stage_qlora_train,   &stage_merge,          &stage_export,
	&stage_serve_warmup,  &stage_exec,           NULL,
};

const struct kind_schema *const *stage_schemas(void)
{
	static const struct kind_schema *schemas[sizeof stage_kinds / sizeof *stage_kinds];

	for (size_t i = 0; stage_kinds[i]; i++)
		schemas[i] = &stage_kinds[i]->schema;
	return schemas;
}
