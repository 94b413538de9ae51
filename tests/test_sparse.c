/* test_sparse.c: attention that leaves values of pages unread. What is left out is at most the
 * tolerance, as reported, and moves the output no further than it may; where nothing can be left
 * out, or nothing may be, all bits are those of dense attention. */
#define SKV_STATIC
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"
#include "synthetic.h"

#define TOKENS 2300u                /* 34 pages or so */
#define ROWS 8u
#define DIM 16u

typedef struct rig {
    skv_profile *p;
    skv_cache *c;
    syn_data x;
    float *v;                       /* [TOKENS][n_kv][DIM] as the cache holds them */
    uint32_t pages;                 /* of both head groups */
} rig;

/* flat: all values are 2 above the mean of their head, so that outputs tell what was left out. */
static rig rig_new(float scale, uint32_t sliding, int flat)
{
    syn s = {{0, 0, 0, 0, 0, 0, 0}, 7, 1.0f, 2.0f, 0.02f, 2};
    skv_cache_desc d = SKV_ZERO;
    skv_span k, v;
    skv_transform t = SKV_ZERO;
    rig r;
    size_t i;
    s.shape.n_q_heads = ROWS;
    s.shape.n_kv_heads = 2;
    s.shape.head_dim = DIM;
    s.shape.scale = scale;
    s.shape.sliding_window = sliding;
    r.p = syn_profile_turned(&s, 1, 1, SKV_ROPE_HALVES, 4);
    r.x = syn_make(&s, 0, 1, TOKENS);
    for (i = 0; flat && i < TOKENS * 2 * DIM; i++) {
        CHECK(skv_profile_transform(r.p, 0, SKV_V, i / DIM % 2, &t) == SKV_OK);
        r.x.v[i] = t.mean[i % DIM] + 2;
    }
    d.profile = r.p;
    d.target.bpe = 4;
    d.max_tokens = TOKENS;
    r.c = NULL;
    if (skv_cache_init(&r.c, &d) != SKV_OK) abort();
    k = skv_f32(r.x.k);
    v = skv_f32(r.x.v);
    CHECK(skv_append(r.c, 0, &k, &v, TOKENS) == SKV_OK);
    r.v = (float *)malloc(TOKENS * 2 * DIM * sizeof(float));
    if (!r.v) abort();
    if (!sliding) CHECK(skv_reconstruct(r.c, 0, 0, TOKENS, NULL, r.v) == SKV_OK);
    r.pages = 2 * r.c->cl[0].n_pages;
    return r;
}

static void rig_free(rig *r)
{
    free(r->v);
    skv_cache_free(r->c);
    skv_profile_free(r->p);
    syn_free(&r->x);
}

typedef struct answer {
    float out[ROWS][DIM], lse[ROWS];
    skv_attn a;
} answer;

static void ask(const rig *r, const float *q, float tolerance, answer *to)
{
    skv_span s = skv_f32(q ? q : r->x.q + (TOKENS - 1) * ROWS * DIM);
    skv_out o = skv_out_f32(&to->out[0][0]);
    memset(to, 0, sizeof *to);
    to->a.lse = to->lse;
    to->a.tolerance = tolerance;
    CHECK(skv_attend(r->c, 0, &s, 1, &o, &to->a) == SKV_OK);
}

/* Largest |v - mean| of a head's coordinates. */
static double reach(const rig *r, size_t head)
{
    skv_transform t;
    double most = 0;
    size_t i, j;
    CHECK(skv_profile_transform(r->p, 0, SKV_V, (uint32_t)head, &t) == SKV_OK);
    for (i = 0; i < TOKENS; i++)
        for (j = 0; j < DIM; j++) {
            double x = fabs((double)r->v[(i * 2 + head) * DIM + j] - (double)t.mean[j]);
            most = x > most ? x : most;
        }
    return most;
}

