/* test_llm_model.c: the forward pass of examples/llm against llama.cpp on tiny made-up models of
 * every family, against PyTorch on two real models (where SKV_MODEL_SMOLLM2 and SKV_MODEL_GEMMA3
 * name their files), and the refusal of files that do not fit. */
#include "test.h"
#include "kv.h"
#include "model.h"
#include "reference.h"
#include "sampling.h"
#include "tiny_model.h"
#ifdef _OPENMP
#include <omp.h>
#endif

#define N_TINY (sizeof tiny_models / sizeof tiny_models[0])

typedef struct engine {
    gguf *g;
    llm_model *m;
    llm_run *run;
    llm_kv_exact *cache;
    llm_kv kv;
    tiny_file *file;
    int vocab;
    char err[GGUF_ERR_BYTES];
} engine;

static int start(engine *e, int max_tokens)
{
    if (llm_model_open(&e->m, e->g, e->err) || llm_run_new(&e->run, e->m, e->err) ||
        llm_kv_exact_new(&e->cache, llm_model_config(e->m), max_tokens, e->err))
        return -1;
    e->kv = llm_kv_exact_ops(e->cache);
    e->vocab = llm_model_config(e->m)->n_vocab;
    return 0;
}

static int open_tiny(engine *e, const tiny_model *m, const twist *t)
{
    memset(e, 0, sizeof *e);
    e->file = malloc(sizeof *e->file);
    if (!e->file) exit(2);
    tiny_build(e->file, m, t);
    if (gguf_open_memory(&e->g, e->file->b.p, e->file->b.n, e->err)) return -1;
    return start(e, 128);
}

static int open_file(engine *e, const char *path)
{
    memset(e, 0, sizeof *e);
    return gguf_open(&e->g, path, e->err) || start(e, 1024) ? -1 : 0;
}

static void shut(engine *e)
{
    llm_kv_exact_free(e->cache);
    llm_run_free(e->run);
    llm_model_close(e->m);
    gguf_close(e->g);
    if (e->file) gb_free(&e->file->b);
    free(e->file);
}

static float *rows(const engine *e, int n)
{
    float *p = malloc((size_t)n * (size_t)e->vocab * sizeof *p);
    if (!p) exit(2);
    return p;
}

/* ---- tiny models ---- */

static void tiny_ids(int *ids, int n)
{
    int i;
    for (i = 0; i < n; i++) ids[i] = (7 * i + 3) % TINY_VOCAB;
}

/* Logits of all n tokens, in chunks */
static void run_chunks(engine *e, const int *ids, int n, int chunk, float *out)
{
    int at;
    llm_kv_exact_truncate(e->cache, 0);
    for (at = 0; at < n; at += chunk) {
        int k = n - at < chunk ? n - at : chunk;
        CHECK(llm_forward(e->m, e->run, ids + at, k, at, &e->kv, NULL,
                          out + (size_t)at * (size_t)e->vocab, k) == 0);
    }
}

static double worst_gap(const float *a, const float *b, size_t n)
{
    double worst = 0.0;
    size_t i;
    for (i = 0; i < n; i++) {
        double gap = fabs((double)a[i] - b[i]);
        worst = gap > worst || isnan(gap) ? gap : worst;
    }
    return worst;
}

TEST(tiny_models_equal_llama_cpp)
{
    size_t i;
    int ids[TINY_TOKENS];
    tiny_ids(ids, TINY_TOKENS);
    for (i = 0; i < N_TINY; i++) {
        const tiny_model *m = &tiny_models[i];
        engine e;
        CHECK(open_tiny(&e, m, NULL) == 0);
        if (e.cache) {
            float *x = rows(&e, TINY_TOKENS);
            double gap;
            run_chunks(&e, ids, TINY_TOKENS, TINY_TOKENS, x);
            gap = worst_gap(x + (TINY_TOKENS - 1) * TINY_VOCAB, m->logits, TINY_VOCAB);
            /* gemma3: llama.cpp's GELU is a table of float16 */
            CHECK_NEAR(gap, 0.0, strcmp(m->arch, "gemma3") ? 1e-4 : 5e-3);
            free(x);
        } else {
            printf("    %s: %s\n", m->name, e.err);
        }
        shut(&e);
    }
}

