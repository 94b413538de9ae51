/* Linear algebra: kernels, products, skv_eigh and skv_svd on matrices with known or
 * higher-precision answers.
 * cc -std=c99 -O2 -I. tests/test_linalg.c -o test_linalg -lm
 * with LAPACK as a second opinion: -DSKV_HAVE_LAPACKE ... -llapacke
 */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"
#include "tables.h"
#include <float.h>
#ifdef SKV_HAVE_LAPACKE
#include <lapacke.h>
#endif

#define MAXN 130
#define EPS DBL_EPSILON

static double mat_a[MAXN * MAXN], mat_b[MAXN * MAXN], mat_c[MAXN * MAXN];
static double out_w[MAXN], out_u[MAXN * MAXN], out_v[MAXN * MAXN];
static double scratch[3 * MAXN * MAXN + 4 * MAXN];

/* ---- matrices ---- */

static void fill_normal(double *a, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) a[i] = test_normal();
}

/* q [n][n] with orthonormal rows, by Gram-Schmidt twice */
static void fill_orthogonal(double *q, size_t n)
{
    size_t i, j, t, pass;
    fill_normal(q, n * n);
    for (i = 0; i < n; i++) {
        double *x = q + i * n, len = 0;
        for (pass = 0; pass < 2; pass++) {
            for (j = 0; j < i; j++) {
                double d = 0;
                for (t = 0; t < n; t++) d += x[t] * q[j * n + t];
                for (t = 0; t < n; t++) x[t] -= d * q[j * n + t];
            }
        }
        for (t = 0; t < n; t++) len += x[t] * x[t];
        for (t = 0; t < n; t++) x[t] /= sqrt(len);
    }
}

/* a = sum_k w[k] q_k q_k^T, exactly symmetric */
static void fill_spectrum(double *a, size_t n, const double *w, const double *q)
{
    size_t i, j, k;
    for (i = 0; i < n; i++) {
        for (j = i; j < n; j++) {
            double s = 0;
            for (k = 0; k < n; k++) s += w[k] * q[k * n + i] * q[k * n + j];
            a[i * n + j] = a[j * n + i] = s;
        }
    }
}

/* Copies the upper triangle to the lower one. */
static void mirror(double *c, size_t n, size_t ldc)
{
    size_t i, j;
    for (i = 1; i < n; i++)
        for (j = 0; j < i; j++) c[i * ldc + j] = c[j * ldc + i];
}

static void fill_hilbert(double *a, size_t n)
{
    size_t i, j;
    for (i = 0; i < n; i++)
        for (j = 0; j < n; j++) a[i * n + j] = 1.0 / (double)(i + j + 1);
}

/* Kahan's matrix: upper triangular, diagonal s^i, right of it -c s^i */
static void fill_kahan(double *a, size_t n, double theta)
{
    size_t i, j;
    for (i = 0; i < n; i++)
        for (j = 0; j < n; j++)
            a[i * n + j] = j < i ? 0.0 : pow(sin(theta), (double)i) * (j == i ? 1 : -cos(theta));
}

/* ---- references in long double ---- */

/* Singular values of a [m][n], m >= n, descending: plain one-sided Jacobi on columns. */
static void ref_svd(const double *a, size_t m, size_t n, double *s)
{
    static long double x[64 * 64];
    size_t i, p, q, sweep;
    for (i = 0; i < m; i++)
        for (p = 0; p < n; p++) x[p * m + i] = a[i * n + p];
    for (sweep = 0; sweep < 60; sweep++) {
        for (p = 0; p < n; p++) {
            for (q = p + 1; q < n; q++) {
                long double *u = x + p * m, *v = x + q * m, uu = 0, vv = 0, uv = 0, z, t, c;
                for (i = 0; i < m; i++) {
                    uu += u[i] * u[i];
                    vv += v[i] * v[i];
                    uv += u[i] * v[i];
                }
                if (fabsl(uv) <= 4 * LDBL_EPSILON * sqrtl(uu) * sqrtl(vv)) continue;
                z = (vv - uu) / (2 * uv);
                t = 1 / (fabsl(z) + sqrtl(1 + z * z));
                if (z < 0) t = -t;
                c = 1 / sqrtl(1 + t * t);
                for (i = 0; i < m; i++) {
                    long double h = u[i];
                    u[i] = c * (h - t * v[i]);
                    v[i] = c * (t * h + v[i]);
                }
            }
        }
    }
    for (p = 0; p < n; p++) {
        long double uu = 0;
        double h;
        for (i = 0; i < m; i++) uu += x[p * m + i] * x[p * m + i];
        h = (double)sqrtl(uu);
        for (q = p; q > 0 && s[q - 1] < h; q--) s[q] = s[q - 1];
        s[q] = h;
    }
}

/* Eigenvalues of a symmetric a [n][n], descending: plain two-sided Jacobi. */
static void ref_eigh(const double *a, size_t n, double *w)
{
    static long double x[64 * 64];
    size_t i, p, q, sweep;
    for (i = 0; i < n * n; i++) x[i] = a[i];
    for (sweep = 0; sweep < 40; sweep++) {
        for (p = 0; p < n; p++) {
            for (q = p + 1; q < n; q++) {
                long double z, t, c, s, apq = x[p * n + q];
                long double scale = sqrtl(fabsl(x[p * n + p])) * sqrtl(fabsl(x[q * n + q]));
                if (fabsl(apq) <= LDBL_EPSILON * scale) continue;
                z = (x[q * n + q] - x[p * n + p]) / (2 * apq);
                t = 1 / (fabsl(z) + sqrtl(1 + z * z));
                if (z < 0) t = -t;
                c = 1 / sqrtl(1 + t * t);
                s = t * c;
                x[p * n + p] -= t * apq;
                x[q * n + q] += t * apq;
                x[p * n + q] = x[q * n + p] = 0;
                for (i = 0; i < n; i++) {
                    long double h = x[p * n + i], g = x[q * n + i];
                    if (i == p || i == q) continue;
                    x[p * n + i] = x[i * n + p] = c * h - s * g;
                    x[q * n + i] = x[i * n + q] = s * h + c * g;
                }
            }
        }
    }
    for (p = 0; p < n; p++) {
        double h = (double)x[p * n + p];
        for (q = p; q > 0 && w[q - 1] < h; q--) w[q] = w[q - 1];
        w[q] = h;
    }
}

