/* test_cuda_pages.cpp: skv_cuda_encode and skv_cuda_decode on emulated CUDA (tests/cuda_emulation).
 * Pages that the kernels make are those of skv_encode and skv_append byte by byte where the same
 * sums are made; where RoPE turns means (a GPU's sine is another) the CPU reads as good ones.
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
    uint32_t kv, d, dv, group, pairs;
    float    bpe, outliers;
    skv_rope style;
    uint32_t tokens;                /* of the last page */
};
static const shape shapes[] = {
    /* kv d   dv group pairs bpe outliers style           tokens */
    {1, 64, 64, 1, 0, 2.0f, 0.03f, SKV_ROPE_HALVES, 64},
    {2, 32, 32, 1, 0, 7.0f, 0, SKV_ROPE_HALVES, 64},            /* wide codes */
    {2, 80, 48, 2, 0, 1.2f, 0.03f, SKV_ROPE_HALVES, 21},        /* joint heads; a short page */
    {1, 18, 50, 1, 0, 3.0f, 0.02f, SKV_ROPE_HALVES, 1},         /* no whole quads */
    {2, 64, 64, 1, 32, 3.0f, 0.03f, SKV_ROPE_HALVES, 64},
    {1, 96, 96, 1, 24, 2.0f, 0, SKV_ROPE_ADJACENT, 50},         /* turned in part */
};
enum { PAGES = 3 };
static int too_long(const shape &s) { return getenv("SKV_SANITIZED") && s.kv * s.d > 96; }

/* A codec, tokens, and what a device would hold. */
struct rig {
    skv_profile          *profile;
    skv_codec            *codec;
    syn_data              x;
    std::vector<uint64_t> tables;
    const skv_table      *t;
    unsigned char        *pool;
    std::vector<int32_t>  slots, rows, status;
    std::vector<uint32_t> counts, positions;
    std::vector<uint64_t> work;
    std::vector<float>    k, v;         /* x.k, x.v where a device sees them */
    skv_cuda_encode_desc  d;
};

static const uint32_t first_position = 1000;

static void rig_tokens(rig *r, const shape *s)
{
    r->slots = {2, 0, 3};
    r->counts = {64, 64, s->tokens};
    r->status.assign(PAGES, 77);
    for (uint32_t p = 0; p < PAGES; p++) {
        r->positions.push_back(first_position + 64 * p);
        for (uint32_t i = 0; i < 64; i++) r->rows.push_back((int32_t)(64 * p + i));
    }
    r->d.slots = r->slots.data();
    r->d.counts = r->counts.data();
    r->d.positions = r->positions.data();
    r->d.rows = r->rows.data();
    r->d.status = r->status.data();
    r->d.k = skv_f32(r->x.k);
    r->d.v = skv_f32(r->x.v);
}

static rig rig_new(const shape *s)
{
    syn y = {{0, 0, 0, 0, 0, 0, 0}, 7, 1.0f, 2.0f, s->outliers, 3};
    skv_codec_desc d = SKV_ZERO;
    size_t bytes = 0;
    rig r;
    y.shape.n_q_heads = y.shape.n_kv_heads = s->kv;
    y.shape.head_dim = s->d;
    y.shape.head_dim_v = s->dv;
    r.profile = s->pairs ? syn_profile_turned(&y, 1, s->group, s->style, s->pairs)
                         : syn_profile_direct(&y, 1, s->group);
    r.x = syn_make(&y, 0, 1, 64 * PAGES);
    d.profile = r.profile;
    d.target.bpe = s->bpe;
    d.outliers = s->outliers > 0 ? 0.15f : 0.0f;
    if (skv_codec_init(&r.codec, &d) != SKV_OK) abort();
    CHECK(skv_codec_tables(r.codec, 0, NULL, 0, &bytes) == SKV_OK);
    r.tables.resize((bytes + 23) / 8);
    uint64_t *at = r.tables.data() + ((size_t)r.tables.data() % 16 ? 1 : 0);
    CHECK(skv_codec_tables(r.codec, 0, at, bytes, &bytes) == SKV_OK);
    r.t = (const skv_table *)at;
    memset(&r.d, 0, sizeof r.d);
    r.d.host = r.t;
    r.d.tables = r.t;
    r.d.n_pages = PAGES;
    r.d.page_bytes = (r.t->most + 15) / 16 * 16;
    if (cudaMallocManaged((void **)&r.pool, (PAGES + 1) * r.d.page_bytes) != cudaSuccess) abort();
    r.d.pool = r.pool;
    rig_tokens(&r, s);
    return r;
}

