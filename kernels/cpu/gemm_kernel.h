/* The product kernels for one instruction set; gemm.c includes this once for each with
 *   NAME(x)  the function's name for this set      TARGET  its attribute
 *   VL       floats in a vector                    MR, NV  rows and vectors of a register tile
 * defined. A tile of MR x (NV * VL) sums stays in registers; each step of k takes MR broadcasts of a and NV
 * loads of b for MR * NV fused multiply-adds. */
#define NR (NV * VL)
typedef float NAME(vec) __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef float NAME(quad) __attribute__((vector_size(16), aligned(4), may_alias));

/* a packed (k, MR), b packed (k, NR); writes rows x cols of c. rows is constant where this is called. */
TARGET INLINE void NAME(tile)(const int rows, int k, const float *a, const float *b, float *c, ptrdiff_t ldc,
			      int cols, bool add)
{
	NAME(vec) sum[MR][NV];

#pragma GCC unroll 16
	for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
		for (int v = 0; v < NV; v++)
			sum[i][v] = (NAME(vec)){0};
	for (int p = 0; p < k; p++, a += MR, b += NR) {
		NAME(vec) bv[NV];

#pragma GCC unroll 4
		for (int v = 0; v < NV; v++)
			bv[v] = *(const NAME(vec) *)(b + v * VL);
#pragma GCC unroll 16
		for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
			for (int v = 0; v < NV; v++)
				sum[i][v] += a[i] * bv[v];
	}
	if (cols == NR) {
#pragma GCC unroll 16
		for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
			for (int v = 0; v < NV; v++) {
				NAME(vec) *to = (NAME(vec) *)(c + i * ldc + v * VL);

				if (add)
					sum[i][v] += *to;
				*to = sum[i][v];
			}
		return;
	}
	float edge[MR][NR];

#pragma GCC unroll 16
	for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
		for (int v = 0; v < NV; v++)
			*(NAME(vec) *)(edge[i] + v * VL) = sum[i][v];
	for (int i = 0; i < rows; i++)
		for (int j = 0; j < cols; j++)
			c[i * ldc + j] = add ? c[i * ldc + j] + edge[i][j] : edge[i][j];
}

TARGET static void NAME(rows)(int rows, int k, const float *a, const float *b, float *c, ptrdiff_t ldc,
			      int cols, bool add)
{
#define ROWS(r)                                                                                              \
	case r: NAME(tile)(r, k, a, b, c, ldc, cols, add); break;
	switch (rows) {
		ROWS(1)
		ROWS(2)
		ROWS(3)
		ROWS(4)
#if MR > 4
		ROWS(5)
		ROWS(6)
#endif
#if MR > 6
		ROWS(7)
		ROWS(8)
#endif
#if MR > 8
		ROWS(9)
		ROWS(10)
		ROWS(11)
		ROWS(12)
#endif
	}
#undef ROWS
}

/* Panels of width columns: to (panel, k, width) = alpha * from, zeros beyond n. Element (p, j) is
 * from[p * row + j * col]. */
TARGET INLINE void NAME(pack)(const int width, int k, int n, const float *from, ptrdiff_t row, ptrdiff_t col,
			      float alpha, float *to)
{
	for (int j0 = 0; j0 < n; j0 += width, to += (ptrdiff_t)width * k) {
		int w = n - j0 < width ? n - j0 : width;
		const float *src = from + j0 * col;

		if (w < width)
			memset(to, 0, sizeof *to * (size_t)width * (size_t)k);
		if (col == 1 && w == width) {
			for (int p = 0; p < k; p++)
				for (int j = 0; j < width; j++)
					to[(ptrdiff_t)p * width + j] = alpha * src[p * row + j];
		} else if (col == 1) {
			for (int p = 0; p < k; p++)
				for (int j = 0; j < w; j++)
					to[(ptrdiff_t)p * width + j] = alpha * src[p * row + j];
		} else {
			int j = 0;

			/* Four columns at a time, so that a line of the panel is written in few visits. */
			for (; j + 4 <= w; j += 4) {
				const float *s0 = src + j * col, *s1 = s0 + col, *s2 = s1 + col,
					    *s3 = s2 + col;
				float *d = to + j;

				for (int p = 0; p < k; p++, d += width) {
					d[0] = alpha * s0[p];
					d[1] = alpha * s1[p];
					d[2] = alpha * s2[p];
					d[3] = alpha * s3[p];
				}
			}
			for (; j < w; j++)
				for (int p = 0; p < k; p++)
					to[(ptrdiff_t)p * width + j] = alpha * src[j * col + p];
		}
	}
}