TEST(what_is_left_out_is_little)
{
    static const float tolerance[] = {1e-4f, 1e-3f, 1e-2f, 0.1f, 0.5f, 1};
    static answer dense, sparse;
    size_t i, j, h, seldom = 0, often = 0;
    float scale;
    for (scale = 0.25f; scale < 9; scale *= 2) {
        rig r = rig_new(scale, 0, 0);
        ask(&r, NULL, 0, &dense);
        CHECK(dense.a.pages_met == r.pages && dense.a.pages_read == r.pages);
        CHECK(dense.a.skipped <= 0);
        for (i = 0; i < sizeof tolerance / sizeof *tolerance; i++) {
            ask(&r, NULL, tolerance[i], &sparse);
            CHECK(sparse.a.skipped <= tolerance[i] && sparse.a.pages_met == r.pages);
            CHECK(!memcmp(sparse.lse, dense.lse, sizeof dense.lse));
            CHECK(!memcmp(&sparse.a.page_mass, &dense.a.page_mass, sizeof(float)));
            CHECK((sparse.a.pages_read < r.pages) == (sparse.a.skipped > 0));
            for (h = 0; h < ROWS; h++) {
                double most = (double)sparse.a.skipped * reach(&r, h / 4);
                for (j = 0; j < DIM; j++)
                    CHECK_NEAR(sparse.out[h][j], dense.out[h][j], most + 1e-5);
            }
            seldom += i < 2 && sparse.a.pages_read + 4 < r.pages;
            often += sparse.a.pages_read < r.pages / 2;
        }
        rig_free(&r);
    }
    CHECK(seldom > 1 && often > 4);
}

/* All values alike: an output falls short of the dense one by the share that was left out. */
TEST(the_share_is_what_it_says)
{
    static answer dense, sparse;
    static const float tolerance[] = {0.01f, 0.1f, 0.4f};
    size_t i, h, some = 0;
    rig r = rig_new(1, 0, 1);
    ask(&r, NULL, 0, &dense);
    for (i = 0; i < sizeof tolerance / sizeof *tolerance; i++) {
        double most = 0, mean;
        ask(&r, NULL, tolerance[i], &sparse);
        for (h = 0; h < ROWS; h++) {
            skv_transform t = SKV_ZERO;
            CHECK(skv_profile_transform(r.p, 0, SKV_V, (uint32_t)h / 4, &t) == SKV_OK);
            mean = (double)t.mean[0];
            mean = ((double)dense.out[h][0] - (double)sparse.out[h][0]) /
                   ((double)dense.out[h][0] - mean);
            most = mean > most ? mean : most;
        }
        CHECK_NEAR(sparse.a.skipped, most, 0.1 * most + 1e-5);
        some += most > 0.2 * (double)tolerance[i];
    }
    CHECK(some > 0);
    rig_free(&r);
}

/* Every token has the same weight: no page can go while the tolerance is below a page's share. */
TEST(nothing_to_leave_out)
{
    static const float q[ROWS * DIM];
    static answer dense, sparse;
    rig r = rig_new(1, 0, 0);
    ask(&r, q, 0, &dense);
    ask(&r, q, 0.02f, &sparse);
    CHECK(sparse.a.pages_read == sparse.a.pages_met && sparse.a.skipped <= 0);
    CHECK(!memcmp(sparse.out, dense.out, sizeof dense.out));
    ask(&r, q, 1, &sparse);
    CHECK(sparse.a.pages_read < sparse.a.pages_met && sparse.a.skipped > 0.1f);
    rig_free(&r);
}

/* One head of a group wants every page: none can go, though the others would let them. */
TEST(one_row_holds_the_page)
{
    static float q[ROWS * DIM];
    static answer sparse;
    rig r = rig_new(4, 0, 0);
    memcpy(q, r.x.q + (TOKENS - 1) * ROWS * DIM, sizeof q);
    ask(&r, q, 0.02f, &sparse);
    CHECK(sparse.a.pages_read + 6 < r.pages);
    memset(q, 0, DIM * sizeof(float));
    memset(q + 4 * DIM, 0, DIM * sizeof(float));
    ask(&r, q, 0.02f, &sparse);
    CHECK(sparse.a.pages_read == r.pages);
    rig_free(&r);
}

TEST(sliding_layers_and_bad_tolerances)
{
    static answer dense, sparse;
    static const float bad[] = {-0.001f, 1.001f, NAN};
    skv_attn a = SKV_ZERO;
    size_t i;
    rig r = rig_new(2, 500, 0);
    skv_span q = skv_f32(r.x.q);
    skv_out o = skv_out_f32(&dense.out[0][0]);
    ask(&r, NULL, 0, &dense);
    ask(&r, NULL, 0.05f, &sparse);
    CHECK(dense.a.pages_met < 2 * 9 && dense.a.pages_met == sparse.a.pages_met);
    CHECK(sparse.a.skipped <= 0.05f);
    CHECK(!memcmp(sparse.lse, dense.lse, sizeof dense.lse));
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        a.tolerance = bad[i];
        CHECK(skv_attend(r.c, 0, &q, 1, &o, &a) == SKV_ERR_ARG);
    }
    rig_free(&r);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(what_is_left_out_is_little);
    RUN(the_share_is_what_it_says);
    RUN(nothing_to_leave_out);
    RUN(one_row_holds_the_page);
    RUN(sliding_layers_and_bad_tolerances);
    return TEST_END();
}
