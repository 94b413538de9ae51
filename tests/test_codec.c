/* test_codec.c: pages without a cache. An independent decoder in double, written from the manual's
 * page format, stands beside skv_decode; residual norms are recomputed; a golden page pins the
 * bytes. */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"
#include "synthetic.h"

#define TOKENS SKV_PAGE_TOKENS
#define GUARD 64

static skv_codec *codec_new(const skv_profile *p, float bpe, float outliers)
{
    skv_codec_desc d = SKV_ZERO;
    skv_codec *c = NULL;
    d.profile = p;
    d.target.bpe = bpe;
    d.outliers = outliers;
    CHECK(p && skv_codec_init(&c, &d) == SKV_OK);
    if (!c) abort();
    return c;
}

/* --- the format, once more ---------------------------------------------------------------- */

typedef struct ref_sub {
    size_t D, bytes;
    double largest, rms;            /* residual norms as stored */
    double *u;                      /* [64][D] whitened latents, outlier rows in place */
    size_t rows;
} ref_sub;

/* Half bits of a channel, by the plan's counts from the richest mode down. */
static size_t ref_half_bits(const skvi_plan *plan, size_t channel)
{
    static const size_t half[SKVI_MODES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16};
    size_t m, end = 0;
    for (m = SKVI_MODES - 1; m; m--)
        if (channel < (end += plan->n[m])) return half[m];
    return 0;
}

/* Bit i of a channel's circle: lane i / (8 h) of it, 16 bytes between a lane's. */
static unsigned ref_bit(const unsigned char *quad, size_t h, int kind, size_t channel, size_t i)
{
    size_t lane = i / (8 * h), bit = i % (8 * h);
    return (unsigned)quad[bit / 8 * 16 + (kind ? 4 * channel + lane : 4 * lane + channel)] >>
           bit % 8 & 1u;
}

/* What token t of one of a quad's channels is worth, from the newest eight bits before its end. */
static double ref_level(const unsigned char *quad, size_t h, int kind, size_t channel, size_t t)
{
    const skvi_code *code = &skvi_codes[h <= 8 ? h : h / 2 + 4];
    size_t step = t / 4, end = t % 4 * 8 * h + (step + 1) * h / 2, i;
    unsigned w = 0;
    for (i = 0; i < 8; i++)
        w |= ref_bit(quad, h, kind, channel, (end + 32 * h - 8 + i) % (32 * h)) << i;
    i = h & step & 1;
    return (double)(code->part[i][0][w % 16] + code->part[i][1][w / 16 ^ w % 16]) *
           (double)code->unit;
}

static unsigned ref_u16(const unsigned char *p) { return p[0] + 256u * p[1]; }

static double ref_half(unsigned h)
{
    int e = (int)(h >> 10 & 31), m = (int)(h & 1023);
    double x = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -x : x;
}

/* Sub number `local` of a page into r; r->u is allocated. */
static void ref_read(const skv_codec *c, uint32_t layer, size_t local, const unsigned char *page,
                     ref_sub *r)
{
    const skv_profile *p = c->coder.profile;
    const skvi_plan *plans = c->coder.plan + p->first[layer];
    const skvi_stream *streams = p->stream + p->first[layer];
    size_t n_streams = p->first[layer + 1] - p->first[layer], i, ch, t, at = 12, left, coded;
    const unsigned char *sub = page, *codes;
    for (i = 0; i < n_streams; i++) {
        size_t bytes = 5;
        for (ch = 0; ref_half_bits(&plans[i], ch); ch += 4)     /* whole quads */
            bytes += 2 + 16 * ref_half_bits(&plans[i], ch);
        if (i == local) {
            sub = page + at;
            r->bytes = bytes;
        }
        at += bytes;
    }
    r->D = streams[local].D;
    r->u = (double *)calloc(TOKENS * r->D, sizeof(double));
    if (!r->u) abort();
    r->largest = (double)skvi_from_bf16((uint16_t)ref_u16(sub));
    r->rms = (double)skvi_from_bf16((uint16_t)ref_u16(sub + 2));
    for (coded = 0; ref_half_bits(&plans[local], coded); coded += 4) continue;
    for (codes = sub + 5 + coded / 2, ch = 0; ch < coded; ch++) {
        size_t h = ref_half_bits(&plans[local], ch);
        int nibble = ch % 2 ? sub[5 + ch / 2] >> 4 : sub[5 + ch / 2] & 15;
        double scale = pow(2, (sub[4] + nibble) / 4.0 - 32);
        for (t = 0; t < TOKENS && ch < r->D; t++)
            r->u[t * r->D + ch] = scale * ref_level(codes, h, local >= n_streams / 2, ch % 4, t);
        if (ch % 4 == 3) codes += 16 * h;
    }
    for (r->rows = 0, left = ref_u16(page + 2); left; left--) {
        size_t number = page[at] + 256u * (page[at + 1] >> 6), D = streams[number].D;
        for (ch = 0; number == local && ch < D; ch++)
            r->u[(page[at + 1] & 63u) * D + ch] = ref_half(ref_u16(page + at + 2 + 2 * ch));
        r->rows += number == local;
        at += 2 + 2 * D;
    }
    CHECK(at == skvi_get32(page + 4));
}

/* What a token at a position has beside its latents: the mean, and the turned one of keys. */
static void ref_mean(const skv_profile *p, uint32_t layer, const skvi_stream *s, double position,
                     double *mean)
{
    const skvi_turn *r = &p->turn[layer];
    size_t i, h;
    for (i = 0; i < s->D; i++) mean[i] = (double)s->mean[i];
    for (h = 0; h < s->heads && s->turn; h++)
        syn_turn(r->style, r->pairs, r->freq, s->turn + h * s->dim, position, 1,
                 mean + h * s->dim);
}

/* One stream of a page: rows against skv_decode's, residual norms against the true ones. */
static void check_stream(const skv_codec *c, uint32_t layer, size_t local, const float *x,
                         const float *decoded, size_t n, size_t first_pos,
                         const unsigned char *page)
{
    const skv_profile *p = c->coder.profile;
    size_t n_streams = p->first[layer + 1] - p->first[layer], g = local % (n_streams / 2);
    const skvi_stream *s = p->stream + p->first[layer] + local;
    size_t D = s->D, all = (size_t)p->layers[layer].n_kv_heads * s->dim, t, ch, i;
    size_t first = g * p->head_group * s->dim;
    double largest = 0, sum = 0, size = 0, *mean = (double *)malloc(D * sizeof *mean);
    ref_sub r;
    if (!mean) abort();
    ref_read(c, layer, local, page, &r);
    CHECK(r.D == D && r.bytes == c->coder.plan[p->first[layer] + local].bytes);
    for (t = 0; t < n; t++) {
        double e = 0, zz = 0;
        ref_mean(p, layer, s, (double)(first_pos + t), mean);
        for (i = 0; i < D; i++) {
            double want = mean[i], tol = fabs(want);
            for (ch = 0; ch < D; ch++) {
                double term = r.u[t * D + ch] * (double)s->dec[ch * D + i];
                want += term;
                tol += fabs(term);
            }
            CHECK_NEAR(decoded[t * all + first + i], want, 1e-5 * tol);
        }
        for (ch = 0; ch < D; ch++) {
            double u = 0, sd = sqrt((double)s->var[ch]);
            for (i = 0; i < D; i++)
                u += (double)s->enc[ch * D + i] * ((double)x[t * all + first + i] - mean[i]);
            e += sd * sd * (u - r.u[t * D + ch]) * (u - r.u[t * D + ch]);
            zz += sd * sd * u * u;
        }
        sum += e;
        largest = e > largest ? e : largest;
        size = zz > size ? zz : size;
        CHECK(sqrt(e) <= r.largest + 1e-6 * sqrt(zz));
    }
    CHECK(sqrt(sum / (double)n) <= r.rms * 1.00001 + 1e-6 * sqrt(size));
    CHECK(r.largest <= 1.01 * sqrt(largest) + 1e-6 * sqrt(size));      /* and not loose */
    CHECK(r.rms <= 1.01 * sqrt(sum / (double)n) + 1e-6 * sqrt(size));
    free(r.u);
    free(mean);
}

