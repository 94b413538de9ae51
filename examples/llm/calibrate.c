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

enum { PRICE_PASSAGES = 6 };        /* passages that prices are measured on */

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
    skv_chain *chain;               /* or NULL */
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
    skv_chain_free(p->chain);
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
    for (l = 0; l < p->c->n_layers && p->chain && worst == SKV_OK; l++) {
        skv_span k = skv_f32(p->k[l]), v = skv_f32(p->v[l]);
        worst = (int)skv_chain_add(p->chain, (uint32_t)l, &k, &v, (size_t)p->n);
    }
    return (skv_result)worst;
}

static int set_outputs(const llm_model *m, skv_profiler *profiler, char *err)
{
    const llm_config *c = llm_model_config(m);
    size_t n = (size_t)c->n_embd * (size_t)(c->n_q_heads * c->head_dim);
    float *w = malloc(n * sizeof *w), freqs[SKV_MAX_HEAD_DIM];
    skv_result r = SKV_OK;
    skv_rope style;
    int l;
    if (!w) return say(err, "out of memory");
    for (l = 0; l < c->n_layers && r == SKV_OK; l++) {
        skv_span s = skv_f32(w);
        llm_model_output_projection(m, l, w);
        r = skv_profiler_output(profiler, (uint32_t)l, &s, (size_t)c->n_embd);
        if (r != SKV_OK) break;
        style = llm_model_rope(m, l, freqs) ? SKV_ROPE_ADJACENT : SKV_ROPE_HALVES;
        r = skv_profiler_rope(profiler, (uint32_t)l, style, freqs, (size_t)c->head_dim / 2);
    }
    free(w);
    return r == SKV_OK ? 0 : say(err, skv_result_text(r));
}

/* What an error in a layer's attention output costs: relative to the residual stream after it;
 * where a norm follows attention, through that norm: y -> gain y / rms(y). */
static int set_prices(passage *p, skv_profiler *profiler, double *out, char *err)
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
        out[2 * l] = out[2 * l + 1] = price;
        skv_profiler_price(profiler, (uint32_t)l, price, price);
    }
    free(gain);
    return 0;
}

typedef struct counter {
    llm_progress bar;
    double done;
} counter;

static void tick(void *user)
{
    counter *bar = user;
    bar->done++;
    llm_progress_at(&bar->bar, bar->done);
}

/* Tokens of passage i of `all` for pricing. Passages are spread over the texts; a text that has
 * to serve for several is cut at as many places, each with the text's first token in front. */
static int price_tokens(const llm_tokenizer *t, const llm_calibration *c, int i, int all, int *ids,
                        char *err)
{
    int text = i * c->n_texts / all, first = i, uses, n, at;
    while (first > 0 && (first - 1) * c->n_texts / all == text) first--;
    for (uses = 1; (first + uses) * c->n_texts / all == text && first + uses < all;) uses++;
    n = llm_file_tokens(t, c->texts[text], c->n_tokens, ids, err);
    at = n > 0 ? n / uses * (i - first) : 0;
    if (at) memmove(ids + 1, ids + at + 1, (size_t)(n - at - 1) * sizeof *ids);
    return n - at;
}

/* Prices of the profile that was fitted with out, measured: out and the profiler's are multiplied
 * by what came out. */
