/* spectralquant.c: SpectralQuant (Dynamis-Labs/spectralquant), `spectralquant:B`.
 *
 * Per head: x = |x| u with |x| in f16; u in the eigenbasis of the mean u u^T of the calibration
 * texts, not centred; the d_eff leading coordinates (participation ratio of the eigenvalues) get
 * one bit more than the rest, with B bits on average as near as whole bits allow; one Lloyd-Max
 * codebook for either regime. The package fits codebooks to samples; here to the mixture of normal
 * densities that has the samples' mean and variance in every coordinate. Its sign sketch (QJL) of
 * key residuals takes one bit of the leading coordinates away and is left out, as its authors
 * report that it harms: all bits go to the codebook.
 */
#include "parts.h"
#include "spectral_kv.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CELLS = 2048, ROUNDS = 200 };

typedef struct regime_pair {        /* of one head, keys or values */
    int d_eff, bits[2];
    double level[2][256];
} regime_pair;

typedef struct spectralquant {
    llm_config c;
    regime_pair *pair;              /* [layer][head][kind] */
    float *basis;                   /* the same with [d][d]; rows are eigenvectors */
} spectralquant;

int baseline_participation(const double *w, int n)
{
    double sum = 0, square = 0;
    int i, e;
    for (i = 0; i < n; i++) {
        sum += w[i];
        square += w[i] * w[i];
    }
    e = square > 0 ? (int)floor(sum * sum / square + 0.5) : 1;
    return e < 1 ? 1 : e > n - 1 ? n - 1 : e;
}

void baseline_spectralquant_bits(int bits, int d_eff, int d, int *high, int *low)
{
    *low = (int)floor(bits - (double)d_eff / d + 0.5);
    if (*low < 1) *low = 1;
    *high = *low + 1;
}

/* Mass of the mixture in CELLS equal cells from lo, width h. */
static void cell_masses(const double *mean, const double *sd, int n, double lo, double h,
                        double *mass)
{
    int i, c;
    memset(mass, 0, CELLS * sizeof *mass);
    for (i = 0; i < n; i++) {
        double s = sd[i] * sqrt(2.0), before = erf((lo - mean[i]) / s), after;
        for (c = 0; c < CELLS; c++, before = after) {
            after = erf((lo + (c + 1) * h - mean[i]) / s);
            mass[c] += 0.5 * (after - before) / n;
        }
    }
}

/* Mass below x, and its first moment; even within a cell. mass, total and moment: of cells, and
 * below their left edges. */
static double below(const double *mass, const double *total, const double *moment, double lo,
                    double h, double x, double *first)
{
    double at = (x - lo) / h, part;
    int c = at <= 0 ? 0 : at >= CELLS ? CELLS - 1 : (int)at;
    part = mass[c] * fmin(fmax(at - c, 0), 1);
    *first = moment[c] + part * (lo + 0.5 * h * (c + fmin(fmax(at, c), c + 1)));
    return total[c] + part;
}

int baseline_lloyd_max(const double *mean, const double *sd, int n, int bits, double *level)
{
    double *mass = malloc(3 * CELLS * sizeof *mass), *total = mass + CELLS;
    double *moment = total + CELLS, lo = 0, hi = 0, h, sum = 0, sum_x = 0;
    int levels = 1 << bits, i, c, k, round, moved = 1;
    if (!mass || n < 1) {
        free(mass);
        return -1;
    }
    for (i = 0; i < n; i++) {
        if (!i || mean[i] - 6 * sd[i] < lo) lo = mean[i] - 6 * sd[i];
        if (!i || mean[i] + 6 * sd[i] > hi) hi = mean[i] + 6 * sd[i];
    }
    h = (hi - lo) / CELLS;
    cell_masses(mean, sd, n, lo, h, mass);
    for (c = 0, k = 0; c < CELLS; c++) {
        total[c] = sum;
        moment[c] = sum_x;
        sum += mass[c];
        sum_x += mass[c] * (lo + (c + 0.5) * h);
        while (k < levels && sum >= (k + 0.5) / levels) level[k++] = lo + (c + 0.5) * h;
    }                                               /* start: quantiles */
    while (k < levels) level[k++] = hi;
    for (round = 0; round < ROUNDS && moved; round++) {
        double left = 0, left_x = 0, right, right_x;
        moved = 0;
        for (k = 0; k < levels; k++, left = right, left_x = right_x) {
            double x = k + 1 < levels ? 0.5 * (level[k] + level[k + 1]) : hi;
            right = below(mass, total, moment, lo, h, x, &right_x);
            if (right - left < 1e-12) continue;
            x = (right_x - left_x) / (right - left);
            if (fabs(x - level[k]) > 1e-7 * (hi - lo)) moved = 1;
            level[k] = x;
        }
    }
    free(mass);
    return 0;
}

