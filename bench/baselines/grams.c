/* grams.c: see grams.h. File, little endian: "SKVGRAM1", u32 n_layers, n_q_heads, n_kv_heads,
 * head_dim, tokens, 0; then per layer and KV head and kind f32 mean [d] and gram [d][d].
 */
#include "grams.h"
#include "baselines.h"
#include "calibrate.h"
#include "files.h"
#include "kv.h"
#include "parts.h"
#include "progress.h"
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER = 32, LONGEST = 512 };        /* bytes; elements of a head */

static size_t slot(int n_kv_heads, int layer, int head, int kind)
{
    return ((size_t)layer * (size_t)n_kv_heads + (size_t)head) * GRAM_KINDS + (size_t)kind;
}

const float *baseline_gram(const baseline_grams *g, int layer, int head, int kind)
{
    size_t d = (size_t)g->head_dim;
    return g->gram + slot(g->n_kv_heads, layer, head, kind) * d * d;
}

const float *baseline_mean(const baseline_grams *g, int layer, int head, int kind)
{
    return g->mean + slot(g->n_kv_heads, layer, head, kind) * (size_t)g->head_dim;
}

/* ---- sums ---- */

void baseline_sums_free(baseline_sums *s)
{
    free(s->mean);
    free(s->gram);
    free(s->n);
    free(s->room);
}

int baseline_sums_new(baseline_sums *s, const llm_config *c)
{
    size_t d = (size_t)c->head_dim, wide = (size_t)(c->n_q_heads > c->n_kv_heads ? c->n_q_heads
                                                                               : c->n_kv_heads);
    size_t n = slot(c->n_kv_heads, c->n_layers, 0, 0);
    memset(s, 0, sizeof *s);
    s->c = c;
    if (c->head_dim > LONGEST) return -1;
    s->mean = calloc(n * d, sizeof *s->mean);
    s->gram = calloc(n * d, d * sizeof *s->gram);
    s->n = calloc((size_t)c->n_layers, sizeof *s->n);
    s->room = malloc(3 * LLM_CHUNK * wide * d * sizeof *s->room);
    if (s->mean && s->gram && s->n && s->room) return 0;
    baseline_sums_free(s);
    return -1;
}

/* Rows of one head, `stride` apart, into the sums. A chunk's products are added in float32. */
static void add_rows(baseline_sums *s, int layer, int head, int kind, const float *x, int n,
                     size_t stride)
{
    size_t d = (size_t)s->c->head_dim, at = slot(s->c->n_kv_heads, layer, head, kind), i, j;
    double *mean = s->mean + at * d, *gram = s->gram + at * d * d;
    float sum[LONGEST];
    int t;
    for (i = 0; i < d; i++) {
        for (j = i; j < d; j++) sum[j] = 0;
        for (t = 0; t < n; t++) {
            const float *row = x + (size_t)t * stride;
            float a = row[i];
            for (j = i; j < d; j++) sum[j] += a * row[j];
            mean[i] += a;
        }
        for (j = i; j < d; j++) gram[i * d + j] += sum[j];
    }
}

static void to_unit(float *rows, int n, int d)
{
    int t, i;
    for (t = 0; t < n; t++, rows += d) {
        double norm = 0;
        for (i = 0; i < d; i++) norm += (double)rows[i] * rows[i];
        norm = norm > 0 ? 1 / sqrt(norm) : 0;
        for (i = 0; i < d; i++) rows[i] = (float)(rows[i] * norm);
    }
}

/* Rows [n][heads][d]: for each head into the sums of the KV head that it belongs to. */
static void add_heads(baseline_sums *s, int layer, int kind, int heads, const float *rows, int n)
{
    size_t d = (size_t)s->c->head_dim;
    int group = heads / s->c->n_kv_heads, h, i;
#ifdef _OPENMP
#pragma omp parallel for private(i)
#endif
    for (h = 0; h < s->c->n_kv_heads; h++)
        for (i = 0; i < group; i++)
            add_rows(s, layer, h, kind, rows + (size_t)(h * group + i) * d, n, (size_t)heads * d);
}

void baseline_sums_add(baseline_sums *s, int layer, int first, const float *q, const float *k,
                       const float *v, int n)
{
    int d = s->c->head_dim, kv = s->c->n_kv_heads, nq = s->c->n_q_heads;
    size_t width = (size_t)kv * (size_t)d;
    int skip = first < LLM_SINKS ? LLM_SINKS - first : 0;
    float *x = s->room;
    if (skip > n) skip = n;
    first += skip;
    n -= skip;
    q += (size_t)skip * (size_t)nq * (size_t)d;
    k += (size_t)skip * width;
    v += (size_t)skip * width;
    if (!n) return;
    add_heads(s, layer, GRAM_K, kv, k, n);
    add_heads(s, layer, GRAM_V, kv, v, n);
    add_heads(s, layer, GRAM_Q, nq, q, n);
    memcpy(x, k, (size_t)n * width * sizeof *x);
    to_unit(x, n * kv, d);
    add_heads(s, layer, GRAM_K_UNIT, kv, x, n);
    memcpy(x, v, (size_t)n * width * sizeof *x);
    to_unit(x, n * kv, d);
    add_heads(s, layer, GRAM_V_UNIT, kv, x, n);
    memcpy(x, k, (size_t)n * width * sizeof *x);
    baseline_rope(s->c, layer, kv, first, n, -1, x);
    add_heads(s, layer, GRAM_K_PRE, kv, x, n);
    memcpy(x, q, (size_t)n * (size_t)nq * (size_t)d * sizeof *x);
    baseline_rope(s->c, layer, nq, first, n, -1, x);
    add_heads(s, layer, GRAM_Q_PRE, nq, x, n);
    s->n[layer] += n;
}