TEST(chunks_do_not_matter)
{
    static const int chunks[] = {1, 2, 3, 5, 7, 16, 29, 64};
    enum { N = 100 };
    size_t i, j;
    int ids[N];
    tiny_ids(ids, N);
    for (i = 0; i < N_TINY; i++) {
        engine e;
        float *x, *y;
        CHECK(open_tiny(&e, &tiny_models[i], NULL) == 0);
        x = rows(&e, N);
        y = rows(&e, N);
        run_chunks(&e, ids, N, 64, x);
        for (j = 0; j < sizeof chunks / sizeof chunks[0]; j++) {
            run_chunks(&e, ids, N, chunks[j], y);
            CHECK_NEAR(worst_gap(x, y, N * TINY_VOCAB), 0.0, 5e-5);
        }
        free(x);
        free(y);
        shut(&e);
    }
}

TEST(threads_do_not_matter)
{
#ifdef _OPENMP
    enum { N = 64 };
    int before = omp_get_max_threads(), ids[N], i;
    engine e;
    float *x, *y;
    tiny_ids(ids, N);
    CHECK(open_tiny(&e, &tiny_models[N_TINY - 1], NULL) == 0);
    x = rows(&e, N);
    y = rows(&e, N);
    omp_set_num_threads(1);
    run_chunks(&e, ids, N, 64, x);
    for (i = 2; i <= 3; i++) {
        omp_set_num_threads(i);
        run_chunks(&e, ids, N, 64, y);
        CHECK(!memcmp(x, y, N * TINY_VOCAB * sizeof *x));
    }
    omp_set_num_threads(before);
    free(x);
    free(y);
    shut(&e);
#else
    SKIP("built without OpenMP (-fopenmp), so there is one thread only");
#endif
}

/* What a probe saw */
typedef struct witness { int attentions, residuals, last_layer, tokens; double k0, x0; } witness;

static void see_attention(void *self, int layer, const float *q, const float *k, const float *v,
                          int n)
{
    witness *w = self;
    w->attentions++;
    w->last_layer = layer;
    w->tokens = n;
    w->k0 = (double)q[0] * k[0] * v[0];
}

static void see_residual(void *self, int layer, const float *x, int n)
{
    witness *w = self;
    w->residuals++;
    w->x0 = (double)x[0] + layer + n;
}

static int failing_append(void *self, int layer, const float *k, const float *v, int n)
{
    (void)self, (void)k, (void)v, (void)n;
    return layer == 1 ? -77 : 0;
}

static int idle_attend(void *self, int layer, const float *q, int n, float *o)
{
    const engine *e = self;
    const llm_config *c = llm_model_config(e->m);
    (void)layer, (void)q;
    memset(o, 0, (size_t)n * (size_t)c->n_q_heads * (size_t)c->head_dim * sizeof *o);
    return 0;
}

