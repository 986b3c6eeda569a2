/* cuBLASLt: layouts and requests checked, products done in fp32 by a plain loop. Like the real one it has no algorithm for
 * 16-bit matrices whose rows are not aligned to 4 bytes, so that what callers do then is exercised. */
#include "internal.h"

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <set>
#include <utility>

#define MAGIC 0x616c676f72697468 /* in an algorithm that the heuristic gave */

struct cublasLtContext {
	int unused;
};

struct lt_product {
	bool ta, tb;
};

struct lt_layout {
	cudaDataType_t type;
	int64_t rows, cols, ld;
};

struct lt_preference {
	uint64_t workspace;
	uint32_t schemes, align_a, align_b, align_c, align_d;
};

/* One product, kept by value: captured ones run after the layouts are gone. */
struct call {
	bool ta, tb;
	struct lt_layout a, b, c;
	const void *a_data, *b_data;
	void *c_data;
	float alpha, beta;
	void *workspace;
	size_t workspace_size;
};

static cublasStatus_t status_of(cudaError_t code)
{
	return code == cudaSuccess                 ? CUBLAS_STATUS_SUCCESS
	       : code == cudaErrorMemoryAllocation ? CUBLAS_STATUS_ALLOC_FAILED
						   : CUBLAS_STATUS_EXECUTION_FAILED;
}

/* Makes and unmakes an object that the counts know. */
template <typename T> static cublasStatus_t make(T **out)
{
	api a;

	if (a.code != cudaSuccess)
		return status_of(a.code);
	*out = (T *)calloc(1, sizeof(T));
	counts().lt_objects++;
	return CUBLAS_STATUS_SUCCESS;
}

template <typename T> static cublasStatus_t unmake(T *object, const char *function)
{
	if (!object)
		stop("%s of NULL", function);
	counts().lt_objects--;
	free(object);
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
	return make(handle);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
	return unmake(handle, __func__);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
					cudaDataType_t scale)
{
	if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F)
		stop("cublasLtMatmulDescCreate: the fake computes in fp32 with fp32 scales");
	return make(desc);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
	return unmake(desc, __func__);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
					      cublasLtMatmulDescAttributes_t attribute, const void *value,
					      size_t size)
{
	if (size != sizeof(cublasOperation_t))
		return CUBLAS_STATUS_INVALID_VALUE;
	bool transposed = *(const cublasOperation_t *)value == CUBLAS_OP_T;

	(attribute == CUBLASLT_MATMUL_DESC_TRANSA ? desc->ta : desc->tb) = transposed;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
					  uint64_t cols, int64_t ld)
{
	cublasStatus_t status = make(layout);

	if (status == CUBLAS_STATUS_SUCCESS)
		**layout = {type, (int64_t)rows, (int64_t)cols, ld};
	return status;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
	return unmake(layout, __func__);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
	cublasStatus_t status = make(preference);

	if (status == CUBLAS_STATUS_SUCCESS)
		**preference = {0, CUBLASLT_REDUCTION_SCHEME_MASK, 256, 256, 256, 256};
	return status;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
	return unmake(preference, __func__);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
						    cublasLtMatmulPreferenceAttributes_t attribute,
						    const void *value, size_t size)
{
	uint32_t *to = attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK   ? &p->schemes
		       : attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES ? &p->align_a
		       : attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES ? &p->align_b
		       : attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES ? &p->align_c
		       : attribute == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES ? &p->align_d
										 : NULL;

	if (size != (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? 8 : 4))
		return CUBLAS_STATUS_INVALID_VALUE;
	if (to)
		memcpy(to, value, 4);
	else
		memcpy(&p->workspace, value, 8);
	return CUBLAS_STATUS_SUCCESS;
}

static size_t size_of(cudaDataType_t type)
{
	return type == CUDA_R_32F ? 4 : 2;
}

static bool known(cudaDataType_t type)
{
	return type == CUDA_R_32F || type == CUDA_R_16F || type == CUDA_R_16BF;
}

