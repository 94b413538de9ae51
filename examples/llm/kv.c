/* kv.c: see kv.h. K and V lie as [layer][kv head][token][head_dim].
 *
 * Many queries: tiles of 16, one query per lane. Scores are K (rows) times Q (lanes), and the
 * output V^T (rows) times P (lanes), both by kern_tile; maximum, exp and sums work lane by lane.
 * Few queries: dot products for the scores, and lanes of head_dim for the output.
 */
#include "kv.h"
#include "kernels.h"
#include "model_internal.h"
#include "progress.h"
#include <stdio.h>
#include <stdlib.h>

#define KEYS 64                     /* keys per step of the running softmax */
#define FEW 3                       /* up to here queries are taken one by one */
#define WORTH_THREADS 32768         /* products of a query and a key element, as in quants.c */
#define LOWEST -1e30f               /* below every score; finite, so that differences are numbers */

struct llm_kv_exact {
    llm_config c;
    size_t max_tokens, head, layer;         /* head, layer: floats between one's K and the next */
    float *k, *v;
    int *held;                      /* tokens per layer */
};

/* One (query head, queries) task of attend */
typedef struct task {
    const llm_kv_exact *kv;
    const float *k, *v, *q;         /* K and V of the head; q: first query's head */
    float *o;
    size_t d, stride;               /* floats from one query to the next */
    long first, window;             /* position of the first query; 0 = no window */
    int n;
} task;

/* ---- life ---- */

int llm_kv_exact_new(llm_kv_exact **out, const llm_config *c, int max_tokens, char *err)
{
    llm_kv_exact *kv;
    uint64_t row = (uint64_t)c->n_kv_heads * (uint64_t)c->head_dim * (uint64_t)c->n_layers;
    size_t n;
    if (max_tokens < 1 || c->head_dim > LLM_MAX_HEAD || row < 1 ||
        (uint64_t)max_tokens > SIZE_MAX / 2 / sizeof(float) / row) {
        snprintf(err, GGUF_ERR_BYTES, "A cache of %d tokens is not possible.", max_tokens);
        return -1;
    }
    n = (size_t)row * (size_t)max_tokens;
    kv = calloc(1, sizeof *kv);
    if (kv) {
        kv->c = *c;
        kv->max_tokens = (size_t)max_tokens;
        kv->head = kv->max_tokens * (size_t)c->head_dim;
        kv->layer = kv->head * (size_t)c->n_kv_heads;
        kv->k = malloc(n * sizeof *kv->k);
        kv->v = malloc(n * sizeof *kv->v);
        kv->held = calloc((size_t)c->n_layers, sizeof *kv->held);
    }
    if (!kv || !kv->k || !kv->v || !kv->held) {
        llm_kv_exact_free(kv);
        snprintf(err, GGUF_ERR_BYTES, "No memory for a cache of %d tokens; ask for fewer.",
                 max_tokens);
        return -1;
    }
    *out = kv;
    return 0;
}

void llm_kv_exact_free(llm_kv_exact *kv)
{
    if (!kv) return;
    free(kv->k);
    free(kv->v);
    free(kv->held);
    free(kv);
}

int llm_kv_exact_tokens(const llm_kv_exact *kv)
{
    int l, n = kv->held[0];
    for (l = 1; l < kv->c.n_layers; l++) n = kv->held[l] < n ? kv->held[l] : n;
    return n;
}

void llm_kv_exact_truncate(llm_kv_exact *kv, int tokens)
{
    int l;
    if (tokens < 0) tokens = 0;
    for (l = 0; l < kv->c.n_layers; l++)
        if (kv->held[l] > tokens) kv->held[l] = tokens;
}

size_t llm_kv_exact_bytes_f16(const llm_kv_exact *kv)
{
    size_t l, tokens = 0;
    for (l = 0; l < (size_t)kv->c.n_layers; l++) tokens += (size_t)kv->held[l];
    return tokens * 2 * 2 * (size_t)kv->c.n_kv_heads * (size_t)kv->c.head_dim;
}

size_t llm_kv_exact_bytes(const llm_kv_exact *kv) { return 2 * llm_kv_exact_bytes_f16(kv); }

static int exact_append(void *self, int layer, const float *k, const float *v, int n)
{
    llm_kv_exact *kv = self;
    size_t d = (size_t)kv->c.head_dim, heads = (size_t)kv->c.n_kv_heads, h, t, at;
    if (layer < 0 || layer >= kv->c.n_layers || n < 1) return LLM_KV_BAD_CALL;
    if ((size_t)n > kv->max_tokens - (size_t)kv->held[layer]) return LLM_KV_FULL;
    at = (size_t)layer * kv->layer + (size_t)kv->held[layer] * d;
    for (h = 0; h < heads; h++, at += kv->head)
        for (t = 0; t < (size_t)n; t++) {
            memcpy(kv->k + at + t * d, k + (t * heads + h) * d, d * sizeof *k);
            memcpy(kv->v + at + t * d, v + (t * heads + h) * d, d * sizeof *v);
        }
    kv->held[layer] += n;
    return LLM_KV_OK;
}

