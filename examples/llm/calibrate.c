/* calibrate.c: see calibrate.h. */
#include "calibrate.h"
#include "files.h"
#include "kv.h"
#include "kv_spectral.h"
#include "progress.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One passage as it passes: what the probe saw, and figures for the prices. */
typedef struct passage {
    const llm_model *m;
    const llm_config *c;
    llm_kv_exact *exact;
    llm_kv inner;                   /* of the exact cache */
    int max, n;                     /* tokens of room, tokens seen by the last layer's neighbours */
    int *seen;                      /* [n_layers] */
    float **q, **k, **v;            /* [n_layers] [max][heads][head_dim] */
    float *wo;                      /* [n_embd][n_q * head_dim], for families with a post-norm */
    float *y;                       /* [n_embd] */
    double *residual, *output;      /* [n_layers][room]: squared norms per token; of all passages */
    int *n_residual, *n_output, room;
} passage;

static int say(char *err, const char *what)
{
    snprintf(err, GGUF_ERR_BYTES, "%s", what);
    return -1;
}

int llm_file_tokens(const llm_tokenizer *t, const char *path, int n, int *ids, char *err)
{
    void *data = NULL;
    size_t bytes = 0;
    long got;
    int bos = llm_tokenizer_bos(t), first = bos >= 0;
    if (llm_read_file(path, &data, &bytes, err)) return -1;
    if (first) ids[0] = bos;
    got = llm_tokenize(t, data, bytes, 0, ids + first, n - first);
    free(data);
    if (got < 0) return say(err, "out of memory");
    return got + first < n ? (int)got + first : n;
}

static void see_attention(void *self, int layer, const float *q, const float *k, const float *v,
                          int n)
{
    passage *p = self;
    size_t nq = (size_t)(p->c->n_q_heads * p->c->head_dim);
    size_t nk = (size_t)(p->c->n_kv_heads * p->c->head_dim), at = (size_t)p->seen[layer];
    if (p->seen[layer] + n > p->max || !p->q[layer]) return;
    memcpy(p->q[layer] + at * nq, q, (size_t)n * nq * sizeof(float));
    memcpy(p->k[layer] + at * nk, k, (size_t)n * nk * sizeof(float));
    memcpy(p->v[layer] + at * nk, v, (size_t)n * nk * sizeof(float));
    p->seen[layer] += n;
}

static double norm2(const float *x, int n)
{
    double s = 0;
    int i;
    for (i = 0; i < n; i++) s += (double)x[i] * x[i];
    return s;
}

static void see_residual(void *self, int layer, const float *x, int n)
{
    passage *p = self;
    int i;
    for (i = 0; i < n && p->n_residual[layer] < p->room; i++)
        p->residual[(size_t)layer * (size_t)p->room + (size_t)p->n_residual[layer]++] =
            norm2(x + (size_t)i * (size_t)p->c->n_embd, p->c->n_embd);
}

static int pass_append(void *self, int layer, const float *k, const float *v, int n)
{
    passage *p = self;
    return p->inner.append(p->inner.self, layer, k, v, n);
}

/* Exact attention; where a norm follows it, also the size of W_O o for one token in 16. */
static int pass_attend(void *self, int layer, const float *q, int n, float *o)
{
    passage *p = self;
    int r = p->inner.attend(p->inner.self, layer, q, n, o), i, e;
    size_t width = (size_t)(p->c->n_q_heads * p->c->head_dim), x;
    if (r || !p->wo) return r;
    llm_model_output_projection(p->m, layer, p->wo);
    for (i = 8; i < n && p->n_output[layer] < p->room; i += 16) {
        const float *row = o + (size_t)i * width;
        for (e = 0; e < p->c->n_embd; e++) {
            const float *w = p->wo + (size_t)e * width;
            float s = 0;
            for (x = 0; x < width; x++) s += w[x] * row[x];
            p->y[e] = s;
        }
        p->output[(size_t)layer * (size_t)p->room + (size_t)p->n_output[layer]++] =
            norm2(p->y, p->c->n_embd);
    }
    return 0;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    if (!n) return 1;
    qsort(x, (size_t)n, sizeof *x, by_size);
    return x[n / 2];
}

