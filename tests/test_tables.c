/* test_tables.c: the block that skv_codec_tables and skv_cache_tables write is all that a reader of
 * pages needs: one that knows nothing else decodes them here. And skv_cache_page. */
#define SKV_STATIC
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"
#include "synthetic.h"

#define TOKENS 64u

static uint32_t byte16(const unsigned char *p) { return p[0] | (uint32_t)p[1] << 8; }
static const void *at(const skv_table *t, uint32_t offset)
{
    return (const unsigned char *)t + offset;
}

static skv_table *tables_of(const skv_codec *c, uint32_t layer)
{
    size_t bytes = 0, again = 0;
    skv_table *t;
    CHECK(skv_codec_tables(c, layer, NULL, 0, &bytes) == SKV_OK && bytes > sizeof(skv_table));
    t = (skv_table *)malloc(bytes);
    if (!t) abort();
    CHECK(skv_codec_tables(c, layer, t, bytes - 1, &again) == SKV_ERR_ARG && again == bytes);
    CHECK(skv_codec_tables(c, layer, t, bytes, &again) == SKV_OK && again == bytes);
    CHECK(t->magic == SKV_TABLE_MAGIC && t->bytes == bytes && t->layer == layer);
    return t;
}

/* Level of a token of a channel of a quad, bit by bit: lane, step, then the newest 8 bits. */
static int level_of(const skv_table_mode *m, const unsigned char *quad, int values, uint32_t b,
                    uint32_t token)
{
    const uint32_t lane = token % 4, step = token / 4, h = m->half, end = (step + 1) * h / 2;
    const signed char *a = m->part[step & h & 1u][0], *c = m->part[step & h & 1u][1];
    uint32_t window = 0, i;
    for (i = 0; i < 8; i++) {
        const uint32_t bit = end + i, l = bit < 8 ? (lane + 3) % 4 : lane;
        const uint32_t byte = bit < 8 ? h - 1 : bit / 8 - 1;
        window |= (uint32_t)(quad[16 * byte + (values ? 4 * b + l : 4 * l + b)] >> bit % 8 & 1)
                  << i;
    }
    return a[window & 15u] + c[window >> 4 ^ (window & 15u)];
}

/* Latents u[n][64] of a stream of a page, outlier rows among them. */
static void read_stream(const skv_table *t, uint32_t index, const unsigned char *page, float *u)
{
    const skv_table_stream *all = (const skv_table_stream *)at(t, t->stream), *s = &all[index];
    const uint32_t *quads = (const uint32_t *)at(t, s->quads);
    const unsigned char *sub = page + s->offset, *row = page + t->least;
    uint32_t c, token, i, rows = byte16(page + 2);
    memset(u, 0, s->n * TOKENS * sizeof *u);
    for (c = 0; c < s->n && c < s->coded; c++) {
        const skv_table_mode *m = &t->mode[quads[c / 4] % 16];
        const int e = sub[4] + (sub[5 + c / 2] >> 4 * (c % 2) & 15);
        const double step = (double)m->unit * pow(2, e / 4.0 - 32);
        for (token = 0; token < TOKENS; token++)
            u[c * TOKENS + token] = (float)(step * level_of(m, sub + quads[c / 4] / 16,
                                                            index >= t->n_groups, c % 4, token));
    }
    for (; rows--; row += 2 + 2 * all[i].n) {
        i = row[0] + (uint32_t)(row[1] / 64) * 256;
        for (c = 0; i == index && c < s->n; c++)
            u[c * TOKENS + row[1] % 64] = skvi_from_f16((uint16_t)byte16(row + 2 + 2 * c));
    }
}

