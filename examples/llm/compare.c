/* compare.c: see compare.h. */
#include "compare.h"
#include "progress.h"
#include "sampling.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct racer {
    llm_lane lane;
    llm_kv_timed timed;             /* the lane's cache; seconds: of the token at hand */
    double encode;                  /* seconds of the prompt's appends */
    double *step, *share, *ratio;   /* [steps] */
    int likely;                     /* next token */
} racer;

typedef struct race {
    const llm_model *m;
    llm_run *run;
    racer *r;                       /* [n], the first is exact */
    float *logits;
    double *times;                  /* all the racers' */
    int n, steps, failed;           /* failed: whose append or attend it was */
} race;

static void race_free(race *x)
{
    int i;
    for (i = 0; x->r && i < x->n; i++) llm_lane_free(&x->r[i].lane);
    free(x->r);
    free(x->logits);
    free(x->times);
    llm_run_free(x->run);
}

static int race_open(race *x, const llm_mode *modes, int n_modes, const llm_model *m,
                     const llm_mode_env *env, int n, int steps, char *err)
{
    llm_mode exact;
    int i;
    memset(x, 0, sizeof *x);
    x->m = m;
    x->n = n_modes + 1;
    x->steps = steps;
    if (llm_mode_parse(&exact, "exact", 5, err)) return -1;
    x->r = calloc((size_t)x->n, sizeof *x->r);
    x->logits = malloc((size_t)env->c->n_vocab * sizeof *x->logits);
    x->times = calloc((size_t)x->n * (size_t)steps, 3 * sizeof *x->times);
    if (!x->r || !x->logits || !x->times) {
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        return -1;
    }
    for (i = 0; i < x->n; i++) {
        x->r[i].step = x->times + 3 * (size_t)i * (size_t)steps;
        x->r[i].share = x->r[i].step + steps;
        x->r[i].ratio = x->r[i].share + steps;
        if (llm_lane_open(&x->r[i].lane, i ? &modes[i - 1] : &exact, env, n, err)) return -1;
        x->r[i].timed.kv = x->r[i].lane.kv;
    }
    return llm_run_new(&x->run, m, err);
}

/* ---- the prompt: K and V go to everybody ---- */

static int prompt_append(void *self, int layer, const float *k, const float *v, int n)
{
    race *x = self;
    int i, bad;
    for (i = 0; i < x->n; i++) {
        llm_kv *kv = &x->r[i].lane.kv;
        double start = llm_seconds();
        bad = kv->append(kv->self, layer, k, v, n);
        x->r[i].encode += llm_seconds() - start;
        x->failed = i;
        if (bad) return bad;
    }
    return 0;
}

static int prompt_attend(void *self, int layer, const float *q, int n, float *o)
{
    race *x = self;
    x->failed = 0;
    return x->r[0].lane.kv.attend(x->r[0].lane.kv.self, layer, q, n, o);
}

/* Says whose fault it was; r is what llm_forward gave. */
static int report(const race *x, int r, int at, char *err)
{
    if (r) snprintf(err, GGUF_ERR_BYTES, "cache %d of %d, token %d: %s", x->failed, x->n - 1, at,
                    llm_lane_error(&x->r[x->failed].lane, r));
    return r ? -1 : 0;
}

static int run_prompt(race *x, const int *ids, int n, double *seconds, char *err)
{
    llm_kv kv = {x, prompt_append, prompt_attend};
    llm_progress bar;
    double start = llm_seconds();
    int at, chunk, i, bad = 0;
    llm_progress_begin(&bar, "reading the prompt", n);
    for (at = 0; at < n && !bad; at += chunk) {
        chunk = at == 0 ? LLM_SINKS : LLM_CHUNK;
        if (chunk > n - at) chunk = n - at;
        bad = llm_forward(x->m, x->run, ids + at, chunk, at, &kv, NULL, NULL, 0);
        bad = report(x, bad, at, err);
        llm_progress_at(&bar, (double)at + chunk);
    }
    llm_progress_end(&bar);
    *seconds = llm_seconds() - start;
    for (i = 1; i < x->n; i++) *seconds -= x->r[i].encode;
    return bad;
}

/* ---- tokens: everybody in turn ---- */

static int run_step(race *x, llm_pace *out, int id, int pos, int s, char *err)
{
    int i, bad;
    for (i = 0; i < x->n; i++) {
        racer *r = &x->r[(i + s) % x->n];       /* nobody is always the first */
        llm_kv kv = llm_kv_timed_ops(&r->timed);
        double start = llm_seconds();
        r->timed.seconds = 0;
        x->failed = (i + s) % x->n;
        bad = llm_forward(x->m, x->run, &id, 1, pos, &kv, NULL, x->logits, 1);
        if (report(x, bad, pos, err)) return -1;
        r->step[s] = llm_seconds() - start;
        r->share[s] = r->timed.seconds / r->step[s];
        r->likely = llm_argmax(x->logits, llm_model_config(x->m)->n_vocab);
    }
    for (i = 0; i < x->n; i++) {
        x->r[i].ratio[s] = x->r[0].step[s] / x->r[i].step[s];
        out[i].agree += x->r[i].likely == x->r[0].likely;
    }
    return 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)          /* sorts x */
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    return x[n / 2];
}

int llm_compare(llm_pace *out, const llm_mode *modes, int n_modes, const llm_model *m,
                const llm_mode_env *env, const int *ids, int n, int steps, double *prompt,
                char *err)
{
    race x;
    int i, s, bad;
    memset(out, 0, (size_t)(n_modes + 1) * sizeof *out);
    if (steps < 1 || n <= steps) {
        snprintf(err, GGUF_ERR_BYTES, "%d tokens are too few for a prompt and %d more", n, steps);
        return -1;
    }
    bad = race_open(&x, modes, n_modes, m, env, n, steps, err) ||
          run_prompt(&x, ids, n - steps, prompt, err);
    for (s = 0; s < steps && !bad; s++)
        bad = run_step(&x, out, ids[n - steps + s], n - steps + s, s, err);
    for (i = 0; i < x.n && !bad; i++) {
        racer *r = &x.r[i];
        if (i) out[i].mode = modes[i - 1];
        else bad = llm_mode_parse(&out[i].mode, "exact", 5, err);
        out[i].step = median(r->step, steps);
        out[i].least = r->step[0];
        out[i].cache = median(r->share, steps);
        out[i].ratio = median(r->ratio, steps);
        out[i].encode = r->encode;
        llm_lane_measure(&r->lane, &out[i].stats);
    }
    race_free(&x);
    return bad ? -1 : 0;
}
