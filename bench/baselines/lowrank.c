/* lowrank.c: rank truncation and channel pruning, nothing quantised but to f16.
 *
 *   kqsvd:R        KQ-SVD (2512.05916): per KV head the rank R map of keys that is optimal for
 *                  K Q^T of the calibration texts, queries of the group stacked; values likewise
 *                  for V W_O. Keys as the cache holds them (after RoPE), not centred.
 *   eigen:R        Eigen Attention (2408.05646): keys onto the R leading eigenvectors of
 *                  [K; Q]^T [K; Q], before RoPE, which the published method applies on read (its
 *                  figure 6); values onto those of V^T V
 *   eigen:R:post   the same after RoPE, as KQ-SVD's authors compare with
 *   think:F        ThinK (2407.21018): of every head's key channels the share F with the lowest
 *                  |Q_j| |K_j| is dropped, values stay f16. Keys are those of the page; queries
 *                  come from calibration, since a codec does not see any. A mask of one bit per
 *                  channel and page.
 *
 * R latents of 16 bits for a head's key or value: 16 R / d bits per element.
 */
#include "parts.h"
#include "spectral_kv.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum method { KQSVD, EIGEN, THINK };

typedef struct lowrank {
    llm_config c;
    enum method method;
    int rank, pre_rope;             /* of ThinK: channels kept */
    float *down, *up;               /* [layer][head][kind][rank][d]; eigen: up == down */
    float *power;                   /* ThinK: [layer][head][d] squared norm of the query channel */
    double *score;                  /* [d] */
    unsigned char *keep;            /* [d] */
} lowrank;

/* r [d][d] with r^T r = gram: rows are eigenvectors times the root of their eigenvalues. */
static int root(const double *gram, int d, double *r)
{
    size_t n = (size_t)d, i, j;
    double *a = malloc((n * n + n) * sizeof *a), *w = a + n * n;
    if (!a) return -1;
    memcpy(a, gram, n * n * sizeof *a);
    if (skv_eigh(a, n, n, w, r, 0, NULL) < SKV_OK) {
        free(a);
        return -1;
    }
    for (i = 0; i < n; i++)
        for (j = 0; j < n; j++) r[i * n + j] *= sqrt(w[i] > 0 ? w[i] : 0);
    free(a);
    return 0;
}

/* K = A Rk, Q = B Rq with orthonormal columns in A and B; Rk Rq^T = P S W^T. The best rank r
 * approximation of K Q^T is A P_r S_r W_r^T B^T: down_i = Rq^T w_i / s_i, up_i = Rk^T p_i. */
int baseline_kqsvd(const double *gram_k, const double *gram_q, int d, int r, double *down,
                   double *up)
{
    size_t n = (size_t)d, nn = n * n, i, j, k, room = skv_svd_scratch(n, n);
    double *rk = calloc(5 * nn + n + room, sizeof *rk), *rq = rk + nn, *m = rq + nn, *p = m + nn;
    double *wt = p + nn, *s = wt + nn;
    int bad = !rk || root(gram_k, d, rk) || root(gram_q, d, rq);
    if (!bad) {
        for (i = 0; i < n; i++)
            for (j = 0; j < n; j++)
                for (k = 0; k < n; k++) m[i * n + j] += rk[i * n + k] * rq[j * n + k];
        bad = skv_svd(m, n, n, n, s, p, wt, s + n, 0, NULL) < SKV_OK;
    }
    for (i = 0; i < (size_t)r && !bad; i++)
        for (k = 0; k < n; k++) {
            double to = 0, from = 0;
            for (j = 0; j < n; j++) {
                to += rq[j * n + k] * wt[i * n + j];
                from += rk[j * n + k] * p[i * n + j];
            }
            down[i * n + k] = s[i] > 1e-12 * s[0] ? to / s[i] : 0;
            up[i * n + k] = from;
        }
    free(rk);
    return bad ? -1 : 0;
}

