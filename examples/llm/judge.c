/* judge.c: see judge.h. */
#include "judge.h"
#include "kv.h"
#include "kv_spectral.h"
#include "progress.h"
#include "sampling.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int llm_mode_parse(llm_mode *m, const char *word, size_t n, char *err)
{
    char *end;
    memset(m, 0, sizeof *m);
    if (n < sizeof m->name) {
        memcpy(m->name, word, n);
        if (!strcmp(m->name, "exact")) return 0;
        if (!strncmp(m->name, "spectral:", 9)) {
            m->spectral = 1;
            m->target.bpe = (float)strtod(m->name + 9, &end);
            if (end != m->name + 9 && !*end && m->target.bpe > 0 && m->target.bpe <= 16) return 0;
        }
    }
    snprintf(err, GGUF_ERR_BYTES, "mode `%.*s` is not known: use exact or spectral:BPE, "
             "with BPE bits per element, such as spectral:4", n < 40 ? (int)n : 40, word);
    return -1;
}

typedef struct lane {               /* one mode under judgement */
    skv_cache *cache;
    llm_kv_exact *exact;
    llm_kv kv;
    double *kl, nll, agree;
} lane;

typedef struct court {
    const llm_model *m;
    const llm_config *c;
    llm_run *run;
    lane *lanes;                    /* [n_modes + 1]; the last is the exact reference */
    float *want, *got;              /* [LLM_CHUNK][n_vocab] */
    skv_layer *layers;
    double nll_exact;
    int n_modes, counted, predicted;
} court;

static void court_free(court *k)
{
    int i;
    for (i = 0; k->lanes && i <= k->n_modes; i++) {
        skv_cache_free(k->lanes[i].cache);
        llm_kv_exact_free(k->lanes[i].exact);
        free(k->lanes[i].kl);
    }
    free(k->lanes);
    free(k->want);
    free(k->got);
    free(k->layers);
    llm_run_free(k->run);
}

static int open_lane(court *k, lane *l, const llm_mode *mode, const skv_profile *profile, int n,
                     char *err)
{
    skv_model model;
    l->kl = malloc((size_t)n * sizeof *l->kl);
    if (!l->kl) {
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        return -1;
    }
    if (!mode || !mode->spectral) {
        if (llm_kv_exact_new(&l->exact, k->c, n, err)) return -1;
        l->kv = llm_kv_exact_ops(l->exact);
        return 0;
    }
    if (!profile) {
        snprintf(err, GGUF_ERR_BYTES, "mode %s needs --profile P.skv (make one with "
                 "`skv-llm profile`)", mode->name);
        return -1;
    }
    model = llm_skv_model(k->c, 0, k->layers);
    if (llm_kv_spectral_new(&l->cache, profile, &model, &mode->target, n, err)) return -1;
    l->kv = llm_kv_spectral_ops(l->cache);
    return 0;
}

static int court_open(court *k, const llm_mode *modes, int n_modes, const llm_model *m,
                      const skv_profile *profile, int n, char *err)
{
    size_t rows;
    int i;
    memset(k, 0, sizeof *k);
    k->m = m;
    k->c = llm_model_config(m);
    k->n_modes = n_modes;
    rows = (size_t)LLM_CHUNK * (size_t)k->c->n_vocab;
    k->lanes = calloc((size_t)n_modes + 1, sizeof *k->lanes);
    k->want = malloc(rows * sizeof *k->want);
    k->got = malloc(rows * sizeof *k->got);
    k->layers = malloc((size_t)k->c->n_layers * sizeof *k->layers);
    if (!k->lanes || !k->want || !k->got || !k->layers) {
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        return -1;
    }
    for (i = 0; i <= n_modes; i++)
        if (open_lane(k, &k->lanes[i], i < n_modes ? &modes[i] : NULL, profile, n, err)) return -1;
    return llm_run_new(&k->run, m, err);
}

static int step(court *k, lane *l, const int *ids, int n, int pos, float *logits, int n_logits,
                const char *name, char *err)
{
    int r = llm_forward(k->m, k->run, ids, n, pos, &l->kv, NULL, n_logits ? logits : NULL,
                        n_logits);
    if (r) snprintf(err, GGUF_ERR_BYTES, "mode %s, token %d: %s", name, pos,
                    l->cache ? skv_result_text((skv_result)r) : "the forward pass failed");
    return r ? -1 : 0;
}