/* sum over a group's heads of W^T W, W [n_embd][d] a head's columns of the output projection. */
static int add_outputs(baseline_sums *s, const llm_model *m)
{
    const llm_config *c = s->c;
    size_t width = (size_t)c->n_q_heads * (size_t)c->head_dim;
    float *w = malloc((size_t)c->n_embd * width * sizeof *w);
    int l, at, n;
    if (!w) return -1;
    for (l = 0; l < c->n_layers; l++) {
        llm_model_output_projection(m, l, w);
        for (at = 0; at < c->n_embd; at += n) {
            n = c->n_embd - at < LLM_CHUNK ? c->n_embd - at : LLM_CHUNK;
            add_heads(s, l, GRAM_WO, c->n_q_heads, w + (size_t)at * width, n);
        }
    }
    free(w);
    return 0;
}

/* ---- file ---- */

static unsigned char *put_u32(unsigned char *p, uint32_t v)
{
    int i;
    for (i = 0; i < 4; i++) *p++ = (unsigned char)(v >> 8 * i & 255u);
    return p;
}

static uint32_t get_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static unsigned char *put_f32(unsigned char *p, double v)
{
    float f = (float)v;
    uint32_t u;
    memcpy(&u, &f, 4);
    return put_u32(p, u);
}

int baseline_grams_save(const baseline_sums *s, const char *path, char *err)
{
    const llm_config *c = s->c;
    size_t d = (size_t)c->head_dim, slots = slot(c->n_kv_heads, c->n_layers, 0, 0), i, j, at;
    size_t bytes = HEADER + 4 * slots * d * (d + 1);
    unsigned char *buf = malloc(bytes), *p = buf;
    int bad;
    if (!buf) {
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        return -1;
    }
    memcpy(p, "SKVGRAM1", 8);
    p = put_u32(p + 8, (uint32_t)c->n_layers);
    p = put_u32(p, (uint32_t)c->n_q_heads);
    p = put_u32(p, (uint32_t)c->n_kv_heads);
    p = put_u32(p, (uint32_t)c->head_dim);
    p = put_u32(p, (uint32_t)s->n[0]);
    p = put_u32(p, 0);
    for (at = 0; at < slots; at++) {
        int layer = (int)(at / GRAM_KINDS) / c->n_kv_heads;
        double scale = at % GRAM_KINDS == GRAM_WO ? 1 : s->n[layer] > 0 ? 1 / s->n[layer] : 0;
        for (i = 0; i < d; i++) p = put_f32(p, s->mean[at * d + i] * scale);
        for (i = 0; i < d; i++)
            for (j = 0; j < d; j++)
                p = put_f32(p, s->gram[(at * d + (i < j ? i : j)) * d + (i < j ? j : i)] * scale);
    }
    bad = llm_write_file(path, buf, bytes, err);
    free(buf);
    return bad;
}

void baseline_grams_free(struct baseline_grams *g)
{
    if (!g) return;
    free(g->mean);
    free(g->gram);
    free(g);
}

static int read_floats(const unsigned char *p, size_t n, float *out)
{
    size_t i;
    for (i = 0; i < n; i++) {
        uint32_t u = get_u32(p + 4 * i);
        if ((u & 0x7F800000u) == 0x7F800000u) return -1;
        memcpy(out + i, &u, 4);
    }
    return 0;
}

