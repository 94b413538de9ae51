/* test_cuda_cold.cpp: skv_cuda_cold_decode on emulated CUDA (tests/cuda_emulation). Integers are
 * the CPU's one by one; rows are skv_cold_decode's but for the order of float sums.
 */
#include "cuda_device.h"
#define SKV_STATIC                  /* what a test does not use is not compiled */
#define SKV_NO_SIMD                 /* the reference: portable loops */
#define SPECTRAL_KV_IMPLEMENTATION
#define SPECTRAL_KV_CUDA
#include "spectral_kv.h"
#include "test.h"
#include "cold_world.h"
#include <vector>

enum { PAGES = 5 };
struct shape {
    uint32_t kv, d, dv, group, depth;
    skv_rope style;
    float    bpe;
};
static const shape shapes[] = {
    {2, 32, 32, 2, 1, SKV_ROPE_ADJACENT, 2},
    {1, 80, 80, 1, 1, SKV_ROPE_HALVES, 4},
    {3, 16, 24, 2, 2, SKV_ROPE_HALVES, 1},          /* head groups of two and one */
    {2, 32, 16, 1, 0, SKV_ROPE_ADJACENT, 3},        /* nothing predicted from other layers */
};
static const uint32_t tokens_of[PAGES] = {64, 64, 33, 1, 64};
static const double rate_of[PAGES] = {1, 2, 1, 0.5, 1};     /* pages bring their own step */

/* Pages of all layers, and what the CPU makes of them. */
struct rig {
    world                      w;
    std::vector<unsigned char> pages[MAX_LAYERS];
    std::vector<uint64_t>      at[MAX_LAYERS];
    std::vector<float>         k[MAX_LAYERS], v[MAX_LAYERS];    /* [PAGES][64][row] */
    std::vector<int32_t>       q[MAX_LAYERS];   /* of page 0, of the last stream */
    std::vector<uint64_t>      tables[MAX_LAYERS], held, work;
    std::vector<int32_t>       rows, status;
    std::vector<uint32_t>      counts, positions;
    std::vector<float>         gk, gv;
    skv_cuda_cold_desc         d;
};

static uint32_t keys(const rig *r) { return r->w.shape.n_kv_heads * r->w.shape.head_dim; }
static uint32_t values(const rig *r) { return r->w.shape.n_kv_heads * r->w.shape.head_dim_v; }
template <class T> static T *even(std::vector<T> &x)     /* at a multiple of 16 */
{
    return x.data() + ((size_t)x.data() / 8 & 1);
}

static void rig_page(rig *r, uint32_t p, double bpe, uint32_t to)
{
    skv_cold *a = coder_of(&r->w, bpe * rate_of[p]), *b = coder_of(&r->w, 4);
    const uint32_t n = tokens_of[p], position = 40 + 64 * p;
    std::vector<unsigned char> page(skv_cold_page_most(a));
    size_t bytes = 0, got;
    world_text(&r->w, n, position);
    for (uint32_t l = 0; l < r->w.n_layers; l++) {
        skv_span sk = skv_f32(r->w.k[l]), sv = skv_f32(r->w.v[l]);
        CHECK(skv_cold_encode(a, l, position, &sk, &sv, n, page.data(), page.size(), &bytes) ==
              SKV_OK);
        CHECK(skv_cold_decode(b, l, to == SKV_NONE ? to : to + p, page.data(), bytes,
                              r->k[l].data() + (size_t)64 * p * keys(r),
                              r->v[l].data() + (size_t)64 * p * values(r), &got) == SKV_OK);
        if (!p) r->q[l].assign(b->q, b->q + 64 * b->max_width);
        r->pages[l].insert(r->pages[l].end(), page.begin(), page.begin() + (long)bytes);
        r->at[l].push_back(r->pages[l].size());
    }
    skv_cold_free(a);
    skv_cold_free(b);
}

/* to: where keys are turned to (page p to to + p), or SKV_NONE. */
static int rig_new(rig *r, const shape *s, uint32_t to)
{
    if (!world_new(&r->w, s->kv, s->d, s->dv, s->group, s->depth, s->style)) return 0;
    memset(&r->d, 0, sizeof r->d);
    for (uint32_t l = 0; l < r->w.n_layers; l++) {
        size_t bytes = 0;
        r->k[l].assign((size_t)PAGES * 64 * keys(r), 0);
        r->v[l].assign((size_t)PAGES * 64 * values(r), 0);
        r->at[l].push_back(0);
        CHECK(skv_cold_tables(r->w.cold, l, NULL, 0, &bytes) == SKV_OK);
        r->tables[l].resize(bytes / 8 + 3);
        CHECK(skv_cold_tables(r->w.cold, l, even(r->tables[l]), bytes - 1, &bytes) == SKV_ERR_ARG);
        CHECK(skv_cold_tables(r->w.cold, l, even(r->tables[l]), bytes, &bytes) == SKV_OK);
    }
    for (uint32_t p = 0; p < PAGES; p++) {
        rig_page(r, p, s->bpe, to);
        r->counts.push_back(tokens_of[p]);
        r->positions.push_back(to + p);
        for (uint32_t i = 0; i < 64; i++) r->rows.push_back((int32_t)(64 * (PAGES - 1 - p) + i));
    }
    r->status.assign(PAGES, 77);
    r->gk.assign((size_t)PAGES * 64 * keys(r), -5);
    r->gv.assign((size_t)PAGES * 64 * values(r), -5);
    r->d.n_pages = PAGES;
    r->d.counts = r->counts.data();
    r->d.positions = to == SKV_NONE ? NULL : r->positions.data();
    r->d.rows = r->rows.data();
    r->d.status = r->status.data();
    r->d.k.data = r->gk.data();
    r->d.v.data = r->gv.data();
    return 1;
}

