/* test_llm_kv.c: the exact cache of examples/llm/kv.c against attention written out in double. */
#include "test.h"
#include "kv.h"

typedef struct sequence {           /* everything that a cache has been given, one layer */
    float *k, *v;                   /* [token][kv head][head_dim] */
    int n;
} sequence;

static float *randoms(size_t n)
{
    float *p = malloc(n * sizeof *p);
    size_t i;
    if (!p) exit(2);
    for (i = 0; i < n; i++) p[i] = (float)test_normal();
    return p;
}

static llm_config config(int heads, int kv_heads, int head_dim, int window, float cap)
{
    llm_config c;
    memset(&c, 0, sizeof c);
    c.n_layers = 2;
    c.n_q_heads = heads;
    c.n_kv_heads = kv_heads;
    c.head_dim = head_dim;
    c.attn_scale = 1.7f / sqrtf((float)head_dim);
    c.attn_softcap = cap;
    c.sliding_window = window;
    c.sliding_pattern = 2;          /* layer 0 slides, layer 1 sees everything */
    return c;
}

/* Output of one query head at position pos */
static void slow_attend(const llm_config *c, const sequence *s, const float *q, int head, int pos,
                        int window, double *o)
{
    int d = c->head_dim, group = c->n_q_heads / c->n_kv_heads, i, t;
    double *p = malloc((size_t)(pos + 1) * sizeof *p), top = -HUGE_VAL, sum = 0.0;
    if (!p) exit(2);
    for (t = 0; t <= pos; t++) {
        const float *k = s->k + (size_t)((t * c->n_kv_heads + head / group) * d);
        p[t] = 0.0;
        for (i = 0; i < d; i++) p[t] += (double)q[i] * k[i];
        p[t] *= c->attn_scale;
        if (c->attn_softcap > 0.0f) p[t] = c->attn_softcap * tanh(p[t] / c->attn_softcap);
        if (window && pos - t >= window) p[t] = -HUGE_VAL;
        top = p[t] > top ? p[t] : top;
    }
    for (i = 0; i < d; i++) o[i] = 0.0;
    for (t = 0; t <= pos; t++) {
        const float *v = s->v + (size_t)((t * c->n_kv_heads + head / group) * d);
        double w = exp(p[t] - top);
        sum += w;
        for (i = 0; i < d; i++) o[i] += w * v[i];
    }
    for (i = 0; i < d; i++) o[i] /= sum;
    free(p);
}

/* Feeds chunks of the given sizes to both layers and compares every output. */
static double worst_error(const llm_config *c, const int *chunks)
{
    size_t d = (size_t)c->head_dim, kv_row = (size_t)c->n_kv_heads * d;
    size_t q_row = (size_t)c->n_q_heads * d, i;
    int total = 0, done = 0, j, layer, h, t;
    double worst = 0.0, *wanted = malloc(d * sizeof *wanted);
    char err[GGUF_ERR_BYTES];
    llm_kv_exact *kv;
    llm_kv ops;
    sequence s;
    for (j = 0; chunks[j]; j++) total += chunks[j];
    s.n = total;
    s.k = randoms((size_t)total * kv_row);
    s.v = randoms((size_t)total * kv_row);
    if (!wanted || llm_kv_exact_new(&kv, c, total, err)) exit(2);
    ops = llm_kv_exact_ops(kv);
    for (j = 0; chunks[j]; done += chunks[j++]) {
        int n = chunks[j];
        float *q = randoms((size_t)n * q_row), *o = randoms((size_t)n * q_row);
        for (layer = 0; layer < 2; layer++) {
            int window = llm_layer_window(c, layer);
            const float *k = s.k + (size_t)done * kv_row, *v = s.v + (size_t)done * kv_row;
            CHECK(!ops.append(ops.self, layer, k, v, n));
            CHECK(!ops.attend(ops.self, layer, q, n, o));
            for (t = 0; t < n; t++)
                for (h = 0; h < c->n_q_heads; h++) {
                    size_t at = (size_t)t * q_row + (size_t)h * d;
                    slow_attend(c, &s, q + at, h, done + t, window, wanted);
                    for (i = 0; i < d; i++) {
                        double e = fabs(o[at + i] - wanted[i]);
                        worst = e > worst || isnan(e) ? e : worst;
                    }
                }
        }
        free(q);
        free(o);
    }
    CHECK(llm_kv_exact_tokens(kv) == total);
    CHECK(llm_kv_exact_bytes(kv) == (size_t)total * 2 * 2 * 4 * kv_row);
    CHECK(llm_kv_exact_bytes_f16(kv) * 2 == llm_kv_exact_bytes(kv));
    llm_kv_exact_free(kv);
    free(s.k);
    free(s.v);
    free(wanted);
    return worst;
}