/* Encodes tokens from a position on, checks everything that can be known about the page; returns
   its size. */
static size_t check_page_at(skv_codec *c, uint32_t layer, const float *k, const float *v, size_t n,
                            size_t first, unsigned char *page)
{
    const skv_profile *p = c->coder.profile;
    const skv_layer *l = &p->layers[layer];
    size_t least = 0, most = 0, bytes = 0, got = 0, i, streams;
    size_t wk = (size_t)l->n_kv_heads * l->head_dim, wv = (size_t)l->n_kv_heads * l->head_dim_v;
    float *dk = (float *)malloc((TOKENS * wk + 1) * sizeof(float));
    float *dv = (float *)malloc((TOKENS * wv + 1) * sizeof(float));
    skv_span sk = skv_f32(k), sv = skv_f32(v);
    if (!dk || !dv) abort();
    dk[n * wk] = dv[n * wv] = 12345.0f;
    CHECK(skv_codec_page_bytes(c, layer, &least, &most) == SKV_OK && least <= most);
    memset(page, 0x5A, most + GUARD);
    CHECK(skv_encode(c, layer, &sk, &sv, n, first, page, most, &bytes) == SKV_OK);
    CHECK(bytes >= least && bytes <= most);
    for (i = bytes; i < most + GUARD; i++) CHECK(page[i] == 0x5A);
    CHECK(page[0] == 3 && page[1] == n && skvi_get32(page + 4) == bytes);
    CHECK(skvi_get32(page + 8) == first);
    CHECK((ref_u16(page + 2) == 0) == (bytes == least));
    CHECK(skv_decode(c, layer, page, bytes, dk, dv, &got) == SKV_OK && got == n);
    CHECK(dk[n * wk] == 12345.0f && dv[n * wv] == 12345.0f);
    streams = p->first[layer + 1] - p->first[layer];
    for (i = 0; i < streams; i++)
        check_stream(c, layer, i, i < streams / 2 ? k : v, i < streams / 2 ? dk : dv, n, first,
                     page);
    free(dk);
    free(dv);
    return bytes;
}

static size_t check_page(skv_codec *c, uint32_t layer, const float *k, const float *v, size_t n,
                         unsigned char *page)
{
    return check_page_at(c, layer, k, v, n, 0, page);
}

static unsigned char *page_room(const skv_codec *c, uint32_t layer)
{
    size_t most = 0;
    unsigned char *p;
    (void)skv_codec_page_bytes(c, layer, NULL, &most);
    p = (unsigned char *)malloc(most + GUARD);
    if (!p) abort();
    return p;
}

/* --- quality and size --------------------------------------------------------------------- */

/* Squared error of a page in units of the latents, K and V together, and the raw ones. */
static double page_error(skv_codec *c, const syn_data *x, double *raw_k, double *raw_v,
                         size_t *bytes)
{
    const skv_profile *p = c->coder.profile;
    size_t wk = (size_t)p->layers[0].n_kv_heads * p->layers[0].head_dim;
    size_t wv = (size_t)p->layers[0].n_kv_heads * p->layers[0].head_dim_v, i, n = 0, most = 0;
    float *k = (float *)malloc(TOKENS * wk * sizeof(float));
    float *v = (float *)malloc(TOKENS * wv * sizeof(float));
    unsigned char *page = page_room(c, 0);
    skv_span sk = skv_f32(x->k), sv = skv_f32(x->v);
    double error = 0;
    (void)skv_codec_page_bytes(c, 0, NULL, &most);
    CHECK(skv_encode(c, 0, &sk, &sv, TOKENS, 0, page, most, bytes) == SKV_OK);
    CHECK(skv_decode(c, 0, page, *bytes, k, v, &n) == SKV_OK);
    *raw_k = syn_relative_error(k, x->k, TOKENS * wk);
    *raw_v = syn_relative_error(v, x->v, TOKENS * wv);
    for (i = 0; i < p->first[1]; i++) {
        ref_sub r;
        ref_read(c, 0, i, page, &r);
        error += r.rms * r.rms;
        free(r.u);
    }
    free(k);
    free(v);
    free(page);
    return error;
}

TEST(error_falls_with_bits)
{
    static const float bpe[] = {0.8f, 1.2f, 2, 3, 4, 5, 6, 8};
    syn s = {{6, 3, 32, 0, 0, 0, 0}, 3, 1.0f, 2.0f, 0, 0};
    skv_profile *p = syn_profile(&s, 1, 3, 3, 320);
    syn_data x = syn_make(&s, 0, 1, TOKENS);
    double last = 1e300, e, rk = 0, rv = 0;
    size_t i, bytes = 0;
    for (i = 0; i < sizeof bpe / sizeof bpe[0]; i++) {
        skv_codec *c = codec_new(p, bpe[i], -1);
        skv_target t = SKV_ZERO;
        skv_outlook o = SKV_ZERO;
        t.bpe = bpe[i];
        CHECK(skv_profile_outlook(p, &t, &o) == SKV_OK);
        e = page_error(c, &x, &rk, &rv, &bytes);
        CHECK(8.0 * (double)bytes <= (double)bpe[i] * TOKENS * 3 * 64);
        CHECK(8.0 * (double)bytes >= (double)bpe[i] * TOKENS * 3 * 64 * 0.93);
        CHECK(e < last * 0.95);
        CHECK(e > 0.4 * o.error && e < 2.5 * o.error);      /* the outlook is no fiction */
        last = e;
        skv_codec_free(c);
    }
    CHECK(rk < 2e-4 && rv < 2e-4);
    syn_free(&x);
    skv_profile_free(p);
}

TEST(targets_of_energy_and_error)
{
    syn s = {{4, 2, 32, 16, 0, 0, 0}, 4, 1.0f, 3.0f, 0, 0};
    skv_profile *p = syn_profile(&s, 2, 1, 2, 320);
    skv_codec_desc d = SKV_ZERO;
    skv_codec *c = NULL;
    float energy;
    double error = 0, all, share;
    uint32_t i, ch;
    d.profile = p;
    for (energy = 0.5f; energy < 1; energy += 0.15f) {
        d.target.energy = energy;
        CHECK(skv_codec_init(&c, &d) == SKV_OK);
        for (i = 0; i < p->n_streams; i++) {
            const skvi_plan *plan = &c->coder.plan[i];
            CHECK(1 - plan->error / plan->energy >= (double)energy);
            CHECK(1 - plan->error / plan->energy <= (double)energy + 0.2);
        }
        skv_codec_free(c);
    }
    d.target.energy = 0;
    for (all = 0, i = 0; i < p->n_streams; i++)
        for (ch = 0; ch < p->stream[i].D; ch++) all += (double)p->stream[i].var[ch];
    for (share = 0.5; share > 2e-4; share /= 4) {
        d.target.error = (float)(share * all);
        c = NULL;
        CHECK(skv_codec_init(&c, &d) == SKV_OK);
        for (error = 0, i = 0; c && i < p->n_streams; i++) error += c->coder.plan[i].error;
        CHECK(error <= (double)d.target.error && error > 0.8 * (double)d.target.error);
        skv_codec_free(c);
    }
    skv_profile_free(p);
}

