/* Which device to compute on and in which precision, from what the user wrote and what this machine has. */
#ifndef MODEL_CHOICE_H
#define MODEL_CHOICE_H

#include "base/error.h"
#include "kernels/kernels.h"
#include "model/config.h"

/* The words that stages and commands take, each list ended by NULL. */
extern const char *const choice_devices[];    /* "auto", "cpu", "cuda" */
extern const char *const choice_precisions[]; /* "auto", "fp32", "bf16", "fp16" */
extern const char *const choice_weights[];    /* "auto", "nf4", "resident" */

struct device_choice {
	struct device *device;   /* device_close it when everything on it is gone */
	struct device_info info; /* of a GPU */
	char text[256]; /* one line for the log: what was chosen, and why where it was not asked for */
};

/* device and precision as the user wrote them; precision "auto" is fp32 on the CPU and, on a GPU, fp16 if `fp16` (recipe
 * codelab), else bf16. device "auto" is the first GPU if this build and machine have one, else the CPU, and text says why.
 * ERR_USAGE for "cuda" where there is none, and for a 16-bit precision on the CPU: the CPU is never taken for a GPU that
 * was asked for. */
int device_choose(const char *device, const char *precision, bool fp16, struct device_choice *out,
		  struct error *err);

/* The same word for NF4 weights: whether to keep them resident (struct model_options) on this device. "auto" on a GPU goes
 * by model_wants_resident, on the CPU is NF4. text (160) says which, and why. */
bool weights_choose(const char *weights, const struct device_choice *c, const struct model_config *config,
		    char text[160]);

#endif