static int measure_prices(const passage *p, skv_profiler *profiler, const skv_profile *profile,
                          const llm_tokenizer *t, llm_calibration *c, char *err)
{
    int *ids = malloc((size_t)c->n_tokens * sizeof *ids), i, l, n, bad, used = 0;
    counter count;
    if (!ids) return say(err, "out of memory");
    count.done = 0;
    bad = llm_prices_new(&c->prices, p->c->n_layers, PRICE_PASSAGES, err);
    llm_progress_begin(&count.bar, "pricing", 2.0 * p->c->n_layers * PRICE_PASSAGES);
    for (i = 0; i < PRICE_PASSAGES && !bad; i++) {
        n = price_tokens(t, c, i, PRICE_PASSAGES, ids, err);
        bad = n < 0;
        if (n < LLM_PRICE_TOKENS) continue;
        bad = llm_prices_measure(c->prices, used++, p->m, profile, &llm_price_defaults, ids, n,
                                 tick, &count, err);
    }
    llm_progress_end(&count.bar);
    free(ids);
    if (bad) return -1;
    c->prices->n_samples = used;
    if (used) llm_prices_combine(c->prices);
    for (l = 0; l < p->c->n_layers && used; l++) {
        double *price = c->price + 2 * l;
        for (i = 0; i < 2; i++) price[i] *= c->prices->factor[2 * l + i];
        if (skv_profiler_price(profiler, (uint32_t)l, price[0], price[1]) != SKV_OK)
            return say(err, "a measured price is out of range; use --price norm");
    }
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

static int fit(skv_profile **out, const skv_profiler *profiler, llm_calibration *c,
               const skv_target *target, char *err)
{
    double t0 = llm_seconds();
    llm_progress bar;
    skv_result r;
    llm_progress_name(&bar, "fitting");
    r = skv_profiler_fit(profiler, target, out);
    llm_progress_end(&bar);
    c->seconds_fit += llm_seconds() - t0;
    if (r == SKV_ERR_STATE) return say(err, "the texts are too short: at least 68 tokens in all");
    return r >= SKV_OK ? 0 : say(err, skv_result_text(r));
}

static int chain_new(passage *p, const skv_profiler *profiler, const llm_calibration *c, char *err)
{
    skv_chain_desc d = SKV_ZERO;
    skv_result r;
    if (c->cold_depth < 1) return 0;
    d.profiler = profiler;
    d.depth = (uint32_t)c->cold_depth;
    r = skv_chain_init(&p->chain, &d);
    return r == SKV_OK ? 0 : say(err, skv_result_text(r));
}

/* The fit with the head group that is worth its arithmetic. */
static int fit_group(skv_profile **out, const skv_profiler *profiler, llm_calibration *c,
                     const skv_target *target, char *err)
{
    skv_profiler *narrow = NULL;
    skv_result r;
    int bad;
    if (c->group_price < 0) return fit(out, profiler, c, target, err);
    r = skv_profiler_choose_group(profiler, target, c->group_price, &c->head_group);
    if (r >= SKV_OK) r = skv_profiler_narrow(profiler, c->head_group, &narrow);
    if (r < SKV_OK) return say(err, skv_result_text(r));
    bad = fit(out, narrow, c, target, err);
    skv_profiler_free(narrow);
    return bad;
}

/* The fit, and that of cold pages where they are wanted. */
static int fit_both(skv_profile **out, const passage *p, const skv_profiler *profiler,
                    llm_calibration *c, const skv_target *target, char *err)
{
    skv_result r = SKV_OK;
    if (fit_group(out, profiler, c, target, err)) return -1;
    if (p->chain) r = skv_chain_fit(p->chain, profiler, &c->cold);
    return r >= SKV_OK ? 0 : say(err, skv_result_text(r));
}

static int calibrate_with(skv_profile **out, skv_profiler *profiler, passage *p, llm_run *run,
                          const llm_tokenizer *t, llm_calibration *c, const skv_target *target,
                          char *err)
{
    skv_profile *first = NULL;
    double t0;
    int bad;
    if (set_outputs(p->m, profiler, err) || chain_new(p, profiler, c, err) ||
        run_texts(p, run, t, profiler, c, err) ||
        set_prices(p, profiler, c->price, err))
        return -1;
    c->profiler_bytes = skv_profiler_bytes(profiler);
    if (c->price_norm) return fit_both(out, p, profiler, c, target, err);
    if (fit(&first, profiler, c, target, err)) return -1;
    t0 = llm_seconds();
    bad = measure_prices(p, profiler, first, t, c, err);
    c->seconds_price = llm_seconds() - t0;
    skv_profile_free(first);
    return bad ? -1 : fit_both(out, p, profiler, c, target, err);
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
    int bad;
    c->prices = NULL;
    c->cold = NULL;
    c->price = calloc((size_t)cfg->n_layers, 2 * sizeof *c->price);
    bad = passage_new(&p, m, c->n_tokens, c->n_texts, NULL, err);
    if (!bad && (!layers || !gain || !c->price)) bad = say(err, "out of memory");
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
