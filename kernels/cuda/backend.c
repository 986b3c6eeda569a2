/* The CUDA backend as tables, one for each dtype of activations. */
#include "kernels/cuda/cuda.h"

#define TABLE(dtype)                                                                                         \
	const struct kernels kernels_cuda_##dtype = {                                                        \
		.name = "cuda-" #dtype,                                                                      \
		.embed = cuda_##dtype##_embed,                                                               \
		.embed_grad = cuda_##dtype##_embed_grad,                                                     \
		.gather = cuda_##dtype##_gather,                                                             \
		.scatter = cuda_##dtype##_scatter,                                                           \
		.convert = cuda_##dtype##_convert,                                                           \
		.quantize = cuda_##dtype##_quantize,                                                         \
		.dequantize = cuda_##dtype##_dequantize,                                                     \
		.rmsnorm = cuda_##dtype##_rmsnorm,                                                           \
		.rmsnorm_grad = cuda_##dtype##_rmsnorm_grad,                                                 \
		.matmul = cuda_##dtype##_matmul,                                                             \
		.matmul_grad_x = cuda_##dtype##_matmul_grad_x,                                               \
		.matmul_grad_w = cuda_##dtype##_matmul_grad_w,                                               \
		.lora = cuda_##dtype##_lora,                                                                 \
		.lora_grad = cuda_##dtype##_lora_grad,                                                       \
		.rope_table = cuda_##dtype##_rope_table,                                                     \
		.rope = cuda_##dtype##_rope,                                                                 \
		.attention = cuda_##dtype##_attention,                                                       \
		.attention_grad = cuda_##dtype##_attention_grad,                                             \
		.rope_append = cuda_##dtype##_rope_append,                                                   \
		.gated = cuda_##dtype##_gated,                                                               \
		.gated_grad = cuda_##dtype##_gated_grad,                                                     \
		.cross_entropy = cuda_##dtype##_cross_entropy,                                               \
		.argmax = cuda_##dtype##_argmax,                                                             \
		.sum_squares = cuda_##dtype##_sum_squares,                                                   \
		.adamw = cuda_##dtype##_adamw,                                                               \
	}

TABLE(f32);
TABLE(bf16);
TABLE(f16);
