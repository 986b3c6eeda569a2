/* The CPU backend as a table. */
#include <stdlib.h>

#include "kernels/cpu/cpu.h"

/* How long a thread spins at a barrier before it sleeps. libgomp's default spins for milliseconds, which takes the processor
 * from those it waits for as soon as the machine has something else to do; not to spin at all costs a system call for each of
 * a small model's thousands of barriers. Measured with stories260K on two cores, tokens/s when they are free and when two
 * loops run beside: 0: 11,000 and 5,500; 500: 14,900 and 6,500; 20000: 18,700 and 9,500; default 19,200 and 5,400.
 * Runs before libgomp reads its environment (constructors without a priority come later); what the user has set stays. */
__attribute__((constructor(101))) static void threads_spin_briefly(void)
{
	setenv("GOMP_SPINCOUNT", "20000", 0);
}

const struct kernels kernels_cpu = {
	.name = "cpu",
	.embed = cpu_embed,
	.embed_grad = cpu_embed_grad,
	.gather = cpu_gather,
	.scatter = cpu_scatter,
	.convert = cpu_convert,
	.quantize = cpu_quantize,
	.dequantize = cpu_dequantize,
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
	.rope_append = cpu_rope_append,
	.gated = cpu_gated,
	.gated_grad = cpu_gated_grad,
	.cross_entropy = cpu_cross_entropy,
	.argmax = cpu_argmax,
	.sum_squares = cpu_sum_squares,
	.adamw = cpu_adamw,
};
