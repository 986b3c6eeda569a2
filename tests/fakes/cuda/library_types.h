/* The element types that cuBLASLt's interface names; part of the fake, see cuda_fake.h. */
#ifndef TESTS_FAKES_CUDA_LIBRARY_TYPES_H
#define TESTS_FAKES_CUDA_LIBRARY_TYPES_H

typedef enum cudaDataType_t {
	CUDA_R_32F = 0,
	CUDA_R_64F = 1,
	CUDA_R_16F = 2,
	CUDA_R_8I = 3,
	CUDA_R_32I = 10,
	CUDA_R_16BF = 14,
} cudaDataType;

#ifdef __cplusplus
typedef enum cudaDataType_t cudaDataType_t;
#else
typedef cudaDataType cudaDataType_t;
#endif

#endif
