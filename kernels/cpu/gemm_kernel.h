/* The product kernels for one instruction set; gemm.c includes this once for each with
 *   NAME(x)  the function's name for this set      TARGET  its attribute
 *   VL       floats in a vector                    MR, NV  rows and vectors of a register tile
 * defined. A tile of MR x (NV * VL) sums stays in registers; each step of k takes MR broadcasts of a and NV
 * loads of b for MR * NV fused multiply-adds. */
#define NR (NV * VL)
typedef float NAME(vec) __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef float NAME(quad) __attribute__((vector_size(16), aligned(4), may_alias));

/* Writes rows x cols of c, cols <= nv * VL. b is packed (k, NR); a is packed: steps of k lda apart; or direct:
 * rows lda apart. rows, nv
 * and direct are constant where this is called. */
TARGET INLINE void NAME(tile)(const int rows, const int nv, const bool direct, int k, const float *a,
			      ptrdiff_t lda, const float *b, float *c, ptrdiff_t ldc, int cols, bool add)
{
	NAME(vec) sum[MR][NV];

#pragma GCC unroll 16
	for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
		for (int v = 0; v < nv; v++)
			sum[i][v] = (NAME(vec)){0};
	for (int p = 0; p < k; p++, b += NR) {
		NAME(vec) bv[NV];

#pragma GCC unroll 4
		for (int v = 0; v < nv; v++)
			bv[v] = *(const NAME(vec) *)(b + v * VL);
#pragma GCC unroll 16
		for (int i = 0; i < rows; i++) {
			float ai = direct ? a[i * lda + p] : a[p * lda + i];

#pragma GCC unroll 4
			for (int v = 0; v < nv; v++)
				sum[i][v] += ai * bv[v];
		}
	}
	if (cols == nv * VL) {
#pragma GCC unroll 16
		for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
			for (int v = 0; v < nv; v++) {
				NAME(vec) *to = (NAME(vec) *)(c + i * ldc + v * VL);

				if (add)
					sum[i][v] += *to;
				*to = sum[i][v];
			}
		return;
	}
	/* A narrow tile: whole vectors, then fours, then ones. */
	float edge[NR];

#pragma GCC unroll 16
	for (int i = 0; i < rows; i++) {
		float *to = c + i * ldc;
		int j = 0;

#pragma GCC unroll 4
		for (int v = 0; v < nv; v++)
			*(NAME(vec) *)(edge + v * VL) = sum[i][v];
		for (; j + 4 <= cols; j += 4) {
			NAME(quad) four = *(const NAME(quad) *)(edge + j);

			if (add)
				four += *(const NAME(quad) *)(to + j);
			*(NAME(quad) *)(to + j) = four;
		}
		for (; j < cols; j++)
			to[j] = add ? to[j] + edge[j] : edge[j];
	}
}

/* The same with rows and nv found at run time. */
TARGET INLINE void NAME(tile_of)(int rows, const bool direct, int k, const float *a, ptrdiff_t lda,
				 const float *b, float *c, ptrdiff_t ldc, int cols, bool add)
{
#define ROWS(r)                                                                                              \
	case r:                                                                                              \
		if (cols > (NV - 1) * VL)                                                                    \
			NAME(tile)(r, NV, direct, k, a, lda, b, c, ldc, cols, add);                          \
		else                                                                                         \
			NAME(tile)(r, NV - 1, direct, k, a, lda, b, c, ldc, cols, add);                      \
		break;
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

TARGET static void NAME(packed_tile)(int rows, int k, const float *a, ptrdiff_t lda, const float *b, float *c,
				     ptrdiff_t ldc, int cols, bool add)
{
	NAME(tile_of)(rows, false, k, a, lda, b, c, ldc, cols, add);
}

TARGET static void NAME(direct_tile)(int rows, int k, const float *a, ptrdiff_t lda, const float *b, float *c,
				     ptrdiff_t ldc, int cols, bool add)
{
	NAME(tile_of)(rows, true, k, a, lda, b, c, ldc, cols, add);
}

/* Columns [j, w) of a panel from four rows of the source at a time: fours of k are transposed in registers. */
TARGET INLINE void NAME(pack_turned)(const int width, int k, int w, const float *from, ptrdiff_t col,
				     float alpha, float *to)
{
	int j = 0;

	for (; j + 4 <= w; j += 4) {
		const float *s0 = from + j * col, *s1 = s0 + col, *s2 = s1 + col, *s3 = s2 + col;
		float *d = to + j;
		int p = 0;

#if HAVE_SHUFFLE
		for (; p + 4 <= k; p += 4, d += 4 * width) {
			NAME(quad) r0 = *(const NAME(quad) *)(s0 + p), r1 = *(const NAME(quad) *)(s1 + p);
			NAME(quad) r2 = *(const NAME(quad) *)(s2 + p), r3 = *(const NAME(quad) *)(s3 + p);
			NAME(quad) a = __builtin_shufflevector(r0, r1, 0, 4, 1, 5);
			NAME(quad) b = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
			NAME(quad) c = __builtin_shufflevector(r0, r1, 2, 6, 3, 7);
			NAME(quad) e = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);

			*(NAME(quad) *)d = alpha * __builtin_shufflevector(a, b, 0, 1, 4, 5);
			*(NAME(quad) *)(d + width) = alpha * __builtin_shufflevector(a, b, 2, 3, 6, 7);
			*(NAME(quad) *)(d + 2 * width) = alpha * __builtin_shufflevector(c, e, 0, 1, 4, 5);
			*(NAME(quad) *)(d + 3 * width) = alpha * __builtin_shufflevector(c, e, 2, 3, 6, 7);
		}
#endif
		for (; p < k; p++, d += width) {
			d[0] = alpha * s0[p];
			d[1] = alpha * s1[p];
			d[2] = alpha * s2[p];
			d[3] = alpha * s3[p];
		}
	}
	for (; j < w; j++)
		for (int p = 0; p < k; p++)
			to[(ptrdiff_t)p * width + j] = alpha * from[j * col + p];
}

