/* codecs_classic.c: see codecs_classic.h. Rows go to bytes and back one by one; a row's bits are
 * all its bytes. Matrices are the codec's and are not counted: rotation and sketch come from a
 * seed, bases are part of a calibration. */
#include "codecs_classic.h"
#include "parts.h"
#include "spectral_kv.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEED = 42 };                 /* the published packages' */

typedef struct classic {
    int heads, dim, values;         /* values: V is coded too, else it is kept in f16 */
    int jarvis;                     /* which of the two below */
    skv_turbo t;
    skv_jarvis j;
    float *rotation, *sketch;
    float *bases;                   /* [layer][kind][head][rank][dim], or NULL */
    unsigned char *row;
} classic;

static void classic_free(void *self)
{
    classic *s = self;
    free(s->rotation);
    free(s->sketch);
    free(s->bases);
    free(s->row);
    free(s);
}

static int classic_code(void *self, int layer, int kind, int first, int n, float *rows,
                        double *bits)
{
    classic *s = self;
    size_t dim = (size_t)s->dim, count = (size_t)n * (size_t)s->heads, i, rank, bytes;
    skv_result r = SKV_OK;
    (void)first;
    if (kind == 1 && !s->values) {
        baseline_half_rows(rows, count * dim);
        *bits += 16.0 * (double)(count * dim);
        return 0;
    }
    rank = s->jarvis ? s->j.rank : s->t.rank;
    bytes = s->jarvis ? skv_jarvis_bytes(&s->j) : skv_turbo_bytes(&s->t);
    for (i = 0; i < count && r == SKV_OK; i++) {
        float *x = rows + i * dim;
        size_t head = (size_t)(layer * 2 + kind) * (size_t)s->heads + i % (size_t)s->heads;
        const float *basis = s->bases ? s->bases + head * rank * dim : NULL;
        s->t.basis = s->j.basis = basis;
        if (s->jarvis) {
            r = skv_jarvis_encode(&s->j, x, s->row);
            if (r == SKV_OK) r = skv_jarvis_decode(&s->j, s->row, x);
        } else {
            r = skv_turbo_encode(&s->t, x, s->row);
            if (r == SKV_OK) r = skv_turbo_decode(&s->t, s->row, x);
        }
    }
    *bits += 8.0 * (double)(bytes * count);
    return (int)r;
}

/* The leading eigenvectors of the second moments about `mean` (NULL: about zero), as rows.
 * a [d][d], v [d][d], w [d] are room. */
static int leading(const float *gram, const float *mean, size_t d, size_t rank, double *a,
                   double *v, double *w, float *basis)
{
    size_t i, j;
    for (i = 0; i < d; i++)
        for (j = 0; j < d; j++)
            a[i * d + j] = (double)gram[i * d + j] -
                           (mean ? (double)mean[i] * (double)mean[j] : 0.0);
    if (skv_eigh(a, d, d, w, v, 0, NULL) < SKV_OK) return -1;
    for (i = 0; i < rank * d; i++) basis[i] = (float)v[i];
    return 0;
}

/* JarvisKV's basis is that of centred rows, though it projects rows as they are: what of their mean
 * lies outside is lost, as published. SpectralQuant's is that of the rows as they are. */
static int fit_bases(classic *s, const baseline_grams *g, size_t rank)
{
    size_t d = (size_t)s->dim, heads = (size_t)s->heads;
    double *room = malloc((2 * d * d + d) * sizeof *room);
    int l, h, kind, bad = 0;
    s->bases = malloc((size_t)g->n_layers * 2 * heads * rank * d * sizeof *s->bases);
    if (!room || !s->bases) bad = -1;
    for (l = 0; l < g->n_layers && !bad; l++)
        for (kind = 0; kind < 2 && !bad; kind++)
            for (h = 0; h < s->heads && !bad; h++) {
                int which = kind ? GRAM_V : GRAM_K;
                size_t head = (size_t)(l * 2 + kind) * heads + (size_t)h;
                bad = leading(baseline_gram(g, l, h, which),
                              s->jarvis ? baseline_mean(g, l, h, which) : NULL, d, rank, room,
                              room + d * d, room + 2 * d * d, s->bases + head * rank * d);
            }
    free(room);
    return bad;
}