TEST(every_count_of_tokens)
{
    syn s = {{2, 2, 16, 24, 0, 0, 0}, 5, 1.0f, 2.0f, 0.05f, 12};
    skv_profile *p = syn_profile_direct(&s, 1, 2);
    skv_codec *c = codec_new(p, 3, 0);
    unsigned char *page = page_room(c, 0);
    syn_data x = syn_make(&s, 0, 1, TOKENS);
    size_t n;
    for (n = 1; n <= TOKENS; n++) check_page(c, 0, x.k, x.v, n, page);
    free(page);
    skv_codec_free(c);
    c = codec_new(p, 3, -1);
    page = page_room(c, 0);
    for (n = 1; n <= TOKENS; n += 9) {
        size_t least = 0, most = 0;
        (void)skv_codec_page_bytes(c, 0, &least, &most);
        CHECK(least == most && check_page(c, 0, x.k, x.v, n, page) == least);
    }
    free(page);
    skv_codec_free(c);
    syn_free(&x);
    skv_profile_free(p);
}

TEST(many_shapes)
{
    static const uint32_t shape[][5] = {    /* n_q, n_kv, d, dv, head group */
        {6, 3, 16, 16, 2}, {3, 3, 17, 33, 1}, {2, 1, 80, 48, 1}, {4, 2, 96, 64, 2},
        {1, 1, 576, 512, 1}, {5, 5, 16, 40, 3}, {7, 7, 19, 17, 7}, {8, 8, 16, 16, 100}};
    size_t i;
    for (i = 0; i < sizeof shape / sizeof shape[0]; i++) {
        syn s = {{shape[i][0], shape[i][1], shape[i][2], shape[i][3], 0, 0, 0}, 10 + i, 1.0f, 2.5f,
                 0.04f, 15};
        skv_profile *p = syn_profile_direct(&s, 2, shape[i][4]);
        skv_codec *c = codec_new(p, i % 2 ? 2.0f : 4.5f, 0);
        unsigned char *page = page_room(c, 1);
        syn_data x = syn_make(&s, 1, 1, TOKENS);
        check_page(c, 1, x.k, x.v, shape[i][2] > 500 ? 3 : TOKENS, page);
        free(page);
        skv_codec_free(c);
        syn_free(&x);
        skv_profile_free(p);
    }
}

/* Layers of different shapes in one profile: offsets and sizes are per layer. */
TEST(mixed_layers)
{
    skv_layer layers[3] = {{4, 2, 32, 0, 0, 0, 0}, {2, 1, 64, 16, 128, 0.1f, 0}, 
                           {3, 3, 16, 48, 0, 0, 30}};
    syn s = {{0, 0, 0, 0, 0, 0, 0}, 6, 1.0f, 2.0f, 0.03f, 10};
    skv_model m = SKV_ZERO;
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *pr = NULL;
    skv_profile *p = NULL;
    skv_codec *c;
    uint32_t i;
    m.n_layers = 3;
    m.layers = layers;
    d.model = m;
    d.head_group = 2;
    d.max_queries = 32;
    CHECK(skv_profiler_init(&pr, &d) == SKV_OK);
    for (i = 0; i < 3; i++) {
        syn_data x;
        skv_span q, k, v;
        s.shape = layers[i];
        x = syn_make(&s, i, 1000, 300);
        q = skv_f32(x.q);
        k = skv_f32(x.k);
        v = skv_f32(x.v);
        CHECK(skv_profiler_add(pr, i, &q, &k, &v, 300) == SKV_OK);
        syn_free(&x);
    }
    CHECK(skv_profiler_fit(pr, NULL, &p) >= SKV_OK);
    skv_profiler_free(pr);
    c = codec_new(p, 3, 0);
    for (i = 0; i < 3; i++) {
        syn_data x;
        unsigned char *page = page_room(c, i);
        s.shape = layers[i];
        x = syn_make(&s, i, 1, TOKENS);
        check_page(c, i, x.k, x.v, TOKENS, page);
        syn_free(&x);
        free(page);
    }
    skv_codec_free(c);
    skv_profile_free(p);
}

/* --- outliers ----------------------------------------------------------------------------- */

TEST(outlier_tokens_are_near_exact)
{
    syn s = {{2, 2, 32, 0, 0, 0, 0}, 8, 1.0f, 2.0f, 0, 1};
    skv_profile *p = syn_profile(&s, 1, 2, 2, 320);
    skv_codec *c = codec_new(p, 3, 0), *none = codec_new(p, 3, -1);
    unsigned char *page = page_room(c, 0);
    static const size_t at[3] = {0, 17, 63};
    float k[TOKENS * 64], v[TOKENS * 64];
    syn_data x = syn_make(&s, 0, 1, TOKENS);
    size_t i, j, n = 0, bytes;
    for (i = 0; i < 3; i++)
        for (j = 0; j < 64; j++) {
            x.k[at[i] * 64 + j] *= 40;
            x.v[at[i] * 64 + j] *= 40;
        }
    bytes = check_page(c, 0, x.k, x.v, TOKENS, page);
    CHECK(skvi_get16(page + 2) == 6);               /* three tokens, K and V */
    CHECK(skv_decode(c, 0, page, bytes, k, v, &n) == SKV_OK);
    for (i = 0; i < 3; i++) {
        CHECK(syn_relative_error(k + at[i] * 64, x.k + at[i] * 64, 64) < 1e-6);
        CHECK(syn_relative_error(v + at[i] * 64, x.v + at[i] * 64, 64) < 1e-6);
    }
    CHECK(syn_relative_error(k + 64, x.k + 64, 16 * 64) < 0.1);
    bytes = check_page(none, 0, x.k, x.v, TOKENS, page);
    CHECK(skvi_get16(page + 2) == 0);
    CHECK(skv_decode(none, 0, page, bytes, k, v, &n) == SKV_OK);
    CHECK(syn_relative_error(k + 17 * 64, x.k + 17 * 64, 64) > 1e-5);
    skv_codec_free(c);
    skv_codec_free(none);
    free(page);
    syn_free(&x);
    skv_profile_free(p);
}

TEST(no_rows_where_they_do_not_pay)
{
    syn s = {{2, 2, 32, 0, 0, 0, 0}, 9, 0, 1.0f, 0, 1};
    skv_profile *p = syn_profile(&s, 1, 1, 3, 320);
    skv_codec *c = codec_new(p, 4, 0);
    unsigned char *page = page_room(c, 0);
    syn_data x = syn_make(&s, 0, 1, TOKENS);
    check_page(c, 0, x.k, x.v, TOKENS, page);       /* Gaussian: no token sticks out */
    CHECK(skvi_get16(page + 2) == 0);
    skv_codec_free(c);
    free(page);
    syn_free(&x);
    skv_profile_free(p);
}

/* More than 256 subs: the row's sub number needs its two high bits. */
TEST(rows_of_many_streams)
{
    syn s = {{300, 300, 16, 0, 0, 0, 0}, 12, 0.5f, 1.0f, 0, 1};
    skv_profile *p = syn_profile_direct(&s, 1, 1);
    skv_codec *c = codec_new(p, 3, 0);
    unsigned char *page = page_room(c, 0), *at;
    syn_data x = syn_make(&s, 0, 1, TOKENS);
    float *k = (float *)malloc(TOKENS * 4800 * sizeof(float));
    float *v = (float *)malloc(TOKENS * 4800 * sizeof(float));
    size_t i, n = 0, bytes, high = 0;
    for (i = 0; i < 4800; i++) {
        x.k[9 * 4800 + i] *= 50;
        x.v[60 * 4800 + i] *= 50;
    }
    bytes = check_page(c, 0, x.k, x.v, TOKENS, page);
    for (at = page + c->coder.least[0]; at < page + bytes; at += 2 + 32) high += at[1] >> 6 == 2;
    CHECK(high >= 80);                              /* subs 512 .. 599 */
    CHECK(skv_decode(c, 0, page, bytes, k, v, &n) == SKV_OK);
    CHECK(syn_relative_error(k + 9 * 4800, x.k + 9 * 4800, 4800) < 1e-6);
    CHECK(syn_relative_error(v + 60 * 4800, x.v + 60 * 4800, 4800) < 1e-6);
    skv_codec_free(c);
    free(page);
    free(k);
    free(v);
    syn_free(&x);
    skv_profile_free(p);
}