static skv_result rig_decode(rig *r, uint32_t l)
{
    skv_cuda_cold_desc *d = &r->d;
    d->host = (const skv_cold_table *)even(r->tables[l]);
    d->tables = d->host;
    d->pages = r->pages[l].data();
    d->at = r->at[l].data();
    d->work_bytes = skv_cuda_cold_work(d);
    d->held_bytes = skv_cuda_cold_held(d);
    r->work.resize(d->work_bytes / 8 + 3);
    emu::fill(r->work.data(), r->work.size() * 8);
    d->work = even(r->work);
    if (r->held.empty()) {
        r->held.resize(d->held_bytes / 8 + 3);
        emu::fill(r->held.data(), r->held.size() * 8);
    }
    d->held = even(r->held);
    const skv_result result = skv_cuda_cold_decode(d, NULL);
    finish();
    return result;
}

/* The largest difference of a page's rows from the CPU's; NaN counts as much as can be. */
static double differ(const rig *r, uint32_t l, uint32_t p)
{
    double worst = 0;
    for (uint32_t t = 0; t < tokens_of[p]; t++)
        for (uint32_t i = 0; i < keys(r) + values(r); i++) {
            const size_t cpu = 64 * p + t, gpu = (size_t)r->rows[64 * p + t], at = i - keys(r);
            const double e = i < keys(r)
                ? fabs((double)r->k[l][cpu * keys(r) + i] - (double)r->gk[gpu * keys(r) + i])
                : fabs((double)r->v[l][cpu * values(r) + at] - (double)r->gv[gpu * values(r) + at]);
            if (!(e <= worst)) worst = e < 1e30 ? e : 1e30;
        }
    return worst;
}

TEST(rows_are_the_cpus)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        rig r;
        if (getenv("SKV_SANITIZED") && i % 2) continue;
        if (!rig_new(&r, &shapes[i], i % 2 ? 5000 : SKV_NONE)) abort();
        emu::seed(i);                   /* another order of threads */
        for (uint32_t l = 0; l < r.w.n_layers; l++) {
            CHECK(rig_decode(&r, l) == SKV_OK);
            for (uint32_t p = 0; p < PAGES; p++) {
                CHECK(r.status[p] == SKV_OK);
                CHECK(differ(&r, l, p) < 1e-4);         /* rows are up to about 10 */
                for (uint32_t t = tokens_of[p]; t < 64; t++)        /* no such token */
                    CHECK(r.gk[(size_t)r.rows[64 * p + t] * keys(&r)] == -5);
            }
            /* work: pages, coded, integers [stream's place][64] */
            const skv_cold_table *t = r.d.host;
            const uint32_t last = 2 * t->n_groups - 1;
            const skv_cold_table_stream *s = (const skv_cold_table_stream *)
                (const void *)((const char *)t + t->stream) + last;
            const char *work = (const char *)even(r.work) + sizeof(skvi_cu_cold_page) * PAGES;
            const uint32_t coded = ((const uint32_t *)(const void *)work)[last];
            const int16_t *q = (const int16_t *)(const void *)
                (work + skvi_cu_room_bytes(4 * (last + 1) * PAGES)) + 64 * s->at;
            uint32_t wrong = 0;
            for (uint32_t c = 0; c < coded; c++)
                for (uint32_t token = 0; token < 64; token++)
                    wrong += q[64 * c + token] != r.q[l][token * coded + c];
            CHECK(!wrong && coded > 0 && coded <= s->n);
        }
        world_free(&r.w);
    }
}

