/* test_cuda_attend.cpp: skv_cuda_attend on emulated CUDA (tests/cuda_emulation) against skv_attend,
 * on the pages of a cache, and the same bytes whatever the order of threads.
 *
 *     g++ -std=c++17 -O1 -Wno-unknown-pragmas -DSKV_CUDA_EMULATION -Itests/cuda_emulation -I. \
 *         -Itests tests/test_cuda_attend.cpp -o test_cuda_attend
 */
#include "cuda_device.h"
#define SKV_STATIC                  /* what a test does not use is not compiled */
#define SKV_NO_SIMD                 /* the reference: portable loops */
#define SPECTRAL_KV_IMPLEMENTATION
#define SPECTRAL_KV_CUDA
#include "spectral_kv.h"
#include "test.h"
#include "synthetic.h"
#include <vector>

struct shape {
    uint32_t heads, kv, d, dv, group, sinks, pairs, sliding;
    float    bpe, softcap, outliers;
    skv_rope style;
    skv_dtype exact = SKV_F32;      /* of sinks and recent tokens */
};

/* A cache on the CPU and what a device would hold of it, twice: two sequences, slots mixed up. */
struct rig {
    skv_profile *profile;
    skv_cache   *cache;
    syn_data     x;
    size_t       n;
    std::vector<float>         k, v;        /* [2][sinks + ring][heads][dim] */
    std::vector<uint16_t>      k16, v16;    /* the same, where the shape wants them in 16 bits */
    std::vector<uint64_t>      tables;
    unsigned char             *pool;
    std::vector<int32_t>       slots, first, count, tokens;
    std::vector<unsigned char> work;
    skv_cuda_attend_desc       d;
    const skv_table           *t;
    uint32_t                   outliers;    /* rows of them in all pages */
};

static uint16_t short_of(float x, skv_dtype type)
{
    return type == SKV_F16 ? skvi_to_f16(x) : skvi_to_bf16(x);
}
static float rounded(float x, skv_dtype type)
{
    if (type == SKV_F32) return x;
    const uint16_t h = short_of(x, type);
    return type == SKV_F16 ? skvi_from_f16(h) : skvi_float((uint32_t)h << 16);
}

static void rig_exact(rig *r, const shape *s)
{
    const uint32_t room = r->d.sinks + r->d.ring;
    const size_t wk = (size_t)s->kv * s->d, wv = (size_t)s->kv * s->dv;
    r->k.assign(2 * room * wk, NAN);
    r->v.assign(2 * room * wv, NAN);
    for (uint32_t seq = 0; seq < 2; seq++)
        for (size_t p = 0; p < r->n; p++) {
            const size_t pages = (size_t)r->count[seq];
            if (p >= s->sinks && p < s->sinks + 64 * pages) continue;
            const size_t row = seq * room +
                               (p < s->sinks ? p : s->sinks + (p - s->sinks) % r->d.ring);
            memcpy(&r->k[row * wk], r->x.k + p * wk, wk * sizeof(float));
            memcpy(&r->v[row * wv], r->x.v + p * wv, wv * sizeof(float));
        }
    r->d.k = skv_f32(r->k.data());
    r->d.v = skv_f32(r->v.data());
    if (s->exact == SKV_F32) return;
    for (float x : r->k) r->k16.push_back(short_of(x, s->exact));
    for (float x : r->v) r->v16.push_back(short_of(x, s->exact));
    r->d.k.data = r->k16.data();
    r->d.v.data = r->v16.data();
    r->d.k.dtype = r->d.v.dtype = s->exact;
}

static void rig_pages(rig *r)
{
    const void *page = NULL;
    size_t bytes = 0, n = 0;
    r->outliers = 0;
    while (skv_cache_page(r->cache, 0, n, &page, &bytes) != SKV_ERR_ARG) n++;
    r->d.pages.page_bytes = (r->t->most + 15) / 16 * 16;
    if (cudaMallocManaged((void **)&r->pool, (n + 1) * r->d.pages.page_bytes) != cudaSuccess)
        abort();
    r->slots.assign(2 * (n + 3), -1);
    for (size_t i = 0; i < n; i++) {
        const size_t slot = n - i;              /* the last page first; slot 0 stays empty */
        r->slots[i] = r->slots[n + 3 + i] = (int32_t)slot;
        if (skv_cache_page(r->cache, 0, i, &page, &bytes) != SKV_OK) continue;
        memcpy(r->pool + slot * r->d.pages.page_bytes, page, bytes);
        r->outliers += ((const unsigned char *)page)[2];
    }
    r->count.assign(2, (int32_t)n);
    r->first = {0, (int32_t)n, (int32_t)(2 * n)};
    r->d.pages.pool = r->pool;
    r->d.pages.slots = r->slots.data();
    r->d.pages.count = r->count.data();
    r->d.pages.stride = n + 3;
    r->d.max_pages = (uint32_t)n;
}