/* --- inputs ------------------------------------------------------------------------------- */

static void encode_same(skv_codec *c, const skv_span *k, const skv_span *v, const void *want,
                        size_t want_bytes)
{
    unsigned char *page = page_room(c, 0);
    size_t most = 0, bytes = 0;
    (void)skv_codec_page_bytes(c, 0, NULL, &most);
    CHECK(skv_encode(c, 0, k, v, TOKENS, 0, page, most, &bytes) == SKV_OK);
    CHECK(bytes == want_bytes && !memcmp(page, want, bytes));
    free(page);
}

TEST(dtypes_and_strides_do_not_matter)
{
    enum { H = 3, DK = 20, DV = 28, PAD = 5 };
    syn s = {{H, H, DK, DV, 0, 0, 0}, 14, 1.0f, 2.0f, 0.03f, 10};
    skv_profile *p = syn_profile_direct(&s, 1, 2);
    skv_codec *c = codec_new(p, 3, 0);
    unsigned char *page = page_room(c, 0), raw[TOKENS * H * DV * 4 + 8];
    syn_data x = syn_make(&s, 0, 1, TOKENS);
    static float wide[TOKENS * (H * (DK + PAD) + PAD)], planes[H * TOKENS * DV];
    static uint16_t kh[TOKENS * H * DK], kb[TOKENS * H * DK], vh[TOKENS * H * DV];
    skv_span k = skv_f32(x.k), v = skv_f32(x.v), k2, v2;
    size_t t, h, i, bytes, row = H * (DK + PAD) + PAD;
    for (i = 0; i < TOKENS * H * DK; i++) {         /* values that f16 and bf16 both hold */
        kb[i] = skvi_to_bf16(x.k[i]);
        x.k[i] = fabsf(x.k[i]) < 0.01f ? 0.25f : skvi_from_bf16(kb[i]);
        kb[i] = skvi_to_bf16(x.k[i]);
        kh[i] = skvi_to_f16(x.k[i]);
        CHECK(skvi_from_f16(kh[i]) == x.k[i]);
    }
    for (i = 0; i < TOKENS * H * DV; i++) x.v[i] = skvi_from_f16(vh[i] = skvi_to_f16(x.v[i]));
    bytes = check_page(c, 0, x.k, x.v, TOKENS, page);
    k2 = skv_f16(kh);
    v2 = skv_f16(vh);
    encode_same(c, &k2, &v2, page, bytes);
    k2 = skv_bf16(kb);
    encode_same(c, &k2, &v, page, bytes);
    for (t = 0; t < TOKENS; t++)                    /* tokens backwards, padded heads and tokens */
        for (h = 0; h < H; h++)
            for (i = 0; i < DK; i++)
                wide[(TOKENS - 1 - t) * row + h * (DK + PAD) + i] = x.k[(t * H + h) * DK + i];
    k2 = skv_f32(wide + (TOKENS - 1) * row);
    k2.token_stride = -(ptrdiff_t)row;
    k2.head_stride = DK + PAD;
    for (h = 0; h < H; h++)                         /* [head][token][dim] */
        for (t = 0; t < TOKENS; t++)
            memcpy(planes + (h * TOKENS + t) * DV, x.v + (t * H + h) * DV, DV * sizeof(float));
    v2 = skv_f32(planes);
    v2.token_stride = DV;
    v2.head_stride = TOKENS * DV;
    encode_same(c, &k2, &v2, page, bytes);
    memcpy(raw + 1, x.v, TOKENS * H * DV * sizeof(float));          /* at an odd address */
    v2 = skv_make_span(raw + 1, SKV_F32);
    encode_same(c, &k, &v2, page, bytes);
    free(page);
    skv_codec_free(c);
    syn_free(&x);
    skv_profile_free(p);
}

static void backwards(void *user, size_t n, void (*task)(void *, size_t), void *arg)
{
    ++*(int *)user;
    while (n--) task(arg, n);
}

TEST(parallel_gives_the_same_page)
{
    syn s = {{5, 5, 16, 24, 0, 0, 0}, 15, 1.0f, 2.0f, 0.05f, 12};
    skv_profile *p = syn_profile_direct(&s, 1, 2);
    skv_codec *c = codec_new(p, 3, 0), *par = NULL;
    skv_codec_desc d = SKV_ZERO;
    unsigned char *page = page_room(c, 0);
    syn_data x = syn_make(&s, 0, 1, TOKENS);
    skv_span k = skv_f32(x.k), v = skv_f32(x.v);
    int calls = 0;
    size_t bytes = check_page(c, 0, x.k, x.v, TOKENS, page);
    d.profile = p;
    d.target.bpe = 3;
    d.parallel.user = &calls;
    d.parallel.run = backwards;
    CHECK(skv_codec_init(&par, &d) == SKV_OK);
    encode_same(par, &k, &v, page, bytes);
    CHECK(calls == 1);
    free(page);
    skv_codec_free(c);
    skv_codec_free(par);
    syn_free(&x);
    skv_profile_free(p);
}

TEST(arguments_of_init)
{
    syn s = {{2, 2, 16, 0, 0, 0, 0}, 16, 1.0f, 2.0f, 0, 1};
    skv_profile *p = syn_profile_direct(&s, 1, 1);
    skv_codec_desc d = SKV_ZERO, e;
    skv_codec *c = NULL;
    syn_counter count;
    static const skv_target bad[] = {{-1, 0, 0}, {17, 0, 0}, {NAN, 0, 0}, {INFINITY, 0, 0},
                                     {0, 1, 0}, {0, -0.5f, 0}, {0, NAN, 0}, {0, 0, -1},
                                     {0, 0, NAN}, {0, 0, INFINITY}, {4, 0.9f, 0}, {4, 0, 1}};
    static const skv_target vain[] = {{0.01f, 0, 0}, {0, 0, 1e-12f}};
    size_t i;
    CHECK(skv_codec_init(&c, NULL) == SKV_ERR_ARG && skv_codec_init(&c, &d) == SKV_ERR_ARG);
    d.profile = p;
    CHECK(skv_codec_init(NULL, &d) == SKV_ERR_ARG);
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        d.target = bad[i];
        CHECK(skv_codec_init(&c, &d) == SKV_ERR_ARG && !c);
    }
    memset(&count, 0, sizeof count);
    d.allocator = syn_allocator(&count);
    for (i = 0; i < sizeof vain / sizeof vain[0]; i++) {
        d.target = vain[i];
        CHECK(skv_codec_init(&c, &d) == SKV_ERR_TARGET && !c);
    }
    CHECK(count.calls > 0 && count.live_blocks == 0 && count.wrong == 0);
    memset(&d.target, 0, sizeof d.target);
    memset(&d.allocator, 0, sizeof d.allocator);
    e = d;
    e.allocator.alloc = syn_count_alloc;            /* half an allocator */
    CHECK(skv_codec_init(&c, &e) == SKV_ERR_ARG && !c);
    CHECK(skv_codec_init(&c, &d) == SKV_OK && c);
    skv_codec_free(c);
    skv_codec_free(NULL);
    skv_profile_free(p);
}