static void passage_free(passage *p)
{
    int i;
    for (i = 0; p->q && i < p->c->n_layers; i++) {
        free(p->q[i]);
        free(p->k[i]);
        free(p->v[i]);
    }
    free(p->q);
    free(p->k);
    free(p->v);
    free(p->seen);
    free(p->wo);
    free(p->y);
    free(p->residual);
    free(p->output);
    free(p->n_residual);
    free(p->n_output);
    llm_kv_exact_free(p->exact);
}

/* want: which layers to keep, or NULL for all. */
static int passage_new(passage *p, const llm_model *m, int max, int n_passages, const int *want,
                       char *err)
{
    const llm_config *c = llm_model_config(m);
    size_t n = (size_t)c->n_layers, i, f = sizeof(float);
    size_t nq = (size_t)max * (size_t)(c->n_q_heads * c->head_dim) * f;
    size_t nk = (size_t)max * (size_t)(c->n_kv_heads * c->head_dim) * f;
    memset(p, 0, sizeof *p);
    p->m = m;
    p->c = c;
    p->max = max;
    p->room = max * n_passages;
    p->q = calloc(n, sizeof *p->q);
    p->k = calloc(n, sizeof *p->k);
    p->v = calloc(n, sizeof *p->v);
    p->seen = calloc(n, sizeof *p->seen);
    p->n_residual = calloc(n, sizeof(int));
    p->n_output = calloc(n, sizeof(int));
    p->residual = malloc(n * (size_t)p->room * sizeof(double));
    p->output = malloc(n * (size_t)p->room * sizeof(double));
    if (!p->q || !p->k || !p->v || !p->seen || !p->n_residual || !p->n_output || !p->residual ||
        !p->output)
        return say(err, "out of memory");
    for (i = 0; i < n; i++) {
        if (want && !want[i]) continue;
        p->q[i] = malloc(nq);
        p->k[i] = malloc(nk);
        p->v[i] = malloc(nk);
        if (!p->q[i] || !p->k[i] || !p->v[i]) return say(err, "out of memory");
    }
    if (llm_kv_exact_new(&p->exact, c, max, err)) return -1;
    p->inner = llm_kv_exact_ops(p->exact);
    return 0;
}

/* Runs n tokens through the model, watched. */
static int passage_run(passage *p, llm_run *run, const int *ids, int n, llm_progress *bar,
                       double done, char *err)
{
    llm_probe probe;
    llm_kv kv;
    int at, m, r;
    kv.self = p;
    kv.append = pass_append;
    kv.attend = pass_attend;
    probe.self = p;
    probe.attention = see_attention;
    probe.residual = see_residual;
    memset(p->seen, 0, (size_t)p->c->n_layers * sizeof(int));
    llm_kv_exact_truncate(p->exact, 0);
    for (at = 0; at < n; at += m) {
        m = n - at < LLM_CHUNK ? n - at : LLM_CHUNK;
        r = llm_forward(p->m, run, ids + at, m, at, &kv, &probe, NULL, 0);
        if (r) {
            snprintf(err, GGUF_ERR_BYTES, "the model gave code %d at token %d", r, at);
            return -1;
        }
        if (bar) llm_progress_at(bar, done + at + m);
    }
    p->n = n;
    return 0;
}

/* Layers are independent, so they are summed side by side. */
static skv_result add_passage(const passage *p, skv_profiler *profiler)
{
    int l, worst = SKV_OK;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1)
#endif
    for (l = 0; l < p->c->n_layers; l++) {
        skv_span q = skv_f32(p->q[l]), k = skv_f32(p->k[l]), v = skv_f32(p->v[l]);
        skv_result r = skv_profiler_add(profiler, (uint32_t)l, &q, &k, &v, (size_t)p->n);
        if (r != SKV_OK) {
#ifdef _OPENMP
#pragma omp critical
#endif
            worst = (int)r;
        }
    }
    return (skv_result)worst;
}

static int set_outputs(const llm_model *m, skv_profiler *profiler, char *err)
{
    const llm_config *c = llm_model_config(m);
    size_t n = (size_t)c->n_embd * (size_t)(c->n_q_heads * c->head_dim);
    float *w = malloc(n * sizeof *w);
    skv_result r = SKV_OK;
    int l;
    if (!w) return say(err, "out of memory");
    for (l = 0; l < c->n_layers && r == SKV_OK; l++) {
        skv_span s = skv_f32(w);
        llm_model_output_projection(m, l, w);
        r = skv_profiler_output(profiler, (uint32_t)l, &s, (size_t)c->n_embd);
    }
    free(w);
    return r == SKV_OK ? 0 : say(err, skv_result_text(r));
}

