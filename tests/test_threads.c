/* test_threads.c: what a caller's parallel_for must not change. Caches over several ranges of pages
 * answer with the same bits in turn and on 1 to 7 threads, tasks have work space of their own, and
 * what the ranges give together is attention over the decoded rows. */
#define _POSIX_C_SOURCE 200112L
#include <pthread.h>
#define SKV_STATIC
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"
#include "synthetic.h"

#define PAGE SKV_PAGE_TOKENS
#define MOST_THREADS 7u

/* A parallel_for: tasks i, i + threads, .. on thread i. */
typedef struct pool {
    size_t threads, most;           /* most: largest n so far */
} pool;

typedef struct worker {
    pthread_t id;
    size_t first, step, n;
    void (*task)(void *arg, size_t i);
    void *arg;
} worker;

static void *worker_main(void *self)
{
    const worker *w = (const worker *)self;
    size_t i;
    for (i = w->first; i < w->n; i += w->step) w->task(w->arg, i);
    return NULL;
}

static void pool_run(void *user, size_t n, void (*task)(void *, size_t), void *arg)
{
    pool *p = (pool *)user;
    worker w[MOST_THREADS];
    size_t i;
    if (n > p->most) p->most = n;
    for (i = 0; i < p->threads; i++) {
        w[i].first = i;
        w[i].step = p->threads;
        w[i].n = n;
        w[i].task = task;
        w[i].arg = arg;
        if (pthread_create(&w[i].id, NULL, worker_main, &w[i])) abort();
    }
    for (i = 0; i < p->threads; i++) pthread_join(w[i].id, NULL);
}

/* Everything that a caller sees of a layer, hashed. */
static uint64_t hash(uint64_t h, const void *x, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)x;
    while (bytes--) h = (h ^ *p++) * 1099511628211u;
    return h;
}

static void *room(size_t n)
{
    void *p = malloc(n * sizeof(float) + 1);
    if (!p) abort();
    return p;
}

static uint64_t attend(skv_cache *c, const syn_data *x, size_t n, float tolerance, uint64_t h)
{
    const skv_layer *l = &c->layers[0];
    size_t total = skv_cache_tokens(c, 0), wo = (size_t)l->n_q_heads * l->head_dim_v;
    skv_span q = skv_f32(x->q + (total - n) * l->n_q_heads * l->head_dim);
    float *out = (float *)room(n * wo), *lse = (float *)room(n * l->n_q_heads);
    skv_out o = skv_out_f32(out);
    skv_attn a = SKV_ZERO;
    a.lse = lse;
    a.tolerance = tolerance;
    CHECK(skv_attend(c, 0, &q, n, &o, &a) == SKV_OK);
    h = hash(h, out, n * wo * sizeof(float));
    h = hash(h, lse, n * l->n_q_heads * sizeof(float));
    h = hash(h, &a.score_bound, sizeof a.score_bound);
    h = hash(h, &a.page_mass, sizeof a.page_mass);
    h = hash(h, &a.skipped, sizeof a.skipped);
    h = hash(h, &a.pages_read, sizeof a.pages_read);
    free(out);
    free(lse);
    return h;
}

static uint64_t scores(skv_cache *c, const syn_data *x, uint64_t h)
{
    const skv_layer *l = &c->layers[0];
    size_t total = skv_cache_tokens(c, 0);
    skv_span q = skv_f32(x->q + (total - 1) * l->n_q_heads * l->head_dim);
    float *s = (float *)room(total * l->n_q_heads);
    CHECK(skv_scores(c, 0, &q, s) == SKV_OK);
    h = hash(h, s, total * l->n_q_heads * sizeof(float));
    free(s);
    return h;
}

static uint64_t pages(const skv_cache *c, uint64_t h)
{
    const skvi_clayer *l = &c->cl[0];
    uint32_t i;
    for (i = l->dropped; i < l->n_pages; i++) h = hash(h, l->page[i], skvi_get32(l->page[i] + 4));
    return h;
}

static void append(skv_cache *c, const syn_data *x, size_t n)
{
    const skv_layer *l = &c->layers[0];
    size_t at = skv_cache_tokens(c, 0);
    skv_span k = skv_f32(x->k + at * l->n_kv_heads * l->head_dim);
    skv_span v = skv_f32(x->v + at * l->n_kv_heads * l->head_dim_v);
    CHECK(skv_append(c, 0, &k, &v, n) == SKV_OK);
}

#define TOKENS 2300u                /* 34 pages: ranges of 16, 16 and 2 */
typedef struct threads_case {
    skv_layer shape;
    uint32_t head_group, pairs;     /* pairs that RoPE turns */
    uint32_t sinks, window, max_append;
    int exact;                      /* no profile: nothing in pages */
    float bpe;                      /* 0 = 3 */
} threads_case;