/* The page of a bad layer, and that page in the layers that follow, say so; others are fine. */
TEST(damage_is_told)
{
    static const struct { uint32_t at; unsigned char by; skv_result result; } faults[] = {
        {0, 1, SKV_ERR_FORMAT}, {1, 2, SKV_ERR_VERSION}, {1, 1, SKV_ERR_FORMAT},
        {2, 64, SKV_ERR_FORMAT}, {3, 1, SKV_ERR_FORMAT}, {4, 2, SKV_ERR_FORMAT},
        {6, 1, SKV_ERR_CHECKSUM}, {8, 1, SKV_ERR_STATE}, {12, 1, SKV_ERR_FORMAT},
        {13, 0x40, SKV_ERR_TRUNCATED}, {16, 1, SKV_ERR_CHECKSUM}, {20, 1, SKV_ERR_CHECKSUM},
        {200, 0x80, SKV_ERR_CHECKSUM}
    };
    rig r;
    if (!rig_new(&r, &shapes[0], SKV_NONE)) abort();
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        const uint32_t p = i % 2 ? 4 : 0;
        CHECK(rig_decode(&r, 0) == SKV_OK);
        r.pages[1][r.at[1][p] + faults[i].at] ^= faults[i].by;
        CHECK(rig_decode(&r, 1) == SKV_OK);
        r.pages[1][r.at[1][p] + faults[i].at] ^= faults[i].by;
        skv_result want = faults[i].result;
        if (faults[i].at == 12 && !(r.pages[1][r.at[1][p] + 12] & 1)) want = SKV_ERR_TRUNCATED;
        for (uint32_t k = 0; k < PAGES; k++) {
            CHECK(r.status[k] == (k == p ? want : SKV_OK));
            CHECK((differ(&r, 1, k) < 1e-4) == (k != p));
        }
        CHECK(r.gk[(size_t)r.rows[64 * p] * keys(&r)] != r.gk[(size_t)r.rows[64 * p] * keys(&r)]);
        CHECK(rig_decode(&r, 2) == SKV_OK);
        for (uint32_t k = 0; k < PAGES; k++)
            CHECK(r.status[k] == (k == p ? SKV_ERR_STATE : SKV_OK));
    }
    /* damage behind a checksum that fits: any answer but a wrong place in memory */
    skv_cold *c = coder_of(&r.w, 2);
    for (uint32_t round = 0; round < 12; round++) {
        std::vector<unsigned char> good = r.pages[0];
        unsigned char *b = r.pages[0].data() + r.at[0][1];
        const size_t bytes = r.at[0][2] - r.at[0][1];
        std::vector<float> k(64 * keys(&r)), v(64 * values(&r));
        size_t n = 0;
        for (size_t i = SKVI_COLD_HEADER + test_u64() % 90; i < bytes; i++)
            if (round % 3 == 0 || test_u64() % 50 == 0) b[i] = (unsigned char)test_u64();
        skvi_put16(b + 6, (uint32_t)(test_u64() % 4000) + 31000u);
        skvi_put32(b + 16, skvi_cold_page_crc(c, 0, b, bytes));
        CHECK(rig_decode(&r, 0) == SKV_OK);
        CHECK(r.status[1] == skv_cold_decode(c, 0, SKV_NONE, b, bytes, k.data(), v.data(), &n));
        CHECK(r.status[0] == SKV_OK && r.status[2] == SKV_OK);
        r.pages[0] = good;
    }
    skv_cold_free(c);
    world_free(&r.w);
}

TEST(arguments_are_checked)
{
    rig r;
    size_t bytes = 0;
    if (!rig_new(&r, &shapes[3], SKV_NONE)) abort();
    CHECK(skv_cold_tables(r.w.cold, MAX_LAYERS, NULL, 0, &bytes) == SKV_ERR_ARG);
    CHECK(skv_cold_tables(NULL, 0, NULL, 0, &bytes) == SKV_ERR_ARG);
    CHECK(rig_decode(&r, 0) == SKV_OK);
    skv_cuda_cold_desc good = r.d, d;
    CHECK(skv_cuda_cold_decode(NULL, NULL) == SKV_ERR_ARG && !skv_cuda_cold_work(NULL));
#define REFUSED(change) \
    do { d = good; change; CHECK(skv_cuda_cold_decode(&d, NULL) == SKV_ERR_ARG); } while (0)
    REFUSED(d.host = NULL);
    REFUSED(d.tables = NULL);
    REFUSED(d.tables = (const char *)d.tables + 4);
    REFUSED(d.n_pages = 0);
    REFUSED(d.n_pages = 65536);
    REFUSED(d.pages = NULL);
    REFUSED(d.at = NULL);
    REFUSED(d.rows = NULL);
    REFUSED(d.held_bytes--);
    REFUSED(d.work_bytes--);
    REFUSED(d.held = (char *)d.held + 8);
    REFUSED(d.k.dtype = (skv_dtype)(SKV_BF16 + 1));
    d = good;                           /* keys alone, as f16 */
    std::vector<uint16_t> half((size_t)PAGES * 64 * keys(&r));
    d.v.data = NULL;
    d.k.data = half.data();
    d.k.dtype = SKV_F16;
    CHECK(skv_cuda_cold_decode(&d, NULL) == SKV_OK);
    finish();
    for (uint32_t i = 0; i < keys(&r); i++) {
        const size_t at = (size_t)r.rows[0] * keys(&r) + i;
        CHECK(half[at] == skvi_to_f16(r.gk[at]));
    }
    world_free(&r.w);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    device_needed();
    RUN(rows_are_the_cpus);
    RUN(damage_is_told);
    RUN(arguments_are_checked);
    return TEST_END();
}