static void rig_free(rig *r)
{
    cudaFree(r->pool);
    syn_free(&r->x);
    skv_codec_free(r->codec);
    skv_profile_free(r->profile);
}

static skv_result rig_encode(rig *r)
{
    r->d.work_bytes = skv_cuda_encode_work(&r->d);
    r->work.resize(r->d.work_bytes / 8 + 3);
    emu::fill(r->work.data(), r->work.size() * 8);
    r->d.work = r->work.data() + ((size_t)r->work.data() % 16 ? 1 : 0);
    skv_cuda_encode_desc d = r->d;
    const skv_layer *l = &r->t->shape;
    if (d.k.data == r->x.k) {
        const size_t rows = (size_t)64 * PAGES * l->n_kv_heads;
        r->k.assign(r->x.k, r->x.k + rows * l->head_dim);
        r->v.assign(r->x.v, r->x.v + rows * l->head_dim_v);
        d.k.data = r->k.data();
        d.v.data = r->v.data();
    }
    const skv_result result = skv_cuda_encode(&d, NULL);
    finish();
    return result;
}

static const unsigned char *rig_page(const rig *r, uint32_t p, size_t *bytes)
{
    const unsigned char *page = r->pool + (size_t)r->slots[p] * r->d.page_bytes;
    *bytes = skvi_get32(page + 4);
    return page;
}

/* skv_encode's page of the same tokens. */
static std::vector<unsigned char> rig_reference(rig *r, uint32_t p)
{
    std::vector<unsigned char> page(r->t->most);
    const skv_layer *l = &r->t->shape;
    skv_span k = skv_f32(r->x.k + (size_t)64 * p * l->n_kv_heads * l->head_dim);
    skv_span v = skv_f32(r->x.v + (size_t)64 * p * l->n_kv_heads * l->head_dim_v);
    size_t bytes = 0;
    CHECK(skv_encode(r->codec, 0, &k, &v, r->counts[p], r->positions[p], page.data(), page.size(),
                     &bytes) == SKV_OK);
    page.resize(bytes);
    return page;
}

/* Squared error of a page as skv_decode reads it, over the rows' own squares; 1e9: it does not. */
static double rig_error(rig *r, uint32_t p, const unsigned char *page, size_t bytes)
{
    const skv_layer *l = &r->t->shape;
    const size_t wk = (size_t)l->n_kv_heads * l->head_dim;
    const size_t wv = (size_t)l->n_kv_heads * l->head_dim_v;
    std::vector<float> k(64 * wk), v(64 * wv);
    size_t n = 0;
    double lost = 0, all = 0;
    if (skv_decode(r->codec, 0, page, bytes, k.data(), v.data(), &n) != SKV_OK) return 1e9;
    CHECK(n == r->counts[p]);
    for (size_t i = 0; i < n * wk; i++) {
        const double x = (double)r->x.k[64 * p * wk + i];
        lost += pow(x - (double)k[i], 2), all += x * x;
    }
    for (size_t i = 0; i < n * wv; i++) {
        const double x = (double)r->x.v[64 * p * wv + i];
        lost += pow(x - (double)v[i], 2), all += x * x;
    }
    return lost / all;
}

/* A page of the kernels is the CPU's: byte for byte, but that a device may fuse products with
   additions. */