int baseline_eigen(const double *a, const double *b, int d, int r, double *basis)
{
    size_t n = (size_t)d, nn = n * n, i;
    double *m = malloc((2 * nn + n) * sizeof *m), *v = m + nn;
    int bad = !m;
    for (i = 0; i < nn && !bad; i++) m[i] = a[i] + (b ? b[i] : 0);
    if (!bad) bad = skv_eigh(m, n, n, v + nn, v, 0, NULL) < SKV_OK;
    if (!bad) memcpy(basis, v, (size_t)r * n * sizeof *basis);
    free(m);
    return bad ? -1 : 0;
}

void baseline_think(const double *score, int d, int count, unsigned char *keep)
{
    int i, j, best;
    memset(keep, 0, (size_t)d);
    for (i = 0; i < count; i++) {
        best = -1;
        for (j = 0; j < d; j++)
            if (!keep[j] && (best < 0 || score[j] > score[best])) best = j;
        keep[best] = 1;
    }
}

static void widen(double *out, const float *in, size_t n)
{
    while (n--) *out++ = *in++;
}

/* The map of one head, keys or values. */
static int fit_head(const lowrank *l, const baseline_grams *g, int layer, int head, int kind,
                    float *down, float *up)
{
    size_t d = (size_t)g->head_dim, nn = d * d, n = (size_t)l->rank * d, i;
    double *a = malloc((2 * nn + 2 * n) * sizeof *a), *b = a + nn, *lo = b + nn, *hi = lo + n;
    int other = kind ? GRAM_WO : l->pre_rope ? GRAM_Q_PRE : GRAM_Q, bad = !a;
    if (!bad) {
        widen(a, baseline_gram(g, layer, head, kind ? GRAM_V : l->pre_rope ? GRAM_K_PRE : GRAM_K),
              nn);
        widen(b, baseline_gram(g, layer, head, other), nn);
        bad = l->method == KQSVD ? baseline_kqsvd(a, b, (int)d, l->rank, lo, hi)
                                 : baseline_eigen(a, kind ? NULL : b, (int)d, l->rank, lo);
    }
    for (i = 0; i < n && !bad; i++) {
        down[i] = (float)lo[i];
        up[i] = (float)(l->method == KQSVD ? hi[i] : lo[i]);
    }
    free(a);
    return bad;
}

static int fit(lowrank *l, const baseline_grams *g)
{
    int heads = g->n_layers * g->n_kv_heads, i, bad = 0;
    size_t step = (size_t)l->rank * (size_t)g->head_dim, d = (size_t)g->head_dim, j;
    l->down = malloc((size_t)heads * 2 * step * sizeof *l->down);
    l->up = malloc((size_t)heads * 2 * step * sizeof *l->up);
    l->power = malloc((size_t)heads * d * sizeof *l->power);
    l->score = malloc(d * sizeof *l->score);
    l->keep = malloc(d);
    if (!l->down || !l->up || !l->power || !l->score || !l->keep) return -1;
    for (i = 0; i < heads; i++)
        for (j = 0; j < d; j++)
            l->power[(size_t)i * d + j] =
                baseline_gram(g, i / g->n_kv_heads, i % g->n_kv_heads, GRAM_Q)[j * d + j];
    if (l->method == THINK) return 0;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1) reduction(|| : bad)
#endif
    for (i = 0; i < 2 * heads; i++)
        bad = fit_head(l, g, i / 2 / g->n_kv_heads, i / 2 % g->n_kv_heads, i % 2,
                       l->down + (size_t)i * step, l->up + (size_t)i * step) || bad;
    return bad ? -1 : 0;
}

/* x[d] -> sum_i f16(down_i . x) up_i */
static void project(const float *down, const float *up, int r, int d, float *x, float *out)
{
    int i, j;
    memset(out, 0, (size_t)d * sizeof *out);
    for (i = 0; i < r; i++, down += d, up += d) {
        float z = 0;
        for (j = 0; j < d; j++) z += down[j] * x[j];
        z = baseline_half(z);
        for (j = 0; j < d; j++) out[j] += z * up[j];
    }
    memcpy(x, out, (size_t)d * sizeof *x);
}