TEST(arguments_of_encode_and_decode)
{
    syn s = {{2, 2, 16, 0, 0, 0, 0}, 16, 1.0f, 2.0f, 0, 1};
    skv_profile *p = syn_profile_direct(&s, 1, 1);
    skv_codec *c = codec_new(p, 3, 0);
    syn_data x = syn_make(&s, 0, 1, TOKENS + 1);
    skv_span k = skv_f32(x.k), v = skv_f32(x.v), odd = k, none = skv_f32(NULL);
    unsigned char *page = page_room(c, 0);
    size_t most = 0, bytes = 99, n = 98;
    odd.dtype = (skv_dtype)7;
    CHECK(skv_codec_page_bytes(NULL, 0, &most, NULL) == SKV_ERR_ARG);
    CHECK(skv_codec_page_bytes(c, 1, &most, NULL) == SKV_ERR_ARG && !most);
    CHECK(skv_codec_page_bytes(c, 0, NULL, NULL) == SKV_OK);
    CHECK(skv_codec_page_bytes(c, 0, NULL, &most) == SKV_OK);
    memset(page, 0x77, most);
    CHECK(skv_encode(NULL, 0, &k, &v, 64, 0, page, most, &bytes) == SKV_ERR_ARG);
    CHECK(skv_encode(c, 1, &k, &v, 64, 0, page, most, &bytes) == SKV_ERR_ARG);
    CHECK(skv_encode(c, 0, NULL, &v, 64, 0, page, most, &bytes) == SKV_ERR_ARG);
    CHECK(skv_encode(c, 0, &k, NULL, 64, 0, page, most, &bytes) == SKV_ERR_ARG);
    CHECK(skv_encode(c, 0, &none, &v, 64, 0, page, most, &bytes) == SKV_ERR_ARG);
    CHECK(skv_encode(c, 0, &odd, &v, 64, 0, page, most, &bytes) == SKV_ERR_ARG);
    CHECK(skv_encode(c, 0, &k, &v, 0, 0, page, most, &bytes) == SKV_ERR_ARG);
    CHECK(skv_encode(c, 0, &k, &v, 65, 0, page, most, &bytes) == SKV_ERR_ARG);
    CHECK(skv_encode(c, 0, &k, &v, 64, 0, NULL, most, &bytes) == SKV_ERR_ARG);
    CHECK(skv_encode(c, 0, &k, &v, 64, 0, page, most, NULL) == SKV_ERR_ARG);
    CHECK(skv_encode(c, 0, &k, &v, 64, 0, page, most - 1, &bytes) == SKV_ERR_ARG);
    CHECK(bytes == 99 && page[0] == 0x77 && page[most - 1] == 0x77);
    CHECK(skv_encode(c, 0, &k, &v, 64, 0, page, most, &bytes) == SKV_OK);
    CHECK(skv_decode(NULL, 0, page, bytes, x.k, x.v, &n) == SKV_ERR_ARG);
    CHECK(skv_decode(c, 1, page, bytes, x.k, x.v, &n) == SKV_ERR_ARG);
    CHECK(skv_decode(c, 0, NULL, bytes, x.k, x.v, &n) == SKV_ERR_ARG);
    CHECK(skv_decode(c, 0, page, bytes, x.k, x.v, NULL) == SKV_ERR_ARG && n == 98);
    CHECK(skv_decode(c, 0, page, bytes, NULL, NULL, &n) == SKV_OK && n == 64);
    CHECK(skv_decode(c, 0, page, bytes, NULL, x.v, &n) == SKV_OK);
    CHECK(skv_decode(c, 0, page, bytes, x.k, NULL, &n) == SKV_OK);
    free(page);
    skv_codec_free(c);
    syn_free(&x);
    skv_profile_free(p);
}

TEST(no_infinity_no_nan)
{
    syn s = {{2, 2, 16, 24, 0, 0, 0}, 17, 1.0f, 2.0f, 0, 1};
    skv_profile *p = syn_profile_direct(&s, 1, 2);
    skv_codec *c = codec_new(p, 3, 0);
    syn_data x = syn_make(&s, 0, 1, TOKENS);
    skv_span k = skv_f32(x.k), v = skv_f32(x.v);
    unsigned char *page = page_room(c, 0), *again = page_room(c, 0);
    size_t most = 0, bytes = 0, got = 0, i, n = TOKENS * 32 + TOKENS * 48;
    static const float bad[3] = {NAN, INFINITY, -INFINITY};
    (void)skv_codec_page_bytes(c, 0, NULL, &most);
    CHECK(skv_encode(c, 0, &k, &v, TOKENS, 0, page, most, &bytes) == SKV_OK);
    memset(again, 0x31, most);
    for (i = 0; i < n; i += 1 + i % 7) {            /* anywhere */
        float *at = i < TOKENS * 32 ? x.k + i : x.v + (i - TOKENS * 32), old = *at;
        *at = bad[i % 3];
        CHECK(skv_encode(c, 0, &k, &v, TOKENS, 0, again, most, &got) == SKV_ERR_NOT_FINITE);
        *at = i % 2 ? 1.01e9f : -3e38f;
        CHECK(skv_encode(c, 0, &k, &v, TOKENS, 0, again, most, &got) == SKV_ERR_RANGE);
        *at = old;
        CHECK(again[0] == 0x31 && got == 0);
    }
    CHECK(skv_encode(c, 0, &k, &v, TOKENS, 0, again, most, &got) == SKV_OK);
    CHECK(got == bytes && !memcmp(page, again, bytes));
    free(page);
    free(again);
    skv_codec_free(c);
    syn_free(&x);
    skv_profile_free(p);
}

/* Values far beyond the profile's: a result, finite rows, norms that tell. */
TEST(huge_values)
{
    syn s = {{2, 2, 16, 24, 0, 0, 0}, 18, 1.0f, 4.0f, 0, 1};
    skv_profile *p = syn_profile(&s, 1, 2, 1, 320);
    skv_codec *c = codec_new(p, 3, 0);
    unsigned char *page = page_room(c, 0);
    float k[TOKENS * 32], v[TOKENS * 48], size;
    size_t most = 0, bytes = 0, n = 0, i;
    (void)skv_codec_page_bytes(c, 0, NULL, &most);
    for (size = 1e4f; size < 2e10f; size *= 10) {
        syn_data x = syn_make(&s, 0, 1, TOKENS);
        skv_span sk = skv_f32(x.k), sv = skv_f32(x.v);
        skv_result r;
        for (i = 0; i < TOKENS * 32; i++) x.k[i] = (i % 3 ? 1 : -1) * size;
        for (i = 0; i < TOKENS * 48; i++) x.v[i] *= size * 0.1f * 0.2f;
        r = skv_encode(c, 0, &sk, &sv, TOKENS, 0, page, most, &bytes);
        CHECK(r == (size < 1.1e9f ? SKV_OK : SKV_ERR_RANGE));
        if (r == SKV_OK) {
            CHECK(skv_decode(c, 0, page, bytes, k, v, &n) == SKV_OK);
            for (i = 0; i < TOKENS * 32; i++) CHECK(skvi_is_finite(k[i]));
            for (i = 0; i < TOKENS * 48; i++) CHECK(skvi_is_finite(v[i]));
            CHECK(skvi_from_bf16(skvi_get16(page + 12)) > 0.01f * size);    /* the error is known */
        }
        syn_free(&x);
    }
    free(page);
    skv_codec_free(c);
    skv_profile_free(p);
}

/* --- damaged pages ------------------------------------------------------------------------ */

typedef struct damaged {
    skv_profile *p;
    skv_codec *c;
    unsigned char *page;
    size_t bytes, least;
    float k[TOKENS * 48], v[TOKENS * 48];
} damaged;

static damaged *damaged_new(void)
{
    syn s = {{3, 3, 16, 0, 0, 0, 0}, 19, 1.0f, 2.0f, 0.08f, 15};
    damaged *d = (damaged *)calloc(1, sizeof *d);
    syn_data x = syn_make(&s, 0, 1, TOKENS);
    if (!d) abort();
    d->p = syn_profile_direct(&s, 1, 2);
    d->c = codec_new(d->p, 3, 0);
    d->page = page_room(d->c, 0);
    d->least = d->c->coder.least[0];
    d->bytes = check_page(d->c, 0, x.k, x.v, 60, d->page);
    CHECK(ref_u16(d->page + 2) >= 3);
    syn_free(&x);
    return d;
}