/* What an error in a layer's attention output costs: relative to the residual stream after it;
 * where a norm follows attention, through that norm: y -> gain y / rms(y). */
static int set_prices(passage *p, skv_profiler *profiler, char *err)
{
    const llm_config *c = p->c;
    float *gain = malloc((size_t)c->n_embd * sizeof *gain);
    int l;
    if (!gain) return say(err, "out of memory");
    for (l = 0; l < c->n_layers; l++) {
        double price = 1 / median(p->residual + (size_t)l * (size_t)p->room, p->n_residual[l]);
        if (llm_model_post_attention_norm(p->m, l, gain))
            price *= norm2(gain, c->n_embd) /
                     median(p->output + (size_t)l * (size_t)p->room, p->n_output[l]);
        skv_profiler_price(profiler, (uint32_t)l, price, price);
    }
    free(gain);
    return 0;
}

static int run_texts(passage *p, llm_run *run, const llm_tokenizer *t, skv_profiler *profiler,
                     llm_calibration *c, char *err)
{
    int *ids = malloc((size_t)c->n_tokens * sizeof *ids), i, n, bad = 0;
    llm_progress bar;
    if (!ids) return say(err, "out of memory");
    llm_progress_begin(&bar, "calibrating", (double)c->n_tokens * c->n_texts);
    for (i = 0; i < c->n_texts && !bad; i++) {
        double t0 = llm_seconds(), t1;
        skv_result r;
        n = llm_file_tokens(t, c->texts[i], c->n_tokens, ids, err);
        bad = n < 0 || passage_run(p, run, ids, n, &bar, (double)c->n_tokens * i, err);
        if (bad) break;
        t1 = llm_seconds();
        r = add_passage(p, profiler);
        if (r != SKV_OK) bad = say(err, skv_result_text(r));
        c->seconds_model += t1 - t0;
        c->seconds_gram += llm_seconds() - t1;
    }
    llm_progress_end(&bar);
    free(ids);
    return bad ? -1 : 0;
}

static int calibrate_with(skv_profile **out, skv_profiler *profiler, passage *p, llm_run *run,
                          const llm_tokenizer *t, llm_calibration *c, const skv_target *target,
                          char *err)
{
    double t0;
    llm_progress bar;
    skv_result r;
    if (set_outputs(p->m, profiler, err) || run_texts(p, run, t, profiler, c, err) ||
        set_prices(p, profiler, err))
        return -1;
    c->profiler_bytes = skv_profiler_bytes(profiler);
    t0 = llm_seconds();
    llm_progress_name(&bar, "fitting");
    r = skv_profiler_fit(profiler, target, out);
    llm_progress_end(&bar);
    c->seconds_fit = llm_seconds() - t0;
    if (r == SKV_ERR_STATE) return say(err, "the texts are too short: at least 68 tokens in all");
    return r >= SKV_OK ? 0 : say(err, skv_result_text(r));
}

int llm_calibrate(skv_profile **out, const gguf *g, const llm_model *m, const llm_tokenizer *t,
                  llm_calibration *c, const skv_target *target, char *err)
{
    const llm_config *cfg = llm_model_config(m);
    skv_layer *layers = malloc((size_t)cfg->n_layers * sizeof *layers);
    float *gain = malloc((size_t)cfg->n_embd * sizeof *gain);
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *profiler = NULL;
    llm_run *run = NULL;
    passage p;
    int bad = passage_new(&p, m, c->n_tokens, c->n_texts, NULL, err);
    if (!bad && (!layers || !gain)) bad = say(err, "out of memory");
    if (!bad && llm_model_post_attention_norm(m, 0, gain)) {
        p.wo = malloc((size_t)cfg->n_embd * (size_t)(cfg->n_q_heads * cfg->head_dim) *
                      sizeof *p.wo);
        p.y = malloc((size_t)cfg->n_embd * sizeof *p.y);
        if (!p.wo || !p.y) bad = say(err, "out of memory");
    }
    if (!bad) {
        skv_result r;
        d.model = llm_skv_model(cfg, llm_fingerprint(g, cfg), layers);
        d.head_group = c->head_group;
        d.sinks = LLM_SINKS;
        d.window = LLM_WINDOW;
        d.max_passage = (uint32_t)c->n_tokens;
        r = skv_profiler_init(&profiler, &d);
        if (r != SKV_OK) bad = say(err, skv_result_text(r));
    }
    if (!bad) bad = llm_run_new(&run, m, err);
    if (!bad) bad = calibrate_with(out, profiler, &p, run, t, c, target, err);
    skv_profiler_free(profiler);
    llm_run_free(run);
    passage_free(&p);
    free(layers);
    free(gain);
    return bad ? -1 : 0;
}

