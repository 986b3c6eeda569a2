/* Which kernel does a product and how it is cut into blocks, from shapes and what the device is alone; and where a tile's
 * bytes lie in shared memory. Plain C without CUDA, so that it can be tested and tuned anywhere. */
#ifndef KERNELS_CUDA_DISPATCH_H
#define KERNELS_CUDA_DISPATCH_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/matrix.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_device;

/* Up to so many tokens a product reads its matrix once, as it is stored, and is bound by those bytes alone. */
#define PRODUCT_FEW 8

/* A matrix that is not of the activations' dtype is converted into scratch in pieces of about so many bytes; for few tokens, whose
 * pass takes little memory, in smaller ones. */
#define CONVERT_BYTES     ((size_t)256 << 20)
#define CONVERT_FEW       512
#define CONVERT_FEW_BYTES ((size_t)65 << 20)

/* Threads of a block of the fused NF4 kernels. */
#define NF4_THREADS 256

/* What y = x W^T and dx = dy W of an NF4 matrix are done by: kernels that read it packed, or dequantisation and cuBLASLt.
 * From some number of tokens on the product is bound by the tensor cores, which cuBLASLt uses better. */
enum nf4_kind { NF4_FUSED, NF4_DEQUANTIZE };
enum nf4_kind nf4_product_kind(int major, int n, int rows, int cols);

/* The tiles that the fused kernels are built for; a plan takes one that the GPU has shared memory for. A block computes `tokens` by 16 * row_tiles * row_warps values of y; its
 * 8 warps are row_warps times k_warps, which share the depth of a stage: 64 * subs * k_warps elements. `pairs`: two values
 * of the code book are looked up at once, in a table of 32 KiB.
 *   F(tokens, row_warps, k_warps, row_tiles, subs, stages, pairs) */
#define NF4_FORWARD_TILES(F)                                                                                 \
	F(4, 1, 8, 1, 1, 7, true)                                                                            \
	F(8, 1, 8, 1, 1, 4, true)                                                                            \
	F(8, 2, 4, 2, 1, 3, true)                                                                            \
	F(8, 4, 2, 2, 2, 3, true)                                                                            \
	F(16, 2, 4, 2, 1, 3, true)                                                                           \
	F(32, 4, 2, 2, 1, 3, true)                                                                           \
	F(64, 4, 2, 2, 1, 3, false)                                                                          \
	F(160, 8, 1, 2, 1, 3, false)

/* The same for dx: `tokens` by 256 columns; a warp computes 8 * lane_cols of them, from 32 * subs rows in each stage.
 *   F(tokens, col_warps, k_warps, lane_cols, subs, stages, pairs) */
#define NF4_BACKWARD_TILES(F)                                                                                \
	F(8, 4, 2, 8, 2, 3, true)                                                                            \
	F(16, 4, 2, 8, 1, 4, true)                                                                           \
	F(32, 8, 1, 4, 2, 4, true)                                                                           \
	F(64, 8, 1, 4, 2, 4, false)                                                                          \
	F(160, 8, 1, 4, 2, 3, false)

enum { NF4_FORWARD_COUNT = 8, NF4_BACKWARD_COUNT = 5, NF4_BACKWARD_COLS = 256 };

/* What a tile is: sizes in elements, and bytes of shared memory. */
struct nf4_tile {
	int tokens, width, depth; /* of the result, and of the sum in one stage */
	int stages;
	size_t stage_bytes, shared;
};

/* index < NF4_FORWARD_COUNT, or NF4_BACKWARD_COUNT */
struct nf4_tile nf4_forward_tile(int index);
struct nf4_tile nf4_backward_tile(int index);

/* How a product is launched: width_blocks by token_blocks by splits blocks, each of which adds up `steps` stages. With more
 * than one split they write fp32 sums (splits, n, width) to scratch and a second kernel adds those in order. */
struct nf4_plan {
	int tile;
	int width_blocks, token_blocks, splits, steps;
};

/* rows: of the matrix for y, columns for dx; depth: the other. */
struct nf4_plan nf4_forward_plan(int major, int minor, int multiprocessors, int n, int rows, int cols);
struct nf4_plan nf4_backward_plan(int major, int minor, int multiprocessors, int n, int rows, int cols);

/* Bytes of scratch of a plan for n tokens and a result of that width: 0 without splits. */
size_t nf4_plan_scratch(const struct nf4_plan *p, int n, int width);

/* Rows that are converted at once for a product with n tokens: all, or a multiple of 64 (whole NF4 blocks). */
int convert_rows(int n, int rows, int cols, size_t act_size);
/* Bytes of that many rows, and of the fp32 absmax of an NF4 matrix, both rounded up to 256. */
size_t convert_scratch(int n, int rows, int cols, size_t act_size);
size_t nf4_absmax_scratch(int rows, int cols);

/* The most scratch that matmul, matmul_grad_x and matmul_grad_w take for up to n tokens and a matrix of dtype w. */
size_t product_scratch(int major, int minor, int multiprocessors, enum dtype act, int n, int rows, int cols,
		       enum dtype w);
size_t product_scratch_bound(const struct cuda_device *d, int n, int rows, int cols, enum dtype w);

#ifdef __cplusplus
}
#endif
#endif
