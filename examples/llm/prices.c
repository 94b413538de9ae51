/* prices.c: see prices.h. */
#include "prices.h"
#include "kv.h"
#include "sampling.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const llm_price_options llm_price_defaults = {4, 0, 32, 0.99};

typedef struct trial {              /* one passage */
    const llm_model *m;
    const llm_config *c;
    const skv_profile *profile;
    skv_codec *codec;
    llm_run *run;
    llm_kv_exact *exact;
    llm_kv kv;
    int from, n, scored;            /* positions from .. n-1 run again, the last ones scored */
    int pages;                      /* coded when the last chunk runs */
    int at;                         /* position of the chunk that the probe sees */
    float *x;                       /* [n_layers][n - from][n_embd]: residual after each layer */
    float *want, *got;              /* [scored][n_vocab] */
    double *lse;                    /* [scored]: of want */
    float *kept[2];                 /* K, V: [n_layers][64 pages][n_kv][head_dim], exact */
    float *coded[2];                /* of one layer: decoded */
    unsigned char *page;
    size_t page_bytes;
} trial;

static int say(char *err, const char *what)
{
    snprintf(err, GGUF_ERR_BYTES, "%s", what);
    return -1;
}

int llm_prices_new(llm_prices **out, int n_layers, int n_samples, char *err)
{
    llm_prices *p = calloc(1, sizeof *p);
    size_t n = 2 * (size_t)n_layers;
    if (p) {
        p->n_layers = n_layers;
        p->n_samples = n_samples;
        p->sample = calloc(n * (size_t)n_samples, sizeof *p->sample);
        p->factor = calloc(n, sizeof *p->factor);
    }
    if (!p || !p->sample || !p->factor) {
        llm_prices_free(p);
        return say(err, "out of memory");
    }
    *out = p;
    return 0;
}

void llm_prices_free(llm_prices *p)
{
    if (!p) return;
    free(p->sample);
    free(p->factor);
    free(p);
}

/* ---- one passage ---- */

static void trial_free(trial *t)
{
    int kind;
    skv_codec_free(t->codec);
    llm_run_free(t->run);
    llm_kv_exact_free(t->exact);
    for (kind = 0; kind < 2; kind++) {
        free(t->kept[kind]);
        free(t->coded[kind]);
    }
    free(t->x);
    free(t->want);
    free(t->got);
    free(t->lse);
    free(t->page);
}

static int open_codec(trial *t, double energy, char *err)
{
    skv_codec_desc d = SKV_ZERO;
    skv_result r;
    size_t least, most;
    int l;
    d.profile = t->profile;
    d.target.energy = (float)energy;
    d.outliers = -1;
    r = skv_codec_init(&t->codec, &d);
    for (l = 0; l < t->c->n_layers && r == SKV_OK; l++) {
        r = skv_codec_page_bytes(t->codec, (uint32_t)l, &least, &most);
        if (r == SKV_OK && most > t->page_bytes) t->page_bytes = most;
    }
    return r == SKV_OK ? 0 : say(err, skv_result_text(r));
}

/* Pages that are coded before the chunk at `at` is appended: as llm_kv_coded does it */
static int pages_at(int at) { return (at - LLM_SINKS - LLM_WINDOW) / SKV_PAGE_TOKENS; }

