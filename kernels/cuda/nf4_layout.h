/* Where the fused NF4 kernels keep a stage in shared memory, and which elements a lane owns. The sum over k may take its
 * elements in any order so long as both factors take the same one; so a lane takes elements that lie beside each other in
 * the packed matrix, and nothing is ever transposed. Shared memory has 32 banks of 4 bytes: a read of 16 bytes a lane is
 * done 8 lanes at a time, one of 8 bytes 16 lanes at a time, and those must lie in different banks. */
#ifndef KERNELS_CUDA_NF4_LAYOUT_H
#define KERNELS_CUDA_NF4_LAYOUT_H

#ifdef __cplusplus
#define NF4_LAYOUT __host__ __device__ __forceinline__
#else
#define NF4_LAYOUT static inline
#endif

/* y = x W^T: lane (g, c) = (lane / 4, lane % 4) owns elements 16 c … 16 c + 15 of every 64, in rows g and g + 8 of W and in
 * token g of x. Step s of 4 multiplies elements 16 c + 4 s … + 3. */

/* Byte offset of chunk (8 values, 16 bytes) of a token in a tile of x with `chunks` chunks to a token, a multiple of 8. */
NF4_LAYOUT int nf4_x_offset(int token, int chunk, int chunks)
{
	return (token * chunks + (chunk ^ (token & 1))) * 16;
}

/* Byte offset of NF4 block `block` of a row (32 bytes) in a tile of W with `blocks` blocks to a row, a power of 2. */
NF4_LAYOUT int nf4_w_offset(int row, int block, int blocks)
{
	int turn = blocks >= 4 ? row & 3 : blocks == 2 ? row >> 1 & 1 : 0;

	return (row * blocks + (block ^ turn)) * 32;
}

/* dx = dy W: lane (g, c) owns rows 8 c … 8 c + 7 of every 32, and lane_cols (8 or 4) columns from lane_cols * g on of the
 * warp's. Step s of 2 multiplies rows 8 c + 4 s … + 3. */

/* Byte offset of chunk (8 values of one token) in a tile of dy with `chunks` chunks to a token: 4 or a multiple of 8. */
NF4_LAYOUT int nf4_dy_offset(int token, int chunk, int chunks)
{
	return (token * chunks + (chunks > 4 ? chunk ^ (token & 1) << 2 : chunk)) * 16;
}

/* Byte offset of NF4 block `block` (of 4) of a row in a tile of 256 columns. */
NF4_LAYOUT int nf4_wt_offset(int row, int block)
{
	return (row * 4 + (block ^ (row >> 3 & 3))) * 32;
}

#endif