TEST(forward_contract)
{
    const tiny_model *m = &tiny_models[0];
    int ids[65], bad[2] = {1, TINY_VOCAB};
    engine e;
    float *x, *y;
    witness seen;
    llm_probe probe;
    llm_kv other;
    memset(&seen, 0, sizeof seen);
    probe.self = &seen;
    probe.attention = see_attention;
    probe.residual = see_residual;
    tiny_ids(ids, 65);
    CHECK(open_tiny(&e, m, NULL) == 0);
    x = rows(&e, 64);
    y = rows(&e, 64);
    CHECK(llm_forward(e.m, e.run, ids, 0, 0, &e.kv, NULL, x, 0) == -1);
    CHECK(llm_forward(e.m, e.run, ids, 65, 0, &e.kv, NULL, x, 1) == -1);
    CHECK(llm_forward(e.m, e.run, ids, 4, -1, &e.kv, NULL, x, 1) == -1);
    CHECK(llm_forward(e.m, e.run, ids, 4, 2147483647, &e.kv, NULL, x, 1) == -1);
    CHECK(llm_forward(e.m, e.run, ids, 4, 0, &e.kv, NULL, x, 5) == -1);
    CHECK(llm_forward(e.m, e.run, bad, 2, 0, &e.kv, NULL, x, 1) == -1);
    bad[1] = -1;
    CHECK(llm_forward(e.m, e.run, bad, 2, 0, &e.kv, NULL, x, 1) == -1);
    CHECK(llm_kv_exact_tokens(e.cache) == 0);
    CHECK(llm_forward(e.m, e.run, ids, 20, 0, &e.kv, &probe, x, 20) == 0);
    CHECK(seen.attentions == m->layers && seen.residuals == m->layers && seen.tokens == 20);
    CHECK(seen.last_layer == m->layers - 1 && seen.k0 != 0.0 && seen.x0 != 0.0);
    llm_kv_exact_truncate(e.cache, 0);
    probe.attention = NULL;
    probe.residual = NULL;
    CHECK(llm_forward(e.m, e.run, ids, 20, 0, &e.kv, &probe, y, 3) == 0);
    CHECK_NEAR(worst_gap(y, x + 17 * TINY_VOCAB, 3 * TINY_VOCAB), 0.0, 2e-5);
    CHECK(llm_forward(e.m, e.run, ids, 64, 20, &e.kv, NULL, NULL, 0) == 0);
    CHECK(llm_forward(e.m, e.run, ids, 64, 84, &e.kv, NULL, NULL, 0) == LLM_KV_FULL);
    other.self = &e;
    other.append = failing_append;
    other.attend = idle_attend;
    CHECK(llm_forward(e.m, e.run, ids, 2, 0, &other, NULL, x, 1) == -77);
    free(x);
    free(y);
    shut(&e);
}

TEST(weights_for_the_profiler)
{
    size_t i, j;
    for (i = 0; i < N_TINY; i++) {
        const tiny_model *m = &tiny_models[i];
        size_t n = (size_t)(m->embd * m->heads * m->head_dim);
        float *w = malloc(n * sizeof *w), gain[64] = {0};
        int gemma = !strcmp(m->arch, "gemma3"), wrong = 0;
        unsigned t;
        engine e;
        CHECK(open_tiny(&e, m, NULL) == 0);
        if (!w) exit(2);
        llm_model_output_projection(e.m, 1, w);
        for (t = 0; strcmp(e.file->tensors[t].name, "blk.1.attn_output.weight"); t++) { }
        for (j = 0; j < n; j++) wrong += w[j] != tiny_weight(t, j, TINY_MATRIX);
        CHECK(wrong == 0);
        CHECK(llm_model_post_attention_norm(e.m, 1, gain) == gemma);
        for (t = 0; gemma && strcmp(e.file->tensors[t].name, "blk.1.post_attention_norm.weight");)
            t++;
        if (gemma) CHECK(gain[3] == tiny_weight(t, 3, TINY_NORM));
        free(w);
        shut(&e);
    }
}

TEST(config_says_what_the_file_says)
{
    engine e;
    const llm_config *c;
    CHECK(open_tiny(&e, &tiny_models[N_TINY - 1], NULL) == 0);
    c = llm_model_config(e.m);
    CHECK(!strcmp(c->arch, "gemma3") && !strcmp(c->name, "gemma3"));
    CHECK(c->n_layers == 7 && c->n_embd == 24 && c->n_ff == 32 && c->n_vocab == 40);
    CHECK(c->n_q_heads == 4 && c->n_kv_heads == 2 && c->head_dim == 16 && c->n_ctx == 256);
    CHECK_NEAR(c->attn_scale, 0.25, 1e-7);
    CHECK(llm_layer_window(c, 0) == 8 && llm_layer_window(c, 4) == 8);
    CHECK(llm_layer_window(c, 5) == 0 && llm_layer_window(c, 6) == 8);
    shut(&e);
    CHECK(open_tiny(&e, &tiny_models[0], NULL) == 0);
    CHECK(llm_layer_window(llm_model_config(e.m), 0) == 0);
    shut(&e);
}