TEST(attention_equals_double)
{
    static const int shapes[][3] = {{3, 1, 64}, {4, 2, 10}, {2, 2, 34}, {2, 1, 256}, {1, 1, 2}};
    static const int windows[] = {0, 1, 5, 70};
    static const int chunks[] = {1, 2, 20, 3, 33, 1, 64, 4, 1, 0};
    size_t i, w;
    for (i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (w = 0; w < sizeof windows / sizeof windows[0]; w++) {
            llm_config c = config(shapes[i][0], shapes[i][1], shapes[i][2], windows[w],
                                  (i + w) % 2 ? 0.0f : 3.0f);
            CHECK(worst_error(&c, chunks) < 2e-5);
        }
}

/* Scores of +-1000: the maximum must be subtracted, in both paths */
TEST(large_scores_stay_finite)
{
    static const int chunks[] = {64, 64, 5, 1, 0};
    llm_config c = config(2, 1, 32, 0, 0.0f);
    c.attn_scale = 200.0f;
    CHECK(worst_error(&c, chunks) < 1e-2);
}

TEST(limits_and_bad_calls)
{
    llm_config c = config(2, 1, 4, 0, 0.0f);
    float row[4 * 64 * 2] = {0};
    char err[GGUF_ERR_BYTES];
    llm_kv_exact *kv = NULL;
    llm_kv ops;
    CHECK(llm_kv_exact_new(&kv, &c, 0, err) == -1 && strstr(err, "0 tokens"));
    CHECK(llm_kv_exact_new(&kv, &c, 10, err) == 0);
    ops = llm_kv_exact_ops(kv);
    CHECK(ops.attend(ops.self, 0, row, 1, row) == LLM_KV_BAD_CALL);
    CHECK(ops.append(ops.self, 2, row, row, 1) == LLM_KV_BAD_CALL);
    CHECK(ops.append(ops.self, -1, row, row, 1) == LLM_KV_BAD_CALL);
    CHECK(ops.append(ops.self, 0, row, row, 0) == LLM_KV_BAD_CALL);
    CHECK(ops.append(ops.self, 0, row, row, 11) == LLM_KV_FULL);
    CHECK(ops.append(ops.self, 0, row, row, 10) == LLM_KV_OK);
    CHECK(ops.append(ops.self, 0, row, row, 1) == LLM_KV_FULL);
    CHECK(ops.attend(ops.self, 0, row, 11, row) == LLM_KV_BAD_CALL);
    CHECK(ops.attend(ops.self, 1, row, 1, row) == LLM_KV_BAD_CALL);
    CHECK(llm_kv_exact_tokens(kv) == 0);
    CHECK(ops.append(ops.self, 1, row, row, 7) == LLM_KV_OK);
    CHECK(llm_kv_exact_tokens(kv) == 7);
    llm_kv_exact_truncate(kv, 3);
    CHECK(llm_kv_exact_tokens(kv) == 3 && llm_kv_exact_bytes(kv) == 3 * 2 * 2 * 4 * 4);
    llm_kv_exact_truncate(kv, -5);
    CHECK(llm_kv_exact_tokens(kv) == 0);
    llm_kv_exact_free(kv);
    llm_kv_exact_free(NULL);
    c.n_layers = 1 << 30;
    c.head_dim = 512;
    c.n_kv_heads = 1 << 30;
    CHECK(llm_kv_exact_new(&kv, &c, 1 << 30, err) == -1);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(attention_equals_double);
    RUN(large_scores_stay_finite);
    RUN(limits_and_bad_calls);
    return TEST_END();
}