static int rig_same(rig *r, uint32_t p, const std::vector<unsigned char> &want)
{
    size_t bytes;
    const unsigned char *page = rig_page(r, p, &bytes);
    const double cpu = rig_error(r, p, want.data(), want.size());
    if (emulated()) return bytes == want.size() && !memcmp(page, want.data(), bytes);
    return fabs(rig_error(r, p, page, bytes) - cpu) < 1e-2 * cpu;
}

/* All widths of codes take part, or the comparison says less than it seems to. */
static uint32_t modes_of(const skv_table *t)
{
    const skv_table_stream *s = (const skv_table_stream *)((const char *)t + t->stream);
    uint32_t seen = 0;
    for (uint32_t i = 0; i < 2 * t->n_groups; i++)
        for (uint32_t q = 0; q < s[i].coded / 4; q++)
            seen |= 1u << (((const uint32_t *)((const char *)t + s[i].quads))[q] & 15u);
    return seen;
}

TEST(pages_are_those_of_the_cpu)
{
    uint32_t modes = 0, rows = 0;
    for (const shape &s : shapes) {
        if (too_long(s)) continue;
        rig r = rig_new(&s);
        modes |= s.pairs ? 0 : modes_of(r.t);
        CHECK(rig_encode(&r) == SKV_OK);
        for (uint32_t p = 0; p < PAGES; p++) {
            size_t bytes;
            const unsigned char *page = rig_page(&r, p, &bytes);
            const std::vector<unsigned char> want = rig_reference(&r, p);
            const double error = rig_error(&r, p, page, bytes);
            CHECK(r.status[p] == SKV_OK);
            rows += page[2];
            if (!s.pairs) {
                CHECK(rig_same(&r, p, want));
                continue;
            }
            const double cpu = rig_error(&r, p, want.data(), want.size());
            printf("    d %u, page %u: error %.4e, skv_encode's %.4e\n", s.d, p, error, cpu);
            CHECK(fabs(error - cpu) < 1e-2 * cpu);
        }
        rig_free(&r);
    }
    CHECK((modes == 0x1FFE || getenv("SKV_SANITIZED")) && rows > 10);
}

TEST(rows_come_back)
{
    for (const shape &s : shapes) {
        if (too_long(s)) continue;
        rig r = rig_new(&s);
        CHECK(rig_encode(&r) == SKV_OK);
        const size_t wk = (size_t)s.kv * s.d, wv = (size_t)s.kv * s.dv, n = 64 * PAGES;
        std::vector<float> k(n * wk, 5.0f), v(n * wv, 5.0f), want_k(64 * wk), want_v(64 * wv);
        skv_cuda_decode_desc d;
        memset(&d, 0, sizeof d);
        d.host = r.t, d.tables = r.t, d.n_pages = PAGES, d.pool = r.pool;
        d.page_bytes = r.d.page_bytes, d.slots = r.d.slots, d.rows = r.d.rows;
        d.k = skv_out_f32(k.data());
        d.v = skv_out_f32(v.data());
        CHECK(skv_cuda_decode(&d, NULL) == SKV_OK);
        finish();
        for (uint32_t p = 0; p < PAGES; p++) {
            size_t bytes, count = 0;
            const unsigned char *page = rig_page(&r, p, &bytes);
            CHECK(skv_decode(r.codec, 0, page, bytes, want_k.data(), want_v.data(), &count) ==
                  SKV_OK);
            for (size_t i = 0; i < 64 * wk; i++)
                CHECK_NEAR(k[64 * p * wk + i], i < count * wk ? want_k[i] : 5.0f, 2e-5);
            for (size_t i = 0; i < 64 * wv; i++)
                CHECK_NEAR(v[64 * p * wv + i], i < count * wv ? want_v[i] : 5.0f, 2e-5);
        }
        rig_free(&r);
    }
}

