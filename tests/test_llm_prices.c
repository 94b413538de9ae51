/* test_llm_prices.c: the forward pass from a layer on, and the prices that are measured with it, on
 * small made-up models. */
#include "test.h"
#include "kv_coded.h"
#include "prices.h"
#include "sampling.h"
#include "tiny_model.h"

enum { MAX_TOKENS = 256 };

static const tiny_model deep = {"deep", "llama", 4, 32, 4, 2, 16, 48, 40, 1, 0, 0.0, 0, {0}};
static const tiny_model sliding = {"gemma3", "gemma3", 7, 24, 4, 2, 16, 32, 40, 0, 0, 0.0, 8, {0}};

typedef struct engine {
    tiny_file *file;
    gguf *g;
    llm_model *m;
    const llm_config *c;
    llm_run *run;
    llm_kv_exact *cache;
    llm_kv kv;
    char err[GGUF_ERR_BYTES];
} engine;

static void open_tiny(engine *e, const tiny_model *m, const char *zero)
{
    twist t = {0};
    t.zero = zero;
    memset(e, 0, sizeof *e);
    e->file = malloc(sizeof *e->file);
    if (!e->file) exit(2);
    tiny_build(e->file, m, &t);
    if (gguf_open_memory(&e->g, e->file->b.p, e->file->b.n, e->err) ||
        llm_model_open(&e->m, e->g, e->err) || llm_run_new(&e->run, e->m, e->err) ||
        llm_kv_exact_new(&e->cache, llm_model_config(e->m), MAX_TOKENS, e->err)) {
        printf("    %s\n", e->err);
        exit(2);
    }
    e->c = llm_model_config(e->m);
    e->kv = llm_kv_exact_ops(e->cache);
}

static void shut(engine *e)
{
    llm_kv_exact_free(e->cache);
    llm_run_free(e->run);
    llm_model_close(e->m);
    gguf_close(e->g);
    gb_free(&e->file->b);
    free(e->file);
}

static void some_ids(int *ids, int n)
{
    int i;
    for (i = 0; i < n; i++) ids[i] = (int)(test_u64() % TINY_VOCAB);
}

/* ---- a pass from a layer on ---- */

typedef struct record {             /* residual after each layer, of one chunk */
    float x[8][LLM_CHUNK * 32];
    int   embd;
} record;

static void keep_residual(void *self, int layer, const float *x, int n)
{
    record *r = self;
    memcpy(r->x[layer], x, (size_t)(n * r->embd) * sizeof *x);
}

TEST(from_a_layer_equals_the_whole_pass)
{
    static const tiny_model *const models[] = {&deep, &sliding};
    static float want[LLM_CHUNK * TINY_VOCAB], got[LLM_CHUNK * TINY_VOCAB];
    static record seen;
    size_t i;
    int ids[150], l;
    some_ids(ids, 150);
    for (i = 0; i < 2; i++) {
        llm_probe probe = {&seen, NULL, keep_residual};
        engine e;
        open_tiny(&e, models[i], NULL);
        seen.embd = e.c->n_embd;
        CHECK(!llm_forward(e.m, e.run, ids, 64, 0, &e.kv, NULL, NULL, 0));
        CHECK(!llm_forward(e.m, e.run, ids + 64, 43, 64, &e.kv, &probe, want, 20));
        for (l = 1; l < e.c->n_layers; l++) {
            memset(got, 0, sizeof got);
            llm_kv_exact_truncate(e.cache, 64);
            CHECK(!llm_forward_from(e.m, e.run, l, seen.x[l - 1], 43, 64, &e.kv, NULL, got, 20));
            CHECK(!memcmp(want, got, 20 * TINY_VOCAB * sizeof *got));
        }
        CHECK(llm_forward_from(e.m, e.run, 0, seen.x[0], 4, 64, &e.kv, NULL, got, 1) == -1);
        CHECK(llm_forward_from(e.m, e.run, l, seen.x[0], 4, 64, &e.kv, NULL, got, 1) == -1);
        CHECK(llm_forward_from(e.m, e.run, 1, seen.x[0], 65, 64, &e.kv, NULL, got, 1) == -1);
        CHECK(llm_forward_from(e.m, e.run, 1, seen.x[0], 4, 64, &e.kv, NULL, got, 5) == -1);
        shut(&e);
    }
}