static const threads_case cases[] = {
    {{6, 3, 16, 0, 0, 0, 0}, 1, 8, 0, 0, 0, 0, 0},
    {{5, 1, 16, 24, 0, 0, 0}, 1, 0, 0, 0, 1, 0, 5},             /* a slab begins at an odd quad */
    {{6, 3, 16, 0, 0, 0, 3.0f}, 2, 7, 70, 20, 0, 0, 0},         /* uneven last group, soft cap */
    {{4, 2, 16, 0, 1500, 0, 0}, 1, 8, 0, 0, 0, 0, 0},           /* pages are dropped */
    {{2, 1, 16, 0, 300, 0, 0}, 1, 5, SKV_NONE, 0, 100, 0, 0},   /* few pages, mid range */
    {{70, 1, 16, 0, 0, 0, 0}, 1, 0, 0, 0, 3, 0, 0},             /* more rows than a tile has */
    {{4, 2, 16, 0, 0, 0, 0}, 1, 0, 0, 1200, 0, 0, 0},           /* exact tokens fall into ranges */
    {{3, 1, 32, 0, 0, 0, 0}, 1, 0, 0, 0, 0, 0, 5},
    {{4, 2, 16, 0, 0, 0, 0}, 1, 0, 0, 0, 0, 1, 0}
};

static skv_profile *case_profile(const threads_case *t, syn *s)
{
    syn model = {{0, 0, 0, 0, 0, 0, 0}, 31, 1.0f, 2.0f, 0, 4};
    model.shape = t->shape;
    *s = model;
    s->outliers = 0.02f;
    return syn_profile_turned(&model, 1, t->head_group, SKV_ROPE_HALVES, t->pairs);
}

static skv_cache *case_cache(const threads_case *t, const skv_profile *p, const syn *s, pool *w,
                             uint32_t bits)
{
    skv_cache_desc d = SKV_ZERO;
    skv_cache *c = NULL;
    d.profile = t->exact ? NULL : p;
    d.model = syn_model(s, 1);
    d.target.bpe = t->exact ? 0 : t->bpe > 0 ? t->bpe : 3;
    d.max_tokens = TOKENS;
    d.sinks = t->sinks;
    d.window = t->window;
    d.max_append = t->max_append;
    d.attend_bits = bits;
    if (w) {
        d.parallel.run = pool_run;
        d.parallel.user = w;
        d.parallel.n_threads = (uint32_t)w->threads;
    }
    if (skv_cache_init(&c, &d) < SKV_OK) abort();
    return c;
}

/* Floats that the value kernel touches beyond a row's last eight: it writes eights from any quad
   on. A part has room for them, else it would touch another thread's. */
static size_t beyond(const skv_cache *c)
{
    const skv_profile *p = c->coder.profile;
    size_t most = 0, i;
    for (i = p->n_streams / 2; i < p->n_streams; i++) {
        const skvi_plan *plan = &c->coder.plan[i];
        size_t whole = SKVI_WHOLE(p->stream[i].D), end;
        skvi_slab b;
        uint32_t ch;
        for (ch = 0; ch < plan->coded; ch += b.n) {
            b.n = 0;
            skvi_slab_plan(&c->coder, plan, 1, ch, &b);
            end = ch + SKVI_WHOLE(b.n);
            if (end > whole && end - whole > most) most = end - whole;
        }
        CHECK(most + 2 <= SKVI_PART(p->stream[i].D) - whole);
    }
    return most;
}

/* Prompts and single steps, which leave the lanes in different states. */
static uint64_t case_run(skv_cache *c, const syn_data *x)
{
    static const size_t step[] = {700, 1, 3, 1000, 20, 1, 500, 1, 70, 4};
    uint64_t h = 1469598103934665603u;
    size_t i, total;
    for (i = 0; i < sizeof step / sizeof *step; i++) {
        append(c, x, step[i]);
        h = attend(c, x, step[i] < 70 ? step[i] : 1, 0, h);
        h = attend(c, x, 1, 0.05f, h);
    }
    total = skv_cache_tokens(c, 0);
    CHECK(total == TOKENS);
    h = attend(c, x, c->layers[0].sliding_window ? 4 : 67, 0.3f, h);
    return scores(c, x, pages(c, h));
}