/* The layouts belong together; ends the program when not, since a caller who gets this wrong computes something else. */
static void layouts_check(const struct lt_product *p, const struct lt_layout *a, const struct lt_layout *b,
			  const struct lt_layout *c, const struct lt_layout *d)
{
	int64_t m = p->ta ? a->cols : a->rows, k = p->ta ? a->rows : a->cols;
	int64_t k2 = p->tb ? b->cols : b->rows, n = p->tb ? b->rows : b->cols;

	if (m != c->rows || n != c->cols || k != k2)
		stop("cuBLASLt: (%ld, %ld) times (%ld, %ld) is not (%ld, %ld)", (long)m, (long)k, (long)k2,
		     (long)n, (long)c->rows, (long)c->cols);
	if (a->ld < a->rows || b->ld < b->rows || c->ld < c->rows)
		stop("cuBLASLt: a leading dimension is smaller than its matrix is high");
	if (memcmp(c, d, sizeof *c))
		stop("cuBLASLt: the layouts of C and D differ");
	if (!known(a->type) || a->type != b->type || (c->type != a->type && c->type != CUDA_R_32F))
		stop("cuBLASLt: types %d, %d and %d do not go together", a->type, b->type, c->type);
	if (m < 1 || n < 1 || k < 1)
		stop("cuBLASLt: an empty product");
}

/* What an algorithm was made for; without: whatever op(B) and C have of columns. */
static uint64_t signature(const struct lt_product *p, const struct lt_layout *a, const struct lt_layout *b,
			  const struct lt_layout *c, bool without = false)
{
	struct lt_layout all[3] = {*a, *b, *c};

	if (without)
		(p->tb ? all[1].rows : all[1].cols) = all[2].cols = 0;
	uint64_t hash = 14695981039346656037u ^ (p->ta | p->tb << 1);

	for (int i = 0; i < 3; i++)
		for (int64_t v : {(int64_t)all[i].type, all[i].rows, all[i].cols, all[i].ld})
			hash = (hash ^ (uint64_t)v) * 1099511628211u;
	return hash;
}

/* The alignment that rows of a layout have when its first has that of base. */
static uint32_t row_alignment(const struct lt_layout *l, uint32_t base)
{
	uint64_t bits = (uint64_t)l->ld * size_of(l->type) | base;

	return (uint32_t)(bits & -bits);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
					      cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
					      cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
					      cublasLtMatmulPreference_t p, int asked,
					      cublasLtMatmulHeuristicResult_t results[], int *found)
{
	if (!handle || asked < 1)
		return CUBLAS_STATUS_INVALID_VALUE;
	layouts_check(desc, a, b, c, d);
	if (p->schemes & CUBLASLT_REDUCTION_SCHEME_INPLACE)
		stop("cuBLASLt: sums that are reduced in place have no order");
	*found = 0;
	if (row_alignment(a, p->align_a) < 4 || row_alignment(b, p->align_b) < 4 ||
	    row_alignment(c, p->align_c) < 4)
		return CUBLAS_STATUS_NOT_SUPPORTED;
	*found = 1;
	results[0] = {};
	results[0].algo.data[0] = MAGIC;
	results[0].algo.data[1] = signature(desc, a, b, c);
	results[0].algo.data[2] = p->align_a;
	results[0].algo.data[3] = p->align_b;
	results[0].algo.data[4] = p->align_c;
	results[0].algo.data[6] = signature(desc, a, b, c, true);
	results[0].workspaceSize = p->workspace < 4096 ? p->workspace : 4096;
	results[0].algo.data[5] = results[0].workspaceSize;
	return CUBLAS_STATUS_SUCCESS;
}

/* Which algorithm, by what it was made for, may be used for what else. */
static std::set<std::pair<uint64_t, uint64_t>> checked;

/* An algorithm does for other numbers of columns too, but not for all of them: as with the real one, callers have to ask. */
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
				       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
				       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
				       const cublasLtMatmulAlgo_t *algo,
				       cublasLtMatmulHeuristicResult_t *result)
{
	api lock;

	if (lock.code != cudaSuccess)
		return status_of(lock.code);
	layouts_check(desc, a, b, c, d);
	if (!handle || algo->data[0] != MAGIC || algo->data[6] != signature(desc, a, b, c, true))
		return CUBLAS_STATUS_INVALID_VALUE;
	if (c->cols % 8 == 5)
		return CUBLAS_STATUS_NOT_SUPPORTED;
	checked.insert({algo->data[1], signature(desc, a, b, c)});
	*result = {};
	result->algo = *algo;
	result->workspaceSize = algo->data[5];
	return CUBLAS_STATUS_SUCCESS;
}

static float value_at(const void *data, cudaDataType_t type, int64_t i)
{
	if (type == CUDA_R_32F)
		return ((const float *)data)[i];
	return type == CUDA_R_16F ? __half2float(((const __half *)data)[i])
				  : __bfloat162float(((const __nv_bfloat16 *)data)[i]);
}