/* ---- prices ---- */

typedef struct sums {
    skv_profiler *p;
    int ok;
} sums;

static void add_layer(void *self, int layer, const float *q, const float *k, const float *v, int n)
{
    sums *s = self;
    skv_span a = skv_f32(q), b = skv_f32(k), c = skv_f32(v);
    s->ok = s->ok && skv_profiler_add(s->p, (uint32_t)layer, &a, &b, &c, (size_t)n) == SKV_OK;
}

/* Fitted on single chunks, as passages of their own, so that nothing has to be gathered; the
 * exact part is small enough for a chunk. Prices are 1, layer `dear` apart. */
static skv_profile *fit_profile(engine *e, uint32_t head_group, int dear, double price)
{
    skv_layer layers[8];
    skv_profiler_desc d = SKV_ZERO;
    skv_profile *out = NULL;
    llm_probe probe = {NULL, add_layer, NULL};
    float w[32 * 64];
    int ids[LLM_CHUNK], i, l;
    sums s = {NULL, 1};
    d.model = llm_skv_model(e->c, 0, layers);
    d.head_group = head_group;
    d.window = 16;
    if (skv_profiler_init(&s.p, &d) != SKV_OK) exit(2);
    for (l = 0; l < e->c->n_layers; l++) {
        skv_span wo = skv_f32(w);
        llm_model_output_projection(e->m, l, w);
        if (skv_profiler_output(s.p, (uint32_t)l, &wo, (size_t)e->c->n_embd) != SKV_OK) exit(2);
    }
    probe.self = &s;
    for (i = 0; i < 8; i++) {
        some_ids(ids, LLM_CHUNK);
        llm_kv_exact_truncate(e->cache, 0);
        CHECK(!llm_forward(e->m, e->run, ids, LLM_CHUNK, 0, &e->kv, &probe, NULL, 0) && s.ok);
    }
    if (dear >= 0) CHECK(skv_profiler_price(s.p, (uint32_t)dear, price, price) == SKV_OK);
    CHECK(skv_profiler_fit(s.p, NULL, &out) >= SKV_OK);
    skv_profiler_free(s.p);
    return out;
}

static void count(void *user) { ++*(int *)user; }

/* Prices from two passages */
static llm_prices *measure(engine *e, const skv_profile *profile, const llm_price_options *o)
{
    llm_prices *p = NULL;
    int ids[MAX_TOKENS], i, ticks = 0;
    test_.state = 77;               /* the same passages whatever came before */
    CHECK(!llm_prices_new(&p, e->c->n_layers, 2, e->err));
    for (i = 0; i < 2; i++) {
        some_ids(ids, MAX_TOKENS);
        CHECK(!llm_prices_measure(p, i, e->m, profile, o, ids, MAX_TOKENS - 40 * i, count, &ticks,
                                  e->err));
    }
    CHECK(ticks == 4 * e->c->n_layers);
    return p;
}

TEST(a_silent_layer_keeps_its_price)
{
    engine e;
    skv_profile *profile;
    llm_prices *p;
    int l;
    open_tiny(&e, &deep, "blk.2.attn_output.weight");
    profile = fit_profile(&e, 1, -1, 1);
    p = measure(&e, profile, &llm_price_defaults);
    for (l = 0; l < 8; l++) CHECK((p->sample[l] > 0) == (l / 2 != 2));
    llm_prices_combine(p);
    CHECK(p->silent == 2 && p->factor[4] == 1 && p->factor[5] == 1);
    CHECK(p->trust > 0 && p->trust <= 0.5 && p->spread > 0);
    llm_prices_free(p);
    skv_profile_free(profile);
    shut(&e);
}