/* A number at *s, which moves behind it; -1 where there is none. */
static int number(const char **s)
{
    int x = 0;
    if (!isdigit((unsigned char)**s)) return -1;
    while (isdigit((unsigned char)**s) && x < 100000) x = x * 10 + *(*s)++ - '0';
    return x;
}

/* The word into s. 0, 1 = not one of these, -1 = one of these, and malformed. */
static int parse(classic *s, const char *name)
{
    static const char *const stems[] = {"turbo:", "turboqjl:", "residual:", "jarvis:"};
    const char *at;
    int i, bits, rank = 0;
    for (i = 0; i < 4; i++)
        if (!strncmp(name, stems[i], strlen(stems[i]))) break;
    if (i == 4) return 1;
    at = name + strlen(stems[i]);
    s->jarvis = i == 3;
    s->values = !s->jarvis;
    if (s->jarvis) {
        rank = number(&at);
        if (rank < 2 || rank > s->dim || *at++ != ':') return -1;
    }
    bits = number(&at);
    if (s->jarvis && !strcmp(at, ":v")) {
        s->values = 1;
        at += 2;
    }
    if (bits < 1 || bits > 8 || *at) return -1;
    s->j.dim = s->t.dim = (uint32_t)s->dim;
    s->j.bits = s->t.bits = (uint32_t)bits;
    s->j.rank = (uint32_t)rank;
    s->t.form = i == 1 ? SKV_TURBO_PRODUCT : i == 2 ? SKV_TURBO_RESIDUAL : SKV_TURBO_MSE;
    if (i == 2) s->t.rank = (uint32_t)((3 * s->dim + 50) / 100 ? (3 * s->dim + 50) / 100 : 1);
    return 0;
}

static int prepare(classic *s, const char *name, const baseline_env *env, char *err)
{
    size_t d = (size_t)s->dim, turned = s->jarvis ? s->j.rank : d;
    size_t rank = s->jarvis ? s->j.rank : s->t.rank;
    if (rank && !env->grams)
        return baseline_refuse(err, name, "needs --grams FILE (make one with `skv-llm grams`)");
    s->rotation = malloc(d * d * sizeof *s->rotation);
    s->sketch = malloc(d * d * sizeof *s->sketch);
    s->row = malloc(8 * d);
    if (!s->rotation || !s->sketch || !s->row ||
        skv_turbo_rotation(SEED, turned, s->rotation) != SKV_OK ||
        skv_turbo_sketch(SEED + 1, d, s->sketch) != SKV_OK ||
        (rank && fit_bases(s, env->grams, rank)))
        return baseline_refuse(err, name, "out of memory, or head_dim is not of 1 to 576");
    s->t.rotation = s->j.rotation = s->rotation;
    s->t.basis = s->bases;                  /* of the first head, until a row's own is set */
    s->t.sketch = s->sketch;
    return 0;
}

int llm_classic_open(llm_codec *out, const char *name, const baseline_env *env, char *err)
{
    classic *s = calloc(1, sizeof *s);
    int r;
    if (!s) {
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        return -1;
    }
    s->heads = env->c->n_kv_heads;
    s->dim = env->c->head_dim;
    r = parse(s, name);
    if (r < 0) baseline_refuse(err, name, "not of the form turbo:B, turboqjl:B, residual:B, "
                               "jarvis:R:B or jarvis:R:B:v with B 1 to 8, R 2 to head_dim");
    if (!r) r = prepare(s, name, env, err);
    if (r) {
        classic_free(s);
        return r;
    }
    out->self = s;
    out->prompt = 0;
    out->code = classic_code;
    out->free = classic_free;
    return 0;
}