/* ---- measures ---- */

/* largest |<x_i, x_j> - delta_ij| over rows */
static double off_orthonormal(const double *x, size_t rows, size_t len)
{
    double worst = 0;
    size_t i, j, t;
    for (i = 0; i < rows; i++) {
        for (j = i; j < rows; j++) {
            double d = i == j ? -1 : 0;
            for (t = 0; t < len; t++) d += x[i * len + t] * x[j * len + t];
            if (!(fabs(d) <= worst)) worst = fabs(d);
        }
    }
    return worst;
}

/* largest |A - sum_k s_k u_k v_k^T| over the largest s */
static double off_product(const double *a, size_t m, size_t n, size_t lda, const double *s,
                          const double *ut, const double *vt)
{
    double worst = 0, top = 0;
    size_t i, j, k, low = m < n ? m : n;
    for (k = 0; k < low; k++) top = fabs(s[k]) > top ? fabs(s[k]) : top;
    for (i = 0; i < m; i++) {
        for (j = 0; j < n; j++) {
            double d = a[i * lda + j];
            for (k = 0; k < low; k++) d -= s[k] * ut[k * m + i] * vt[k * n + j];
            if (!(fabs(d) <= worst)) worst = fabs(d);
        }
    }
    return top > 0 ? worst / top : worst;
}

static int descending(const double *w, size_t n)
{
    size_t i;
    for (i = 1; i < n; i++)
        if (!(w[i - 1] >= w[i])) return 0;
    return 1;
}

/* Solves a copy of a [n][n] into out_w, out_v and checks all that must hold for any matrix. */
static int solve_eigh(const double *a, size_t n)
{
    int sweeps = -1;
    memcpy(mat_c, a, n * n * sizeof(double));
    CHECK(skv_eigh(mat_c, n, n, out_w, out_v, 0, &sweeps) == SKV_OK);
    CHECK(sweeps >= 0 && sweeps < 15);
    CHECK(descending(out_w, n));
    CHECK_NEAR(off_orthonormal(out_v, n, n), 0, 8 * EPS * (1 + sqrt((double)n)));
    CHECK_NEAR(off_product(a, n, n, n, out_w, out_v, out_v), 0, 8 * EPS * (1 + (double)n));
    return sweeps;
}

/* The same for a [m][lda] into out_w, out_u, out_v. */
static int solve_svd(const double *a, size_t m, size_t n, size_t lda)
{
    size_t low = m < n ? m : n, high = m < n ? n : m;
    int sweeps = -1;
    CHECK(skv_svd_scratch(m, n) <= sizeof scratch / sizeof *scratch);
    CHECK(skv_svd(a, m, n, lda, out_w, out_u, out_v, scratch, 0, &sweeps) == SKV_OK);
    CHECK(sweeps >= 0 && sweeps < 15);
    CHECK(descending(out_w, low) && (!low || out_w[low - 1] >= 0));
    CHECK_NEAR(off_orthonormal(out_u, low, m), 0, 4 * EPS * (2 + (double)high));
    CHECK_NEAR(off_orthonormal(out_v, low, n), 0, 4 * EPS * (2 + (double)high));
    CHECK_NEAR(off_product(a, m, n, lda, out_w, out_u, out_v), 0, 4 * EPS * (2 + (double)high));
    return sweeps;
}