/* Divides the passage: sinks, pages, a window, the positions that run again. */
static int trial_new(trial *t, const llm_model *m, const skv_profile *profile,
                     const llm_price_options *o, int n, char *err)
{
    const int around = LLM_SINKS + LLM_WINDOW;
    size_t wide, rows, vocab, span;
    int kind, again, pages;
    memset(t, 0, sizeof *t);
    t->m = m;
    t->c = llm_model_config(m);
    t->profile = profile;
    if (n < LLM_PRICE_TOKENS) return say(err, "the passage is too short to be priced");
    t->scored = n - around - SKV_PAGE_TOKENS < o->scored ? n - around - SKV_PAGE_TOKENS : o->scored;
    if (t->scored > LLM_CHUNK) t->scored = LLM_CHUNK;
    again = t->scored + o->settle;
    pages = (n - around - again) / SKV_PAGE_TOKENS;
    if (pages < 1) {
        pages = 1;
        again = n - around - SKV_PAGE_TOKENS;
    }
    if (pages > o->pages) pages = o->pages;
    t->from = around + pages * SKV_PAGE_TOKENS;
    t->n = t->from + again;
    t->pages = pages_at(t->n - t->scored);
    rows = (size_t)t->pages * SKV_PAGE_TOKENS;
    wide = (size_t)t->c->n_kv_heads * (size_t)t->c->head_dim;
    span = (size_t)t->c->n_layers * (size_t)again;
    vocab = (size_t)t->scored * (size_t)t->c->n_vocab;
    if (open_codec(t, o->energy, err) || llm_run_new(&t->run, m, err) ||
        llm_kv_exact_new(&t->exact, t->c, t->n, err))
        return -1;
    t->kv = llm_kv_exact_ops(t->exact);
    t->x = malloc(span * (size_t)t->c->n_embd * sizeof *t->x);
    t->want = malloc(vocab * sizeof *t->want);
    t->got = malloc(vocab * sizeof *t->got);
    t->lse = malloc((size_t)t->scored * sizeof *t->lse);
    t->page = malloc(t->page_bytes);
    for (kind = 0; kind < 2; kind++) {
        t->kept[kind] = malloc((size_t)t->c->n_layers * rows * wide * sizeof(float));
        t->coded[kind] = malloc(rows * wide * sizeof(float));
        if (!t->kept[kind] || !t->coded[kind]) return say(err, "out of memory");
    }
    if (!t->x || !t->want || !t->got || !t->lse || !t->page) return say(err, "out of memory");
    return 0;
}

static float *residual_at(const trial *t, int layer, int pos)
{
    size_t again = (size_t)(t->n - t->from), embd = (size_t)t->c->n_embd;
    return t->x + ((size_t)layer * again + (size_t)(pos - t->from)) * embd;
}

static void see_residual(void *self, int layer, const float *x, int n)
{
    trial *t = self;
    size_t embd = (size_t)t->c->n_embd;
    if (t->at < t->from) return;
    memcpy(residual_at(t, layer, t->at), x, (size_t)n * embd * sizeof *x);
}

/* A layer's rows of the pages */
static float *kept_of(const trial *t, int layer, int kind)
{
    size_t rows = (size_t)layer * (size_t)(t->pages * SKV_PAGE_TOKENS);
    return t->kept[kind] + rows * (size_t)(t->c->n_kv_heads * t->c->head_dim);
}

static void see_attention(void *self, int layer, const float *q, const float *k, const float *v,
                          int n)
{
    trial *t = self;
    size_t wide = (size_t)t->c->n_kv_heads * (size_t)t->c->head_dim;
    int i, row;
    (void)q;
    for (i = 0; i < n; i++) {
        row = t->at + i - LLM_SINKS;
        if (row < 0 || row >= t->pages * SKV_PAGE_TOKENS) continue;
        memcpy(kept_of(t, layer, 0) + (size_t)row * wide, k + (size_t)i * wide, wide * sizeof *k);
        memcpy(kept_of(t, layer, 1) + (size_t)row * wide, v + (size_t)i * wide, wide * sizeof *v);
    }
}

/* The chunk that starts at `at`: full ones up to `from`, then such that the scored positions are
 * the last one, alone. */
static int chunk_at(const trial *t, int at)
{
    int end = at < t->from ? t->from : at < t->n - t->scored ? t->n - t->scored : t->n;
    return end - at < LLM_CHUNK ? end - at : LLM_CHUNK;
}

static int run_exact(trial *t, const int *ids)
{
    llm_probe probe;
    int at, n, r, i;
    probe.self = t;
    probe.attention = see_attention;
    probe.residual = see_residual;
    for (at = 0; at < t->n; at += n) {
        n = chunk_at(t, at);
        t->at = at;
        r = llm_forward(t->m, t->run, ids + at, n, at, &t->kv, &probe, t->want,
                        at + n == t->n ? n : 0);
        if (r) return r;
    }
    for (i = 0; i < t->scored; i++) {
        const float *x = t->want + (size_t)i * (size_t)t->c->n_vocab;
        t->lse[i] = llm_logsumexp(x, t->c->n_vocab);
    }
    return 0;
}