/* x[TOKENS][n]: mean, turned mean, and latents turned back, in double. */
static void rows_of(const skv_table *t, uint32_t index, const float *u, uint32_t position,
                    double *x)
{
    const skv_table_stream *s = (const skv_table_stream *)at(t, t->stream) + index;
    const float *mean = (const float *)at(t, s->mean), *turn = (const float *)at(t, s->turn);
    const float *decode = (const float *)at(t, s->decode);
    const uint64_t *turns = (const uint64_t *)at(t, t->turns);
    const uint32_t apart = t->style == SKV_ROPE_ADJACENT ? 1 : t->pairs;
    uint32_t token, i, c, h, p;
    for (token = 0; token < TOKENS; token++, x += s->n) {
        for (i = 0; i < s->n; i++) {
            x[i] = (double)mean[i];
            for (c = 0; c < s->n; c++)
                x[i] += (double)u[c * TOKENS + token] * (double)decode[c * s->n + i];
        }
        for (h = 0; s->turn && h < s->heads; h++)
            for (p = 0; p < t->pairs; p++) {
                uint64_t phase = turns[p] * (2 * (uint64_t)(position + token));
                double a = 6.283185307179586 * ((double)phase / 18446744073709551616.0);
                uint32_t k = h * s->dim + (t->style == SKV_ROPE_ADJACENT ? 2 * p : p);
                x[k] += cos(a) * (double)turn[k] - sin(a) * (double)turn[k + apart];
                x[k + apart] += sin(a) * (double)turn[k] + cos(a) * (double)turn[k + apart];
            }
    }
}

static void compare(const skv_table *t, const unsigned char *page, uint32_t position,
                    const float *k, const float *v)
{
    const skv_table_stream *s = (const skv_table_stream *)at(t, t->stream);
    uint32_t i, token, c;
    for (i = 0; i < 2 * t->n_groups; i++) {
        const uint32_t n = s[i].n, g = i % t->n_groups;
        const size_t width = (size_t)t->shape.n_kv_heads * s[i].dim;
        const float *want = (i < t->n_groups ? k : v) + g * t->head_group * s[i].dim;
        float *u = (float *)malloc(n * TOKENS * sizeof *u);
        double *x = (double *)malloc(n * TOKENS * sizeof *x);
        if (!u || !x) abort();
        read_stream(t, i, page, u);
        rows_of(t, i, u, position, x);
        for (token = 0; token < TOKENS; token++)
            for (c = 0; c < n; c++)
                CHECK_NEAR(want[token * width + c], x[token * n + c], 2e-4);
        free(u);
        free(x);
    }
}

static void one_codec(uint32_t kv, uint32_t d, uint32_t dv, uint32_t group, skv_rope style,
                      uint32_t pairs, float bpe, uint32_t position)
{
    syn s = {{0, 0, 0, 0, 0, 0, 0}, 3, 1.0f, 2.0f, 0.05f, 3};
    skv_codec_desc desc = SKV_ZERO;
    skv_codec *c = NULL;
    skv_profile *p;
    skv_table *t;
    syn_data x;
    size_t bytes = 0, most = 0, n = 0;
    unsigned char *page;
    float *k, *v;
    s.shape.n_q_heads = s.shape.n_kv_heads = kv;
    s.shape.head_dim = d;
    s.shape.head_dim_v = dv;
    p = pairs ? syn_profile_turned(&s, 1, group, style, pairs) : syn_profile_direct(&s, 1, group);
    desc.profile = p;
    desc.target.bpe = bpe;
    CHECK(skv_codec_init(&c, &desc) == SKV_OK);
    t = tables_of(c, 0);
    CHECK(skv_codec_page_bytes(c, 0, &bytes, &most) == SKV_OK);
    CHECK(t->least == bytes && t->most == most);
    page = (unsigned char *)malloc(most);
    k = (float *)malloc(TOKENS * kv * d * sizeof *k);
    v = (float *)malloc(TOKENS * kv * dv * sizeof *v);
    x = syn_make(&s, 0, 1, TOKENS);
    if (page && k && v) {
        skv_span ks = skv_f32(x.k), vs = skv_f32(x.v);
        CHECK(skv_encode(c, 0, &ks, &vs, TOKENS, position, page, most, &bytes) == SKV_OK);
        CHECK(skv_decode(c, 0, page, bytes, k, v, &n) == SKV_OK && n == TOKENS);
        CHECK(byte16(page + 2) > 0);                    /* outlier rows are met too */
        compare(t, page, position, k, v);
    }
    syn_free(&x);
    free(page);
    free(k);
    free(v);
    free(t);
    skv_codec_free(c);
    skv_profile_free(p);
}

TEST(a_reader_needs_nothing_else)
{
    one_codec(2, 64, 64, 1, SKV_ROPE_HALVES, 32, 2.0f, 0);
    one_codec(2, 64, 64, 1, SKV_ROPE_ADJACENT, 20, 4.0f, 123456);
    one_codec(3, 30, 50, 3, SKV_ROPE_HALVES, 15, 3.0f, 70);     /* joint, odd sizes */
    one_codec(1, 40, 40, 1, SKV_ROPE_HALVES, 0, 7.0f, 4000000000u);
}