/* largest relative difference of two lists */
static double off_relative(const double *x, const double *ref, size_t n)
{
    double worst = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        double d = fabs(x[i] - ref[i]) / (ref[i] != 0 ? fabs(ref[i]) : 1);
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

/* ---- kernels and products ---- */

/* Any length, any misalignment: close to the plain sum, nothing touched behind the end, and the
 * chosen kernels give the same bits as the portable ones (fused multiply-add may differ). */
TEST(kernels_agree)
{
    static double x[96], y[96], x2[96], y2[96];
#ifdef __FMA__
    const double slack = 16 * EPS;
#else
    const double slack = 0;
#endif
    skvi_la la = skvi_la_pick();
    size_t n, at, i;
    for (n = 0; n <= 67; n++) {
        for (at = 0; at < 4; at++) {
            long double sum = 0, mass = 0;
            double d;
            fill_normal(x, 96);
            fill_normal(y, 96);
            memcpy(x2, x, sizeof x);
            memcpy(y2, y, sizeof y);
            for (i = 0; i < n; i++) {
                sum += (long double)x[at + i] * y[1 + i];
                mass += fabsl((long double)x[at + i] * y[1 + i]);
            }
            d = skvi_la_dot(x + at, y + 1, n);
            CHECK_NEAR(d, sum, 8 * EPS * (double)mass);
            d -= la.dot(x + at, y + 1, n);
            CHECK(fabs(d) <= slack * (double)mass);
            skvi_la_rot(x + at, y + 1, n, 0.6, -0.8);
            la.rot(x2 + at, y2 + 1, n, 0.6, -0.8);
            skvi_la_axpy(y + 1, x + at, n, 0.3);
            la.axpy(y2 + 1, x2 + at, n, 0.3);
            for (i = 0; i < 96; i++) CHECK_NEAR(x[i], x2[i], slack * 8);
            for (i = 0; i < 96; i++) CHECK_NEAR(y[i], y2[i], slack * 8);
        }
    }
}

TEST(rotation_is_exact)
{
    static double x[40], y[40];
    size_t i;
    for (i = 0; i < 40; i++) {
        x[i] = (double)i;
        y[i] = 100.0 - (double)i;
    }
    skvi_la_rot(x + 1, y + 1, 37, 0.0, 1.0);        /* (x, y) <- (-y, x) */
    for (i = 1; i < 38; i++) CHECK_NEAR(x[i], (double)i - 100.0, 0);
    for (i = 1; i < 38; i++) CHECK_NEAR(y[i], (double)i, 0);
    CHECK_NEAR(x[0] + x[38] + y[0] + y[38], 0 + 38 + 100 + 62, 0);
}

static void check_gemm(size_t m, size_t n, size_t depth, int ta, int tb)
{
    size_t i, j, k, lda = (ta ? m : depth) + 1, ldb = (tb ? depth : n) + 2, ldc = n + 3;
    skvi_view a = skvi_view_d(mat_a, lda), b = skvi_view_d(mat_b, ldb);
    double worst = 0;
    fill_normal(mat_a, MAXN * MAXN);
    fill_normal(mat_b, MAXN * MAXN);
    for (i = 0; i < MAXN * MAXN; i++) mat_c[i] = 7.0;
    skvi_gemm(mat_c, ldc, m, n, depth, ta ? skvi_view_t(a) : a, tb ? skvi_view_t(b) : b);
    for (i = 0; i < m; i++) {
        for (j = 0; j < n; j++) {
            double s = mat_c[i * ldc + j];
            for (k = 0; k < depth; k++)
                s -= (ta ? mat_a[k * lda + i] : mat_a[i * lda + k]) *
                     (tb ? mat_b[j * ldb + k] : mat_b[k * ldb + j]);
            if (!(fabs(s) <= worst)) worst = fabs(s);
        }
        for (j = n; j < ldc; j++) CHECK_NEAR(mat_c[i * ldc + j], 7, 0);
    }
    CHECK_NEAR(worst, 0, 16 * EPS * (double)(depth + 1));
}

TEST(gemm_all_shapes)
{
    static const size_t size[] = { 0, 1, 3, 4, 7, 8, 9, 31, 33, 64, 65, 100 };
    size_t i, j, k;
    for (i = 0; i < 12; i++) {
        for (j = 0; j < 12; j++) {
            k = size[(i * 5 + j * 7) % 12];
            check_gemm(size[i], size[j], k, (int)(i + j) % 2, (int)(i / 2 + j) % 2);
        }
    }
}

/* Sums of products of floats against long double, upper triangle only, chunks equal the whole. */
TEST(syrk_accumulates)
{
    enum { ROWS = 200, N = 45, LDX = 50 };
    static float x[ROWS * LDX];
    static double c[N * N], parts[N * N];
    size_t i, j, t;
    for (i = 0; i < ROWS * LDX; i++) x[i] = (float)test_normal();
    memset(c, 0, sizeof c);
    memset(parts, 0, sizeof parts);
    skvi_syrk_add(c, N, x, ROWS, LDX);
    skvi_syrk_add(parts, N, x, 64, LDX);
    skvi_syrk_add(parts, N, x + 64 * LDX, ROWS - 64, LDX);
    CHECK(!memcmp(c, parts, sizeof c));
    for (i = 0; i < N; i++) {
        for (j = 0; j < N; j++) {
            long double s = 0;
            for (t = 0; t < ROWS; t++) s += (long double)x[t * LDX + i] * x[t * LDX + j];
            CHECK_NEAR(c[i * N + j], j < i ? 0 : s, 1e-11);
        }
    }
    mirror(c, N, N);
    for (i = 0; i < N; i++)
        for (j = 0; j < i; j++) CHECK_NEAR(c[i * N + j], c[j * N + i], 0);
}

TEST(rows_are_completed)
{
    size_t n = 20, have;
    skvi_la la = skvi_la_pick();
    for (have = 0; have <= n; have++) {
        fill_orthogonal(mat_a, n);
        memcpy(mat_b, mat_a, sizeof mat_a);
        memset(mat_b + have * n, 0xff, (n - have) * n * sizeof(double));
        skvi_complete_rows(&la, mat_b, have, n, n, n, out_w);
        CHECK_NEAR(off_orthonormal(mat_b, n, n), 0, 20 * EPS);
        CHECK(!memcmp(mat_a, mat_b, have * n * sizeof(double)));
    }
}

/* ---- eigenvalues ---- */

TEST(eigh_all_small_sizes)
{
    size_t n;
    for (n = 0; n <= 67; n += n < 20 ? 1 : 9) {
        fill_normal(mat_a, n * n);
        mirror(mat_a, n, n);
        solve_eigh(mat_a, n);                       /* indefinite */
        skvi_gemm(mat_b, n, n, n, n, skvi_view_t(skvi_view_d(mat_a, n)), skvi_view_d(mat_a, n));
        mirror(mat_b, n, n);
        solve_eigh(mat_b, n);                       /* positive */
    }
}

TEST(eigh_known_values)
{
    static const double pair[4] = { 0, 1, 1, 0 }, one[1] = { -3 };
    double pi = acos(-1.0);
    size_t i, j, n = 40;
    solve_eigh(pair, 2);
    CHECK_NEAR(out_w[0], 1, EPS);
    CHECK_NEAR(out_w[1], -1, EPS);
    solve_eigh(one, 1);
    CHECK_NEAR(out_w[0], -3, 0);
    CHECK_NEAR(fabs(out_v[0]), 1, 0);
    for (i = 0; i < n; i++)                         /* second difference: 2 - 2 cos */
        for (j = 0; j < n; j++) mat_a[i * n + j] = i == j ? 2 : i + 1 == j || j + 1 == i ? -1 : 0;
    solve_eigh(mat_a, n);
    for (i = 0; i < n; i++) {
        double half = sin((double)(n - i) * pi / (2.0 * (double)(n + 1)));
        CHECK_NEAR(out_w[i] / (4 * half * half), 1, 1e-13);
    }
}

TEST(eigh_diagonal_is_exact)
{
    size_t i, n = 16;
    memset(mat_a, 0, sizeof mat_a);
    for (i = 0; i < n; i++) mat_a[i * n + i] = pow(10, -(double)((i * 7) % n));
    solve_eigh(mat_a, n);
    for (i = 0; i < n; i++) CHECK_NEAR(out_w[i] * pow(10, (double)i), 1, 4 * EPS);
    for (i = 0; i < n; i++) CHECK_NEAR(fabs(out_v[((i * 7) % n) * n + i]), 1, 0);
}

/* A = D H D with H well conditioned keeps its smallest values to full relative precision, in any
 * order of rows; the absolute error of a dense solver would be 1e-16, above most of these. */
TEST(eigh_graded_relative)
{
    size_t i, j, n = 24;
    double ref[24];
    if (LDBL_MANT_DIG <= DBL_MANT_DIG) SKIP("long double is no wider than double here");
    for (i = 0; i < n; i++) {
        for (j = i; j < n; j++) {
            double h = i == j ? 1.0 : 0.5 / (1.0 + (double)(j - i)) * (test_uniform() - 0.5);
            mat_a[i * n + j] = mat_a[j * n + i] = ldexp(h, -3 * (int)(i + j));
        }
    }
    ref_eigh(mat_a, n, ref);
    solve_eigh(mat_a, n);
    CHECK(ref[0] / ref[n - 1] > 1e38);
    CHECK_NEAR(off_relative(out_w, ref, n), 0, 50 * EPS);
    for (i = 0; i < n; i++)
        for (j = 0; j < n; j++) mat_b[((i * 11) % n) * n + (j * 11) % n] = mat_a[i * n + j];
    solve_eigh(mat_b, n);
    CHECK_NEAR(off_relative(out_w, ref, n), 0, 50 * EPS);
}

TEST(eigh_hilbert)
{
    double ref[12];
    size_t i, n = 12;
    if (LDBL_MANT_DIG <= DBL_MANT_DIG) SKIP("long double is no wider than double here");
    fill_hilbert(mat_a, n);
    ref_eigh(mat_a, n, ref);
    solve_eigh(mat_a, n);
    for (i = 0; i < n; i++) CHECK_NEAR(out_w[i], ref[i], 12 * EPS * ref[0]);
    fill_hilbert(mat_a, 3);
    solve_eigh(mat_a, 3);
    CHECK_NEAR(out_w[0], 1.4083189271236539575, 8 * EPS);
    CHECK_NEAR(out_w[2] / 2.687340355773529e-3, 1, 1e-13);
}

TEST(eigh_repeated_and_low_rank)
{
    static const double value[10] = { 5, 5, 5, 5, 2, 2, 2, 0, 0, 0 };
    double w[40], sum = 0;
    size_t i, n = 40;
    for (i = 0; i < n; i++) w[i] = value[i / 4];
    fill_orthogonal(mat_b, n);
    fill_spectrum(mat_a, n, w, mat_b);
    solve_eigh(mat_a, n);
    for (i = 0; i < n; i++) CHECK_NEAR(out_w[i], w[i], 200 * EPS);
    memset(mat_a, 0, sizeof mat_a);
    solve_eigh(mat_a, n);
    CHECK(out_w[0] <= 0 && out_w[n - 1] >= 0);
    for (i = 0; i < n * n; i++) mat_a[i] = (double)(i / n + 1) * (double)(i % n + 1);
    for (i = 0; i < n; i++) sum += (double)((i + 1) * (i + 1));
    solve_eigh(mat_a, n);                           /* x x^T */
    CHECK_NEAR(out_w[0] / sum, 1, 40 * EPS);
    for (i = 1; i < n; i++) CHECK_NEAR(out_w[i], 0, 0);
}

/* A Gram matrix of fewer rows than columns, its rounding noise of both signs included. */
TEST(eigh_gram_of_few_rows)
{
    enum { N = 96, ROWS = 30 };
    static float x[ROWS * N];
    size_t i, j, t;
    for (i = 0; i < ROWS * N; i++) x[i] = (float)(test_normal() * exp(-0.1 * (double)(i % N)));
    memset(mat_a, 0, sizeof mat_a);
    skvi_syrk_add(mat_a, N, x, ROWS, N);
    mirror(mat_a, N, N);
    solve_eigh(mat_a, N);
    for (i = ROWS; i < N; i++) CHECK_NEAR(out_w[i], 0, 96 * EPS * out_w[0]);
    for (i = 0; i < N; i++)                         /* the same with noise: slightly indefinite */
        for (j = i; j < N; j++)
            mat_a[i * N + j] = mat_a[j * N + i] = mat_a[i * N + j] + 1e-12 * test_normal();
    solve_eigh(mat_a, N);
    for (t = 0, i = 0; i < N; i++) t += out_w[i] < 0;
    CHECK(t > 10);
}

/* Powers of two change nothing but the exponents, up to the ends of the range. */
TEST(eigh_scales)
{
    static const int shift[] = { 990, 500, -500, -1000, -1045 };
    double w[20];
    size_t i, s, n = 20;
    fill_normal(mat_b, n * n);
    skvi_gemm(mat_a, n, n, n, n, skvi_view_t(skvi_view_d(mat_b, n)), skvi_view_d(mat_b, n));
    mirror(mat_a, n, n);
    solve_eigh(mat_a, n);
    memcpy(w, out_w, sizeof w);
    for (s = 0; s < 5; s++) {
        for (i = 0; i < n * n; i++) mat_c[i] = ldexp(mat_a[i], shift[s]);
        CHECK(skv_eigh(mat_c, n, n, out_w, out_v, 0, NULL) == SKV_OK);
        CHECK_NEAR(off_orthonormal(out_v, n, n), 0, 1e-14);
        for (i = 0; i < n; i++) {
            double fine = ldexp(1.0, -1070 - shift[s]);     /* input and output were denormal */
            CHECK_NEAR(ldexp(out_w[i], -shift[s]), w[i], shift[s] < -900 ? 64 * fine : 0);
        }
    }
}

/* Only the upper triangle counts; padding and the lower triangle may hold anything. */
TEST(eigh_reads_upper_only)
{
    size_t i, j, n = 21, lda = 27;
    double w[21];
    fill_normal(mat_a, n * n);
    mirror(mat_a, n, n);
    solve_eigh(mat_a, n);
    memcpy(w, out_w, sizeof w);
    for (i = 0; i < n; i++)
        for (j = 0; j < lda; j++)
            mat_b[i * lda + j] = j >= i && j < n ? mat_a[i * n + j] : (double)NAN;
    CHECK(skv_eigh(mat_b, n, lda, out_w, out_v, 0, NULL) == SKV_OK);
    CHECK(!memcmp(w, out_w, sizeof w));
}

TEST(eigh_refuses)
{
    static const double bad[3] = { NAN, INFINITY, -INFINITY };
    double a[9], w[3] = { 1, 2, 3 }, v[9] = { 4, 5 }, a0[9], w0[3], v0[9];
    int i, sweeps = 77;
    memcpy(w0, w, sizeof w);
    memcpy(v0, v, sizeof v);
    for (i = 0; i < 3; i++) {
        memset(a, 0, sizeof a);
        a[i == 0 ? 0 : i == 1 ? 5 : 8] = bad[i];
        memcpy(a0, a, sizeof a);
        CHECK(skv_eigh(a, 3, 3, w, v, 0, &sweeps) == SKV_ERR_NOT_FINITE);
        CHECK(!memcmp(a, a0, sizeof a) && !memcmp(w, w0, sizeof w) && !memcmp(v, v0, sizeof v));
    }
    memset(a, 0, sizeof a);
    CHECK(skv_eigh(NULL, 3, 3, w, v, 0, &sweeps) == SKV_ERR_ARG);
    CHECK(skv_eigh(a, 3, 3, NULL, v, 0, &sweeps) == SKV_ERR_ARG);
    CHECK(skv_eigh(a, 3, 3, w, NULL, 0, &sweeps) == SKV_ERR_ARG);
    CHECK(skv_eigh(a, 3, 2, w, v, 0, &sweeps) == SKV_ERR_ARG);
    CHECK(skv_eigh(a, 3, 3, w, v, -1, &sweeps) == SKV_ERR_ARG);
    CHECK(skv_eigh(a, SIZE_MAX / 2, SIZE_MAX / 2, w, v, 0, &sweeps) == SKV_ERR_ARG);
    CHECK(sweeps == 77 && !memcmp(w, w0, sizeof w) && !memcmp(v, v0, sizeof v));
    CHECK(skv_eigh(NULL, 0, 0, NULL, NULL, 0, &sweeps) == SKV_OK && sweeps == 0);
}

/* One sweep is not enough for 30 x 30: a warning, and what is there so far, sorted and scaled. */
TEST(sweep_limit_is_a_warning)
{
    size_t i, n = 30;
    int sweeps = 0;
    double len, off1, off3;
    fill_normal(mat_b, n * n);
    skvi_gemm(mat_a, n, n, n, n, skvi_view_t(skvi_view_d(mat_b, n)), skvi_view_d(mat_b, n));
    memcpy(mat_c, mat_a, n * n * sizeof(double));
    CHECK(skv_eigh(mat_c, n, n, out_w, out_v, 1, &sweeps) == SKV_NOT_CONVERGED);
    CHECK(sweeps == 1 && descending(out_w, n) && out_w[0] > 0);
    for (i = 0; i < n; i++) {
        len = skvi_la_dot(out_v + i * n, out_v + i * n, n);
        CHECK_NEAR(len, 1, 1e-14);
    }
    off1 = off_orthonormal(out_v, n, n);
    memcpy(mat_c, mat_a, n * n * sizeof(double));
    CHECK(skv_eigh(mat_c, n, n, out_w, out_v, 3, &sweeps) == SKV_NOT_CONVERGED && sweeps == 3);
    off3 = off_orthonormal(out_v, n, n);
    CHECK(off3 < 0.5 * off1 && off1 > 1e-3);
    CHECK(skv_svd(mat_b, n, n, n, out_w, out_u, out_v, scratch, 1, &sweeps) == SKV_NOT_CONVERGED);
    CHECK(sweeps == 1 && descending(out_w, n));
    CHECK_NEAR(off_product(mat_b, n, n, n, out_w, out_u, out_v), 0, 1e-14);
}

/* ---- singular values ---- */

TEST(svd_all_small_shapes)
{
    size_t m, n;
    for (m = 0; m <= 67; m += m < 9 ? 1 : 29) {
        for (n = 0; n <= 67; n += n < 9 ? 1 : 29) {
            fill_normal(mat_a, m * (n + 1));
            solve_svd(mat_a, m, n, n + 1);
        }
    }
    fill_normal(mat_a, 128 * 100);
    solve_svd(mat_a, 128, 100, 100);
    solve_svd(mat_a, 100, 128, 128);
}

TEST(svd_known_values)
{
    static const double shear[4] = { 1, 1, 0, 1 };
    double golden = (1 + sqrt(5.0)) / 2;
    size_t i, n = 30;
    solve_svd(shear, 2, 2, 2);
    CHECK_NEAR(out_w[0], golden, 4 * EPS);
    CHECK_NEAR(out_w[1], 1 / golden, 4 * EPS);
    fill_orthogonal(mat_a, n);
    solve_svd(mat_a, n, n, n);
    for (i = 0; i < n; i++) CHECK_NEAR(out_w[i], 1, 20 * EPS);
    memset(mat_a, 0, sizeof mat_a);
    solve_svd(mat_a, 17, 30, 30);
    CHECK_NEAR(out_w[0], 0, 0);
    for (i = 0; i < 17; i++)
        mat_a[((i * 5) % 17) * 30 + i] = pow(10, -(double)i) * (i % 2 ? -1 : 1);
    solve_svd(mat_a, 17, 30, 30);
    for (i = 0; i < 17; i++) CHECK_NEAR(out_w[i] * pow(10, (double)i), 1, 8 * EPS);
}

TEST(svd_low_rank)
{
    size_t i, j, m = 50, n = 33, rank = 5;
    double mm = 0, nn = 0;
    for (i = 0; i < m * n; i++) mat_a[i] = cos((double)(i / n)) * sin(1.0 + (double)(i % n));
    for (i = 0; i < m; i++) mm += cos((double)i) * cos((double)i);
    for (j = 0; j < n; j++) nn += sin(1.0 + (double)j) * sin(1.0 + (double)j);
    solve_svd(mat_a, m, n, n);
    CHECK_NEAR(out_w[0] / sqrt(mm * nn), 1, 20 * EPS);
    for (i = 1; i < n; i++) CHECK_NEAR(out_w[i], 0, 0);
    fill_normal(mat_b, m * rank);
    fill_normal(mat_c, rank * n);
    skvi_gemm(mat_a, n, m, n, rank, skvi_view_d(mat_b, rank), skvi_view_d(mat_c, n));
    solve_svd(mat_a, m, n, n);
    CHECK(out_w[rank - 1] > 1);
    for (i = rank; i < n; i++) CHECK_NEAR(out_w[i], 0, 1e-13);
    solve_svd(mat_a, n, m, m);
}

/* Columns over 36 orders of magnitude: each singular value is right to almost all digits. */
TEST(svd_graded_columns_relative)
{
    size_t i, m = 40, n = 25;
    double ref[25], flip[25 * 40];
    if (LDBL_MANT_DIG <= DBL_MANT_DIG) SKIP("long double is no wider than double here");
    fill_normal(mat_a, m * n);
    for (i = 0; i < m * n; i++) mat_a[i] = ldexp(mat_a[i], -5 * (int)((i % n * 7) % n));
    ref_svd(mat_a, m, n, ref);
    solve_svd(mat_a, m, n, n);
    CHECK(ref[0] / ref[n - 1] > 1e35);
    CHECK_NEAR(off_relative(out_w, ref, n), 0, 100 * EPS);
    for (i = 0; i < m * n; i++) flip[(i % n) * m + i / n] = mat_a[i];
    solve_svd(flip, n, m, m);
    CHECK_NEAR(off_relative(out_w, ref, n), 0, 100 * EPS);
}

TEST(svd_kahan_and_vandermonde)
{
    size_t i, n = 32;
    double ref[32];
    if (LDBL_MANT_DIG <= DBL_MANT_DIG) SKIP("long double is no wider than double here");
    fill_kahan(mat_a, n, 1.2);
    ref_svd(mat_a, n, n, ref);
    solve_svd(mat_a, n, n, n);
    CHECK_NEAR(off_relative(out_w, ref, n - 1), 0, 1e-13);
    CHECK_NEAR(out_w[n - 1], ref[n - 1], 10 * EPS * ref[0]);
    n = 14;
    for (i = 0; i < n * n; i++) mat_a[i] = pow((double)(i / n + 1) / (double)n, (double)(i % n));
    ref_svd(mat_a, n, n, ref);
    solve_svd(mat_a, n, n, n);
    for (i = 0; i < n; i++) CHECK_NEAR(out_w[i], ref[i], 4 * EPS * ref[0]);
    CHECK(ref[n - 1] < 1e-9 * ref[0]);
}

TEST(svd_permuted_and_scaled)
{
    static const int shift[] = { 1000, 300, -300, -1000, -1050 };
    size_t i, s, n = 24;
    double w[24];
    fill_normal(mat_a, n * n);
    solve_svd(mat_a, n, n, n);
    memcpy(w, out_w, sizeof w);
    for (i = 0; i < n * n; i++) mat_b[((i / n * 5) % n) * n + (i % n * 7) % n] = mat_a[i];
    solve_svd(mat_b, n, n, n);
    CHECK_NEAR(off_relative(out_w, w, n - 1), 0, 1e-12);
    for (s = 0; s < 5; s++) {
        double fine = shift[s] < -900 ? 64 * ldexp(1.0, -1074 - shift[s]) : 0;
        for (i = 0; i < n * n; i++) mat_b[i] = ldexp(mat_a[i], shift[s]);
        CHECK(skv_svd(mat_b, n, n, n, out_w, out_u, out_v, scratch, 0, NULL) == SKV_OK);
        CHECK_NEAR(off_orthonormal(out_u, n, n), 0, 1e-14);
        for (i = 0; i < n; i++) CHECK_NEAR(ldexp(out_w[i], -shift[s]), w[i], fine);
    }
}

/* Columns below 1e-130 of the largest count as zero and must not spoil orthogonality. */
TEST(svd_extreme_grading)
{
    size_t i, n = 12;
    fill_normal(mat_a, n * n);
    for (i = 0; i < n * n; i++) mat_a[i] = ldexp(mat_a[i], 900 - 160 * (int)(i % n));
    solve_svd(mat_a, n, n, n);
    CHECK(out_w[2] > 0);
    CHECK_NEAR(out_w[3], 0, 0);                     /* 2^-480 of the largest */
    for (i = 0; i < n * n; i++) mat_a[i] = ldexp(test_normal(), i % n < 4 ? 0 : -490);
    solve_svd(mat_a, n, n, n);
    for (i = 0; i < n * n; i++) mat_a[i] = ldexp(test_normal(), i % n < 4 ? 0 : -420);
    solve_svd(mat_a, n, n, n);
    CHECK(out_w[n - 1] > 0);
}

TEST(svd_refuses)
{
    double a[6] = { 1, 2, 3, 4, 5, 6 }, s[2] = { 9, 9 }, u[6] = { 9 }, v[4] = { 9 }, u0[6], v0[4];
    int sweeps = 77;
    memcpy(u0, u, sizeof u);
    memcpy(v0, v, sizeof v);
    a[3] = NAN;
    CHECK(skv_svd(a, 3, 2, 2, s, u, v, scratch, 0, &sweeps) == SKV_ERR_NOT_FINITE);
    a[3] = -INFINITY;
    CHECK(skv_svd(a, 3, 2, 2, s, u, v, scratch, 0, &sweeps) == SKV_ERR_NOT_FINITE);
    a[3] = 4;
    CHECK(skv_svd(a, 3, 2, 1, s, u, v, scratch, 0, &sweeps) == SKV_ERR_ARG);
    CHECK(skv_svd(NULL, 3, 2, 2, s, u, v, scratch, 0, &sweeps) == SKV_ERR_ARG);
    CHECK(skv_svd(a, 3, 2, 2, NULL, u, v, scratch, 0, &sweeps) == SKV_ERR_ARG);
    CHECK(skv_svd(a, 3, 2, 2, s, NULL, v, scratch, 0, &sweeps) == SKV_ERR_ARG);
    CHECK(skv_svd(a, 3, 2, 2, s, u, NULL, scratch, 0, &sweeps) == SKV_ERR_ARG);
    CHECK(skv_svd(a, 3, 2, 2, s, u, v, NULL, 0, &sweeps) == SKV_ERR_ARG);
    CHECK(skv_svd(a, 3, 2, 2, s, u, v, scratch, -2, &sweeps) == SKV_ERR_ARG);
    CHECK(skv_svd(a, SIZE_MAX / 8, 2, 2, s, u, v, scratch, 0, &sweeps) == SKV_ERR_ARG);
    CHECK(sweeps == 77 && !memcmp(u, u0, sizeof u) && !memcmp(v, v0, sizeof v));
    CHECK_NEAR(s[0] + s[1], 18, 0);
    CHECK(skv_svd_scratch(0, 5) == 0 && skv_svd_scratch(SIZE_MAX / 16, SIZE_MAX / 16) == 0);
    CHECK(skv_svd_scratch(SIZE_MAX / 8, 1) == 0 && skv_svd_scratch(1, 1) >= 1);
    CHECK(skv_svd(NULL, 0, 5, 5, NULL, NULL, NULL, NULL, 0, &sweeps) == SKV_OK && sweeps == 0);
}

/* The same bits again, whatever ran before in the same buffers. */
TEST(results_repeat)
{
    size_t n = 50;
    fill_normal(mat_a, n * n);
    solve_svd(mat_a, n, n, n);
    memcpy(mat_b, out_u, sizeof out_u);
    memset(scratch, 0xff, sizeof scratch);
    memset(out_u, 0xff, sizeof out_u);
    solve_svd(mat_a, n, n, n);
    CHECK(!memcmp(mat_b, out_u, n * n * sizeof(double)));
    mirror(mat_a, n, n);
    solve_eigh(mat_a, n);
    memcpy(mat_b, out_v, sizeof out_v);
    memset(out_v, 0xff, sizeof out_v);
    solve_eigh(mat_a, n);
    CHECK(!memcmp(mat_b, out_v, n * n * sizeof(double)));
}

/* ---- LAPACK ---- */

TEST(lapack_agrees)
{
#ifdef SKV_HAVE_LAPACKE
    static double lu[MAXN * MAXN], lv[MAXN * MAXN], ls[MAXN], stat[6];
    size_t i, m = 90, n = 60;
    fill_normal(mat_b, m * n);
    skvi_gemm(mat_a, n, n, n, m, skvi_view_t(skvi_view_d(mat_b, n)), skvi_view_d(mat_b, n));
    solve_eigh(mat_a, n);
    CHECK(LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'U', (int)n, mat_a, (int)n, ls) == 0);
    for (i = 0; i < n; i++) CHECK_NEAR(out_w[i], ls[n - 1 - i], 60 * EPS * out_w[0]);
    solve_svd(mat_b, m, n, n);
    memcpy(mat_c, mat_b, sizeof mat_c);
    CHECK(LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'S', (int)m, (int)n, mat_c, (int)n, ls, lu, (int)n, lv,
                         (int)n) == 0);
    for (i = 0; i < n; i++) CHECK_NEAR(out_w[i], ls[i], 60 * EPS * out_w[0]);
    for (i = 0; i < m * n; i++) mat_b[i] *= pow(10, -0.5 * (double)(i % n));
    solve_svd(mat_b, m, n, n);
    CHECK(LAPACKE_dgesvj(LAPACK_ROW_MAJOR, 'G', 'U', 'V', (int)m, (int)n, mat_b, (int)n, ls, 0, lv,
                         (int)n, stat) == 0);
    for (i = 0; i < n; i++) ls[i] *= stat[0];
    CHECK_NEAR(off_relative(out_w, ls, n), 0, 1e-13);