static rig rig_new(const shape *s, size_t n, uint32_t attend_bits)
{
    syn y = {{0, 0, 0, 0, 0, 0, 0}, 7, 1.0f, 2.0f, s->outliers, 3};
    skv_cache_desc d = SKV_ZERO;
    skv_span k, v;
    size_t bytes = 0;
    rig r;
    y.shape.n_q_heads = s->heads;
    y.shape.n_kv_heads = s->kv;
    y.shape.head_dim = s->d;
    y.shape.head_dim_v = s->dv;
    y.shape.sliding_window = s->sliding;
    y.shape.softcap = s->softcap;
    r.profile = s->pairs ? syn_profile_turned(&y, 1, s->group, s->style, s->pairs)
                         : syn_profile_direct(&y, 1, s->group);
    r.x = syn_make(&y, 0, 1, n);
    r.n = n;
    for (size_t i = 0; i < n * s->kv * s->d; i++) r.x.k[i] = rounded(r.x.k[i], s->exact);
    for (size_t i = 0; i < n * s->kv * s->dv; i++) r.x.v[i] = rounded(r.x.v[i], s->exact);
    d.profile = r.profile;
    d.target.bpe = s->bpe;
    d.max_tokens = (uint32_t)n;
    d.sinks = s->sinks ? s->sinks : SKV_NONE;
    d.exact_bits = 32;
    d.attend_bits = attend_bits;
    d.outliers = s->outliers > 0 ? 0.1f : 0.0f;
    if (skv_cache_init(&r.cache, &d) != SKV_OK) abort();
    k = skv_f32(r.x.k);
    v = skv_f32(r.x.v);
    CHECK(skv_append(r.cache, 0, &k, &v, n) == SKV_OK);
    CHECK(skv_cache_tables(r.cache, 0, NULL, 0, &bytes) == SKV_OK);
    r.tables.resize((bytes + 23) / 8);
    uint64_t *at = r.tables.data() + ((size_t)r.tables.data() % 16 ? 1 : 0);
    CHECK(skv_cache_tables(r.cache, 0, at, bytes, &bytes) == SKV_OK);
    r.t = (const skv_table *)at;
    memset(&r.d, 0, sizeof r.d);
    r.d.host = r.t;
    r.d.tables = r.t;
    r.d.n_seqs = 2;
    r.d.sinks = s->sinks;
    r.d.ring = 200;
    r.d.precise = attend_bits == 14;
    rig_pages(&r);
    rig_exact(&r, s);
    r.tokens.assign(2, (int32_t)n);
    r.d.tokens = r.tokens.data();
    return r;
}

static void rig_free(rig *r)
{
    cudaFree(r->pool);
    syn_free(&r->x);
    skv_cache_free(r->cache);
    skv_profile_free(r->profile);
}

/* The last n queries of both sequences; out and lse as the device gives them. */
static skv_result rig_attend(rig *r, uint32_t n, std::vector<float> *out, std::vector<float> *lse)
{
    const skv_layer *l = &r->t->shape;
    const size_t wq = (size_t)l->n_q_heads * l->head_dim, wo = (size_t)l->n_q_heads * l->head_dim_v;
    std::vector<float> q(2 * n * wq);
    skv_cuda_attend_desc d = r->d;
    for (size_t i = 0; i < 2; i++)
        memcpy(&q[i * n * wq], r->x.q + (r->n - n) * wq, n * wq * sizeof(float));
    out->assign(2 * n * wo, -1.0f);
    lse->assign(2 * n * l->n_q_heads, -1.0f);
    d.n_queries = n;
    d.q = skv_f32(q.data());
    d.out = skv_out_f32(out->data());
    d.lse = lse->data();
    r->work.resize(skv_cuda_attend_work(&d) + 16);
    emu::fill(r->work.data(), r->work.size());
    d.work = r->work.data() + (16 - (size_t)r->work.data() % 16) % 16;
    d.work_bytes = r->work.size() - 16;
    const skv_result result = skv_cuda_attend(&d, NULL);
    finish();
    return result;
}