TEST(threads_do_not_change_a_bit)
{
    static const size_t threads[] = {1, 2, 3, MOST_THREADS};
    size_t i, j, over = 0;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        syn s;
        skv_profile *p = case_profile(&cases[i], &s);
        syn_data x = syn_make(&s, 0, 1, TOKENS);
        skv_cache *c = case_cache(&cases[i], p, &s, NULL, 0);
        uint64_t want = case_run(c, &x);
        skv_usage one, use;
        over += cases[i].exact ? 0 : beyond(c);
        CHECK(skv_cache_usage(c, &one) == SKV_OK);
        skv_cache_free(c);
        for (j = 0; j < sizeof threads / sizeof *threads; j++) {
            pool w;
            w.threads = threads[j];
            w.most = 0;
            c = case_cache(&cases[i], p, &s, &w, 0);
            CHECK(case_run(c, &x) == want);
            CHECK(w.most <= threads[j] && c->coder.n_lanes <= threads[j]);
            CHECK(j != 2 || w.most == 3);               /* every case has work for three */
            CHECK(skv_cache_usage(c, &use) == SKV_OK);
            CHECK(use.bytes - use.page_bytes == c->bytes);
            CHECK((use.work_bytes > one.work_bytes) == (j > 0));
            skv_cache_free(c);
        }
        skv_profile_free(p);
        syn_free(&x);
    }
    CHECK(over > 0);
}

/* The ranges together: attention over the rows that skv_reconstruct gives. */
TEST(ranges_are_attention_on_rows)
{
    size_t i, j;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum { N = 2 };
        syn s;
        skv_profile *p = case_profile(&cases[i], &s);
        syn_data x = syn_make(&s, 0, 1, TOKENS);
        skv_cache *c = case_cache(&cases[i], p, &s, NULL, 14);
        const skv_layer *l = &c->layers[0];
        size_t wk = (size_t)l->n_kv_heads * l->head_dim, wv = (size_t)l->n_kv_heads * l->head_dim_v;
        size_t wo = (size_t)l->n_q_heads * l->head_dim_v, gone;
        float *k = (float *)room(TOKENS * wk), *v = (float *)room(TOKENS * wv);
        float *out = (float *)room(N * wo), top = 0;
        double *want = (double *)malloc(N * wo * sizeof *want);
        skv_span q = skv_f32(x.q + (TOKENS - N) * l->n_q_heads * l->head_dim);
        skv_out o = skv_out_f32(out);
        append(c, &x, TOKENS);
        gone = c->cl[0].dropped ? c->sinks + (size_t)c->cl[0].dropped * PAGE : 0;
        memset(k, 0, gone * wk * sizeof(float));
        memset(v, 0, gone * wv * sizeof(float));
        CHECK(skv_reconstruct(c, 0, gone, TOKENS - gone, k + gone * wk, v + gone * wv) == SKV_OK);
        CHECK(skv_attend(c, 0, &q, N, &o, NULL) == SKV_OK);
        if (!want) abort();
        syn_attention(l, (const float *)q.data, k, v, TOKENS, N, want, NULL);
        for (j = gone * wv; j < TOKENS * wv; j++) top = fabsf(v[j]) > top ? fabsf(v[j]) : top;
        CHECK_NEAR(syn_worst(out, want, N * wo), 0, 1e-3 * (double)top);
        free(k);
        free(v);
        free(out);
        free(want);
        skv_cache_free(c);
        skv_profile_free(p);
        syn_free(&x);
    }
}

/* Codecs hand out as many tasks as they have lanes, and cold ones none. */
TEST(codecs_keep_to_their_threads)
{
    syn s;
    skv_profile *p = case_profile(&cases[0], &s);
    syn_data x = syn_make(&s, 0, 1, PAGE);
    skv_span k = skv_f32(x.k), v = skv_f32(x.v);
    unsigned char page[2][8192];
    size_t bytes[2] = {0, 0}, i;
    memset(page, 0, sizeof page);
    for (i = 0; i < 2; i++) {
        skv_codec_desc d = SKV_ZERO;
        skv_codec *c = NULL;
        pool w;
        w.threads = 2;
        w.most = 0;
        d.profile = p;
        d.target.bpe = 3;
        d.parallel.user = &w;
        d.parallel.run = i ? pool_run : NULL;
        d.parallel.n_threads = 2;
        CHECK(skv_codec_init(&c, &d) == SKV_OK);
        CHECK(skv_encode(c, 0, &k, &v, PAGE, 4, page[i], sizeof page[i], &bytes[i]) == SKV_OK);
        CHECK(w.most == (i ? 2 : 0));
        skv_codec_free(c);
    }
    CHECK(bytes[0] == bytes[1] && !memcmp(page[0], page[1], sizeof page[0]));
    skv_profile_free(p);
    syn_free(&x);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(threads_do_not_change_a_bit);
    RUN(ranges_are_attention_on_rows);
    RUN(codecs_keep_to_their_threads);
    return TEST_END();
}