/* The file's bytes into g. NULL, or what is wrong. */
static const char *take(baseline_grams *g, const unsigned char *p, size_t bytes,
                        const llm_config *c)
{
    size_t d = (size_t)c->head_dim, slots = slot(c->n_kv_heads, c->n_layers, 0, 0), at;
    if (bytes < HEADER || memcmp(p, "SKVGRAM1", 8)) return "is no file of `skv-llm grams`";
    if (get_u32(p + 8) != (uint32_t)c->n_layers || get_u32(p + 12) != (uint32_t)c->n_q_heads ||
        get_u32(p + 16) != (uint32_t)c->n_kv_heads || get_u32(p + 20) != (uint32_t)c->head_dim)
        return "was made for another model (layers, heads or head size differ)";
    if ((bytes - HEADER) / 4 / d / (d + 1) != slots || (bytes - HEADER) % (4 * d * (d + 1)))
        return "is cut off or too long";
    g->n_layers = c->n_layers;
    g->n_q_heads = c->n_q_heads;
    g->n_kv_heads = c->n_kv_heads;
    g->head_dim = c->head_dim;
    g->n_tokens = get_u32(p + 24);
    g->mean = malloc(slots * d * sizeof *g->mean);
    g->gram = malloc(slots * d * d * sizeof *g->gram);
    if (!g->mean || !g->gram) return "does not fit into memory";
    for (at = 0, p += HEADER; at < slots; at++, p += 4 * d * (d + 1))
        if (read_floats(p, d, g->mean + at * d) || read_floats(p + 4 * d, d * d,
                                                               g->gram + at * d * d))
            return "holds values that are no numbers";
    return NULL;
}

int baseline_grams_load(struct baseline_grams **out, const char *path, const llm_config *c,
                        char *err)
{
    void *data = NULL;
    size_t bytes = 0;
    baseline_grams *g;
    const char *what;
    *out = NULL;
    if (llm_read_file(path, &data, &bytes, err)) return -1;
    g = calloc(1, sizeof *g);
    what = g ? take(g, data, bytes, c) : "does not fit into memory";
    free(data);
    if (what) {
        baseline_grams_free(g);
        snprintf(err, GGUF_ERR_BYTES, "%.120s %s; make it anew with `skv-llm grams`", path, what);
        return -1;
    }
    *out = g;
    return 0;
}

/* ---- the run ---- */

typedef struct watch {
    baseline_sums *sums;
    int *seen;                      /* [n_layers] tokens of this passage */
} watch;

static void see(void *self, int layer, const float *q, const float *k, const float *v, int n)
{
    watch *w = self;
    baseline_sums_add(w->sums, layer, w->seen[layer], q, k, v, n);
    w->seen[layer] += n;
}

static int run_text(const llm_model *m, llm_run *run, llm_kv_exact *exact, watch *w,
                    const int *ids, int n, char *err)
{
    llm_probe probe;
    llm_kv kv = llm_kv_exact_ops(exact);
    int at, len, r;
    memset(&probe, 0, sizeof probe);
    probe.self = w;
    probe.attention = see;
    memset(w->seen, 0, (size_t)w->sums->c->n_layers * sizeof *w->seen);
    llm_kv_exact_truncate(exact, 0);
    for (at = 0; at < n; at += len) {
        len = n - at < LLM_CHUNK ? n - at : LLM_CHUNK;
        r = llm_forward(m, run, ids + at, len, at, &kv, &probe, NULL, 0);
        if (r) {
            snprintf(err, GGUF_ERR_BYTES, "the model gave code %d at token %d", r, at);
            return -1;
        }
    }
    return 0;
}

static int run_texts(const llm_model *m, const llm_tokenizer *t, watch *w, char *const *texts,
                     int n_texts, int tokens, char *err)
{
    llm_run *run = NULL;
    llm_kv_exact *exact = NULL;
    llm_progress bar;
    int *ids = malloc((size_t)tokens * sizeof *ids), i, n, bad = !ids || !w->seen;
    if (bad) snprintf(err, GGUF_ERR_BYTES, "out of memory");
    if (!bad) bad = llm_run_new(&run, m, err) || llm_kv_exact_new(&exact, w->sums->c, tokens, err);
    llm_progress_begin(&bar, "summing", n_texts);
    for (i = 0; i < n_texts && !bad; i++) {
        n = llm_file_tokens(t, texts[i], tokens, ids, err);
        bad = n < 0 || run_text(m, run, exact, w, ids, n, err);
        llm_progress_at(&bar, i + 1);
    }
    llm_progress_end(&bar);
    llm_run_free(run);
    llm_kv_exact_free(exact);
    free(ids);
    return bad ? -1 : 0;
}

int baseline_grams_make(const char *path, const llm_model *m, const llm_tokenizer *t,
                        char *const *texts, int n_texts, int tokens, char *err)
{
    const llm_config *c = llm_model_config(m);
    baseline_sums sums;
    watch w;
    int bad;
    if (baseline_sums_new(&sums, c)) {
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        return -1;
    }
    w.sums = &sums;
    w.seen = malloc((size_t)c->n_layers * sizeof *w.seen);
    bad = run_texts(m, t, &w, texts, n_texts, tokens, err);
    if (!bad && add_outputs(&sums, m)) {
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        bad = -1;
    }
    if (!bad && sums.n[0] < 1) {
        snprintf(err, GGUF_ERR_BYTES, "the texts are too short: nothing behind the first %d tokens",
                 LLM_SINKS);
        bad = -1;
    }
    if (!bad) bad = baseline_grams_save(&sums, path, err);
    free(w.seen);
    baseline_sums_free(&sums);
    return bad ? -1 : 0;
}