TEST(order_of_threads_does_not_matter)
{
    for (const shape &s : shapes) {
        if (too_long(s)) continue;
        rig r = rig_new(&s);
        std::vector<std::vector<unsigned char>> first;
        for (uint64_t seed = 0; seed < 2; seed++) {
            emu::seed(seed + 11);
            CHECK(rig_encode(&r) == SKV_OK);
            for (uint32_t p = 0; p < PAGES; p++) {
                size_t bytes;
                const unsigned char *page = rig_page(&r, p, &bytes);
                if (!seed) first.emplace_back(page, page + bytes);
                else CHECK(bytes == first[p].size() && !memcmp(page, first[p].data(), bytes));
            }
        }
        rig_free(&r);
    }
    CHECK(!emu::faults);
}

/* Rows from anywhere, in f16 or bf16, heads apart: the pages of what those numbers stand for. */
TEST(rows_may_lie_anywhere)
{
    const shape &s = shapes[2];
    for (int bf16 = 0; bf16 < 2; bf16++) {
        rig r = rig_new(&s);
        const size_t n = 64 * PAGES, room = s.d + 7;
        std::vector<uint16_t> k(n * s.kv * room + 100, 0x7FFFu), v(n * s.kv * s.dv);
        for (size_t i = 0; i < n; i++) {
            const size_t row = (i * 37 + 5) % n;
            r.rows[i] = (int32_t)row;
            for (size_t h = 0; h < s.kv; h++)
                for (size_t e = 0; e < s.d; e++) {
                    float *x = &r.x.k[(i * s.kv + h) * s.d + e];
                    const uint16_t b = bf16 ? skvi_to_bf16(*x) : skvi_to_f16(*x);
                    k[(row * s.kv + h) * room + e] = b;
                    *x = bf16 ? skvi_float((uint32_t)b << 16) : skvi_from_f16(b);
                }
            for (size_t e = 0; e < s.kv * s.dv; e++) {
                float *x = &r.x.v[i * s.kv * s.dv + e];
                v[row * s.kv * s.dv + e] = bf16 ? skvi_to_bf16(*x) : skvi_to_f16(*x);
                *x = bf16 ? skvi_float((uint32_t)skvi_to_bf16(*x) << 16)
                          : skvi_from_f16(skvi_to_f16(*x));
            }
        }
        r.d.k = skv_make_span(k.data(), bf16 ? SKV_BF16 : SKV_F16);
        r.d.k.head_stride = (ptrdiff_t)room;
        r.d.v = skv_make_span(v.data(), bf16 ? SKV_BF16 : SKV_F16);
        CHECK(rig_encode(&r) == SKV_OK);
        for (uint32_t p = 0; p < PAGES; p++) {
            CHECK(rig_same(&r, p, rig_reference(&r, p)));
        }
        rig_free(&r);
    }
}

/* With credits, the pages that a cache makes of the same tokens, one sequence beside another. */
TEST(credits_are_a_caches)
{
    const shape &s = shapes[0];
    rig r = rig_new(&s);
    skv_cache_desc c = SKV_ZERO;
    skv_cache *cache = NULL;
    skv_span k = skv_f32(r.x.k), v = skv_f32(r.x.v);
    std::vector<int32_t> first = {0, 1, 1, 3};          /* the second has no page */
    std::vector<uint32_t> credit = {0, 0, 7, 7, 0, 0};
    const void *page = NULL;
    size_t bytes = 0, got = 0, rows = 0;
    c.profile = r.profile;
    c.target.bpe = s.bpe;
    c.outliers = 0.15f;
    c.max_tokens = 64 * PAGES;
    c.sinks = SKV_NONE;
    c.window = SKV_NONE;
    c.exact_bits = 32;
    CHECK(skv_cache_init(&cache, &c) == SKV_OK);
    CHECK(skv_append(cache, 0, &k, &v, 64 * PAGES) == SKV_OK);
    CHECK(skv_cache_page(cache, 0, 1, &page, &bytes) == SKV_OK);
    for (uint32_t i = 0; i < 128; i++) r.rows[64 + i] = (int32_t)i;     /* the last begins anew */
    r.positions = {0, 0, 64};
    r.d.n_seqs = 3;
    r.d.first = first.data();
    r.d.credit = credit.data();
    CHECK(rig_encode(&r) == SKV_OK);
    for (uint32_t p = 0; p < PAGES; p++) {
        const unsigned char *gpu = rig_page(&r, p, &got);
        CHECK(skv_cache_page(cache, 0, p == 2, &page, &bytes) == SKV_OK);
        CHECK(!emulated() || (got == bytes && !memcmp(gpu, page, bytes)));
        rows += gpu[2];
    }
    CHECK(rows > 0);
    for (int i = 0; i < 2; i++) {
        const skv_table_stream *t = (const skv_table_stream *)((const char *)r.t + r.t->stream) + i;
        CHECK(credit[2 + i] == 7 && credit[i] <= t->allowance);
        CHECK((2 * t->allowance - credit[4 + i]) % (2 + 2 * t->n) == 0);
    }
    skv_cache_free(cache);
    rig_free(&r);
}