/* Turns are exact where a float product of position and frequency has lost all of its digits. */
TEST(turns_of_any_position)
{
    const float freq[] = {1, -1, 10, -10, 0.75f, 3.1415927f, 1e-4f, 1e-9f, -2.5e-6f, 1e-30f, 0};
    size_t i, k;
    for (i = 0; i < sizeof freq / sizeof *freq; i++)
        for (k = 0; k < 32; k++) {
            uint32_t position = (1u << k) + 12345u % (1u << k);
            double x = (double)(skvi_table_turns(freq[i]) * position) / 18446744073709551616.0;
            double want = (double)position * (double)freq[i];
            CHECK_NEAR(cos(6.283185307179586 * x), cos(want), 2e-5);
            CHECK_NEAR(sin(6.283185307179586 * x), sin(want), 2e-5);
        }
}

TEST(pages_of_a_cache)
{
    syn s = {{0, 0, 0, 0, 0, 0, 0}, 3, 1.0f, 2.0f, 0, 0};
    skv_cache_desc d = SKV_ZERO;
    skv_cache *c = NULL, *exact = NULL;
    skv_profile *p;
    syn_data x;
    size_t bytes = 0, i;
    const void *page = NULL;
    skv_span k, v;
    s.shape.n_q_heads = s.shape.n_kv_heads = 2;
    s.shape.head_dim = 32;
    s.shape.sliding_window = 200;
    p = syn_profile_direct(&s, 1, 1);
    d.profile = p;
    d.target.bpe = 3;
    d.max_tokens = 600;
    CHECK(skv_cache_init(&c, &d) == SKV_OK);
    x = syn_make(&s, 0, 1, 600);
    k = skv_f32(x.k);
    v = skv_f32(x.v);
    CHECK(skv_cache_page(c, 0, 0, &page, &bytes) == SKV_ERR_ARG && !page && !bytes);
    CHECK(skv_append(c, 0, &k, &v, 500) == SKV_OK && skv_append(c, 0, &k, &v, 100) == SKV_OK);
    CHECK(skv_cache_page(c, 0, 0, &page, &bytes) == SKV_ERR_STATE && !page);    /* out of sight */
    for (i = c->cl[0].dropped; i < c->cl[0].n_pages; i++) {
        CHECK(skv_cache_page(c, 0, i, &page, &bytes) == SKV_OK && bytes);
        CHECK(skvi_check_page(&c->coder, 0, (const unsigned char *)page, bytes) == SKV_OK);
        CHECK(skvi_get32((const unsigned char *)page + 8) == 4 + 64 * i);
    }
    CHECK(i > c->cl[0].dropped && skv_cache_page(c, 0, i, &page, &bytes) == SKV_ERR_ARG);
    CHECK(skv_cache_page(c, 1, 0, &page, &bytes) == SKV_ERR_ARG);
    CHECK(skv_cache_page(NULL, 0, 0, &page, &bytes) == SKV_ERR_ARG);
    CHECK(skv_cache_tables(c, 1, NULL, 0, &bytes) == SKV_ERR_ARG);
    CHECK(skv_cache_tables(c, 0, NULL, 0, NULL) == SKV_ERR_ARG);
    CHECK(skv_cache_tables(c, 0, NULL, 0, &bytes) == SKV_OK && bytes);
    CHECK(skv_codec_tables(NULL, 0, NULL, 0, &bytes) == SKV_ERR_ARG);
    d.profile = NULL;
    d.model = syn_model(&s, 1);
    CHECK(skv_cache_init(&exact, &d) == SKV_OK);
    CHECK(skv_cache_tables(exact, 0, NULL, 0, &bytes) == SKV_ERR_STATE);
    CHECK(skv_cache_page(exact, 0, 0, &page, &bytes) == SKV_ERR_ARG);
    syn_free(&x);
    skv_cache_free(exact);
    skv_cache_free(c);
    skv_profile_free(p);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(a_reader_needs_nothing_else);
    RUN(turns_of_any_position);
    RUN(pages_of_a_cache);
    return TEST_END();
}
