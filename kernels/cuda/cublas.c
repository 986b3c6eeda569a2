/* cuBLASLt picks an algorithm for a product by heuristics that take some 50 us, so what it picked is remembered by shapes,
 * types and alignment. Always the first suggestion, without reductions whose order or precision the products' contract
 * does not allow: split sums go through the workspace in fp32 or not at all.
 *
 * Each algorithm is a kernel of its own, which takes milliseconds to load when it is first used; training would meet a new
 * one at every new number of tokens, and spend as long on loading as on a hundred steps. So one is picked for all numbers of
 * tokens of a quarter of an octave, by the largest; half an octave was measured to cost a tenth of a step. */
#include "kernels/cuda/cublas.h"

#include <cublasLt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/dynlib.h"
#include "base/mem.h"

#define LT_FUNCTIONS(F)                                                                                      \
	F(cublasLtCreate)                                                                                    \
	F(cublasLtDestroy)                                                                                   \
	F(cublasLtMatmulDescCreate)                                                                          \
	F(cublasLtMatmulDescDestroy)                                                                         \
	F(cublasLtMatmulDescSetAttribute)                                                                    \
	F(cublasLtMatrixLayoutCreate)                                                                        \
	F(cublasLtMatrixLayoutDestroy)                                                                       \
	F(cublasLtMatmulPreferenceCreate)                                                                    \
	F(cublasLtMatmulPreferenceDestroy)                                                                   \
	F(cublasLtMatmulPreferenceSetAttribute)                                                              \
	F(cublasLtMatmulAlgoGetHeuristic)                                                                    \
	F(cublasLtMatmulAlgoCheck)                                                                           \
	F(cublasLtMatmul)

#ifdef ANNEAL_CUBLASLT_LINKED
#define DECLARE(name) static __typeof__(name) *const p_##name = name;
LT_FUNCTIONS(DECLARE)

static int lt_load(struct device *d)
{
	(void)d;
	return 0;
}
#else
#define DECLARE(name) static __typeof__(name) *p_##name;
LT_FUNCTIONS(DECLARE)

#define SYMBOL(name) {#name, (void **)&p_##name},
static const struct dynlib_symbol symbols[] = {LT_FUNCTIONS(SYMBOL){NULL, NULL}};

/* The version that this was compiled with, or the one beside it: what is called here is the same in both. */
#if CUDART_VERSION >= 13000
#define LT_SONAME       "libcublasLt.so.13"
#define LT_SONAME_OTHER "libcublasLt.so.12"
#define LT_PACKAGE      "libcublas-13-0"
#else
#define LT_SONAME       "libcublasLt.so.12"
#define LT_SONAME_OTHER "libcublasLt.so.13"
#define LT_PACKAGE      "libcublas-12-8"
#endif

static int lt_load(struct device *d)
{
	if (!dynlib_load(LT_SONAME, LT_PACKAGE, symbols, NULL) ||
	    !dynlib_load(LT_SONAME_OTHER, LT_PACKAGE, symbols, NULL))
		return 0;
	cuda_note(d, cudaErrorSharedObjectInitFailed, "loading " LT_SONAME " (package " LT_PACKAGE ")");
	return -1;
}
#endif

#define ALGORITHM_SETS 128
#define ALGORITHM_WAYS 8

struct key {
	int m, n, k, lda, ldb, ldc;
	int type, out, add, ta, tb;
	int align_a, align_b, align_c; /* bytes, at most 16 */
};

struct algorithm {
	struct key key;
	bool used;
	bool usable; /* cuBLASLt has one */
	cublasLtMatmulDesc_t product;
	cublasLtMatrixLayout_t a, b, c;
	cublasLtMatmulAlgo_t algo;
};

static void note(struct device *d, cublasStatus_t status, const char *function)
{
	char what[96];

	snprintf(what, sizeof what, "%s (cuBLAS status %d)", function, (int)status);
	cuda_note(d, cudaErrorUnknown, what);
}

static int check(struct device *d, cublasStatus_t status, const char *function)
{
	if (status == CUBLAS_STATUS_SUCCESS)
		return 0;
	note(d, status, function);
	return -1;
}

/* Calls p_name(…): 0, or -1 with the failure noted. */
#define LT(d, name, ...) check(d, p_##name(__VA_ARGS__), #name)

static int open_handle(struct device *d)
{
	struct cuda_device *cuda = cuda_device(d);
	struct cublas *c = cuda->cublas;
	cublasLtHandle_t handle = NULL;

	cuda_use(d);
	if (c->handle)
		return 0;
	if (lt_load(d))
		return -1;
	if (!c->workspace) {
		size_t size = (size_t)(cuda->major >= 9 ? 32 : 4) << 20;
		cudaError_t code = cudaMalloc(&c->workspace, size);

		cuda_note(d, code, "cuBLASLt's workspace");
		if (code != cudaSuccess) {
			c->workspace = NULL;
			return -1;
		}
		c->workspace_size = size;
	}
	if (LT(d, cublasLtCreate, &handle))
		return -1;
	c->handle = handle;
	return 0;
}