/* Attention in double over the rows that the cache stands for. */
static void rig_oracle(rig *r, uint32_t n, std::vector<double> *out, std::vector<double> *lse)
{
    const skv_layer *l = &r->t->shape;
    const size_t first = l->sliding_window ? r->n - n - l->sliding_window : 0;
    std::vector<float> k(r->n * l->n_kv_heads * l->head_dim);
    std::vector<float> v(r->n * l->n_kv_heads * l->head_dim_v);
    CHECK(skv_reconstruct(r->cache, 0, first, r->n - first,
                          &k[first * l->n_kv_heads * l->head_dim],
                          &v[first * l->n_kv_heads * l->head_dim_v]) == SKV_OK);
    out->resize(n * l->n_q_heads * l->head_dim_v);
    lse->resize(n * l->n_q_heads);
    syn_attention(l, r->x.q + (r->n - n) * l->n_q_heads * l->head_dim, k.data(), v.data(), r->n, n,
                  out->data(), lse->data());
}

/* Largest difference of both sequences' outputs from the oracle's, over its root mean square, and
   skv_attend's. */
static double rig_compare(rig *r, uint32_t n, double *cpu_too, double *worst_lse)
{
    const skv_layer *l = &r->t->shape;
    const size_t wq = (size_t)l->n_q_heads * l->head_dim;
    std::vector<double> want, want_lse;
    rig_oracle(r, n, &want, &want_lse);
    std::vector<float> out, lse, cpu(want.size());
    skv_span q = skv_f32(r->x.q + (r->n - n) * wq);
    skv_out o = skv_out_f32(cpu.data());
    double square = 0, worst = 0, worst_cpu = 0;
    CHECK(skv_attend(r->cache, 0, &q, n, &o, NULL) == SKV_OK);
    CHECK(rig_attend(r, n, &out, &lse) == SKV_OK);
    *worst_lse = 0;
    for (double x : want) square += x * x;
    square = sqrt(square / (double)want.size());
    for (size_t i = 0; i < out.size(); i++) {
        const double diff = fabs(out[i] - want[i % want.size()]);
        worst = diff <= worst ? worst : diff;               /* NaN is worst */
        worst_cpu = fmax(worst_cpu, fabs(cpu[i % want.size()] - want[i % want.size()]));
    }
    for (size_t i = 0; i < lse.size(); i++) {
        const double diff = fabs((double)lse[i] - want_lse[i % want_lse.size()]);
        *worst_lse = diff <= *worst_lse ? *worst_lse : diff;
    }
    *cpu_too = worst_cpu / square;
    return worst / square;
}

static const shape shapes[] = {
    /* heads kv  d   dv  group sinks pairs sliding bpe cap outliers style */
    {3, 1, 64, 64, 1, 4, 32, 0, 2.0f, 0, 0, SKV_ROPE_HALVES},
    {4, 2, 64, 64, 1, 4, 32, 0, 4.0f, 0, 0.02f, SKV_ROPE_ADJACENT},
    {4, 2, 80, 80, 2, 70, 20, 0, 3.0f, 30, 0.02f, SKV_ROPE_HALVES},     /* joint heads, soft cap */
    {8, 1, 128, 96, 1, 0, 64, 0, 2.5f, 0, 0, SKV_ROPE_HALVES},          /* no sinks, V narrower */
    {2, 1, 256, 256, 1, 4, 0, 0, 2.0f, 0, 0, SKV_ROPE_HALVES},          /* keys not turned */
    {2, 2, 96, 96, 1, 1, 48, 300, 6.0f, 0, 0.02f, SKV_ROPE_HALVES},     /* sliding window */
};

TEST(agrees_with_the_cpu)
{
    const uint32_t most = getenv("SKV_SANITIZED") ? 8 : 14;     /* of bits */
    for (const shape &s : shapes)
        for (uint32_t bits = 8; bits <= most; bits += 6) {
            rig r = rig_new(&s, 411, bits);
            CHECK((r.outliers > 0) == (s.outliers > 0));
            for (uint32_t n = 1; n <= 5; n += 4) {
                double lse, cpu, worst = rig_compare(&r, n, &cpu, &lse);
                printf("    d %3u, %u queries, %2u bits: off by %.1e, skv_attend by %.1e\n", s.d, n,
                       bits, worst, cpu);
                CHECK(worst < 2 * cpu + 1e-5);
                CHECK(lse < (bits == 14 ? 4e-3 : 0.1));
            }
            rig_free(&r);
        }
}