/* Slots too small for all outlier rows that there might be: fewer rows, whole pages. */
TEST(small_slots_leave_out_rows)
{
    for (uint32_t most = 0; most < 3; most++) {
        rig r = rig_new(&shapes[0]);
        uint32_t before = 0, rows = 0;
        CHECK(rig_encode(&r) == SKV_OK);
        for (uint32_t p = 0; p < PAGES; p++)
            before += r.pool[(size_t)r.slots[p] * r.d.page_bytes + 2];
        r.d.page_bytes = (r.t->least + most * (r.t->most - r.t->least) / 8 + 15) / 16 * 16;
        CHECK(rig_encode(&r) == SKV_OK);
        for (uint32_t p = 0; p < PAGES; p++) {
            size_t bytes;
            const unsigned char *page = rig_page(&r, p, &bytes);
            CHECK(bytes <= r.d.page_bytes && rig_error(&r, p, page, bytes) < 0.3);
            rows += page[2];
        }
        CHECK(rows <= 2 * most * PAGES && rows < before && (most == 0) == (rows == 0));
        rig_free(&r);
    }
}

TEST(bad_numbers_make_no_page)
{
    const skv_result want[] = {SKV_ERR_NOT_FINITE, SKV_ERR_NOT_FINITE, SKV_ERR_RANGE};
    const float number[] = {NAN, -INFINITY, 2e9f};
    for (int what = 0; what < 3; what++) {
        rig r = rig_new(&shapes[3]);
        const size_t w = 18;
        size_t bytes = 0;
        (what == 1 ? r.x.v + 64 * 50 : r.x.k + 64 * w)[40 * 18 + 17] = number[what];
        CHECK(rig_encode(&r) == SKV_OK);
        CHECK(r.status[0] == SKV_OK && r.status[1] == want[what] && r.status[2] == SKV_OK);
        const unsigned char *page = rig_page(&r, 1, &bytes);
        CHECK(rig_error(&r, 1, page, bytes) == 1e9);
        page = rig_page(&r, 2, &bytes);
        CHECK(rig_error(&r, 2, page, bytes) < 0.2);
        std::vector<float> k(64 * w * PAGES, 5.0f);
        skv_cuda_decode_desc d;
        memset(&d, 0, sizeof d);
        d.host = r.t, d.tables = r.t, d.n_pages = PAGES, d.pool = r.pool;
        d.page_bytes = r.d.page_bytes, d.slots = r.d.slots, d.rows = r.d.rows;
        d.k = skv_out_f32(k.data());
        CHECK(skv_cuda_decode(&d, NULL) == SKV_OK);
        finish();
        CHECK(k[64 * w] != k[64 * w] && k[0] == k[0] && k[128 * w] == k[128 * w]);
        rig_free(&r);
    }
}