static void damaged_free(damaged *d)
{
    skv_codec_free(d->c);
    skv_profile_free(d->p);
    free(d->page);
    free(d);
}

/* Decodes a copy of exactly `bytes` bytes; refused pages leave the outputs alone. */
static skv_result damaged_decode(damaged *d, size_t bytes)
{
    unsigned char *copy = (unsigned char *)malloc(bytes ? bytes : 1);
    size_t n = 1234, i;
    skv_result r;
    if (!copy) abort();
    memcpy(copy, d->page, bytes);
    for (i = 0; i < TOKENS * 48; i++) d->k[i] = d->v[i] = 77;
    r = skv_decode(d->c, 0, copy, bytes, d->k, d->v, &n);
    if (r != SKV_OK) CHECK(n == 1234);
    else CHECK(n >= 1 && n <= TOKENS && n == copy[1]);
    for (i = r == SKV_OK ? n * 48 : 0; i < TOKENS * 48; i++) CHECK(d->k[i] == 77 && d->v[i] == 77);
    for (i = 0; i < TOKENS * 48; i++) CHECK(skvi_is_finite(d->k[i]) && skvi_is_finite(d->v[i]));
    free(copy);
    return r;
}

static skv_result damaged_with(damaged *d, size_t at, unsigned char value)
{
    unsigned char old = d->page[at];
    skv_result r;
    d->page[at] = value;
    r = damaged_decode(d, d->bytes);
    d->page[at] = old;
    return r;
}

TEST(truncations_are_refused)
{
    damaged *d = damaged_new();
    size_t i;
    for (i = 0; i < d->bytes; i++) CHECK(damaged_decode(d, i) == SKV_ERR_TRUNCATED);
    CHECK(damaged_decode(d, d->bytes) == SKV_OK);
    CHECK(damaged_decode(d, d->bytes + 1) == SKV_ERR_FORMAT);
    damaged_free(d);
}

TEST(corruptions_have_their_code)
{
    damaged *d = damaged_new();
    size_t row = d->least, low = d->bytes & 255u;
    CHECK(damaged_with(d, 0, 0) == SKV_ERR_FORMAT && damaged_with(d, 0, 2) == SKV_ERR_FORMAT);
    CHECK(damaged_with(d, 0, 4) == SKV_ERR_VERSION && damaged_with(d, 0, 255) == SKV_ERR_VERSION);
    CHECK(damaged_with(d, 1, 0) == SKV_ERR_FORMAT && damaged_with(d, 1, 65) == SKV_ERR_FORMAT);
    CHECK(damaged_with(d, 2, (unsigned char)(d->page[2] + 1)) == SKV_ERR_FORMAT);
    CHECK(damaged_with(d, 2, (unsigned char)(d->page[2] - 1)) == SKV_ERR_FORMAT);
    CHECK(damaged_with(d, 3, 1) == SKV_ERR_FORMAT);
    if (low < 255) CHECK(damaged_with(d, 4, (unsigned char)(low + 1)) == SKV_ERR_TRUNCATED);
    if (low > 0) CHECK(damaged_with(d, 4, (unsigned char)(low - 1)) == SKV_ERR_FORMAT);
    CHECK(damaged_with(d, 7, 128) == SKV_ERR_TRUNCATED);
    CHECK(damaged_with(d, row, 4) == SKV_ERR_FORMAT);               /* 4 streams: 0 .. 3 */
    CHECK(damaged_with(d, row + 1, d->page[row + 1] | 64) == SKV_ERR_FORMAT);   /* sub + 256 */
    CHECK(damaged_with(d, row + 1, 60) == SKV_ERR_FORMAT);          /* tokens 0 .. 59 */
    CHECK(damaged_with(d, row + 1, 59) == SKV_OK);
    CHECK(damaged_with(d, row + 3, 0x7C) == SKV_ERR_FORMAT);        /* infinity or NaN */
    CHECK(damaged_with(d, row + 3, 0xFF) == SKV_ERR_FORMAT);
    damaged_free(d);
}

/* The norms of a page from outside feed a bound: a NaN or a negative one must not pass. */
TEST(norms_from_outside_are_checked)
{
    damaged *d = damaged_new();
    CHECK(damaged_with(d, 13, 0xFF) == SKV_ERR_FORMAT);             /* bf16 -NaN */
    CHECK(damaged_with(d, 13, 0xBF) == SKV_ERR_FORMAT);             /* negative */
    CHECK(damaged_with(d, 15, 0xBF) == SKV_ERR_FORMAT);
    damaged_free(d);
}

TEST(random_flips_never_crash)
{
    damaged *d = damaged_new();
    unsigned char *whole = (unsigned char *)malloc(d->bytes);
    int round, flips, ok = 0, rounds = test_.slow ? 20000 : 1500;
    if (!whole) abort();
    memcpy(whole, d->page, d->bytes);
    for (round = 0; round < rounds; round++) {
        for (flips = 1 + (int)(test_u64() % 4); flips; flips--) {
            size_t at = (size_t)(test_u64() % (round % 2 ? 64 : d->bytes));
            if (round % 3 == 0) at = d->least + (size_t)(test_u64() % (d->bytes - d->least));
            d->page[at] = (unsigned char)test_u64();
        }
        ok += damaged_decode(d, d->bytes) == SKV_OK;
        memcpy(d->page, whole, d->bytes);
    }
    CHECK(ok > rounds / 20 && ok < rounds);
    free(whole);
    damaged_free(d);
}

/* --- positions ---------------------------------------------------------------------------- */

/* Keys at a position go through R(position) mu: every style, partial rotation, joint groups, far
   positions, outliers. check_page_at has the formula in double. */
TEST(turned_keys_at_positions)
{
    static const uint32_t shape[][6] = {    /* n_kv, d, dv, head group, style, pairs */
        {1, 16, 16, 1, SKV_ROPE_ADJACENT, 8}, {3, 20, 16, 2, SKV_ROPE_HALVES, 10},
        {2, 33, 24, 2, SKV_ROPE_HALVES, 5}, {3, 17, 16, 3, SKV_ROPE_ADJACENT, 3}};
    static const size_t first[] = {0, 1, 64 * 500 + 4, 1000003};
    size_t i, j;
    for (i = 0; i < sizeof shape / sizeof shape[0]; i++) {
        syn s = {{shape[i][0], shape[i][0], shape[i][1], shape[i][2], 0, 0, 0}, 30 + i, 1.0f, 2.0f,
                 0.04f, 15};
        skv_profile *p = syn_profile_turned(&s, 2, shape[i][3], shape[i][4], shape[i][5]);
        skv_codec *c = codec_new(p, 3, 0);
        unsigned char *page = page_room(c, 1);
        syn_data x = syn_make(&s, 1, 1, TOKENS);
        for (j = 0; j < sizeof first / sizeof first[0]; j++)
            check_page_at(c, 1, x.k, x.v, j == 1 ? 37 : TOKENS, first[j], page);
        free(page);
        skv_codec_free(c);
        syn_free(&x);
        skv_profile_free(p);
    }
}

/* Keys that are their turned mean and nothing else come back by their position alone, as they were;
   read as if they stood elsewhere they do not. */