TEST(the_same_every_time)
{
    engine e;
    skv_profile *profile;
    llm_prices *a, *b;
    open_tiny(&e, &deep, NULL);
    profile = fit_profile(&e, 2, -1, 1);
    a = measure(&e, profile, &llm_price_defaults);
    b = measure(&e, profile, &llm_price_defaults);
    CHECK(!memcmp(a->sample, b->sample, 16 * sizeof *a->sample));
    llm_prices_combine(a);
    llm_prices_combine(b);
    CHECK(!memcmp(a->factor, b->factor, 8 * sizeof *a->factor));
    llm_prices_free(a);
    llm_prices_free(b);
    skv_profile_free(profile);
    shut(&e);
}

/* The codec keeps a share of each stream's energy, so a price in the profile changes no error, and
 * the measured ratio falls by it: price times ratio stays. */
TEST(a_wrong_price_is_put_right)
{
    engine e;
    skv_profile *plain, *dear;
    llm_prices *a, *b;
    int l;
    open_tiny(&e, &deep, NULL);
    test_.state = 5;
    plain = fit_profile(&e, 1, -1, 1);
    test_.state = 5;
    dear = fit_profile(&e, 1, 1, 50);
    a = measure(&e, plain, &llm_price_defaults);
    b = measure(&e, dear, &llm_price_defaults);
    for (l = 0; l < 16; l++)
        CHECK_NEAR(b->sample[l] / a->sample[l] * (l / 2 % 4 == 1 ? 50 : 1), 1, 0.02);
    llm_prices_free(a);
    llm_prices_free(b);
    skv_profile_free(plain);
    skv_profile_free(dear);
    shut(&e);
}

/* One stream through the codec and back, in a cache that does this to every page */
typedef struct one_stream {
    skv_codec *codec;
    int layer, kind;
    const skv_profile *profile;
    double error;                   /* sum over rows */
    int rows;
} one_stream;

static int code_one(void *self, int layer, int kind, int first, int n, float *rows, double *bits)
{
    one_stream *s = self;
    static float zero[64 * 32], out[64 * 32];
    unsigned char page[8192];
    skv_span x = skv_f32(rows), other = skv_f32(zero);
    size_t bytes, m, i, j, t;
    skv_transform f;
    (void)first;
    (void)bits;
    if (layer != s->layer || kind != s->kind) return 0;
    if (skv_encode(s->codec, (uint32_t)layer, kind ? &other : &x, kind ? &x : &other, (size_t)n, 0,
                   page, sizeof page, &bytes) != SKV_OK ||
        skv_decode(s->codec, (uint32_t)layer, page, bytes, kind ? NULL : out, kind ? out : NULL,
                   &m) != SKV_OK ||
        skv_profile_transform(s->profile, (uint32_t)layer, (skv_kind)kind, 0, &f) != SKV_OK)
        return -9;
    for (t = 0; t < m; t++)
        for (i = 0; i < f.n; i++) {
            double z = 0;
            for (j = 0; j < f.n; j++)
                z += f.encode[i * f.n + j] * ((double)out[t * f.n + j] - rows[t * f.n + j]);
            s->error += f.variance[i] * z * z;
        }
    s->rows += n;
    memcpy(rows, out, m * f.n * sizeof *rows);
    return 0;
}

/* KL of the last n tokens between the exact cache and one with one stream coded, by whole passes */
static double whole_kl(engine *e, one_stream *s, const int *ids, int total, int n)
{
    static float want[LLM_CHUNK * TINY_VOCAB], got[LLM_CHUNK * TINY_VOCAB];
    llm_codec codec = {s, 0, code_one, NULL};
    llm_kv_coded *coded = NULL;
    llm_kv kv;
    double kl = 0;
    int at, step, i;
    CHECK(!llm_kv_coded_new(&coded, e->c, total, codec, e->err));
    kv = llm_kv_coded_ops(coded);
    llm_kv_exact_truncate(e->cache, 0);
    for (at = 0; at < total; at += step) {
        step = at ? LLM_CHUNK : LLM_SINKS;
        if (at + step > total - n && at < total - n) step = total - n - at;
        if (at + step > total) step = total - at;
        CHECK(!llm_forward(e->m, e->run, ids + at, step, at, &e->kv, NULL, want, step));
        CHECK(!llm_forward(e->m, e->run, ids + at, step, at, &kv, NULL, got, step));
    }
    for (i = 0; i < n; i++) kl += llm_kl(want + i * TINY_VOCAB, got + i * TINY_VOCAB, TINY_VOCAB);
    llm_kv_coded_free(coded);
    return kl / n;
}