/* Pages first .. last-1 of a layer's K or V in the cache become rows. */
static void put_pages(trial *t, int layer, int kind, int first, int last, const float *rows)
{
    size_t wide = (size_t)t->c->n_kv_heads * (size_t)t->c->head_dim;
    int at = first * SKV_PAGE_TOKENS;
    if (last > first)
        llm_kv_exact_put(t->exact, layer, kind, LLM_SINKS + at, last * SKV_PAGE_TOKENS - at,
                         rows + (size_t)at * wide);
}

/* The layers from `layer` on over the last positions, while rows of its K or V are replaced as they
 * leave the window. What enters the layer, and so its K and V, is as in the exact run; layer 0
 * starts from the tokens. */
static int run_again(trial *t, int layer, int kind, const int *ids)
{
    int at, n, scored, pages, coded = 0, r = 0;
    llm_kv_exact_truncate(t->exact, t->from);
    for (at = t->from; at < t->n && !r; at += n) {
        n = chunk_at(t, at);
        scored = at + n == t->n ? n : 0;
        pages = pages_at(at);
        put_pages(t, layer, kind, coded, pages, t->coded[kind]);
        coded = pages;
        r = layer ? llm_forward_from(t->m, t->run, layer, residual_at(t, layer - 1, at), n, at,
                                     &t->kv, NULL, t->got, scored)
                  : llm_forward(t->m, t->run, ids + at, n, at, &t->kv, NULL, t->got, scored);
    }
    put_pages(t, layer, kind, 0, coded, kept_of(t, layer, kind));
    return r;
}

/* KL(p || q) of one position from logits a and b, with d = b - a: log sum p e^d - sum p d, over
 * the tokens with p > e^-16. Without the cancellation of two logarithms, and few exponentials. */
static double small_kl(const float *a, const float *b, double lse, int n)
{
    const float least = (float)(lse - 16);
    double mass = 0, up = 0, along = 0;
    int i;
    for (i = 0; i < n; i++)
        if (a[i] > least) {
            double p = exp(a[i] - lse), d = (double)b[i] - a[i];
            mass += p;
            up += p * expm1(d);
            along += p * d;
        }
    return log1p(up / mass) - along / mass;
}

static double mean_kl(const trial *t)
{
    double sum = 0;
    int i, v = t->c->n_vocab;
    for (i = 0; i < t->scored; i++) {
        size_t at = (size_t)i * (size_t)v;
        sum += small_kl(t->want + at, t->got + at, t->lse[i], v);
    }
    return sum / t->scored;
}

/* Mean squared latent error, in units of the profile's prices, of the rows that a query of the
 * passage's end can see. 0 when it sees none. */
static double latent_error(const trial *t, int layer, int kind)
{
    uint32_t heads = (uint32_t)t->c->n_kv_heads, g, first = 0;
    size_t d = (size_t)t->c->head_dim, wide = heads * d, i, j;
    int window = llm_layer_window(t->c, layer), row, rows = t->pages * SKV_PAGE_TOKENS, counted = 0;
    double sum = 0;
    skv_transform f;
    for (g = 0; first < heads; g++, first += (uint32_t)(f.n / d)) {
        if (skv_profile_transform(t->profile, (uint32_t)layer, (skv_kind)kind, g, &f)) return 0;
        for (row = 0, counted = 0; row < rows; row++) {
            size_t at = (size_t)row * wide + first * d;
            const float *x = kept_of(t, layer, kind) + at, *y = t->coded[kind] + at;
            if (window && LLM_SINKS + row <= t->n - t->scored - window) continue;
            for (i = 0; i < f.n; i++) {
                double z = 0;
                for (j = 0; j < f.n; j++) z += (double)f.encode[i * f.n + j] * (y[j] - x[j]);
                sum += (double)f.variance[i] * z * z;
            }
            counted++;
        }
    }
    return counted ? sum / counted : 0;
}

/* A layer's rows through the codec into t->coded. */
static int code_layer(trial *t, int layer, char *err)
{
    size_t wide = (size_t)t->c->n_kv_heads * (size_t)t->c->head_dim, bytes, n;
    const float *keys = kept_of(t, layer, 0), *values = kept_of(t, layer, 1);
    int page;
    for (page = 0; page < t->pages; page++) {
        size_t at = (size_t)page * SKV_PAGE_TOKENS * wide;
        skv_span k = skv_f32(keys + at), v = skv_f32(values + at);
        skv_result r = skv_encode(t->codec, (uint32_t)layer, &k, &v, SKV_PAGE_TOKENS,
                                  (size_t)(LLM_SINKS + page * SKV_PAGE_TOKENS), t->page,
                                  t->page_bytes, &bytes);
        if (r == SKV_OK)
            r = skv_decode(t->codec, (uint32_t)layer, t->page, bytes, t->coded[0] + at,
                           t->coded[1] + at, &n);
        if (r != SKV_OK) return say(err, skv_result_text(r));
    }
    return 0;
}