/* A soft cap bounds the logits; nothing else about them is known here. */
TEST(soft_caps_are_applied)
{
    twist t = {0};
    engine e;
    int ids[TINY_TOKENS], i, same = 1;
    float *x, *y;
    tiny_ids(ids, TINY_TOKENS);
    CHECK(open_tiny(&e, &tiny_models[0], NULL) == 0);
    x = rows(&e, TINY_TOKENS);
    y = rows(&e, TINY_TOKENS);
    run_chunks(&e, ids, TINY_TOKENS, 30, x);
    shut(&e);
    t.key = "final_logit_softcapping";
    t.value = 1.5;
    CHECK(open_tiny(&e, &tiny_models[0], &t) == 0);
    run_chunks(&e, ids, TINY_TOKENS, 30, y);
    for (i = 0; i < TINY_TOKENS * TINY_VOCAB; i++)
        same = same && fabs(1.5 * tanh(x[i] / 1.5) - y[i]) < 1e-5;
    CHECK(same);
    shut(&e);
    free(x);
    free(y);
}

/* ---- refusals ---- */

TEST(unfit_files_are_refused)
{
    const double absent = (double)NAN;
    static const struct { const char *model, *key; double value; const char *word; } numbers[] = {
        {"llama", "block_count", 0, "block_count"}, {"llama", "block_count", 3, "blk.2."},
        {"llama", "block_count", 1, "blk.1."}, {"llama", "block_count", 4e9, "block_count"},
        {"llama", "embedding_length", 0, "embedding_length"},
        {"llama", "embedding_length", 1e15, "embedding_length"},
        {"llama", "embedding_length", 33, "token_embd.weight"},
        {"llama", "feed_forward_length", 0, "feed_forward_length"},
        {"llama", "feed_forward_length", 47, "ffn_"}, {"llama", "context_length", 0, "context"},
        {"llama", "attention.head_count", 0, "head_count"},
        {"llama", "attention.head_count", 6, "attn_q"},
        {"llama", "attention.head_count_kv", 0, "head_count_kv"},
        {"llama", "attention.head_count_kv", 3, "evenly"},
        {"llama", "attention.head_count_kv", 8, "evenly"},
        {"llama", "attention.head_count_kv", 4, "attn_k"},
        {"llama", "attention.key_length", 0, "key_length"},
        {"llama", "attention.key_length", 7, "even"},
        {"llama", "attention.key_length", 16, "equal"},
        {"llama", "attention.key_length", 4096, "key_length"},
        {"llama", "attention.value_length", 6, "equal"},
        {"llama", "rope.dimension_count", 4, "RoPE over 4 of 8"},
        {"llama", "attention.layer_norm_rms_epsilon", -1.0, "epsilon"},
        {"llama", "rope.freq_base", 0.0, "freq_base"}, {"llama", "expert_count", 8, "experts"},
        {"llama", "rope.scaling.factor", -2.0, "factor"},
        {"gemma3", "attention.sliding_window", 0, "sliding_window"}
    };
    static const char *const needed[] = {"block_count", "embedding_length", "feed_forward_length",
                                         "context_length", "attention.head_count",
                                         "attention.layer_norm_rms_epsilon"};
    size_t i, j;
    for (i = 0; i < sizeof numbers / sizeof numbers[0] + sizeof needed / sizeof needed[0]; i++) {
        twist t = {0};
        engine e;
        int extra = i >= sizeof numbers / sizeof numbers[0];
        size_t at = extra ? i - sizeof numbers / sizeof numbers[0] : i;
        const char *model = extra ? "llama" : numbers[at].model;
        const char *word = extra ? needed[at] : numbers[at].word;
        t.key = extra ? needed[at] : numbers[at].key;
        t.value = extra ? absent : numbers[at].value;
        for (j = 0; strcmp(tiny_models[j].name, model); j++) { }
        CHECK(open_tiny(&e, &tiny_models[j], &t) == -1);
        CHECK(!e.m && strstr(e.err, word));
        if (!strstr(e.err, word)) printf("    %s = %g gave: %s\n", t.key, t.value, e.err);
        shut(&e);
    }
}