/* w <= width columns of one step of k; zeros up to whole vectors. */
TARGET INLINE void NAME(pack_step)(const int width, int w, const float *from, float alpha, float *to)
{
	int j = 0;

	if (w == width) {
		for (; j < width; j++)
			to[j] = alpha * from[j];
		return;
	}
	for (int v = 0; v + VL <= width && v < w; v += VL)
		*(NAME(vec) *)(to + v) = (NAME(vec)){0};
	for (; j + 4 <= w; j += 4)
		*(NAME(quad) *)(to + j) = alpha * *(const NAME(quad) *)(from + j);
	for (; j < w; j++)
		to[j] = alpha * from[j];
}

/* Panels of width columns: to (panel, k, width) = alpha * from. Element (p, j) is from[p * row + j * col]. What tiles read
 * beyond column n is zero or whatever was there: it goes into sums that are not stored. */
TARGET INLINE void NAME(pack)(const int width, int k, int n, const float *from, ptrdiff_t row, ptrdiff_t col,
			      float alpha, float *to)
{
	if (col != 1) {
		for (int j = 0; j < n; j += width)
			NAME(pack_turned)
		(width, k, n - j < width ? n - j : width, from + j * col, col, alpha, to + (ptrdiff_t)j * k);
		return;
	}
	/* Along the rows of the source: a walk down its columns would meet the same cache sets again and again. */
	for (int p = 0; p < k; p++)
		for (int j = 0; j < n; j += width)
			NAME(pack_step)
	(width, n - j < width ? n - j : width, from + p * row + j, alpha,
	 to + (ptrdiff_t)j * k + (ptrdiff_t)p * width);
}

/* The part of the product with packed columns b: c (m, n). */
TARGET static void NAME(panels)(const struct gemm *g, const float *a, int m, int k, const float *pack_b,
				int n, float *c, bool add)
{
	/* A narrow product reads a too few times for a copy of it to pay. */
	if (g->n <= 4 * NR && (g->a_row == 1 || g->k <= 512)) {
		for (int j = 0; j < n; j += NR)
			for (int i = 0; i < m; i += MR)
				(g->a_row == 1 ? NAME(packed_tile) : NAME(direct_tile))(
					m - i < MR ? m - i : MR, k, a + i * g->a_row,
					g->a_row == 1 ? g->a_col : g->a_row, pack_b + (ptrdiff_t)j * k,
					c + i * g->ldc + j, g->ldc, n - j < NR ? n - j : NR, add);
		return;
	}
	float *pack_a = scratch(SCRATCH_PACK_A, sizeof *pack_a * (MC + MR) * KC);

	for (int m0 = 0; m0 < m; m0 += MC) {
		int rows = m - m0 < MC ? m - m0 : MC;

		NAME(pack)(MR, k, rows, a + m0 * g->a_row, g->a_col, g->a_row, 1.0f, pack_a);
		/* Along the rows of c, whose pages then stay mapped. */
		for (int i = 0; i < rows; i += MR)
			for (int j = 0; j < n; j += NR)
				NAME(packed_tile)
		(rows - i < MR ? rows - i : MR, k, pack_a + (ptrdiff_t)i * k, MR, pack_b + (ptrdiff_t)j * k,
		 c + (m0 + i) * g->ldc + j, g->ldc, n - j < NR ? n - j : NR, add);
	}
}

TARGET static void NAME(gemm)(const struct gemm *g)
{
	float *pack_b = scratch(SCRATCH_PACK_B, sizeof *pack_b * (NC + NR) * KC);

	for (int n0 = 0; n0 < g->n; n0 += NC) {
		int n = g->n - n0 < NC ? g->n - n0 : NC;

		for (int k0 = 0; k0 < g->k; k0 += KC) {
			int k = g->k - k0 < KC ? g->k - k0 : KC;

			NAME(pack)
			(NR, k, n, g->b + k0 * g->b_row + n0 * g->b_col, g->b_row, g->b_col, g->alpha,
			 pack_b);
			NAME(panels)
			(g, g->a + k0 * g->a_col, g->m, k, pack_b, n, g->c + n0, g->add || k0 > 0);
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
