/* judge.c: see judge.h. */
#include "judge.h"
#include "progress.h"
#include "sampling.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct lane {               /* one mode under judgement */
    llm_lane l;
    double *kl, nll, agree;
} lane;

typedef struct court {
    const llm_model *m;
    const llm_config *c;
    llm_run *run;
    lane *lanes;                    /* [n_modes + 1]; the last is the exact reference */
    float *want, *got;              /* [LLM_CHUNK][n_vocab] */
    double nll_exact;
    int n_modes, counted, predicted;
} court;

static void court_free(court *k)
{
    int i;
    for (i = 0; k->lanes && i <= k->n_modes; i++) {
        llm_lane_free(&k->lanes[i].l);
        free(k->lanes[i].kl);
    }
    free(k->lanes);
    free(k->want);
    free(k->got);
    llm_run_free(k->run);
}

static int court_open(court *k, const llm_mode *modes, int n_modes, const llm_model *m,
                      const llm_mode_env *env, int n, char *err)
{
    llm_mode exact;
    size_t rows;
    int i;
    memset(k, 0, sizeof *k);
    k->m = m;
    k->c = llm_model_config(m);
    k->n_modes = n_modes;
    if (llm_mode_parse(&exact, "exact", 5, err)) return -1;
    rows = (size_t)LLM_CHUNK * (size_t)k->c->n_vocab;
    k->lanes = calloc((size_t)n_modes + 1, sizeof *k->lanes);
    k->want = malloc(rows * sizeof *k->want);
    k->got = malloc(rows * sizeof *k->got);
    if (!k->lanes || !k->want || !k->got) {
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        return -1;
    }
    for (i = 0; i <= n_modes; i++) {
        lane *l = &k->lanes[i];
        l->kl = malloc((size_t)n * sizeof *l->kl);
        if (!l->kl) {
            snprintf(err, GGUF_ERR_BYTES, "out of memory");
            return -1;
        }
        if (llm_lane_open(&l->l, i < n_modes ? &modes[i] : &exact, env, n, err)) return -1;
    }
    return llm_run_new(&k->run, m, err);
}

static int step(court *k, lane *l, const int *ids, int n, int pos, float *logits, int n_logits,
                const char *name, char *err)
{
    int r = llm_forward(k->m, k->run, ids, n, pos, &l->l.kv, NULL, n_logits ? logits : NULL,
                        n_logits);
    if (r) snprintf(err, GGUF_ERR_BYTES, "mode %s, token %d: %s", name, pos,
                    llm_lane_error(&l->l, r));
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
    llm_lane_stats stats;
    int i, n = k->counted;
    for (i = 0; i < n; i++) v->kl_mean += l->kl[i] / n;
    qsort(l->kl, (size_t)n, sizeof *l->kl, by_value);
    v->kl_p99 = l->kl[(int)(0.99 * (n - 1))];
    v->top1 = l->agree / n;
    v->ppl_exact = exp(k->nll_exact / (k->predicted ? k->predicted : 1));
    v->ppl = exp(l->nll / (k->predicted ? k->predicted : 1));
    llm_lane_measure(&l->l, &stats);
    v->usage = stats.usage;
    v->bpe = stats.bpe;
    v->bpe_pages = stats.bpe_pages;
    v->ratio = 16 / v->bpe;
}

int llm_judge(llm_verdict *out, const llm_mode *modes, int n_modes, const llm_model *m,
              const llm_mode_env *env, const int *ids, int n, int start, char *err)
{
    court k;
    llm_progress bar;
    int at, chunk, i, bad;
    memset(out, 0, (size_t)n_modes * sizeof *out);
    if (start < 0 || n - start < 2) {
        snprintf(err, GGUF_ERR_BYTES, "the text has %d tokens, too few to start at %d", n, start);
        return -1;
    }
    bad = court_open(&k, modes, n_modes, m, env, n, err);
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