TEST(unfit_tensors_are_refused)
{
    const twist twists[] = {
        {.arch = "phi3"}, {.omit = "blk.1.ffn_up.weight"}, {.omit = "token_embd.weight"},
        {.omit = "output_norm.weight"}, {.omit = "blk.0.attn_norm.weight"},
        {.reshape = "blk.0.attn_k.weight"}, {.reshape = "blk.1.ffn_norm.weight"},
        {.reshape = "output.weight"}, {.reshape = "rope_freqs.weight"},
        {.extra = "blk.0.attn_output.bias"}, {.extra = "blk.7.ffn_norm.weight"},
        {.extra = "blk.0.attn_q_norm.weight"}, {.extra = "blk."}, {.extra = "blk.1"},
        {.extra = "vision.weight"}, {.scaling = "yarn"}, {.scaling = "longrope"},
        {.scaling = "zero"}
    };
    static const char *const words[] = {
        "phi3", "blk.1.ffn_up.weight", "token_embd.weight", "output_norm.weight",
        "blk.0.attn_norm.weight", "blk.0.attn_k.weight", "blk.1.ffn_norm.weight", "output.weight",
        "rope_freqs.weight", "blk.0.attn_output.bias", "blk.7.ffn_norm.weight",
        "blk.0.attn_q_norm.weight", "blk.", "blk.1", "vision.weight", "yarn", "longrope", "zero"
    };
    size_t i;
    for (i = 0; i < sizeof twists / sizeof twists[0]; i++) {
        engine e;
        CHECK(open_tiny(&e, &tiny_models[0], &twists[i]) == -1);
        CHECK(!e.m && strstr(e.err, words[i]));
        if (!strstr(e.err, words[i])) printf("    wanted %s in: %s\n", words[i], e.err);
        if (!i) CHECK(strstr(e.err, "llama, qwen2, qwen3 and gemma3"));
        shut(&e);
    }
}

/* Every single tensor missing or misshapen, in every family */
TEST(every_tensor_is_checked)
{
    size_t i, j;
    int both;
    for (i = 0; i < N_TINY; i++) {
        tiny_file plain;
        tiny_build(&plain, &tiny_models[i], NULL);
        for (j = 0; j < plain.n; j++)
            for (both = 0; both < 2; both++) {
                const char *name = plain.tensors[j].name;
                int optional = !both && (!strcmp(name, "output.weight") ||
                                         !strcmp(name, "rope_freqs.weight"));
                twist t = {0};
                engine e;
                if (both) t.reshape = name;
                else t.omit = name;
                CHECK(open_tiny(&e, &tiny_models[i], &t) == (optional ? 0 : -1));
                CHECK(optional || strstr(e.err, name));
                shut(&e);
            }
        gb_free(&plain.b);
    }
}

/* ---- real models ---- */

typedef struct gaps { double logit, logsumexp, nll; } gaps;

static void compare_top(const engine *e, const float *x, const reference_top *t, gaps *worst)
{
    int i;
    for (i = 0; i < t->n; i++) {
        double gap = t->id[i] < e->vocab ? fabs(x[t->id[i]] - t->logit[i]) : HUGE_VAL;
        worst->logit = gap > worst->logit || isnan(gap) ? gap : worst->logit;
    }
}

