/* Time and error of the fit's linear algebra: skv_eigh and skv_svd at 64, 128 and 256, next to
 * LAPACK where it is there; and the time of whole fits, skv_profiler_fit on models' shapes. The
 * numbers compare like with like: same matrices, vectors included.
 * cc -std=c99 -O3 -I. bench/bench_fit.c -o bench_fit -lm              [--json FILE] [--runs N]
 * with LAPACK: -DSKV_HAVE_LAPACKE ... -llapacke
 *
 * Errors are checked before anything counts as timed: residual = max |A - U S V^T| / s_1,
 * orthogonality = max |V V^T - 1|, both over all entries. Times are CPU time of the process, median
 * and minimum over runs that alternate between the methods, so that other load disturbs little.
 */
#ifdef SKV_HAVE_LAPACKE
#define _GNU_SOURCE                     /* dladdr: the file name of the BLAS in use */
#else
#define _POSIX_C_SOURCE 200809L
#endif
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "bench.h"
#ifdef SKV_HAVE_LAPACKE
#include <dlfcn.h>
#include <lapacke.h>
#endif

typedef struct method {
    const char *name, *kind;            /* kind: eigh or svd */
    int (*solve)(const double *a, size_t n);    /* 0, or what went wrong */
} method;

typedef struct outcome {
    double ms[BENCH_MAX_RUNS], residual, orthogonality;
} outcome;

static double *copy_, *values, *left, *right, *scratch;    /* left, right: vectors as rows */

/* ---- methods: each copies a, solves, leaves values descending and vectors as rows ---- */

static int solve_eigh(const double *a, size_t n)
{
    memcpy(copy_, a, n * n * sizeof(double));
    return skv_eigh(copy_, n, n, values, right, 0, NULL);
}

static int solve_svd(const double *a, size_t n)
{
    return skv_svd(a, n, n, n, values, left, right, scratch, 0, NULL);
}

#ifdef SKV_HAVE_LAPACKE
/* LAPACK is called in its own column-major order, without LAPACKE's transposes: for a symmetric
 * matrix that changes nothing, and for the others it solves A^T, which costs the same. */
static int solve_dsyevd(const double *a, size_t n)
{
    memcpy(right, a, n * n * sizeof(double));
    return LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'L', (int)n, right, (int)n, values);
}

static int solve_dgesdd(const double *a, size_t n)
{
    memcpy(copy_, a, n * n * sizeof(double));
    return LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'S', (int)n, (int)n, copy_, (int)n, values, right,
                          (int)n, left, (int)n);
}

static int solve_dgesvj(const double *a, size_t n)
{
    double stat[6];
    memcpy(right, a, n * n * sizeof(double));
    return LAPACKE_dgesvj(LAPACK_COL_MAJOR, 'G', 'U', 'V', (int)n, (int)n, right, (int)n, values,
                          0, left, (int)n, stat);
}
#endif

static const method methods[] = {
    { "skv_eigh", "eigh", solve_eigh },
#ifdef SKV_HAVE_LAPACKE
    { "dsyevd", "eigh", solve_dsyevd },
#endif
    { "skv_svd", "svd", solve_svd },
#ifdef SKV_HAVE_LAPACKE
    { "dgesdd", "svd", solve_dgesdd },
    { "dgesvj", "svd", solve_dgesvj },
#endif
};
enum { METHODS = sizeof methods / sizeof *methods };

/* ---- matrices ---- */

