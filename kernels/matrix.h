/* Weight matrices in the dtypes that models are stored in, and the conversions between them. These run on the
 * host, for every backend. */
#ifndef KERNELS_MATRIX_H
#define KERNELS_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum dtype {
	DTYPE_F32,
	DTYPE_BF16, /* the upper half of an fp32 */
	DTYPE_F16,  /* IEEE binary16 */
	DTYPE_NF4,  /* 4-bit NormalFloat in blocks of 64 (Dettmers et al. 2023, arXiv:2305.14314) */
};

#define NF4_BLOCK    64 /* elements that share an absmax: consecutive ones of the flattened row-major matrix */
#define ABSMAX_BLOCK 256 /* absmax values that share an absmax2 when they are quantised themselves */

/* (rows, cols) row-major. Owns nothing: whoever filled it in keeps the buffers alive. */
struct matrix {
	enum dtype dtype;
	bool round_fp16; /* NF4: dequantised values are rounded to fp16, as bitsandbytes does for fp16 models
			  */
	int rows, cols;
	const void *data;    /* elements, aligned to their size; NF4: two per byte, the first one in the high
				nibble */
	const float *absmax; /* NF4: one per block of 64; NULL when double-quantised */
	/* NF4, double-quantised: absmax[b] = dynamic_map[codes[b]] * absmax2[b / 256] + offset */
	const uint8_t *absmax_codes;
	const float *absmax2;
	float absmax_offset;
};

/* Bytes of data for (rows, cols): NF4 (rows * cols + 1) / 2. */
size_t matrix_data_size(enum dtype dtype, int rows, int cols);
/* Blocks of 64: (n + 63) / 64. */
size_t nf4_blocks(size_t n);
/* A matrix over fp32 data. */
struct matrix matrix_f32(const float *data, int rows, int cols);
/* out (count, cols) fp32 = rows first … first + count - 1, exactly the values that products see. */
void matrix_rows(const struct matrix *m, int first, int count, float *out);

/* Single values; to 16 bits with round-to-nearest-even, overflow to infinity, NaN stays NaN. */
uint16_t bf16_from_f32(float x);
float bf16_to_f32(uint16_t x);
uint16_t f16_from_f32(float x);
float f16_to_f32(uint16_t x);
/* n values at once; dtype F32, BF16 or F16. Pointers need no alignment. */
void floats_from(enum dtype dtype, const void *in, size_t n, float *out);
void floats_to(enum dtype dtype, const float *in, size_t n, void *out);

/* The 16 values of NF4 (Dettmers et al. 2023, arXiv:2305.14314), and the 256 of bitsandbytes' signed dynamic map in ascending
 * order. */
#define NF4_CODEBOOK                                                                                         \
	-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,     \
		-0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f,                    \
		0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f,      \
		0.5626170039176941f, 0.7229568362236023f, 1.0f
extern const float nf4_codebook[16];
const float *dynamic_map(void);

/* Quantises n values as bitsandbytes 0.45.5 does: absmax of each block of 64, index of x * (1 / absmax) by
 * strict > against 15 thresholds, high nibble first. through_fp16 rounds the values to fp16 first. A block of
 * zeros gets absmax 0 and nibbles 0. packed ((n + 1) / 2 bytes), absmax (nf4_blocks(n)). Not for NaN or
 * infinity. */
void nf4_quantize(const float *x, size_t n, bool through_fp16, uint8_t *packed, float *absmax);
/* Quantises the absmax values themselves: offset = their mean, the rest to 8 bits by the dynamic map in
 * blocks of 256. codes (blocks), absmax2 ((blocks + 255) / 256). */
void nf4_quantize_absmax(const float *absmax, size_t blocks, uint8_t *codes, float *absmax2, float *offset);
/* out[i] = value of element first + i of m (NF4), i < count; any alignment to bytes and blocks. */
void nf4_dequantize(const struct matrix *m, size_t first, size_t count, float *out);

#ifdef __cplusplus
}
#endif
#endif