/* A passage (its first `limit` tokens) in chunks; with_bos: the case with BOS in front */
static void run_case(engine *e, const reference_case *c, int chunk, int limit, int with_bos,
                     gaps *worst)
{
    int n = c->n_ids + with_bos, whole = !limit || limit >= n, at, i, j;
    int *ids = malloc((size_t)n * sizeof *ids);
    float *x = rows(e, chunk);
    double nll = 0.0, gap;
    if (!ids) exit(2);
    ids[0] = c->bos;
    memcpy(ids + with_bos, c->ids, (size_t)c->n_ids * sizeof *ids);
    if (!whole) n = limit;
    llm_kv_exact_truncate(e->cache, 0);
    for (at = 0; at < n; at += chunk) {
        int k = n - at < chunk ? n - at : chunk;
        CHECK(llm_forward(e->m, e->run, ids + at, k, at, &e->kv, NULL, x, k) == 0);
        for (i = 0; i < k; i++) {
            const float *row = x + (size_t)i * (size_t)e->vocab;
            double sum = 0.0;
            if (whole) {
                sum = llm_logsumexp(row, e->vocab);
                if (at + i + 1 < n) nll += sum - row[ids[at + i + 1]];
            }
            for (j = 0; j < c->n_at && !with_bos; j++) {
                if (c->at[j].pos != at + i) continue;
                compare_top(e, row, &c->at[j], worst);
                gap = fabs((whole ? sum : llm_logsumexp(row, e->vocab)) - c->at[j].logsumexp);
                worst->logsumexp = gap > worst->logsumexp || isnan(gap) ? gap : worst->logsumexp;
            }
            if (with_bos && at + i == n - 1 && whole) compare_top(e, row, &c->bos_last, worst);
        }
    }
    gap = fabs(nll / (n - 1) - (with_bos ? c->bos_mean_nll : c->mean_nll));
    if (whole) worst->nll = gap > worst->nll || isnan(gap) ? gap : worst->nll;
    free(ids);
    free(x);
}

/* Fast: the shorter passage, and some tokens of it one by one. Slow: everything. Under sanitizers
 * without optimisation only a few tokens. */
static void compare_model(const char *path, const char *name)
{
    reference *r = reference_open(name);
    gaps worst = {0.0, 0.0, 0.0};
    engine e;
    int i, tiny = getenv("SKV_SANITIZED") != NULL;
    CHECK(r != NULL);
    if (!r) return;
    CHECK(open_file(&e, path) == 0);
    if (!e.cache) {
        printf("    %s: %s\n", path, e.err);
    } else if (tiny) {
        run_case(&e, &r->cases[r->n_cases - 1], 3, 3, 0, &worst);
    } else {
        const reference_case *last = &r->cases[r->n_cases - 1];
        run_case(&e, last, LLM_CHUNK, 0, 0, &worst);
        run_case(&e, last, 1, test_.slow ? 0 : 11, 0, &worst);
        if (last->bos >= 0 && test_.slow) run_case(&e, last, LLM_CHUNK, 0, 1, &worst);
        for (i = 0; i < r->n_cases - 1 && test_.slow; i++) {
            run_case(&e, &r->cases[i], LLM_CHUNK, 0, 0, &worst);
            if (r->cases[i].bos >= 0) run_case(&e, &r->cases[i], LLM_CHUNK, 0, 1, &worst);
        }
    }
    printf("    %s: largest deviations: logit %.5f, logsumexp %.5f, mean nll %.6f\n", name,
           worst.logit, worst.logsumexp, worst.nll);
    CHECK_NEAR(worst.logit, 0.0, 0.02);
    CHECK_NEAR(worst.logsumexp, 0.0, 0.02);
    CHECK_NEAR(worst.nll, 0.0, 0.002);
    shut(&e);
    reference_free(r);
}

TEST(smollm2_equals_the_reference)
{
    const char *path = getenv("SKV_MODEL_SMOLLM2");
    if (!path) SKIP("SKV_MODEL_SMOLLM2 names no file: run `make model` (98 MB), or set it");
    compare_model(path, "smollm2");
}

TEST(gemma3_equals_the_reference)
{
    const char *path = getenv("SKV_MODEL_GEMMA3");
    if (!path) SKIP("SKV_MODEL_GEMMA3 names no file: run `make model-gemma` (253 MB), or set it");
    compare_model(path, "gemma3");
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(tiny_models_equal_llama_cpp);
    RUN(chunks_do_not_matter);
    RUN(threads_do_not_matter);
    RUN(forward_contract);
    RUN(weights_for_the_profiler);
    RUN(config_says_what_the_file_says);
    RUN(soft_caps_are_applied);
    RUN(unfit_files_are_refused);
    RUN(unfit_tensors_are_refused);
    RUN(every_tensor_is_checked);
    RUN(smollm2_equals_the_reference);
    RUN(gemma3_equals_the_reference);
    return TEST_END();
}