static double uniform(void)
{
    static uint64_t state = 1;
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

static double normal(void)
{
    double u = uniform(), v = uniform();
    return sqrt(-2.0 * log(u + 1e-300)) * cos(6.283185307179586 * v);
}

/* Like a cache's statistics: 4 n rows of floats, correlated channels, spectrum over some eight
 * decades. x [n][n] is the last n of them, gram [n][n] is of all. */
static void fill(double *x, double *gram, size_t n)
{
    static float row[1024];
    size_t j, t;
    memset(gram, 0, n * n * sizeof(double));
    for (t = 0; t < 4 * n; t++) {
        double h = 0;
        for (j = 0; j < n; j++) {
            h = 0.9 * h + normal() * exp(-6.0 * (double)j / (double)n);
            row[j] = (float)h;
            x[t % n * n + j] = (double)row[j];
        }
        skvi_syrk_add(gram, n, row, 1, n);
    }
    for (t = 0; t < n; t++)
        for (j = 0; j < t; j++) gram[t * n + j] = gram[j * n + t];
}

/* ---- whole fits ---- */

typedef struct shape {
    const char *name;
    uint32_t    n_layers, n_q_heads, n_kv_heads, head_dim;
    double      goal;                   /* s, one core */
    double      ms[BENCH_MAX_RUNS];
} shape;

static void need(skv_result r)
{
    if (r >= SKV_OK) return;
    fprintf(stderr, "bench_fit: %s\n", skv_result_text(r));
    exit(1);
}

/* Rows of a synthetic layer, calibrated with RoPE and a transform for each KV head. */
static skv_profiler *calibrated(const shape *s)
{
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *p = NULL;
    size_t width = (size_t)s->n_q_heads * s->head_dim, n = 4 * s->head_dim, i;
    float *rows = (float *)malloc(3 * n * width * sizeof(float)), freq[SKV_MAX_HEAD_DIM / 2];
    skv_span q = skv_f32(rows), k = skv_f32(rows + n * width), v = skv_f32(rows + 2 * n * width);
    if (!rows) exit(1);
    for (i = 0; i < 3 * n * width; i++)
        rows[i] = (float)((i ? 0.9 * (double)rows[i - 1] : 0) +
                          normal() * exp(-6.0 * (double)(i % s->head_dim) / s->head_dim));
    for (i = 0; i < s->head_dim / 2; i++)
        freq[i] = (float)pow(10000, -2.0 * (double)i / s->head_dim);
    d.model.n_layers = 1;
    d.model.layer.n_q_heads = s->n_q_heads;
    d.model.layer.n_kv_heads = s->n_kv_heads;
    d.model.layer.head_dim = s->head_dim;
    d.head_group = 1;
    need(skv_profiler_init(&p, &d));
    need(skv_profiler_rope(p, 0, SKV_ROPE_HALVES, freq, s->head_dim / 2));
    need(skv_profiler_add(p, 0, &q, &k, &v, n));
    free(rows);
    return p;
}

/* One layer's fit, taken for all of them. */
static void run_shape(shape *s, size_t runs)
{
    skv_profiler *p = calibrated(s);
    size_t r;
    for (r = 0; r < runs; r++) {
        skv_profile *f = NULL;
        double start = bench_ns();
        need(skv_profiler_fit(p, NULL, &f));
        s->ms[r] = (bench_ns() - start) * 1e-6 * s->n_layers;
        skv_profile_free(f);
    }
    bench_sort(s->ms, runs);
    skv_profiler_free(p);
}

/* ---- errors ---- */

static double off_orthonormal(const double *v, size_t n)
{
    double worst = 0;
    size_t i, j, t;
    for (i = 0; i < n; i++) {
        for (j = i; j < n; j++) {
            double d = i == j ? -1 : 0;
            for (t = 0; t < n; t++) d += v[i * n + t] * v[j * n + t];
            if (!(fabs(d) <= worst)) worst = fabs(d);
        }
    }
    return worst;
}

/* ut, vt: row k (by_row) or column k is the k-th vector. Also tries the transpose of A, which is
 * what LAPACK saw. */
static double off_product(const double *a, size_t n, const double *ut, const double *vt, int urow,
                          int vrow)
{
    double worst[2] = { 0, 0 }, top = 0, sum, d;
    size_t i, j, k;
    for (k = 0; k < n; k++) top = fabs(values[k]) > top ? fabs(values[k]) : top;
    for (i = 0; i < n; i++) {
        for (j = 0; j < n; j++) {
            for (sum = 0, k = 0; k < n; k++)
                sum += values[k] * (urow ? ut[k * n + i] : ut[i * n + k]) *
                       (vrow ? vt[k * n + j] : vt[j * n + k]);
            d = fabs(sum - a[i * n + j]);
            if (!(d <= worst[0])) worst[0] = d;
            d = fabs(sum - a[j * n + i]);
            if (!(d <= worst[1])) worst[1] = d;
        }
    }
    return (worst[0] < worst[1] ? worst[0] : worst[1]) / top;
}

static void measure_errors(const method *m, const double *a, size_t n, outcome *o)
{
    int svd = m->kind[0] == 's';
    int rows = strcmp(m->name, "dgesdd") != 0;      /* its V^T has vectors in columns here */
    double other;
    o->residual = off_product(a, n, svd ? left : right, right, svd ? rows : 1, 1);
    o->orthogonality = off_orthonormal(right, n);
    other = svd ? off_orthonormal(left, n) : 0;
    if (other > o->orthogonality) o->orthogonality = other;
}

/* ---- runs ---- */

/* All methods alternate; repeats within a run until it lasts 2 ms or so. */
static int run_size(size_t n, size_t runs, outcome *out)
{
    double *x = (double *)malloc(2 * n * n * sizeof(double)), *gram = x + n * n, start;
    size_t r, m, i, repeat = n <= 64 ? 4 : 1;
    if (!x) return 1;
    fill(x, gram, n);
    for (m = 0; m < METHODS; m++) {                 /* correctness and warm-up first */
        const double *a = methods[m].kind[0] == 's' ? x : gram;
        if (methods[m].solve(a, n)) {
            fprintf(stderr, "bench_fit: %s failed at n = %lu\n", methods[m].name,
                    (unsigned long)n);
            free(x);
            return 1;
        }
        measure_errors(&methods[m], a, n, &out[m]);
        if (!(out[m].residual < 1e-12 && out[m].orthogonality < 1e-12)) {
            fprintf(stderr, "bench_fit: %s is wrong at n = %lu: residual %.1e, orthogonality "
                    "%.1e\n", methods[m].name, (unsigned long)n, out[m].residual,
                    out[m].orthogonality);
            free(x);
            return 1;
        }
    }
    for (r = 0; r < runs; r++) {
        for (m = 0; m < METHODS; m++) {
            const double *a = methods[m].kind[0] == 's' ? x : gram;
            start = bench_ns();
            for (i = 0; i < repeat; i++) (void)methods[m].solve(a, n);
            out[m].ms[r] = 1e-6 * (bench_ns() - start) / (double)repeat;
        }
    }
    for (m = 0; m < METHODS; m++) bench_sort(out[m].ms, runs);
    free(x);
    return 0;
}

/* ---- output ---- */

/* Where dgemm comes from, resolved to the real file; "none" without LAPACK. */
static const char *blas_name(char *text, size_t size)
{
    snprintf(text, size, "none");
#ifdef SKV_HAVE_LAPACKE
    {
        Dl_info info;
        void *symbol = dlsym(RTLD_DEFAULT, "dgemm_");
        char *real = symbol && dladdr(symbol, &info) ? realpath(info.dli_fname, NULL) : NULL;
        snprintf(text, size, "%s", real ? real : "unknown");
        free(real);
    }
#endif
    return text;
}

static void cpu_name(char *text, size_t size)
{
    char line[256], *colon;
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(text, size, "unknown CPU");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "model name", 10) || !(colon = strchr(line, ':'))) continue;
        colon[strcspn(colon, "\n")] = 0;
        snprintf(text, size, "%s", colon + 2);
        break;
    }
    if (f) fclose(f);
}