void llm_kv_exact_get(const llm_kv_exact *kv, int layer, int kind, int first, int n, float *rows)
{
    size_t d = (size_t)kv->c.head_dim, heads = (size_t)kv->c.n_kv_heads, h, t;
    const float *base = (kind ? kv->v : kv->k) + (size_t)layer * kv->layer + (size_t)first * d;
    for (h = 0; h < heads; h++)
        for (t = 0; t < (size_t)n; t++)
            memcpy(rows + (t * heads + h) * d, base + h * kv->head + t * d, d * sizeof *rows);
}

void llm_kv_exact_put(llm_kv_exact *kv, int layer, int kind, int first, int n, const float *rows)
{
    size_t d = (size_t)kv->c.head_dim, heads = (size_t)kv->c.n_kv_heads, h, t;
    float *base = (kind ? kv->v : kv->k) + (size_t)layer * kv->layer + (size_t)first * d;
    for (h = 0; h < heads; h++)
        for (t = 0; t < (size_t)n; t++)
            memcpy(base + h * kv->head + t * d, rows + (t * heads + h) * d, d * sizeof *rows);
}

/* ---- few queries ---- */

/* o[i] += sum over keys of p[key] * v[key * d + i] */
static void mix(const float *restrict v, const float *restrict p, size_t keys, size_t d,
                float *restrict o)
{
    size_t i, j, k;
    for (i = 0; i + 32 <= d; i += 32) {
        float s[32];
        memcpy(s, o + i, sizeof s);
        for (k = 0; k < keys; k++)
            for (j = 0; j < 32; j++) s[j] = kern_fma(p[k], v[k * d + i + j], s[j]);
        memcpy(o + i, s, sizeof s);
    }
    for (k = 0; i < d && k < keys; k++)
        for (j = i; j < d; j++) o[j] = kern_fma(p[k], v[k * d + j], o[j]);
}

static void attend_one(const task *w, const float *q, long pos, float *o)
{
    const float scale = w->kv->c.attn_scale, cap = w->kv->c.attn_softcap;
    float s[KEYS], m = LOWEST, sum = 0.0f;
    size_t i, d = w->d;
    long at = w->window && pos >= w->window ? pos - w->window + 1 : 0;
    memset(o, 0, d * sizeof *o);
    for (; at <= pos; at += KEYS) {
        size_t len = pos - at + 1 < KEYS ? (size_t)(pos - at + 1) : KEYS;
        const float *k = w->k + (size_t)at * d;
        float top = m, fade;
        for (i = 0; i < len; i++) s[i] = scale * kern_dot(q, k + i * d, d);
        if (cap > 0.0f)
            for (i = 0; i < len; i++) s[i] = cap * tanhf(s[i] / cap);
        for (i = 0; i < len; i++) top = s[i] > top ? s[i] : top;
        fade = kern_exp(m - top);
        for (i = 0; i < len; i++) s[i] = kern_exp(s[i] - top);
        sum *= fade;
        for (i = 0; i < len; i++) sum += s[i];
        for (i = 0; i < d; i++) o[i] *= fade;
        mix(w->v + (size_t)at * d, s, len, d, o);
        m = top;
    }
    for (i = 0; i < d; i++) o[i] /= sum;
}

/* ---- many queries ---- */

typedef struct lanes {
    float q[LLM_MAX_HEAD * KERN_LANES];     /* [head_dim][lane], scaled */
    float o[LLM_MAX_HEAD * KERN_LANES];     /* [head_dim][lane], head_dim rounded up to 4 */
    float s[KEYS * KERN_LANES];             /* [key][lane]: scores, then probabilities */
    float top[KERN_LANES], sum[KERN_LANES];
} lanes;

/* Scores of keys at .. at + len - 1, with those outside a query's sight at twice LOWEST */
static void score_keys(const task *w, lanes *t, size_t at, size_t len)
{
    const float cap = w->kv->c.attn_softcap;
    size_t i, j;
    long newest = (long)(at + len) - 1, last = w->first + w->n - 1;
    memset(t->s, 0, sizeof t->s);
    for (i = 0; i < len; i += KERN_ROWS) {
        const float *a[KERN_ROWS];
        for (j = 0; j < KERN_ROWS; j++)
            a[j] = w->k + (at + (i + j < len ? i + j : i)) * w->d;
        kern_tile(a, 1, t->q, w->d, t->s + i * KERN_LANES);
    }
    if (cap > 0.0f)
        for (i = 0; i < len * KERN_LANES; i++) t->s[i] = cap * tanhf(t->s[i] / cap);
    if (newest <= w->first && (!w->window || last - (long)at < w->window)) return;
    for (i = 0; i < len; i++)
        for (j = 0; j < KERN_LANES; j++) {
            long age = w->first + (long)j - (long)(at + i);
            int hidden = age < 0 || (w->window && age >= w->window);
            if (hidden) t->s[i * KERN_LANES + j] = 2.0f * LOWEST;
        }
}