TARGET static void NAME(gemm)(const struct gemm *g)
{
	float *pack_a = scratch(SCRATCH_PACK_A, sizeof *pack_a * (MC + MR) * KC);
	float *pack_b = scratch(SCRATCH_PACK_B, sizeof *pack_b * (NC + NR) * KC);

	for (int n0 = 0; n0 < g->n; n0 += NC) {
		int n = g->n - n0 < NC ? g->n - n0 : NC;

		for (int k0 = 0; k0 < g->k; k0 += KC) {
			int k = g->k - k0 < KC ? g->k - k0 : KC;
			bool add = g->add || k0 > 0;

			NAME(pack)
			(NR, k, n, g->b + k0 * g->b_row + n0 * g->b_col, g->b_row, g->b_col, g->alpha,
			 pack_b);
			for (int m0 = 0; m0 < g->m; m0 += MC) {
				int m = g->m - m0 < MC ? g->m - m0 : MC;

				NAME(pack)
				(MR, k, m, g->a + m0 * g->a_row + k0 * g->a_col, g->a_col, g->a_row, 1.0f,
				 pack_a);
				for (int j = 0; j < n; j += NR)
					for (int i = 0; i < m; i += MR)
						NAME(rows)
				(m - i < MR ? m - i : MR, k, pack_a + (ptrdiff_t)i * k,
				 pack_b + (ptrdiff_t)j * k, g->c + (m0 + i) * g->ldc + n0 + j, g->ldc,
				 n - j < NR ? n - j : NR, add);
			}
		}
	}
}

/* ma x nb dot products at once; both constant where this is called. */
TARGET INLINE void NAME(dots)(const int ma, const int nb, int k, const float *a, ptrdiff_t lda,
			      const float *b, ptrdiff_t ldb, float *c, ptrdiff_t ldc, bool add)
{
	NAME(vec) sum[4][4];
	int p = 0;

#pragma GCC unroll 4
	for (int i = 0; i < ma; i++)
#pragma GCC unroll 4
		for (int j = 0; j < nb; j++)
			sum[i][j] = (NAME(vec)){0};
	for (; p + VL <= k; p += VL) {
		NAME(vec) av[4];

#pragma GCC unroll 4
		for (int i = 0; i < ma; i++)
			av[i] = *(const NAME(vec) *)(a + i * lda + p);
#pragma GCC unroll 4
		for (int j = 0; j < nb; j++) {
			NAME(vec) bv = *(const NAME(vec) *)(b + j * ldb + p);

#pragma GCC unroll 4
			for (int i = 0; i < ma; i++)
				sum[i][j] += av[i] * bv;
		}
	}
#pragma GCC unroll 4
	for (int i = 0; i < ma; i++)
#pragma GCC unroll 4
		for (int j = 0; j < nb; j++) {
			float lane[VL], total;
			NAME(quad) four = {0};

			*(NAME(vec) *)lane = sum[i][j];
#pragma GCC unroll 4
			for (int l = 0; l < VL; l += 4)
				four += *(const NAME(quad) *)(lane + l);
			total = (four[0] + four[2]) + (four[1] + four[3]);
			for (int q = p; q < k; q++)
				total += a[i * lda + q] * b[j * ldb + q];
			c[i * ldc + j] = add ? c[i * ldc + j] + total : total;
		}
}

TARGET static void NAME(gemm_dot)(int m, int n, int k, const float *a, ptrdiff_t lda, const float *b,
				  ptrdiff_t ldb, float *c, ptrdiff_t ldc, bool add)
{
	int i = 0;

	for (; i + 4 <= m; i += 4, a += 4 * lda, c += 4 * ldc) {
		int j = 0;

		for (; j + 4 <= n; j += 4)
			NAME(dots)(4, 4, k, a, lda, b + j * ldb, ldb, c + j, ldc, add);
		for (; j < n; j++)
			NAME(dots)(4, 1, k, a, lda, b + j * ldb, ldb, c + j, ldc, add);
	}
	for (; i < m; i++, a += lda, c += ldc) {
		int j = 0;

		for (; j + 4 <= n; j += 4)
			NAME(dots)(1, 4, k, a, lda, b + j * ldb, ldb, c + j, ldc, add);
		for (; j < n; j++)
			NAME(dots)(1, 1, k, a, lda, b + j * ldb, ldb, c + j, ldc, add);
	}
}

#undef NR