/* Without pages the answer is that of floats, whether by tensor cores or by sums. */
TEST(agrees_without_pages)
{
    static const shape exact[] = {
        {8, 1, 44, 72, 1, 3, 22, 0, 2.0f, 0, 0, SKV_ROPE_HALVES, SKV_F32},  /* no whole tiles */
        {8, 1, 64, 64, 1, 70, 32, 0, 2.0f, 20, 0, SKV_ROPE_HALVES, SKV_F16},
        {9, 1, 64, 80, 1, 4, 32, 50, 2.0f, 0, 0, SKV_ROPE_HALVES, SKV_BF16},
        {6, 2, 32, 32, 2, 4, 16, 0, 2.0f, 0, 0, SKV_ROPE_HALVES, SKV_F16},  /* two KV heads */
        {2, 1, 32, 40, 1, 0, 16, 0, 2.0f, 0, 0, SKV_ROPE_HALVES, SKV_BF16}
    };
    for (const shape &s : exact) {
        rig r = rig_new(&s, s.sinks + 90, 8);
        CHECK(r.count[0] == 0);
        for (uint32_t n = 1; n <= 7; n += 3) {
            double lse, cpu, worst = rig_compare(&r, n, &cpu, &lse);
            printf("    d %3u, %u queries: off by %.1e, skv_attend by %.1e\n", s.d, n, worst, cpu);
            CHECK(worst < 5e-6);
            CHECK(lse < 1e-5);
        }
        rig_free(&r);
    }
}

/* A missing barrier, or memory nobody wrote, would show. */
TEST(order_of_threads_does_not_matter)
{
    for (const shape &s : shapes) {
        std::vector<float> out, lse, first, first_lse;
        rig r = rig_new(&s, 411, 8);
        for (uint64_t seed = 0; seed < (getenv("SKV_SANITIZED") ? 2 : 4); seed++) {
            emu::seed(seed);
            CHECK(rig_attend(&r, 2, &out, &lse) == SKV_OK);
            if (!seed) first = out, first_lse = lse;
            CHECK(!memcmp(out.data(), first.data(), out.size() * sizeof(float)));
            CHECK(!memcmp(lse.data(), first_lse.data(), lse.size() * sizeof(float)));
        }
        rig_free(&r);
    }
    CHECK(!emu::faults);
}

TEST(both_page_tables_and_any_split)
{
    std::vector<float> out, lse, other;
    rig r = rig_new(&shapes[1], 411, 8);
    CHECK(rig_attend(&r, 1, &out, &lse) == SKV_OK);
    std::vector<int32_t> dense(r.slots.begin(), r.slots.begin() + r.count[0]);
    dense.insert(dense.end(), dense.begin(), dense.begin() + r.count[0]);
    r.d.pages.slots = dense.data();
    r.d.pages.first = r.first.data();
    r.d.pages.count = NULL;
    CHECK(rig_attend(&r, 1, &other, &lse) == SKV_OK);
    CHECK(!memcmp(out.data(), other.data(), out.size() * sizeof(float)));
    for (r.d.split = 1; r.d.split < 12; r.d.split += 5) {
        CHECK(rig_attend(&r, 1, &other, &lse) == SKV_OK);
        for (size_t i = 0; i < out.size(); i++) CHECK_NEAR(out[i], other[i], 2e-2);
    }
    rig_free(&r);
}

/* A sequence that cannot be attended gives NaN, its neighbour is as ever. */
/* Sequences with numbers of queries of their own: the bits of a call for each alone. */
TEST(ragged_queries)
{
    rig r = rig_new(&shapes[0], 411, 8);
    const size_t row = shapes[0].heads * shapes[0].dv;
    std::vector<float> five, two, lse5, lse2, q(r.x.q, r.x.q + r.n * row);
    CHECK(rig_attend(&r, 5, &five, &lse5) == SKV_OK);
    CHECK(rig_attend(&r, 2, &two, &lse2) == SKV_OK);
    for (uint32_t second = 0; second < 3; second += 2) {
        std::vector<float> out(8 * row, 77), lse(8 * shapes[0].heads, 77), tight;
        std::vector<int32_t> first = {0, 5, 5 + (int32_t)second};
        skv_cuda_attend_desc d = r.d;
        tight.assign(q.end() - 5 * (long)row, q.end());         /* no more than is there */
        tight.insert(tight.end(), q.end() - second * (long)row, q.end());
        d.n_queries = 5;
        d.first_query = first.data();
        d.q = skv_f32(tight.data());
        d.out = skv_out_f32(out.data());
        d.lse = lse.data();
        r.work.resize(skv_cuda_attend_work(&d) + 16);
        emu::fill(r.work.data(), r.work.size());
        d.work = r.work.data() + (16 - (size_t)r.work.data() % 16) % 16;
        d.work_bytes = r.work.size() - 16;
        CHECK(skv_cuda_attend(&d, NULL) == SKV_OK);
        finish();
        CHECK(!memcmp(out.data(), five.data(), 5 * row * sizeof(float)));
        CHECK(!memcmp(&out[5 * row], &two[2 * row], second * row * sizeof(float)));
        CHECK(!memcmp(&lse[5 * shapes[0].heads], &lse2[2 * shapes[0].heads],
                      second * shapes[0].heads * sizeof(float)));
        CHECK(out[(5 + second) * row] == 77 && lse[(5 + second) * shapes[0].heads] == 77);
        first[2] = 5 + 6;               /* more than n_queries: NaN for that sequence alone */
        out.assign(12 * row, 77);
        lse.assign(12 * shapes[0].heads, 77);
        d.out = skv_out_f32(out.data());
        d.lse = lse.data();
        tight.resize(12 * row);
        d.q = skv_f32(tight.data());
        CHECK(skv_cuda_attend(&d, NULL) == SKV_OK);
        finish();
        CHECK(!memcmp(out.data(), five.data(), 5 * row * sizeof(float)));
        CHECK(out[5 * row] != out[5 * row] && out[10 * row] == 77);
    }
    rig_free(&r);
}