TEST(position_of_a_page_counts)
{
    enum { FIRST = 64 * 500 };
    syn s = {{1, 1, 32, 16, 0, 0, 0}, 40, 1.0f, 2.0f, 0, 1};
    skv_profile *p = syn_profile_turned(&s, 1, 1, SKV_ROPE_HALVES, 16);
    skv_codec *c = codec_new(p, 3, -1);
    unsigned char *page = page_room(c, 0);
    syn_data x = syn_make(&s, 0, 1, TOKENS);
    skv_span k = skv_f32(x.k), v = skv_f32(x.v);
    float got[TOKENS * 32];
    double mean[32], size = 0, e = 0;
    size_t most = 0, bytes = 0, n = 0, t, i;
    for (t = 0; t < TOKENS; t++) {
        ref_mean(p, 0, &p->stream[0], (double)(FIRST + t), mean);
        for (i = 0; i < 32; i++) x.k[t * 32 + i] = (float)mean[i];
        for (i = 0; i < 32; i++) size += mean[i] * mean[i] / (TOKENS * 32);
    }
    (void)skv_codec_page_bytes(c, 0, NULL, &most);
    CHECK(skv_encode(c, 0, &k, &v, TOKENS, FIRST, page, most, &bytes) == SKV_OK);
    CHECK(skv_decode(c, 0, page, bytes, got, NULL, &n) == SKV_OK && n == TOKENS);
    for (i = 0; i < TOKENS * 32; i++) CHECK_NEAR(got[i], x.k[i], 1e-5 * sqrt(size));
    skvi_put32(page + 8, FIRST + 1);
    CHECK(skv_decode(c, 0, page, bytes, got, NULL, &n) == SKV_OK);
    for (i = 0; i < TOKENS * 32; i++) e += fabs((double)got[i] - (double)x.k[i]) / (TOKENS * 32);
    CHECK(e > 0.05 * sqrt(size));
    CHECK(skv_encode(c, 0, &k, &v, TOKENS, 0xFFFFFFFFu, page, most, &bytes) == SKV_OK);
    CHECK(skvi_get32(page + 8) == 0xFFFFFFFFu);
    CHECK(skv_decode(c, 0, page, bytes, got, NULL, &n) == SKV_OK && skvi_is_finite(got[0]));
    if ((uint64_t)(size_t)-1 > 0xFFFFFFFFu) {
        bytes = 7;
        CHECK(skv_encode(c, 0, &k, &v, 1, (size_t)0xFFFFFFFFu + 1, page, most, &bytes) ==
              SKV_ERR_ARG && bytes == 7);
    }
    free(page);
    skv_codec_free(c);
    syn_free(&x);
    skv_profile_free(p);
}

/* --- loud and silent channels ------------------------------------------------------------- */

/* One latent channel 10^`decades` times louder than the rest, which a nibble can not span: the
   stored norms say what that cost (check_page computes the true error). Silent pages: all zero. */
TEST(loud_channels_and_silence)
{
    syn s = {{2, 2, 16, 24, 0, 0, 0}, 41, 0, 1.0f, 0, 1};
    skv_profile *p = syn_profile_direct(&s, 1, 1);
    static const float bpe[] = {1.0f, 2.5f, 4.0f, 8.0f};
    static float k[TOKENS * 32], v[TOKENS * 48];
    size_t i, t, c, x, ch;
    for (i = 0; i < 4; i++) {
        skv_codec *code = codec_new(p, bpe[i], i % 2 ? -1.0f : 0.0f);
        unsigned char *page = page_room(code, 0);
        double size;
        for (size = 1e-12; size < 1e9; size *= 1e3)
            for (ch = 0; ch < 16; ch += 5) {
                const skvi_stream *a = &p->stream[0], *b = &p->stream[2];
                for (t = 0; t < TOKENS; t++)
                    for (x = 0; x < 40; x++) {      /* elements of both heads, as sums of rows */
                        double sum = 0;
                        const skvi_stream *w = x < 16 ? a : b;
                        size_t e = x < 16 ? x : x - 16;
                        for (c = 0; c < w->D; c++)
                            sum += test_normal() * (c == ch ? size : size * 1e-6) *
                                   (double)w->dec[c * w->D + e];
                        if (x < 16) k[t * 32 + e] = k[t * 32 + 16 + e] = (float)sum;
                        else v[t * 48 + e] = v[t * 48 + 24 + e] = (float)sum;
                    }
                check_page(code, 0, k, v, TOKENS, page);
            }
        memset(k, 0, sizeof k);
        memset(v, 0, sizeof v);
        check_page(code, 0, k, v, TOKENS, page);
        CHECK(skvi_from_bf16(skvi_get16(page + 12)) < 1e-6f);
        free(page);
        skv_codec_free(code);
    }
    skv_profile_free(p);
}

/* Latents beyond the largest scale, from sane rows and a profile with tiny variances: the gain is a
   byte, and the norms say what was lost. */
TEST(beyond_the_largest_scale)
{
    syn s = {{1, 1, 16, 16, 0, 0, 0}, 42, 0, 9.0f, 0, 1};
    skv_profile *p = syn_profile_direct(&s, 1, 1);
    skv_codec *c = codec_new(p, 16, -1);
    unsigned char *page = page_room(c, 0);
    float k[TOKENS * 16], v[TOKENS * 16], size;
    size_t i;
    for (size = 1e5f; size < 2e9f; size *= 1.3f) {
        for (i = 0; i < TOKENS * 16; i++) {
            k[i] = (float)(2 * test_uniform() - 1) * (size < 1e9f ? size : 1e9f);
            v[i] = (i % 2 ? 1.0f : -1.0f) * (size < 1e9f ? size : 1e9f);
        }
        check_page(c, 0, k, v, TOKENS, page);
    }
    free(page);
    skv_codec_free(c);
    skv_profile_free(p);
}

/* --- the golden page ---------------------------------------------------------------------- */
/* Everything here is a multiple of 1/32, so that encoding is exact up to the square root and the
   codebooks: one KV head of 16 channels, n = 50 tokens from position 1000, 3.5 bits.
     sd[c] = 8 / 2^(c/2) (integer quotients), var = sd^2, H[c][i] = (-1)^popcount(c & i),
     enc = H / (4 sd), dec = sd H / 4, mean[i] = i - 8 (K), 3 - i (V),
     x - mean = H^T z / 4, z[c] = sd[c] ((7 t + 3 c c + t c + 5 kind) % 17 - 8) / 4, so u = z / sd;
     token 40: 6 times as far from the mean.
   These bytes are format 2 for good: a change of them is a change of the format. */