static cudaDataType_t lt_type(enum dtype t)
{
	return t == DTYPE_F32 ? CUDA_R_32F : t == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

static void algorithm_free(struct algorithm *a)
{
	if (a->product)
		p_cublasLtMatmulDescDestroy(a->product);
	if (a->a)
		p_cublasLtMatrixLayoutDestroy(a->a);
	if (a->b)
		p_cublasLtMatrixLayoutDestroy(a->b);
	if (a->c)
		p_cublasLtMatrixLayoutDestroy(a->c);
	memset(a, 0, sizeof *a);
}

/* The smallest of 5, 6, 7 and 8 times a power of two that n is not above; at least 16. */
static int quarter_octave(int n)
{
	int step = 2;

	while (step * 8 < n && step <= INT_MAX / 16)
		step *= 2;
	return n <= 16 ? 16 : (n + step - 1) / step * step;
}

static int layouts_make(struct device *d, const struct product *p, struct algorithm *a)
{
	cublasOperation_t transposed = CUBLAS_OP_T;
	cudaDataType_t type = lt_type(p->type);

	if (LT(d, cublasLtMatmulDescCreate, &a->product, CUBLAS_COMPUTE_32F, CUDA_R_32F))
		return -1;
	if (p->ta && LT(d, cublasLtMatmulDescSetAttribute, a->product, CUBLASLT_MATMUL_DESC_TRANSA,
			&transposed, sizeof transposed))
		return -1;
	if (p->tb && LT(d, cublasLtMatmulDescSetAttribute, a->product, CUBLASLT_MATMUL_DESC_TRANSB,
			&transposed, sizeof transposed))
		return -1;
	return LT(d, cublasLtMatrixLayoutCreate, &a->a, type, (uint64_t)(p->ta ? p->k : p->m),
		  (uint64_t)(p->ta ? p->m : p->k), p->lda) ||
			       LT(d, cublasLtMatrixLayoutCreate, &a->b, type, (uint64_t)(p->tb ? p->n : p->k),
				  (uint64_t)(p->tb ? p->k : p->n), p->ldb) ||
			       LT(d, cublasLtMatrixLayoutCreate, &a->c, lt_type(p->out), (uint64_t)p->m,
				  (uint64_t)p->n, p->ldc)
		       ? -1
		       : 0;
}

static int preference_set(struct device *d, cublasLtMatmulPreference_t preference, const struct cublas *c,
			  const struct key *key)
{
	uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* beside none, which is always allowed */
	uint32_t a = (uint32_t)key->align_a, b = (uint32_t)key->align_b, out = (uint32_t)key->align_c;
	const struct {
		cublasLtMatmulPreferenceAttributes_t name;
		const void *value;
		size_t size;
	} attributes[] = {
		{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &c->workspace_size, sizeof c->workspace_size},
		{CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &a, sizeof a},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &b, sizeof b},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &out, sizeof out},
		{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &out, sizeof out},
	};

	for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++)
		if (LT(d, cublasLtMatmulPreferenceSetAttribute, preference, attributes[i].name,
		       attributes[i].value, attributes[i].size))
			return -1;
	return 0;
}

/* The first suggestion for a product with these layouts: 0 (*usable says whether there is one), or -1 with the failure noted. */
static int heuristic(struct device *d, const struct algorithm *a, cublasLtMatmulPreference_t preference,
		     cublasLtMatmulAlgo_t *algo, bool *usable)
{
	struct cublas *c = cuda_device(d)->cublas;
	cublasLtMatmulHeuristicResult_t result = {0};
	int found = 0;
	cublasStatus_t status = p_cublasLtMatmulAlgoGetHeuristic(c->handle, a->product, a->a, a->b, a->c,
								 a->c, preference, 1, &result, &found);

	if (status != CUBLAS_STATUS_SUCCESS && status != CUBLAS_STATUS_NOT_SUPPORTED &&
	    status != CUBLAS_STATUS_INVALID_VALUE) {
		note(d, status, "cublasLtMatmulAlgoGetHeuristic");
		return -1;
	}
	*usable = status == CUBLAS_STATUS_SUCCESS && found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
	*algo = result.algo;
	return 0;
}