static int fit_head(const baseline_grams *g, int layer, int head, int kind, int bits,
                    regime_pair *p, float *basis)
{
    int which = kind ? GRAM_V_UNIT : GRAM_K_UNIT, r, bad;
    size_t d = (size_t)g->head_dim, i, j;
    const float *gram = baseline_gram(g, layer, head, which);
    const float *u = baseline_mean(g, layer, head, which);
    double *a = malloc((2 * d * d + 3 * d) * sizeof *a), *v = a + d * d, *w = v + d * d;
    double *mean = w + d, *sd = mean + d;
    if (!a) return -1;
    for (i = 0; i < d * d; i++) a[i] = gram[i];
    bad = skv_eigh(a, d, d, w, v, 0, NULL) < SKV_OK;
    for (i = 0; i < d && !bad; i++) {
        mean[i] = 0;
        for (j = 0; j < d; j++) mean[i] += v[i * d + j] * u[j];
        sd[i] = sqrt(fmax(w[i] - mean[i] * mean[i], 1e-10));
        for (j = 0; j < d; j++) basis[i * d + j] = (float)v[i * d + j];
    }
    if (!bad) {
        p->d_eff = baseline_participation(w, (int)d);
        baseline_spectralquant_bits(bits, p->d_eff, (int)d, &p->bits[0], &p->bits[1]);
        for (r = 0; r < 2 && !bad; r++)
            bad = baseline_lloyd_max(mean + (r ? p->d_eff : 0), sd + (r ? p->d_eff : 0),
                                     r ? (int)d - p->d_eff : p->d_eff, p->bits[r], p->level[r]);
    }
    free(a);
    return bad ? -1 : 0;
}

static double nearest(const double *level, int n, double x)
{
    int lo = 0, hi = n - 1;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (x > 0.5 * (level[mid] + level[mid + 1])) lo = mid + 1;
        else hi = mid;
    }
    return level[lo];
}

static int spectralquant_code(void *self, int layer, int kind, int first, int n, float *rows,
                              double *bits)
{
    const spectralquant *s = self;
    size_t d = (size_t)s->c.head_dim, i, j;
    int heads = s->c.n_kv_heads, t, h;
    double *out = malloc(d * sizeof *out);
    (void)first;
    if (!out) return -1;
    for (t = 0; t < n; t++)
        for (h = 0; h < heads; h++) {
            size_t at = (size_t)(layer * heads + h) * 2 + (size_t)kind;
            const regime_pair *p = &s->pair[at];
            const float *e = s->basis + at * d * d;
            float *x = rows + (size_t)(t * heads + h) * d;
            double norm = 0, scale, stored;
            for (i = 0; i < d; i++) norm += (double)x[i] * x[i];
            norm = sqrt(norm);
            scale = norm > 0 ? 1 / norm : 0;
            stored = (double)baseline_half((float)norm);
            memset(out, 0, d * sizeof *out);
            for (i = 0; i < d; i++, e += d) {
                int r = i >= (size_t)p->d_eff;
                double y = 0;
                for (j = 0; j < d; j++) y += e[j] * x[j];
                y = nearest(p->level[r], 1 << p->bits[r], y * scale) * stored;
                for (j = 0; j < d; j++) out[j] += y * e[j];
            }
            for (i = 0; i < d; i++) x[i] = (float)out[i];
            *bits += 16 + p->d_eff * p->bits[0] + ((int)d - p->d_eff) * p->bits[1];
        }
    free(out);
    return 0;
}

static void spectralquant_free(void *self)
{
    spectralquant *s = self;
    free(s->pair);
    free(s->basis);
    free(s);
}

int baseline_spectralquant_open(llm_codec *out, const char *name, const baseline_env *env,
                                char *err)
{
    const baseline_grams *g = env->grams;
    size_t heads = 2 * (size_t)env->c->n_layers * (size_t)env->c->n_kv_heads;
    size_t dd = (size_t)env->c->head_dim * (size_t)env->c->head_dim;
    spectralquant *s;
    int bits, i, bad = 0;
    if (strncmp(name, "spectralquant:", 14)) return 1;
    if (baseline_whole(name + 14, 1, 7, &bits))
        return baseline_refuse(err, name, "give the average bits, 1 to 7, such as spectralquant:3");
    if (!g) return baseline_refuse(err, name, "needs --grams FILE (make one with `skv-llm grams`)");
    s = calloc(1, sizeof *s);
    if (s) s->pair = calloc(heads, sizeof *s->pair);
    if (s) s->basis = malloc(heads * dd * sizeof *s->basis);
    if (!s || !s->pair || !s->basis) {
        if (s) spectralquant_free(s);
        return baseline_refuse(err, name, "out of memory");
    }
    s->c = *env->c;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1) reduction(|| : bad)
#endif
    for (i = 0; i < (int)heads; i++)
        bad = fit_head(g, i / 2 / g->n_kv_heads, i / 2 % g->n_kv_heads, i % 2, bits, &s->pair[i],
                       s->basis + (size_t)i * dd) || bad;
    if (bad) {
        spectralquant_free(s);
        return baseline_refuse(err, name, "the fit failed: out of memory, or Grams that are no "
                               "numbers");
    }
    out->self = s;
    out->code = spectralquant_code;
    out->free = spectralquant_free;
    return 0;
}