TEST(bad_sequences_give_nan)
{
    std::vector<float> out, lse, good;
    rig r = rig_new(&shapes[0], 411, 8);
    CHECK(rig_attend(&r, 1, &good, &lse) == SKV_OK);
    memset(r.pool, 0, r.d.pages.page_bytes);        /* slot 0 holds no page */
    for (int what = 0; what < 4; what++) {
        int32_t &page = r.slots[r.d.pages.stride + 1];
        const int32_t tokens = r.tokens[1], count = r.count[1], slot = page;
        if (what == 0) r.tokens[1] = 0;             /* fewer than queries */
        if (what == 1) r.tokens[1] += 100;          /* more recent ones than the ring */
        if (what == 2) r.count[1]++;                /* more pages than max_pages */
        if (what == 3) page = 0;                    /* not a page of this format */
        CHECK(rig_attend(&r, 1, &out, &lse) == SKV_OK);
        for (size_t i = 0; i < out.size(); i++)
            CHECK(i < out.size() / 2 ? memcmp(&out[i], &good[i], 4) == 0 : out[i] != out[i]);
        CHECK(lse[0] == lse[0] && lse[lse.size() / 2] != lse[lse.size() / 2]);
        r.tokens[1] = tokens;
        r.count[1] = count;
        page = slot;
    }
    rig_free(&r);
}

TEST(arguments_are_checked)
{
    rig r = rig_new(&shapes[0], 200, 8);
    std::vector<float> out(1024), q(1024);
    std::vector<uint64_t> work(1 << 20);
    skv_cuda_attend_desc d = r.d, bad;
    CHECK(skv_cuda_attend(NULL, NULL) == SKV_ERR_ARG && !skv_cuda_attend_work(NULL));
    d.n_queries = 1;
    d.q = skv_f32(q.data());
    d.out = skv_out_f32(out.data());
    d.work = work.data();
    d.work_bytes = work.size() * 8;
    CHECK(skv_cuda_attend(&d, NULL) == SKV_OK);
    finish();
    bad = d, bad.work_bytes = skv_cuda_attend_work(&d) - 1;
    CHECK(skv_cuda_attend(&bad, NULL) == SKV_ERR_ARG);
    bad = d, bad.pages.page_bytes = 16;
    CHECK(skv_cuda_attend(&bad, NULL) == SKV_ERR_SHAPE);
    bad = d, bad.n_seqs = 0;
    CHECK(skv_cuda_attend(&bad, NULL) == SKV_ERR_ARG && !skv_cuda_attend_work(&bad));
    bad = d, bad.tokens = NULL;
    CHECK(skv_cuda_attend(&bad, NULL) == SKV_ERR_ARG);
    bad = d, bad.ring = 0;
    CHECK(skv_cuda_attend(&bad, NULL) == SKV_ERR_ARG);
    bad = d, bad.pages.pool = (char *)bad.pages.pool + 8;
    CHECK(skv_cuda_attend(&bad, NULL) == SKV_ERR_ARG);
    rig_free(&r);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    device_needed();
    RUN(agrees_with_the_cpu);
    RUN(agrees_without_pages);
    RUN(order_of_threads_does_not_matter);
    RUN(both_page_tables_and_any_split);
    RUN(ragged_queries);
    RUN(bad_sequences_give_nan);
    RUN(arguments_are_checked);
    return TEST_END();
}