/* Running again from the first coded page on is the whole pass with one stream coded. */
TEST(equals_whole_passes)
{
    const llm_price_options o = {1, 64, 50, 0.9};
    engine e;
    skv_profile *profile;
    skv_codec_desc d = SKV_ZERO;
    llm_prices *p = NULL;
    one_stream s;
    int ids[MAX_TOKENS], i, total = 4 + 64 + 64 + 64 + 50;
    open_tiny(&e, &deep, NULL);
    profile = fit_profile(&e, 2, -1, 1);
    some_ids(ids, MAX_TOKENS);
    CHECK(!llm_prices_new(&p, 4, 1, e.err));
    CHECK(!llm_prices_measure(p, 0, e.m, profile, &o, ids, MAX_TOKENS, NULL, NULL, e.err));
    d.profile = profile;
    d.target.energy = 0.9f;
    d.outliers = -1;
    for (i = 0; i < 8; i++) {
        double kl;
        memset(&s, 0, sizeof s);
        s.profile = profile;
        s.layer = i / 2;
        s.kind = i % 2;
        CHECK(skv_codec_init(&s.codec, &d) == SKV_OK);
        kl = whole_kl(&e, &s, ids, total, 50);
        CHECK(s.rows == 128 && kl > 1e-6);
        CHECK_NEAR(p->sample[i] / (kl / (s.error / s.rows)), 1, 0.01);
        skv_codec_free(s.codec);
    }
    llm_prices_free(p);
    skv_profile_free(profile);
    shut(&e);
}

/* Layers with a window of 8 read no page; the one that sees all does. */
TEST(sliding_layers_are_silent_when_they_read_no_page)
{
    engine e;
    skv_profile *profile;
    llm_prices *p;
    int l;
    open_tiny(&e, &sliding, NULL);
    profile = fit_profile(&e, 1, -1, 1);
    p = measure(&e, profile, &llm_price_defaults);
    for (l = 0; l < 14; l++) CHECK((p->sample[l] > 0) == (l / 2 == 5));
    llm_prices_combine(p);
    CHECK(p->silent == 12 && p->factor[0] == 1);
    llm_prices_free(p);
    skv_profile_free(profile);
    shut(&e);
}

TEST(short_passages)
{
    engine e;
    skv_profile *profile;
    llm_prices *p = NULL;
    int ids[LLM_PRICE_TOKENS], i;
    open_tiny(&e, &deep, NULL);
    profile = fit_profile(&e, 1, -1, 1);
    some_ids(ids, LLM_PRICE_TOKENS);
    CHECK(!llm_prices_new(&p, 4, 1, e.err));
    CHECK(llm_prices_measure(p, 0, e.m, profile, &llm_price_defaults, ids, LLM_PRICE_TOKENS - 1,
                             NULL, NULL, e.err) == -1);
    CHECK(strstr(e.err, "short"));
    CHECK(!llm_prices_measure(p, 0, e.m, profile, &llm_price_defaults, ids, LLM_PRICE_TOKENS, NULL,
                              NULL, e.err));
    for (i = 0; i < 8; i++) CHECK(p->sample[i] > 0);
    llm_prices_free(p);
    skv_profile_free(profile);
    shut(&e);
}

/* ---- the rule ---- */