static int lowrank_code(void *self, int layer, int kind, int first, int n, float *rows,
                        double *bits)
{
    const lowrank *l = self;
    int d = l->c.head_dim, heads = l->c.n_kv_heads, t, h;
    size_t step = (size_t)l->rank * (size_t)d;
    float *out = malloc((size_t)d * sizeof *out);
    if (!out) return -1;
    if (l->pre_rope && !kind) baseline_rope(&l->c, layer, heads, first, n, -1, rows);
    for (t = 0; t < n; t++)
        for (h = 0; h < heads; h++) {
            size_t at = ((size_t)(layer * heads + h) * 2 + (size_t)kind) * step;
            project(l->down + at, l->up + at, l->rank, d,
                    rows + (size_t)(t * heads + h) * (size_t)d, out);
        }
    if (l->pre_rope && !kind) baseline_rope(&l->c, layer, heads, first, n, 1, rows);
    *bits += 16.0 * n * heads * l->rank;
    free(out);
    return 0;
}

static int think_code(void *self, int layer, int kind, int first, int n, float *rows, double *bits)
{
    const lowrank *l = self;
    int d = l->c.head_dim, heads = l->c.n_kv_heads, t, h, i;
    size_t width = (size_t)heads * (size_t)d;
    (void)first;
    baseline_half_rows(rows, (size_t)n * width);
    if (kind) {
        *bits += 16.0 * n * (double)width;
        return 0;
    }
    for (h = 0; h < heads; h++) {
        float *at = rows + (size_t)h * (size_t)d;
        for (i = 0; i < d; i++) {
            l->score[i] = 0;
            for (t = 0; t < n; t++)
                l->score[i] += (double)at[(size_t)t * width + (size_t)i] *
                               at[(size_t)t * width + (size_t)i];
            l->score[i] *= l->power[(size_t)(layer * heads + h) * (size_t)d + (size_t)i];
        }
        baseline_think(l->score, d, l->rank, l->keep);
        for (t = 0; t < n; t++)
            for (i = 0; i < d; i++)
                if (!l->keep[i]) at[(size_t)t * width + (size_t)i] = 0;
    }
    *bits += (double)heads * (16.0 * n * l->rank + d);
    return 0;
}

static void lowrank_free(void *self)
{
    lowrank *l = self;
    free(l->down);
    free(l->up);
    free(l->power);
    free(l->score);
    free(l->keep);
    free(l);
}

/* 0, 1 = not one of these, -1 = one of these with a bad argument. */
static int parse(lowrank *l, const char *name)
{
    int d = l->c.head_dim;
    char word[16], *end;
    double share;
    if (!strncmp(name, "think:", 6)) {
        l->method = THINK;
        share = strtod(name + 6, &end);
        if (end == name + 6 || *end || !(share >= 0 && share < 1)) return -1;
        l->rank = d - (int)(share * d + 1e-9);
        return 0;
    }
    if (strncmp(name, "kqsvd:", 6) && strncmp(name, "eigen:", 6)) return 1;
    l->method = name[0] == 'k' ? KQSVD : EIGEN;
    l->pre_rope = l->method == EIGEN;
    snprintf(word, sizeof word, "%s", name + 6);
    end = strchr(word, ':');
    if (end && l->method == EIGEN && !strcmp(end, ":post")) {
        l->pre_rope = 0;
        *end = 0;
    }
    return baseline_whole(word, 1, d, &l->rank);
}

int baseline_lowrank_open(llm_codec *out, const char *name, const baseline_env *env, char *err)
{
    lowrank *l = calloc(1, sizeof *l);
    int r;
    if (!l) return baseline_refuse(err, name, "out of memory");
    l->c = *env->c;
    r = parse(l, name);
    if (r < 0) baseline_refuse(err, name, "use kqsvd:R, eigen:R or eigen:R:post with a rank from 1 "
                               "to the head's size, or think:F with a share below 1");
    if (!r && !env->grams)
        r = baseline_refuse(err, name, "needs --grams FILE (make one with `skv-llm grams`)");
    if (!r && fit(l, env->grams))
        r = baseline_refuse(err, name, "the fit failed: out of memory, or Grams that are no "
                            "numbers");
    if (r) {
        lowrank_free(l);
        return r;
    }
    out->self = l;
    out->code = l->method == THINK ? think_code : lowrank_code;
    out->free = lowrank_free;
    return 0;
}