/* Capture file, little endian: "SKVCAP1\n", u32 layers, tokens, n_q_heads, n_kv_heads, head_dim;
 * per layer u32 its number, then Q [tokens][n_q][head_dim], K and V [tokens][n_kv][head_dim], all
 * f16. */
static unsigned char *put_u32(unsigned char *p, unsigned v)
{
    int i;
    for (i = 0; i < 4; i++) *p++ = (unsigned char)(v >> 8 * i & 255u);
    return p;
}

static unsigned char *put_f16(unsigned char *p, const float *x, size_t n);

static int write_capture(const char *path, const passage *p, const int *layers, int n_layers,
                         char *err)
{
    size_t nq = (size_t)(p->n * p->c->n_q_heads * p->c->head_dim);
    size_t nk = (size_t)(p->n * p->c->n_kv_heads * p->c->head_dim);
    size_t bytes = 28 + (size_t)n_layers * (4 + 2 * (nq + 2 * nk));
    unsigned char *buf = malloc(bytes), *at = buf;
    int i, bad;
    if (!buf) return say(err, "out of memory");
    memcpy(at, "SKVCAP1\n", 8);
    at = put_u32(at + 8, (unsigned)n_layers);
    at = put_u32(at, (unsigned)p->n);
    at = put_u32(at, (unsigned)p->c->n_q_heads);
    at = put_u32(at, (unsigned)p->c->n_kv_heads);
    at = put_u32(at, (unsigned)p->c->head_dim);
    for (i = 0; i < n_layers; i++) {
        at = put_u32(at, (unsigned)layers[i]);
        at = put_f16(at, p->q[layers[i]], nq);
        at = put_f16(at, p->k[layers[i]], nk);
        at = put_f16(at, p->v[layers[i]], nk);
    }
    bad = llm_write_file(path, buf, bytes, err);
    free(buf);
    return bad;
}

/* Round to nearest even; values are those of activations, far inside f16's range or clamped. */
static unsigned char *put_f16(unsigned char *p, const float *x, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++, p += 2) {
        double a = fabs((double)x[i]);
        int e;
        unsigned h;
        if (a > 65504) a = 65504;
        (void)frexp(a, &e);
        if (e < -13) e = -13;
        h = a > 0 ? (unsigned)nearbyint(ldexp(a, 11 - e)) + ((unsigned)(e + 13) << 10) : 0;
        h |= x[i] < 0 ? 0x8000u : 0;
        p[0] = (unsigned char)(h & 255u);
        p[1] = (unsigned char)(h >> 8 & 255u);
    }
    return p;
}

int llm_capture(const char *path, const llm_model *m, const llm_tokenizer *t, const char *text_file,
                int n, const int *layers, int n_layers, char *err)
{
    const llm_config *c = llm_model_config(m);
    int *ids = malloc((size_t)n * sizeof *ids), *want = calloc((size_t)c->n_layers, sizeof *want);
    llm_run *run = NULL;
    passage p;
    int i, bad, made = 0;
    bad = ids && want ? 0 : say(err, "out of memory");
    for (i = 0; i < n_layers && !bad; i++) {
        if (layers[i] < 0 || layers[i] >= c->n_layers) bad = say(err, "--layers: no such layer");
        else want[layers[i]] = 1;
    }
    if (!bad) {
        made = 1;
        bad = passage_new(&p, m, n, 1, want, err);
    }
    if (!bad) bad = llm_run_new(&run, m, err);
    if (!bad) {
        n = llm_file_tokens(t, text_file, n, ids, err);
        bad = n < 1 ? (n < 0 ? -1 : say(err, "the text is empty")) : 0;
    }
    if (!bad) bad = passage_run(&p, run, ids, n, NULL, 0, err);
    if (!bad) bad = write_capture(path, &p, layers, n_layers, err);
    if (made) passage_free(&p);
    llm_run_free(run);
    free(ids);
    free(want);
    return bad ? -1 : 0;
}