#define GOLDEN_TOKENS 50
#define GOLDEN_POSITION 1000
#define GOLDEN_BITS 3.5f
static const char golden_hex[] =
    "03320200a6030000e8030000173fce3e7c444455555552c1f20d2c935582726ea2753d022cb3ebae98b3c75cce31"
    "8e66a05f112be22d46d4c321ac79669355b8af30d1475aa76ec0dc279a9d26dcc03e572cadee205ad352609718a8"
    "8f3072c9e518e7660af71358114e374a391bcc956c335886fa051139d728720dcc72aad766c905eb7ac3dd7202d5"
    "db2c0d728989f20d2c9355827af7d1fafa8516e971aa98b3c75cce318e4fdf2f8f95718423d4c321ac79569355d4"
    "d718e8232d52b7f0fcf7fafdfafcf0fbfbfefefff8fdfdffffffffffffffffffffffffffffffffffffffffffffff"
    "ffff7fff7fff7fff7fff7f7fff7f7fff7f460ed342753b0f9fcf264207d231f7aaae49355d639bdf20d0e07efd66"
    "faf99c042343bed555da42753b1e9fcf22420742fd04dee2a7355d639bce20d0e07efdf6560698214c43bed555bc"
    "42753b1e9f96f89c126d41b3de081764ed639bce20f4fdf0f4fafefcf8ffffffffffffffffdfef6f8f6f0fff2f1f"
    "1fffff0fbf1f2f300121a6564fe83453d59fc7b9b09ff4164c4c7730fe360c5651e83460d5e8c71d7427cf16b34b"
    "a630a2360c98513634515a9ec789b3c4f72bebc77b5767970f103fd73e7f111122122224338de11cc40e93bec19c"
    "39e45644b9d50771fab9b573995eb06ab98601b74dc44ba2249b40833c9560dd74d9cb9e4fb8612a57191445e6b3"
    "cc17429031634491e5355eaef45c3099240ca993ab1574dbc8b0274ff50b37c9370bd64b26b0ebf4dd14aa72aa44"
    "5863ccc67d27c61c3944cc5652e59c41c40e864cc1948db35644f08e0375ed5fb573dc72b06adc6a01b77fdc4ba2"
    "4faf40836fc360ddaf62cb9e92cdf1fa1ecaf4f5b66cfcf727dcf1f3fbfcfffffbf9fffffdf8fffffaf8ffffffff"
    "ffffffffffffffffffffffffffffffffff7f7fffff7fff7fff7f7f7f7f7fcfd2e4374c553b26ca8cf0e40fa56d62"
    "d0664a5641a79be071fcade7a726ffdc75cf202d3e4c553bc1f75de13f0f828b63d0641ea441179b09f933ccd7a7"
    "4467d575cfd21b3ee9559542344b613f69b53363d0a6b3a40f17e07ecb16bed70652faf5fffff9fbfffffffeffff"
    "f4f1ffff1f6f5f6f7fef0fff2fff2fbf8f9fef2f94e263053d3d3d5621e89f9f8331fd7a1594d1636868f9474c36"
    "e8e8e90d31f78c15d1d10979cf89274b3636dd830d7cb90467e36363c3639ec4c797ff1d630f0028000000ca4049"
    "80c800468044004a00420042004a8044004680c8404900ca00000128804780c480c700be00ca004a00c640494049"
    "00c6004a00ca00be80c780c48047";

static skv_profile *golden_profile(void)
{
    syn s = {{1, 1, 16, 0, 0, 0, 0}, 1, 0, 0, 0, 1};
    skv_model m = syn_model(&s, 1);
    skv_profile *p = NULL;
    uint32_t kind, c, i, b;
    if (skvi_profile_new(&p, &m, 1, NULL, NULL) != SKV_OK) abort();
    for (kind = 0; kind < 2; kind++)
        for (c = 0; c < 16; c++) {
            skvi_stream *t = &p->stream[kind];
            float sd = 8.0f / (float)(1u << c / 2);
            t->var[c] = sd * sd;
            t->mean[c] = kind ? 3.0f - (float)c : (float)c - 8.0f;
            for (i = 0; i < 16; i++) {
                float h = 0.25f;
                for (b = c & i; b; b &= b - 1) h = -h;
                t->enc[c * 16 + i] = h / sd;
                t->dec[c * 16 + i] = h * sd;
            }
        }
    return p;
}

static void golden_input(const skv_profile *p, float *x, int kind)
{
    int t, i, c, b;
    for (t = 0; t < GOLDEN_TOKENS; t++)
        for (i = 0; i < 16; i++) {
            float far = 0;
            for (c = 0; c < 16; c++) {
                float z = (float)((7 * t + 3 * c * c + t * c + 5 * kind) % 17 - 8) / 16;
                for (b = c & i; b; b &= b - 1) z = -z;
                far += z * 8.0f / (float)(1u << c / 2);
            }
            x[t * 16 + i] = p->stream[kind].mean[i] + far * (t == 40 ? 6.0f : 1.0f);
        }
}

static size_t golden_bytes(unsigned char *out)
{
    size_t n = 0, i;
    const char *s = golden_hex;
    for (i = 0; s[2 * i]; i++, n++) {
        unsigned v = 0, j;
        for (j = 2 * (unsigned)i; j < 2 * i + 2; j++)
            v = 16 * v + (unsigned)(s[j] <= '9' ? s[j] - '0' : s[j] - 'a' + 10);
        out[i] = (unsigned char)v;
    }
    return n;
}

TEST(golden_page)
{
    skv_profile *p = golden_profile();
    skv_codec *c = codec_new(p, GOLDEN_BITS, 0);
    float k[TOKENS * 16], v[TOKENS * 16];
    unsigned char *page = page_room(c, 0), want[sizeof golden_hex / 2];
    size_t bytes, n = golden_bytes(want), i, wrong = 0;
    golden_input(p, k, 0);
    golden_input(p, v, 1);
    bytes = check_page_at(c, 0, k, v, GOLDEN_TOKENS, GOLDEN_POSITION, page);
    for (i = 0; i < bytes && i < n; i++) wrong += page[i] != want[i];
    CHECK(bytes == n && wrong == 0);
    free(page);
    skv_codec_free(c);
    skv_profile_free(p);
}

TEST(golden_decode)
{
    /* token, kind, channel: values of the golden page, by the independent decoder */
    static const struct { int t, kind, i; double x; } probe[] = {
        {0, 0, 0, -12.521588},
        {0, 1, 15, -8.76584721},
        {7, 0, 3, -0.824615401},
        {13, 1, 8, 0.883150185},
        {25, 0, 12, 9.50305555},
        {40, 0, 5, 37.078125},
        {40, 1, 11, 13.1875},
        {49, 0, 15, 5.40435795},
        {49, 1, 0, 6.89080005}
    };
    /* the first bytes of format 1's golden page, which said that it had 0x2AC bytes */
    static const unsigned char format_1[16] = {1, 0x32, 2, 0, 0xAC, 2, 0, 0, 9, 0x40, 0xE1, 0x3F,
                                               0x80, 0x80, 0x80, 0x80};
    skv_profile *p = golden_profile();
    skv_codec *c = codec_new(p, GOLDEN_BITS, 0);
    float k[TOKENS * 16], v[TOKENS * 16];
    unsigned char page[sizeof golden_hex / 2];
    size_t bytes = golden_bytes(page), n = 0, i;
    CHECK(skv_decode(c, 0, page, bytes, k, v, &n) == SKV_OK && n == GOLDEN_TOKENS);
    for (i = 0; i < sizeof probe / sizeof probe[0]; i++)
        CHECK_NEAR((probe[i].kind ? v : k)[probe[i].t * 16 + probe[i].i], probe[i].x, 2e-4);
    for (i = 1; i < 3; i++) {           /* what formats 1 and 2 began with was another page */
        page[0] = (unsigned char)i;
        CHECK(skv_decode(c, 0, page, bytes, k, v, &n) == SKV_ERR_FORMAT);
    }
    memcpy(page, format_1, sizeof format_1);
    CHECK(skv_decode(c, 0, page, bytes, k, v, &n) == SKV_ERR_FORMAT);
    CHECK(skv_decode(c, 0, page, 0x2AC, k, v, &n) == SKV_ERR_FORMAT);
    skv_codec_free(c);
    skv_profile_free(p);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(error_falls_with_bits);
    RUN(targets_of_energy_and_error);
    RUN(every_count_of_tokens);
    RUN(many_shapes);
    RUN(mixed_layers);
    RUN(outlier_tokens_are_near_exact);
    RUN(no_rows_where_they_do_not_pay);
    RUN(rows_of_many_streams);
    RUN(dtypes_and_strides_do_not_matter);
    RUN(parallel_gives_the_same_page);
    RUN(arguments_of_init);
    RUN(arguments_of_encode_and_decode);
    RUN(no_infinity_no_nan);
    RUN(huge_values);
    RUN(truncations_are_refused);
    RUN(corruptions_have_their_code);
    RUN(norms_from_outside_are_checked);
    RUN(random_flips_never_crash);
    RUN(turned_keys_at_positions);
    RUN(position_of_a_page_counts);
    RUN(loud_channels_and_silence);
    RUN(beyond_the_largest_scale);
    RUN(golden_page);
    RUN(golden_decode);
    return TEST_END();
}