static void print_size(size_t n, size_t runs, const outcome *out)
{
    size_t m;
    for (m = 0; m < METHODS; m++)
        printf("%5lu  %-9s %10.3f %10.3f   %8.1e %8.1e\n", (unsigned long)n, methods[m].name,
               out[m].ms[runs / 2], out[m].ms[0], out[m].residual, out[m].orthogonality);
}

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "unknown compiler"
#endif

static void print_tables(size_t runs, outcome (*out)[METHODS], const size_t *size, size_t sizes,
                         const shape *whole, size_t shapes)
{
    char cpu[160], blas[512];
    size_t i;
    cpu_name(cpu, sizeof cpu);
    printf("%s; %s; kernels %s; BLAS of LAPACK: %s\n", cpu, COMPILER, skv_isa_name(),
           blas_name(blas, sizeof blas));
    printf("CPU time in ms, %lu runs\n\n", (unsigned long)runs);
    printf("    n  method        median    minimum   residual   orthog.\n");
    for (i = 0; i < sizes; i++) print_size(size[i], runs, out[i]);
    printf("\nall of a model, s        median    minimum       goal\n");
    for (i = 0; i < shapes; i++)
        printf("%-20s %10.3f %10.3f %10.3f\n", whole[i].name, whole[i].ms[runs / 2] * 1e-3,
               whole[i].ms[0] * 1e-3, whole[i].goal);
#ifndef SKV_HAVE_LAPACKE
    printf("\nno comparison: install liblapacke-dev, build with -DSKV_HAVE_LAPACKE and "
           "-llapacke\n");
#endif
}