/* Matrices as floats, the depth innermost: rows of op(A) (m, k), columns of op(B) (n, k). */
static float *unpack(const struct lt_layout *l, const void *data, bool depth_first, int64_t outer,
		     int64_t depth)
{
	float *out = (float *)malloc(sizeof *out * (size_t)outer * (size_t)depth);

	for (int64_t o = 0; o < outer; o++)
		for (int64_t k = 0; k < depth; k++)
			out[o * depth + k] = value_at(data, l->type,
						      depth_first ? k + o * l->ld : o + k * l->ld);
	return out;
}

static float dot(const float *x, const float *y, int64_t n)
{
	float lane[16] = {0}, sum = 0;
	int64_t i = 0;

	for (; i + 16 <= n; i += 16)
		for (int j = 0; j < 16; j++)
			lane[j] += x[i + j] * y[i + j];
	for (int j = 0; i < n; i++, j++)
		lane[j] += x[i] * y[i];
	for (int j = 0; j < 16; j++)
		sum += lane[j];
	return sum;
}

static void call_run(const void *data)
{
	const struct call *p = (const struct call *)data;
	int64_t m = p->c.rows, n = p->c.cols, k = p->ta ? p->a.rows : p->a.cols;

	memset(p->workspace, POISON, p->workspace_size); /* what the algorithm may use */
	float *a = unpack(&p->a, p->a_data, p->ta, m, k), *b = unpack(&p->b, p->b_data, !p->tb, n, k);

	for (int64_t j = 0; j < n; j++)
		for (int64_t i = 0; i < m; i++) {
			float sum = p->alpha * dot(a + i * k, b + j * k, k);
			int64_t at = i + j * p->c.ld;

			if (p->beta != 0)
				sum += p->beta * value_at(p->c_data, p->c.type, at);
			if (p->c.type == CUDA_R_32F)
				((float *)p->c_data)[at] = sum;
			else if (p->c.type == CUDA_R_16F)
				((__half *)p->c_data)[at] = __float2half_rn(sum);
			else
				((__nv_bfloat16 *)p->c_data)[at] = __float2bfloat16_rn(sum);
		}
	free(a);
	free(b);
	counts().products++;
}

static void operand_check(const char *name, const struct lt_layout *l, const void *data, uint64_t alignment)
{
	size_t size = ((size_t)(l->cols - 1) * (size_t)l->ld + (size_t)l->rows) * size_of(l->type);

	if (!memory_is_device(data, size))
		stop("cublasLtMatmul: %s, %zu bytes at %p, is not in one allocation of the device", name,
		     size, data);
	if ((uintptr_t)data % alignment)
		stop("cublasLtMatmul: %s at %p is less aligned than the algorithm was chosen for (%lu)", name,
		     data, (unsigned long)alignment);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
			      const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
			      cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
			      cublasLtMatrixLayout_t c_layout, void *d, cublasLtMatrixLayout_t d_layout,
			      const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_size,
			      cudaStream_t stream)
{
	struct call call = {desc->ta,
			    desc->tb,
			    *a_layout,
			    *b_layout,
			    *c_layout,
			    a,
			    b,
			    d,
			    *(const float *)alpha,
			    *(const float *)beta,
			    workspace,
			    algo->data[5]};

	if (!handle)
		return CUBLAS_STATUS_NOT_INITIALIZED;
	api check;

	if (check.code != cudaSuccess)
		return status_of(check.code);
	layouts_check(desc, a_layout, b_layout, c_layout, d_layout);
	if (c != d)
		stop("cublasLtMatmul: the fake writes where it reads C");
	uint64_t wanted = signature(desc, a_layout, b_layout, c_layout);

	if (algo->data[0] != MAGIC || (algo->data[1] != wanted && !checked.count({algo->data[1], wanted})))
		stop("cublasLtMatmul: the algorithm was chosen for another product");
	operand_check("A", a_layout, a, algo->data[2]);
	operand_check("B", b_layout, b, algo->data[3]);
	operand_check("C", c_layout, d, algo->data[4]);
	if (workspace_size < algo->data[5] ||
	    (workspace_size && !memory_is_device(workspace, workspace_size)))
		stop("cublasLtMatmul: the workspace of %zu bytes at %p is too small or not the device's",
		     workspace_size, workspace);
	return status_of(stream_do(stream, "cublasLtMatmul", call_run, &call, sizeof call));
}