#else
    SKIP("LAPACKE: install liblapacke-dev, build with -DSKV_HAVE_LAPACKE and -llapacke");
#endif
}

/* ---- larger sizes, --slow ---- */

TEST(larger_sizes)
{
    static const size_t size[] = { 192, 300 };
    size_t i, k, n;
    if (!test_.slow) SKIP("larger sizes: give --slow");
    for (k = 0; k < 2; k++) {
        double *a, *v, *w, *u, *x;
        n = size[k];
        a = (double *)malloc((5 * n * n + n + skv_svd_scratch(n, n)) * sizeof(double));
        CHECK(a != NULL);
        if (!a) return;
        v = a + n * n;
        u = v + n * n;
        x = u + n * n;
        w = x + n * n;
        fill_normal(x, n * n);
        memset(a, 0, n * n * sizeof(double));
        skvi_gemm_add(a, n, n, n, n, skvi_view_t(skvi_view_d(x, n)), skvi_view_d(x, n), 1);
        mirror(a, n, n);
        memcpy(u, a, n * n * sizeof(double));
        CHECK(skv_eigh(u, n, n, w, v, 0, NULL) == SKV_OK);
        CHECK_NEAR(off_orthonormal(v, n, n), 0, 1e-14);
        CHECK_NEAR(off_product(a, n, n, n, w, v, v), 0, 1e-14);
        for (i = 0; i < n; i++) a[i] = w[i];
        CHECK(skv_svd(x, n, n, n, w, u, v, w + n, 0, NULL) == SKV_OK);
        CHECK_NEAR(off_orthonormal(u, n, n), 0, 1e-13);
        CHECK_NEAR(off_product(x, n, n, n, w, u, v), 0, 1e-14);
        for (i = 0; i < n; i++) CHECK_NEAR(w[i] * w[i], a[i], 1e-13 * a[0]);
        free(a);
    }
}