/* What every line of JSON begins with. */
static void json_head(FILE *f, const char *bench, size_t runs)
{
    char cpu[160];
    cpu_name(cpu, sizeof cpu);
    fprintf(f, "{\"bench\": \"%s\", \"isa\": \"%s\", \"cpu\": \"%s\", \"compiler\": \"%s\", "
            "\"runs\": %lu, ", bench, skv_isa_name(), cpu, COMPILER, (unsigned long)runs);
}

static void print_json(FILE *f, size_t runs, outcome (*out)[METHODS], const size_t *size,
                       size_t sizes, const shape *whole, size_t shapes)
{
    char blas[512];
    size_t i, m;
    (void)blas_name(blas, sizeof blas);
    for (i = 0; i < sizes; i++)
        for (m = 0; m < METHODS; m++) {
            const outcome *o = &out[i][m];
            json_head(f, "fit", runs);
            fprintf(f, "\"n\": %lu, \"method\": \"%s\", \"kind\": \"%s\", \"blas\": \"%s\", "
                    "\"median_ms\": %.4f, \"min_ms\": %.4f, \"residual\": %.3e, "
                    "\"orthogonality\": %.3e}\n", (unsigned long)size[i], methods[m].name,
                    methods[m].kind, blas, o->ms[runs / 2], o->ms[0], o->residual,
                    o->orthogonality);
        }
    for (i = 0; i < shapes; i++) {
        json_head(f, "fit_model", runs);
        fprintf(f, "\"shape\": \"%s\", \"median_s\": %.4f, \"min_s\": %.4f, \"goal_s\": %g}\n",
                whole[i].name, whole[i].ms[runs / 2] * 1e-3, whole[i].ms[0] * 1e-3,
                whole[i].goal);
    }
}

static int report(const char *json, size_t runs, outcome (*out)[METHODS], const size_t *size,
                  size_t sizes, const shape *whole, size_t shapes)
{
    FILE *f = stdout;
    if (!json || strcmp(json, "-")) print_tables(runs, out, size, sizes, whole, shapes);
    if (!json) return 0;
    if (strcmp(json, "-") && !(f = fopen(json, "w"))) {
        fprintf(stderr, "bench_fit: cannot write %s\n", json);
        return 1;
    }
    print_json(f, runs, out, size, sizes, whole, shapes);
    return (f == stdout ? fflush(f) : fclose(f)) ? 1 : 0;
}

int main(int argc, char **argv)
{
    static const size_t size[] = { 64, 128, 256 };
    enum { SIZES = sizeof size / sizeof *size };
    static outcome out[SIZES][METHODS];
    static shape whole[] = {
        {"SmolLM2-135M", 30, 9, 3, 64, 1, {0}}, {"Llama-3-8B", 32, 32, 8, 128, 15, {0}}
    };
    enum { SHAPES = sizeof whole / sizeof *whole };
    const char *json = NULL;
    size_t i, runs = 9, most = size[SIZES - 1];
    double *block;
    int bad = 0;
    if (bench_arguments("bench_fit", argc, argv, &json, &runs)) return 2;
    block = (double *)malloc((3 * most * most + most + skv_svd_scratch(most, most)) *
                             sizeof(double));
    if (!block) return 1;
    copy_ = block;
    left = copy_ + most * most;
    right = left + most * most;
    values = right + most * most;
    scratch = values + most;
    for (i = 0; i < SIZES && !bad; i++) bad = run_size(size[i], runs, out[i]);
    for (i = 0; i < SHAPES && !bad; i++) run_shape(&whole[i], runs);
    if (!bad) bad = report(json, runs, out, size, SIZES, whole, SHAPES);
    free(block);
    return bad;
}