/* The suggestion for the same product with more tokens, if it does for this one as well. */
static int heuristic_of_more(struct device *d, const struct product *p, int tokens, const struct algorithm *a,
			     cublasLtMatmulPreference_t preference, cublasLtMatmulAlgo_t *algo, bool *usable)
{
	struct cublas *c = cuda_device(d)->cublas;
	struct product more = *p;
	struct algorithm other = {0};
	cublasLtMatmulHeuristicResult_t result = {0};

	more.n = tokens;
	int r = layouts_make(d, &more, &other) || heuristic(d, &other, preference, algo, usable) ? -1 : 0;

	if (r == 0 && *usable)
		*usable = p_cublasLtMatmulAlgoCheck(c->handle, a->product, a->a, a->b, a->c, a->c, algo,
						    &result) == CUBLAS_STATUS_SUCCESS &&
			  result.workspaceSize <= c->workspace_size;
	algorithm_free(&other);
	return r;
}

/* Asks for an algorithm. One that does not exist is remembered too. */
static int algorithm_choose(struct device *d, const struct product *p, const struct key *key,
			    struct algorithm *a)
{
	struct cublas *c = cuda_device(d)->cublas;
	cublasLtMatmulPreference_t preference = NULL;
	int tokens = p->tb ? p->n : quarter_octave(p->n), r = -1; /* transposed, n is not the tokens */

	if (layouts_make(d, p, a) || LT(d, cublasLtMatmulPreferenceCreate, &preference) ||
	    preference_set(d, preference, c, key))
		goto out;
	if (tokens > p->n && heuristic_of_more(d, p, tokens, a, preference, &a->algo, &a->usable))
		goto out;
	if (!a->usable && heuristic(d, a, preference, &a->algo, &a->usable))
		goto out;
	a->key = *key;
	a->used = true;
	r = 0;
out:
	if (preference)
		p_cublasLtMatmulPreferenceDestroy(preference);
	if (r)
		algorithm_free(a);
	return r;
}

/* Of a pointer, in bytes, as far as it matters. */
static int alignment(const void *p)
{
	uintptr_t at = (uintptr_t)p | 16;

	return (int)(at & -at);
}

static unsigned key_hash(const struct key *key)
{
	const unsigned char *bytes = (const unsigned char *)key;
	uint32_t hash = 2166136261u; /* FNV-1a */

	for (size_t i = 0; i < sizeof *key; i++)
		hash = (hash ^ bytes[i]) * 16777619u;
	return hash ^ hash >> 16;
}

/* NULL with the failure noted. */
static struct algorithm *algorithm_find(struct device *d, const struct product *p)
{
	struct cublas *c = cuda_device(d)->cublas;
	struct key key = {
		p->m,        p->n,   p->k,  p->lda, p->ldb,          p->ldc,          (int)p->type,
		(int)p->out, p->add, p->ta, p->tb,  alignment(p->a), alignment(p->b), alignment(p->c)};

	if (!c->algorithms)
		c->algorithms = xcalloc(ALGORITHM_SETS * ALGORITHM_WAYS, sizeof *c->algorithms);
	struct algorithm *set = c->algorithms + key_hash(&key) % ALGORITHM_SETS * ALGORITHM_WAYS;
	struct algorithm *a = NULL;

	for (int i = 0; i < ALGORITHM_WAYS; i++) {
		if (set[i].used && !memcmp(&set[i].key, &key, sizeof key))
			return &set[i];
		if (!set[i].used && !a)
			a = &set[i];
	}
	if (!a) {
		a = &set[c->turn++ % ALGORITHM_WAYS];
		algorithm_free(a);
	}
	return algorithm_choose(d, p, &key, a) ? NULL : a;
}

bool cublas_product(struct device *d, const struct product *p)
{
	struct cuda_device *cuda = cuda_device(d);
	struct cublas *c = cuda->cublas;
	const float one = 1.0f, beta = p->add ? 1.0f : 0.0f;

	/* Some of its algorithms round the product to 16 bits before they add it to 16 bits: seen on an H200. No pass of the model
	 * asks for that. */
	if (p->add && p->out != DTYPE_F32)
		return false;
	if (open_handle(d))
		return true;
	struct algorithm *a = algorithm_find(d, p);

	if (!a)
		return true;
	if (!a->usable)
		return false;
	LT(d, cublasLtMatmul, c->handle, a->product, &one, p->a, a->a, p->b, a->b, &beta, p->c, a->c, p->c,
	   a->c, &a->algo, c->workspace, c->workspace_size, cuda->stream);
	cuda->behind_next = false;
	return true;
}

void cublas_close(struct cublas *c)
{
	if (c->algorithms)
		for (int i = 0; i < ALGORITHM_SETS * ALGORITHM_WAYS; i++)
			algorithm_free(&c->algorithms[i]);
	free(c->algorithms);
	if (c->handle)
		p_cublasLtDestroy(c->handle);
	cudaFree(c->workspace);
}