/* gemm, dot, dots and from_f16 of the kernel table, and nothing written beside C. */
static void float_kernels_agree(const skvi_kernels *other)
{
    static float a[16 * 70], b[70 * 90], c[2][16 * 90];
    uint16_t half[90];
    size_t i, m, n, k;
    int round;
    for (round = 0; round < 2000; round++) {
        float x, y;
        m = (size_t)(test_u64() % 14);
        n = (size_t)(test_u64() % 81);
        k = (size_t)(test_u64() % 69);
        for (i = 0; i < 16 * 70; i++) a[i] = (float)(test_uniform() - 0.5);
        for (i = 0; i < 70 * 90; i++) b[i] = (float)(test_uniform() - 0.5);
        for (i = 0; i < 16 * 90; i++) c[0][i] = c[1][i] = (float)(test_uniform() - 0.5);
        skvi_gemm_c(m, n, k, a, 70, b + 1, 87, c[0] + 1, 83);
        other->gemm(m, n, k, a, 70, b + 1, 87, c[1] + 1, 83);
        CHECK(!memcmp(c[0], c[1], sizeof c[0]));
        if (round & 1) k -= k % 16;
        skvi_dots(&skvi_kernels_c, m, n, k, a, 70, b + 1, 69, c[0] + 1, 83);
        skvi_dots(other, m, n, k, a, 70, b + 1, 69, c[1] + 1, 83);
        CHECK(!memcmp(c[0], c[1], sizeof c[0]));
        x = skvi_dot_c(a + round % 5, b, n);
        y = other->dot(a + round % 5, b, n);
        CHECK(!memcmp(&x, &y, sizeof x));
        for (i = 0; i < 90; i++)        /* finite: NaNs may keep other bits */
            half[i] = (uint16_t)((test_u64() % 0x7C01u) | (test_u64() & 0x8000u));
        skvi_from_f16_c(half + round % 5, c[0] + 3, n);
        other->from_f16(half + round % 5, c[1] + 3, n);
        CHECK(!memcmp(c[0], c[1], sizeof c[0]));
    }
}

TEST(float_kernels_agree_bit_for_bit) { compare_tables(float_kernels_agree); }

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(kernels_agree);
    RUN(rotation_is_exact);
    RUN(gemm_all_shapes);
    RUN(syrk_accumulates);
    RUN(rows_are_completed);
    RUN(eigh_all_small_sizes);
    RUN(eigh_known_values);
    RUN(eigh_diagonal_is_exact);
    RUN(eigh_graded_relative);
    RUN(eigh_hilbert);
    RUN(eigh_repeated_and_low_rank);
    RUN(eigh_gram_of_few_rows);
    RUN(eigh_scales);
    RUN(eigh_reads_upper_only);
    RUN(eigh_refuses);
    RUN(sweep_limit_is_a_warning);
    RUN(svd_all_small_shapes);
    RUN(svd_known_values);
    RUN(svd_low_rank);
    RUN(svd_graded_columns_relative);
    RUN(svd_kahan_and_vandermonde);
    RUN(svd_permuted_and_scaled);
    RUN(svd_extreme_grading);
    RUN(svd_refuses);
    RUN(results_repeat);
    RUN(float_kernels_agree_bit_for_bit);
    RUN(lapack_agrees);
    RUN(larger_sizes);
    return TEST_END();
}