/* Compares the last n rows of a chunk; next[i] is the token that follows row i, or -1. */
static void compare(court *k, lane *l, int n, const int *next)
{
    int i, v = k->c->n_vocab;
    for (i = 0; i < n; i++) {
        const float *p = k->want + (size_t)i * (size_t)v, *q = k->got + (size_t)i * (size_t)v;
        l->kl[k->counted + i] = llm_kl(p, q, v);
        l->agree += llm_argmax(p, v) == llm_argmax(q, v);
        if (next[i] >= 0) l->nll -= llm_log_prob(q, v, next[i]);
    }
}

static int run_chunk(court *k, llm_verdict *out, const llm_mode *modes, const int *ids, int at,
                     int n, int start, int total, char *err)
{
    int rows = at + n > start ? (at >= start ? n : at + n - start) : 0, i, next[LLM_CHUNK];
    for (i = 0; i < rows; i++) {
        int pos = at + n - rows + i;
        next[i] = pos + 1 < total ? ids[pos + 1] : -1;
    }
    if (step(k, &k->lanes[k->n_modes], ids + at, n, at, k->want, rows, "exact", err)) return -1;
    for (i = 0; i < rows; i++)
        if (next[i] >= 0) {
            size_t row = (size_t)i * (size_t)k->c->n_vocab;
            k->nll_exact -= llm_log_prob(k->want + row, k->c->n_vocab, next[i]);
            k->predicted++;
        }
    for (i = 0; i < k->n_modes; i++) {
        double t0 = llm_seconds();
        if (step(k, &k->lanes[i], ids + at, n, at, k->got, rows, modes[i].name, err)) return -1;
        out[i].seconds += llm_seconds() - t0;
        compare(k, &k->lanes[i], rows, next);
    }
    k->counted += rows;
    return 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sum_up(court *k, llm_verdict *v, lane *l)
{
    int i, n = k->counted;
    for (i = 0; i < n; i++) v->kl_mean += l->kl[i] / n;
    qsort(l->kl, (size_t)n, sizeof *l->kl, by_value);
    v->kl_p99 = l->kl[(int)(0.99 * (n - 1))];
    v->top1 = l->agree / n;
    v->ppl_exact = exp(k->nll_exact / (k->predicted ? k->predicted : 1));
    v->ppl = exp(l->nll / (k->predicted ? k->predicted : 1));
    v->bpe = 16;
    if (l->cache) {
        (void)skv_cache_usage(l->cache, &v->usage);
        v->bpe = v->usage.bpe;
        v->bpe_pages = v->usage.bpe_pages;
    }
    v->ratio = 16 / v->bpe;
}

int llm_judge(llm_verdict *out, const llm_mode *modes, int n_modes, const llm_model *m,
              const skv_profile *profile, const int *ids, int n, int start, char *err)
{
    court k;
    llm_progress bar;
    int at, chunk, i, bad;
    memset(out, 0, (size_t)n_modes * sizeof *out);
    if (start < 0 || n - start < 2) {
        snprintf(err, GGUF_ERR_BYTES, "the text has %d tokens, too few to start at %d", n, start);
        return -1;
    }
    bad = court_open(&k, modes, n_modes, m, profile, n, err);
    llm_progress_begin(&bar, "judging", n);
    for (at = 0; at < n && !bad; at += chunk) {
        chunk = at == 0 ? LLM_SINKS : LLM_CHUNK;
        if (chunk > n - at) chunk = n - at;
        bad = run_chunk(&k, out, modes, ids, at, chunk, start, n, err);
        llm_progress_at(&bar, at + chunk);
    }
    llm_progress_end(&bar);
    for (i = 0; i < n_modes && !bad; i++) {
        out[i].mode = modes[i];
        out[i].tokens = n;
        sum_up(&k, &out[i], &k.lanes[i]);
    }
    court_free(&k);
    return bad ? -1 : 0;
}
