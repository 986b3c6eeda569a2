/* The CPU backend as a table. */
#include <stdlib.h>

#include "kernels/cpu/cpu.h"

/* Threads that spin at a barrier take the processor from those they wait for as soon as the machine has something else to
 * do, which slows small models down fivefold; asleep they cost a few microseconds. Runs before libgomp reads its environment
 * (constructors without a priority come later); what the user has set stays. */
__attribute__((constructor(101))) static void threads_sleep(void)
{
	setenv("GOMP_SPINCOUNT", "500", 0);
}

const struct kernels kernels_cpu = {
	.name = "cpu",
	.embed = cpu_embed,
	.embed_grad = cpu_embed_grad,
	.gather = cpu_gather,
	.scatter = cpu_scatter,
	.rmsnorm = cpu_rmsnorm,
	.rmsnorm_grad = cpu_rmsnorm_grad,
	.matmul = cpu_matmul,
	.matmul_grad_x = cpu_matmul_grad_x,
	.matmul_grad_w = cpu_matmul_grad_w,
	.lora = cpu_lora,
	.lora_grad = cpu_lora_grad,
	.rope_table = cpu_rope_table,
	.rope = cpu_rope,
	.attention = cpu_attention,
	.attention_grad = cpu_attention_grad,
	.gated = cpu_gated,
	.gated_grad = cpu_gated_grad,
	.cross_entropy = cpu_cross_entropy,
	.sum_squares = cpu_sum_squares,
	.adamw = cpu_adamw,
};
