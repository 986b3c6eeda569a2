#include "model/choice.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "model/model.h"

const char *const choice_devices[] = {"auto", "cpu", "cuda", NULL};
const char *const choice_precisions[] = {"auto", "fp32", "bf16", "fp16", NULL};
const char *const choice_weights[] = {"auto", "nf4", "resident", NULL};

static enum dtype dtype_of_precision(const char *precision, bool fp16)
{
	if (strcmp(precision, "fp32") == 0)
		return DTYPE_F32;
	if (strcmp(precision, "fp16") == 0 || (strcmp(precision, "auto") == 0 && fp16))
		return DTYPE_F16;
	return DTYPE_BF16;
}

static int choose_cpu(const char *precision, const char *why, struct device_choice *out, struct error *err)
{
	if (strcmp(precision, "auto") != 0 && strcmp(precision, "fp32") != 0) {
		error_set(err, ERR_USAGE, "precision %s needs a GPU%s%s", precision, why ? ": " : "",
			  why ? why : "");
		return error_hint(err, "the CPU computes in fp32: set precision = \"auto\"");
	}
	out->device = &device_cpu;
	snprintf(out->text, sizeof out->text, "on the CPU in fp32%s%.180s", why ? ": " : "", why ? why : "");
	return 0;
}

int device_choose(const char *device, const char *precision, bool fp16, struct device_choice *out,
		  struct error *err)
{
	static const char *const names[] = {
		[DTYPE_F32] = "fp32", [DTYPE_BF16] = "bf16", [DTYPE_F16] = "fp16"};
	enum dtype act = dtype_of_precision(precision, fp16);
	struct error why = ERROR_INIT;
	char memory[16];

	memset(out, 0, sizeof *out);
	if (strcmp(device, "cpu") == 0)
		return choose_cpu(precision, NULL, out, err);
	if (device_cuda_count(&why) == 0) {
		if (strcmp(device, "auto") == 0)
			return choose_cpu(precision, why.message, out, err);
		error_set(err, why.class, "device cuda: %s", why.message);
		return error_hint(err, "%s", why.hint);
	}
	if (device_cuda_info(0, &out->info, err) || device_open(DEVICE_CUDA, 0, act, &out->device, err))
		return -1;
	format_bytes(out->info.free_memory, memory);
	snprintf(out->text, sizeof out->text, "on %.100s in %s, %s free", out->info.name, names[act], memory);
	return 0;
}

bool weights_choose(const char *weights, const struct device_choice *c, const struct model_config *config,
		    char text[160])
{
	char nf4[16], resident[16];
	bool keep = strcmp(weights, "resident") == 0;

	if (strcmp(weights, "auto") == 0)
		keep = c->device->kind != DEVICE_CPU && model_wants_resident(config, &c->info);
	format_bytes(model_bytes_nf4(config), nf4);
	format_bytes(model_bytes_resident(config), resident);
	snprintf(text, 160, "weights %s (NF4 takes about %s, dequantised and resident in 16 bits %s)",
		 keep ? "resident" : "in NF4", nf4, resident);
	return keep;
}