/* KL per latent error of K and V of one layer, into ratio[2]. */
static int price_layer(trial *t, int layer, const int *ids, double *ratio,
                       void (*tick)(void *user), void *user, char *err)
{
    int kind;
    if (code_layer(t, layer, err)) return -1;
    for (kind = 0; kind < 2; kind++) {
        double error = latent_error(t, layer, kind), x = 0;
        if (error > 0) {
            if (run_again(t, layer, kind, ids)) return say(err, "the forward pass failed");
            x = mean_kl(t) / error;
        }
        ratio[kind] = x > 0 && x < HUGE_VAL ? x : 0;
        if (tick) tick(user);
    }
    return 0;
}

int llm_prices_measure(llm_prices *p, int at, const llm_model *m, const skv_profile *profile,
                       const llm_price_options *o, const int *ids, int n,
                       void (*tick)(void *user), void *user, char *err)
{
    trial t;
    int l, bad = trial_new(&t, m, profile, o, n, err);
    if (!bad && run_exact(&t, ids)) bad = say(err, "the forward pass failed");
    for (l = 0; l < p->n_layers && !bad; l++)
        bad = price_layer(&t, l, ids, p->sample + 2 * (size_t)(at * p->n_layers + l), tick, user,
                          err);
    trial_free(&t);
    return bad ? -1 : 0;
}

/* ---- all passages ---- */

/* Every passage's logarithms lose their mean, so that a hard passage weighs like an easy one; what
 * is left, y, is averaged over passages. Its noise is the variance between passages over their
 * number, pooled over streams; its signal the variance between streams less that noise. The factor
 * is exp(trust y), trust = half of signal / (signal + noise), the mean of a normal prior around the
 * price that the profile has. Half, because calibration stands for other texts: what a stream is
 * worth differs between kinds of text by more than the samples of a few passages show. Gemma 3, 2.5
 * bits, documentation and scripture: KL 0.022 and 0.087 with all of it, 0.017 and 0.046 with half.
 * One passage alone says nothing about noise: signal / (signal + noise) = 1/2. */
void llm_prices_combine(llm_prices *p)
{
    size_t n = 2 * (size_t)p->n_layers, s, i, all = (size_t)p->n_samples;
    double within = 0, between = 0, middle = 0, freedom = 0;
    size_t heard = 0;
    for (i = 0; i < all; i++) {
        double *x = p->sample + i * n, mean = 0, count = 0;
        for (s = 0; s < n; s++)
            if (x[s] > 0) mean += log(x[s]), count++;
        for (s = 0; s < n && count > 0; s++)
            if (x[s] > 0) x[s] *= exp(-mean / count);
    }
    for (s = 0; s < n; s++) {
        double sum = 0, squares = 0, count = 0;
        for (i = 0; i < all; i++)
            if (p->sample[i * n + s] > 0) {
                double y = log(p->sample[i * n + s]);
                sum += y;
                squares += y * y;
                count++;
            }
        p->factor[s] = count > 0 ? sum / count : 0;
        if (!(count > 0)) continue;
        heard++;
        middle += p->factor[s];
        within += squares - sum * sum / count;
        freedom += count - 1;
    }
    p->silent = (int)(n - heard);
    middle /= heard ? (double)heard : 1;
    for (s = 0; s < n; s++) between += (p->factor[s] - middle) * (p->factor[s] - middle);
    between /= heard > 1 ? (double)heard - 1 : 1;
    p->noise = freedom > 0 ? within / freedom / (double)all : 0.5 * between;
    p->spread = between > p->noise ? sqrt(between - p->noise) : 0;
    p->trust = between > 0 && between > p->noise ? 0.5 * (1 - p->noise / between) : 0;
    p->noise = sqrt(p->noise);
    for (s = 0; s < n; s++) p->factor[s] = exp(p->trust * p->factor[s]);
}
