/* svdq.c: SVDq (2502.15304), `svdq:SCHEDULE` for keys only, `svdq:SCHEDULE:v` for values too.
 *
 * Keys of all heads of a layer, RoPE taken off, centred on the prompt's mean; their right singular
 * vectors over the prompt are the basis; latent channels in equal groups, each with its own bits
 * (84420000 = 8, 4, 4, 2, 0, 0, 0, 0 of the paper, 2.25 on average; 44200000 = 1.25), quantised per
 * channel, asymmetrically. The prompt is the first PROMPT tokens that are coded; later ones use its
 * basis, which the paper leaves in full precision instead. Values stay f16, or go the same way
 * without RoPE.
 *
 * Counted: codes; f16 zero and step per channel in use and call (the prompt, then every page); mean
 * and basis of the channels in use in f16, once per prompt.
 */
#include "parts.h"
#include "spectral_kv.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 192 };

typedef struct svdq_basis {         /* of one layer and kind */
    float *mean, *rows;             /* [D], [used][D] */
} svdq_basis;

typedef struct svdq {
    llm_config c;
    uint8_t *bits;                  /* [D] of each latent channel */
    int width, used, values;        /* D; leading channels that get bits; values go the same way */
    svdq_basis *basis;              /* [n_layers][2] */
    float *latent;                  /* [used][room] */
    int room;
} svdq;

/* SCHEDULE or SCHEDULE:v into the bits of each channel. 0, or -1. */
static int parse(svdq *q, const char *word)
{
    uint8_t schedule[8];
    char plain[16];
    size_t n = strcspn(word, ":");
    q->values = !strcmp(word + n, ":v");
    if (n >= sizeof plain || (word[n] && !q->values)) return -1;
    memcpy(plain, word, n);
    plain[n] = 0;
    return skv_svdq_schedule(plain, schedule) == SKV_OK &&
           skv_svdq_bits(schedule, (size_t)q->width, q->bits) == SKV_OK ? 0 : -1;
}

/* Mean, and the eigenvectors of the covariance (the right singular vectors of the centred rows). */
static int fit(const svdq *q, svdq_basis *b, const float *rows, int n)
{
    size_t D = (size_t)q->width, i, j;
    double *cov = calloc(2 * D * D + D, sizeof *cov), *vec = cov + D * D;
    float *x = malloc(D * sizeof *x);
    int t, bad = !cov || !x;
    for (i = 0; i < D && !bad; i++) {
        double sum = 0;
        for (t = 0; t < n; t++) sum += rows[(size_t)t * D + i];
        b->mean[i] = baseline_half((float)(sum / n));
    }
    for (t = 0; t < n && !bad; t++) {
        for (i = 0; i < D; i++) x[i] = rows[(size_t)t * D + i] - b->mean[i];
        for (i = 0; i < D; i++)
            for (j = i; j < D; j++) cov[i * D + j] += (double)x[i] * x[j];
    }
    if (!bad) bad = skv_eigh(cov, D, D, vec + D * D, vec, 0, NULL) < SKV_OK;
    for (i = 0; i < (size_t)q->used * D && !bad; i++) b->rows[i] = baseline_half((float)vec[i]);
    free(cov);
    free(x);
    return bad ? -1 : 0;
}

/* Rows to latents, quantised, and back. */
static double pass(const svdq *q, const svdq_basis *b, float *rows, int n)
{
    int D = q->width, t, i, j;
    double bits = 0;
    for (i = 0; i < q->used; i++) {
        const float *v = b->rows + (size_t)i * (size_t)D;
        float *z = q->latent + (size_t)i * (size_t)n;
        int width = q->bits[i];
        for (t = 0; t < n; t++) {
            const float *row = rows + (size_t)t * (size_t)D;
            float sum = 0;
            for (j = 0; j < D; j++) sum += v[j] * (row[j] - b->mean[j]);
            z[t] = sum;
        }
        if (width) bits += baseline_asymmetric(z, n, 1, width);
        else memset(z, 0, (size_t)n * sizeof *z);
    }
    for (t = 0; t < n; t++) {
        float *row = rows + (size_t)t * (size_t)D;
        memcpy(row, b->mean, (size_t)D * sizeof *row);
        for (i = 0; i < q->used; i++) {
            float z = q->latent[(size_t)i * (size_t)n + (size_t)t];
            for (j = 0; j < D; j++) row[j] += z * b->rows[(size_t)i * (size_t)D + (size_t)j];
        }
    }
    return bits;
}

static int svdq_code(void *self, int layer, int kind, int first, int n, float *rows, double *bits)
{
    svdq *q = self;
    svdq_basis *b = &q->basis[2 * layer + kind];
    int heads = q->c.n_kv_heads;
    double active = 0;
    int i;
    if (kind && !q->values) {
        baseline_half_rows(rows, (size_t)n * (size_t)q->width);
        *bits += 16.0 * n * q->width;
        return 0;
    }
    if (n > q->room) {
        float *more = realloc(q->latent, (size_t)(q->used + 1) * (size_t)n * sizeof *more);
        if (!more) return -1;
        q->latent = more;
        q->room = n;
    }
    if (!kind) baseline_rope(&q->c, layer, heads, first, n, -1, rows);
    if (first == LLM_SINKS) {               /* a new prompt */
        if (fit(q, b, rows, n)) return -1;
        for (i = 0; i < q->used; i++) active += q->bits[i] > 0;
        *bits += 16.0 * q->width * (1 + active);
    }
    *bits += pass(q, b, rows, n);
    if (!kind) baseline_rope(&q->c, layer, heads, first, n, 1, rows);
    return 0;
}

static void svdq_free(void *self)
{
    svdq *q = self;
    int i;
    for (i = 0; q->basis && i < 2 * q->c.n_layers; i++) {
        free(q->basis[i].mean);
        free(q->basis[i].rows);
    }
    free(q->basis);
    free(q->latent);
    free(q->bits);
    free(q);
}

int baseline_svdq_open(llm_codec *out, const char *name, const baseline_env *env, char *err)
{
    svdq *q;
    int i, bad;
    size_t width = (size_t)env->c->n_kv_heads * (size_t)env->c->head_dim;
    if (strncmp(name, "svdq:", 5)) return 1;
    q = calloc(1, sizeof *q);
    if (!q) return baseline_refuse(err, name, "out of memory");
    q->c = *env->c;
    q->width = (int)width;
    q->bits = calloc(width, 1);
    if (q->bits && parse(q, name + 5)) {
        svdq_free(q);
        return baseline_refuse(err, name, "give the bits of eight equal groups of latent channels "
                               "as digits, such as svdq:84420000, or 2.25, 2 or 1.25, and :v for "
                               "values too");
    }
    for (i = 0; q->bits && i < q->width; i++)
        if (q->bits[i]) q->used = i + 1;
    q->basis = calloc(2 * (size_t)q->c.n_layers, sizeof *q->basis);
    bad = !q->basis || !q->bits;
    for (i = 0; i < 2 * q->c.n_layers && !bad; i++) {
        q->basis[i].mean = calloc(width, sizeof(float));
        q->basis[i].rows = calloc((size_t)q->used * width + 1, sizeof(float));
        bad = !q->basis[i].mean || !q->basis[i].rows;
    }
    if (bad) {
        svdq_free(q);
        return baseline_refuse(err, name, "out of memory");
    }
    out->self = q;
    out->prompt = PROMPT;
    out->code = svdq_code;
    out->free = svdq_free;
    return 0;
}