TEST(pages_move_between_pools)
{
    enum { BYTES = 48, SLOTS = 9 };
    std::vector<unsigned char> host(SLOTS * BYTES), device(SLOTS * BYTES), back;
    const int32_t from[] = {0, 1, 2, 7, 5}, to[] = {3, 4, 5, 8, 0}, bad[] = {3, 4, 5, -1, 0};
    emu::fill(host.data(), host.size());
    back = host;
    emu::copies = 0;
    CHECK(skv_cuda_copy_pages(device.data(), to, host.data(), from, 5, BYTES, NULL) == SKV_OK);
    finish();
    CHECK(!emulated() || emu::copies == 3);             /* three neighbours in one piece */
    for (int i = 0; i < 5; i++) {
        CHECK(!memcmp(&device[to[i] * BYTES], &host[from[i] * BYTES], BYTES));
        memset(&back[from[i] * BYTES], 0, BYTES);
    }
    for (int i = 0; i < BYTES; i++) CHECK(!device[BYTES + i] && !device[7 * BYTES + i]);
    CHECK(skv_cuda_copy_pages(back.data(), from, device.data(), to, 5, BYTES, NULL) == SKV_OK);
    finish();
    CHECK(back == host);
    CHECK(skv_cuda_copy_pages(device.data(), bad, host.data(), from, 5, BYTES, NULL) ==
          SKV_ERR_ARG);
    CHECK(skv_cuda_copy_pages(NULL, to, host.data(), from, 5, BYTES, NULL) == SKV_ERR_ARG);
    CHECK(skv_cuda_copy_pages(device.data(), NULL, host.data(), NULL, 0, BYTES, NULL) == SKV_OK);
}

TEST(arguments_are_checked)
{
    rig r = rig_new(&shapes[0]);
    CHECK(rig_encode(&r) == SKV_OK);
    CHECK(skv_cuda_encode(NULL, NULL) == SKV_ERR_ARG && !skv_cuda_encode_work(NULL));
    skv_cuda_encode_desc d = r.d;
    d.work_bytes--;
    CHECK(skv_cuda_encode(&d, NULL) == SKV_ERR_ARG);
    d = r.d, d.n_pages = 65536;
    CHECK(skv_cuda_encode(&d, NULL) == SKV_ERR_ARG && !skv_cuda_encode_work(&d));
    d = r.d, d.page_bytes = 16;
    CHECK(skv_cuda_encode(&d, NULL) == SKV_ERR_SHAPE);
    d = r.d, d.pool = r.pool + 4;
    CHECK(skv_cuda_encode(&d, NULL) == SKV_ERR_ARG);
    d = r.d, d.rows = NULL;
    CHECK(skv_cuda_encode(&d, NULL) == SKV_ERR_ARG);
    uint32_t credit[2] = {0, 0};
    d = r.d, d.credit = credit;
    CHECK(skv_cuda_encode(&d, NULL) == SKV_ERR_ARG);
    CHECK(skv_cuda_decode(NULL, NULL) == SKV_ERR_ARG);
    skv_cuda_decode_desc b;
    memset(&b, 0, sizeof b);
    b.host = r.t, b.tables = r.t, b.n_pages = 1, b.pool = r.pool;
    b.page_bytes = r.d.page_bytes, b.slots = r.d.slots, b.rows = r.d.rows;
    CHECK(skv_cuda_decode(&b, NULL) == SKV_OK);         /* neither wanted: nothing to do */
    b.page_bytes = 16;
    CHECK(skv_cuda_decode(&b, NULL) == SKV_ERR_SHAPE);
    b.host = NULL;
    CHECK(skv_cuda_decode(&b, NULL) == SKV_ERR_ARG);
    rig_free(&r);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    device_needed();
    RUN(pages_are_those_of_the_cpu);
    RUN(rows_come_back);
    RUN(order_of_threads_does_not_matter);
    RUN(rows_may_lie_anywhere);
    RUN(credits_are_a_caches);
    RUN(small_slots_leave_out_rows);
    RUN(bad_numbers_make_no_page);
    RUN(pages_move_between_pools);
    RUN(arguments_are_checked);
    return TEST_END();
}