/* Running softmax: scores become probabilities against the new maximum, older sums fade. */
static void soften(lanes *t, size_t len, size_t d)
{
    float fade[KERN_LANES], top[KERN_LANES], sum[KERN_LANES];
    size_t i, j;
    memcpy(top, t->top, sizeof top);
    for (i = 0; i < len; i++)
        for (j = 0; j < KERN_LANES; j++) {
            float s = t->s[i * KERN_LANES + j];
            top[j] = s > top[j] ? s : top[j];
        }
    for (j = 0; j < KERN_LANES; j++) fade[j] = kern_exp(t->top[j] - top[j]);
    for (j = 0; j < KERN_LANES; j++) sum[j] = t->sum[j] * fade[j];
    for (i = 0; i < len; i++)
        for (j = 0; j < KERN_LANES; j++) {
            float p = kern_exp(t->s[i * KERN_LANES + j] - top[j]);
            t->s[i * KERN_LANES + j] = p;
            sum[j] += p;
        }
    for (i = 0; i < d; i++)
        for (j = 0; j < KERN_LANES; j++) t->o[i * KERN_LANES + j] *= fade[j];
    memcpy(t->top, top, sizeof top);
    memcpy(t->sum, sum, sizeof sum);
}

static void attend_lanes(const task *w)
{
    lanes t;
    size_t i, j, d = w->d, n = (size_t)w->n, at, end = (size_t)w->first + n;
    at = w->window && w->first >= w->window ? (size_t)(w->first - w->window + 1) : 0;
    memset(t.q, 0, d * KERN_LANES * sizeof *t.q);
    memset(t.o, 0, sizeof t.o);
    for (j = 0; j < KERN_LANES; j++) {
        t.top[j] = LOWEST;
        t.sum[j] = 0.0f;
    }
    for (j = 0; j < n; j++)
        for (i = 0; i < d; i++)
            t.q[i * KERN_LANES + j] = w->kv->c.attn_scale * w->q[j * w->stride + i];
    for (; at < end; at += KEYS) {
        size_t len = end - at < KEYS ? end - at : KEYS;
        const float *v = w->v + at * d;
        score_keys(w, &t, at, len);
        soften(&t, len, d);
        for (i = 0; i < d; i += KERN_ROWS) {
            const float *a[KERN_ROWS];
            for (j = 0; j < KERN_ROWS; j++) a[j] = v + (i + j < d ? i + j : i);
            kern_tile(a, d, t.s, len, t.o + i * KERN_LANES);
        }
    }
    for (j = 0; j < n; j++)
        for (i = 0; i < d; i++) w->o[j * w->stride + i] = t.o[i * KERN_LANES + j] / t.sum[j];
}

/* ---- attend ---- */

static int exact_attend(void *self, int layer, const float *q, int n, float *o)
{
    const llm_kv_exact *kv = self;
    int per, tiles, i, group = kv->c.n_q_heads / kv->c.n_kv_heads;
    if (layer < 0 || layer >= kv->c.n_layers) return LLM_KV_BAD_CALL;
    if (n < 1 || n > kv->held[layer]) return LLM_KV_BAD_CALL;
    per = n <= FEW ? 1 : KERN_LANES;
    tiles = (n + per - 1) / per;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) \
    if ((double)n * kv->held[layer] * (kv->c.head_dim * kv->c.n_q_heads) >= WORTH_THREADS)
#endif
    for (i = 0; i < kv->c.n_q_heads * tiles; i++) {
        int head = i / tiles, t = i % tiles * per;
        task w;
        size_t at = (size_t)layer * kv->layer + (size_t)(head / group) * kv->head;
        w.kv = kv;
        w.k = kv->k + at;
        w.v = kv->v + at;
        w.d = (size_t)kv->c.head_dim;
        w.stride = (size_t)kv->c.n_q_heads * w.d;
        w.q = q + (size_t)t * w.stride + (size_t)head * w.d;
        w.o = o + (size_t)t * w.stride + (size_t)head * w.d;
        w.first = (long)kv->held[layer] - n + t;
        w.window = llm_layer_window(&kv->c, layer);
        w.n = n - t < per ? n - t : per;
        if (per == 1) attend_one(&w, w.q, w.first, w.o);
        else attend_lanes(&w);
    }
    return LLM_KV_OK;
}

llm_kv llm_kv_exact_ops(llm_kv_exact *kv)
{
    llm_kv ops;
    ops.self = kv;
    ops.append = exact_append;
    ops.attend = exact_attend;
    return ops;
}

static int timed_append(void *self, int layer, const float *k, const float *v, int n)
{
    llm_kv_timed *t = self;
    double start = llm_seconds();
    int r = t->kv.append(t->kv.self, layer, k, v, n);
    t->seconds += llm_seconds() - start;
    return r;
}

static int timed_attend(void *self, int layer, const float *q, int n, float *o)
{
    llm_kv_timed *t = self;
    double start = llm_seconds();
    int r = t->kv.attend(t->kv.self, layer, q, n, o);
    t->seconds += llm_seconds() - start;
    return r;
}

llm_kv llm_kv_timed_ops(llm_kv_timed *t)
{
    llm_kv ops;
    ops.self = t;
    ops.append = timed_append;
    ops.attend = timed_attend;
    return ops;
}