/* Streams of known price and passages of known hardness, with and without noise */
TEST(the_rule_shrinks_noise)
{
    enum { LAYERS = 200, PASSAGES = 4 };
    double truth[2 * LAYERS], noise, error, raw;
    int step, s, i;
    char err[GGUF_ERR_BYTES];
    for (step = 0; step < 3; step++) {
        llm_prices *p = NULL;
        double middle = 0;
        noise = step;
        error = raw = 0;
        CHECK(!llm_prices_new(&p, LAYERS, PASSAGES, err));
        for (s = 0; s < 2 * LAYERS; s++) middle += truth[s] = test_normal();
        for (s = 0; s < 2 * LAYERS; s++) {
            double sum = 0;
            for (i = 0; i < PASSAGES; i++) {
                double y = truth[s] - middle / (2 * LAYERS) + noise * test_normal();
                p->sample[i * 2 * LAYERS + s] = exp(y + 5 * i - 9);
                sum += y;
            }
            raw += pow(sum / PASSAGES - truth[s], 2);
        }
        p->sample[7] = 0;           /* one sample is lost */
        llm_prices_combine(p);
        for (s = 0; s < 2 * LAYERS; s++)        /* half of the shrunk log is what counts */
            error += pow(2 * log(p->factor[s]) - truth[s], 2);
        CHECK_NEAR(p->trust, 0.5 / (1 + noise * noise / PASSAGES), 0.03);
        CHECK_NEAR(p->noise, noise / 2, 0.1);
        CHECK_NEAR(p->spread, 1, 0.2);
        if (step) CHECK(error < raw);
        llm_prices_free(p);
    }
}

TEST(nothing_measured_changes_nothing)
{
    llm_prices *p = NULL;
    char err[GGUF_ERR_BYTES];
    int i;
    CHECK(!llm_prices_new(&p, 3, 2, err));
    llm_prices_combine(p);
    for (i = 0; i < 6; i++) CHECK(p->factor[i] == 1);
    CHECK(p->silent == 6 && p->trust == 0);
    for (i = 0; i < 12; i++) p->sample[i] = 3;
    llm_prices_combine(p);
    for (i = 0; i < 6; i++) CHECK_NEAR(p->factor[i], 1, 1e-12);
    llm_prices_free(p);
}

/* ---- the transform that errors are measured with ---- */

TEST(transforms_invert)
{
    engine e;
    skv_profile *profile;
    skv_transform t;
    size_t i, j, c;
    uint32_t l;
    open_tiny(&e, &deep, NULL);
    profile = fit_profile(&e, 2, -1, 1);
    for (l = 0; l < 4; l++) {
        CHECK(skv_profile_transform(profile, l, SKV_V, 0, &t) == SKV_OK && t.n == 32);
        for (i = 0; i < t.n; i++)
            for (j = 0; j < t.n; j++) {
                double sum = 0;
                for (c = 0; c < t.n; c++)
                    sum += (double)t.decode[c * t.n + i] * t.encode[c * t.n + j];
                CHECK_NEAR(sum, i == j, 1e-4);
            }
    }
    CHECK(skv_profile_transform(profile, 4, SKV_K, 0, &t) == SKV_ERR_ARG);
    CHECK(skv_profile_transform(profile, 0, SKV_K, 1, &t) == SKV_ERR_ARG);
    CHECK(skv_profile_transform(profile, 0, SKV_K, 0, NULL) == SKV_ERR_ARG);
    CHECK(skv_profile_transform(NULL, 0, SKV_K, 0, &t) == SKV_ERR_ARG);
    skv_profile_free(profile);
    shut(&e);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(from_a_layer_equals_the_whole_pass);
    RUN(a_silent_layer_keeps_its_price);
    RUN(the_same_every_time);
    RUN(a_wrong_price_is_put_right);
    RUN(equals_whole_passes);
    RUN(sliding_layers_are_silent_when_they_read_no_page);
    RUN(short_passages);
    RUN(the_rule_shrinks_noise);
    RUN(nothing_measured_changes_nothing);
    RUN(transforms_invert);
    return TEST_END();
}
