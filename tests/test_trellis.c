/* test_trellis.c: the trellis codes of pages and their search, the scalar codes beside them, scales
 * and gains. Levels are read a second time from the description in >>quant; the search stands
 * against brute force. Private functions are called directly. */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"

#define TOKENS SKV_PAGE_TOKENS
#define LANES SKVI_LANES

/* --- the code, once more ------------------------------------------------------------------- */

static uint32_t bit_at(const unsigned char *s, uint32_t i)
{
    return (uint32_t)s[i / 8] >> i % 8 & 1u;
}

/* The 8 bits before bit (t + 1) h / 2 of a circle of 32 h bits, oldest lowest. */
static uint32_t window_at(const unsigned char *s, uint32_t h, uint32_t t)
{
    uint32_t w = 0, i, end = (t + 1) * h / 2;
    for (i = 0; i < 8; i++) w |= bit_at(s, (end + 32 * h - 8 + i) % (32 * h)) << i;
    return w;
}

/* Tables as they lie in memory: h = 1 even, odd, 2, 3 even, odd, 4, ... */
static int level_of(uint32_t h, uint32_t t, uint32_t w)
{
    static const int first[9] = {0, 0, 2, 3, 5, 6, 8, 9, 11};
    const signed char *table = skvi_trellis[first[h] + (int)(h & t & 1)];
    return w < 128 ? table[w] : -table[255 - w];
}

static void random_stream(unsigned char *s, uint32_t h)
{
    uint32_t i;
    for (i = 0; i < 4 * h; i++) s[i] = (unsigned char)test_u64();
}

/* What the search counts: (x - level)^2 in steps over the tokens in use. */
static int64_t stream_cost(const unsigned char *s, uint32_t h, const skvi_search *v,
                           const unsigned char *use, uint32_t lane)
{
    int64_t sum = 0;
    uint32_t t;
    for (t = 0; t < TOKENS; t++)
        if (use[t]) {
            int64_t d = v->x[t][lane] - SKVI_FINE * level_of(h, t, window_at(s, h, t));
            sum += d * d;
        }
    return sum;
}

static void random_latents(skvi_search *v, double sd)
{
    uint32_t t, l;
    for (t = 0; t < TOKENS; t++)
        for (l = 0; l < LANES; l++) {
            double x = sd * test_normal();
            v->x[t][l] = 4 * (int32_t)(x < -700 ? -700 : x > 700 ? 700 : x);
        }
}

TEST(tables_are_for_good)
{
    /* pages out there are read with them: another table is another format */
    CHECK(skvi_crc32((const unsigned char *)skvi_trellis, sizeof skvi_trellis) == 0x4D185E75u);
    CHECK(skvi_crc32((const unsigned char *)skvi_half, sizeof skvi_half) == 0x6FA6CD65u);
}

TEST(expand_of_pack_is_the_path)
{
    static skvi_search v;
    unsigned char s[32 + 1], packed[32 + 2];
    float out[TOKENS];
    uint32_t h, t, lane;
    int round;
    for (h = 1; h <= 8; h++)
        for (round = 0; round < 40; round++) {
            lane = (uint32_t)round % LANES;
            random_stream(s, h);
            for (t = 0; t < TOKENS; t++) v.state[t][lane] = (unsigned char)window_at(s, h, t);
            memset(packed, 0xC3, sizeof packed);
            skvi_search_pack(&v, lane, h, packed);
            CHECK(!memcmp(packed, s, 4 * h) && packed[4 * h] == 0xC3);
            skvi_expand_c(packed, h, 0.37f, out);
            for (t = 0; t < TOKENS; t++)        /* the first ones see the last bits */
                CHECK(out[t] == (float)level_of(h, t, window_at(s, h, t)) * 0.37f);
        }
}

/* A window and its complement are of opposite sign, so every stream has its mirror image. */
TEST(complement_is_negative)
{
    unsigned char s[32], n[32];
    float a[TOKENS], b[TOKENS];
    uint32_t h, t;
    for (h = 1; h <= 8; h++) {
        random_stream(s, h);
        for (t = 0; t < 4 * h; t++) n[t] = (unsigned char)~s[t];
        skvi_expand_c(s, h, 1, a);
        skvi_expand_c(n, h, 1, b);
        for (t = 0; t < TOKENS; t++) CHECK(a[t] == -b[t] && fabsf(a[t]) <= 127);
    }
}

/* --- the search ---------------------------------------------------------------------------- */

TEST(steps_agree_bit_for_bit)
{
#ifdef SKVI_LA_AVX2
    static int32_t c[256 * LANES], d[2][256 * LANES], x[LANES];
    static unsigned char from[2][128 * LANES];
    int32_t level[256];
    uint32_t b, i;
    int round;
    if (!SKVI_LA_HAS_AVX2()) SKIP("this processor has no AVX2");
    for (round = 0; round < 400; round++) {
        int32_t mask = round % 3 ? -1 : 0;
        b = (uint32_t)round % 5;
        for (i = 0; i < 256 * LANES; i++) {     /* few values too, so that there are ties */
            c[i] = (int32_t)(test_u64() % (round % 2 ? 80000000u : 4u)) * 16;
            d[0][i] = d[1][i] = -1;
        }
        for (i = 0; i < 256; i++) level[i] = 8 * ((int)(test_u64() % 255) - 127);
        for (i = 0; i < LANES; i++) x[i] = 4 * ((int32_t)(test_u64() % 1401) - 700);
        memset(from, 0xEE, sizeof from);
        skvi_search_step_c(c, level, x, mask, b, d[0], from[0]);
        skvi_search_step_avx2(c, level, x, mask, b, d[1], from[1]);
        CHECK(!memcmp(d[0], d[1], sizeof d[0]) && !memcmp(from[0], from[1], sizeof from[0]));
        for (i = 0; i < 256 * LANES; i++) CHECK(d[0][i] >= 0 && d[0][i] % 16 == 0);
    }
#else
    SKIP("built without the AVX2 step (gcc or clang for x86-64, and no SKV_NO_SIMD)");
#endif
}

TEST(expansions_agree_bit_for_bit)
{
#ifdef SKVI_LA_AVX2
    unsigned char codes[64 + 1];
    float out[2][TOKENS + 1];
    uint32_t h, i, round;
    if (!SKVI_LA_HAS_AVX2()) SKIP("this processor has no AVX2");
    for (h = 1; h <= 16; h += h < 8 ? 1 : 2)
        for (round = 0; round < 200; round++) {
            unsigned char *at = codes + (round & 1u);       /* any alignment */
            float step = (float)exp(20 * test_uniform() - 10);
            for (i = 0; i < 4 * h; i++) at[i] = (unsigned char)(round ? test_u64() : 255);
            memset(out, 0x7F, sizeof out);
            skvi_expand_c(at, h, step, out[0]);
            skvi_expand_avx2(at, h, step, out[1]);
            CHECK(!memcmp(out[0], out[1], sizeof out[0]));  /* and nothing beyond */
        }
#else
    SKIP("built without AVX2 (gcc or clang for x86-64, and no SKV_NO_SIMD)");
#endif
}

/* Tokens a .. a + n - 1 of the circle are in use. Least cost over all bits that they see: those of
   token a's window and all newer ones; with `end` not -1, token 63's window is that. */
static int64_t brute_force(const skvi_search *v, uint32_t h, uint32_t lane, uint32_t a, uint32_t n,
                           int end)
{
    uint32_t bits = 8, i, t, x;
    int64_t best = INT64_MAX;
    for (i = 1; i < n; i++) bits += (h + ((a + i) & 1u)) >> 1;
    for (x = 0; x >> bits == 0; x++) {
        uint32_t at = 0;
        int64_t sum = 0;
        int fits = 1;
        for (i = 0; i < n; i++) {
            uint32_t w;
            int64_t d;
            t = (a + i) % TOKENS;
            at += i ? (h + (t & 1u)) >> 1 : 0;
            w = x >> at & 255u;
            d = v->x[t][lane] - SKVI_FINE * level_of(h, t, w);
            sum += d * d;
            fits &= end < 0 || t != 63 || w == (uint32_t)end;
        }
        if (fits && sum < best) best = sum;
    }
    return best;
}

/* Cost of the states found, which must follow one another, around the circle where `round`. */
static int64_t path_cost(const skvi_search *v, uint32_t h, const unsigned char *use, uint32_t lane,
                         uint32_t first, int round)
{
    int64_t sum = 0;
    uint32_t i, t, last;
    for (i = 0; i < TOKENS; i++) {
        uint32_t s, b;
        t = (first + i) % TOKENS;
        last = (t + TOKENS - 1) % TOKENS;
        s = v->state[t][lane];
        b = (h + (t & 1u)) >> 1;
        if (i || round) CHECK((s & (255u >> b)) == (uint32_t)v->state[last][lane] >> b);
        if (use[t]) {
            int64_t d = v->x[t][lane] - SKVI_FINE * level_of(h, t, s);
            sum += d * d;
        }
    }
    return sum;
}

static uint32_t short_run(uint32_t h)   /* tokens whose bits are few enough for brute force */
{
    static const uint32_t n[9] = {0, 14, 8, 6, 5, 4, 4, 3, 3};
    return n[h];
}

TEST(free_paths_are_optimal)
{
    static skvi_search v;
    unsigned char use[TOKENS];
    int32_t cost[LANES];
    uint32_t h, i, l, a, n;
    int round;
    for (h = 1; h <= 8; h++)
        for (round = 0; round < 2; round++) {
            n = short_run(h);
            a = (uint32_t)(test_u64() % (TOKENS - n));
            random_latents(&v, round ? 100 : 400);
            for (i = 0; i < TOKENS; i++) use[i] = i >= a && i < a + n;
            skvi_search_path(skvi_pick_kernels(), &v, use, h, 0, NULL, cost);
            for (l = 0; l < LANES; l++) {
                CHECK(cost[l] == brute_force(&v, h, l, a, n, -1));
                CHECK(path_cost(&v, h, use, l, 0, 0) == cost[l]);
            }
        }
}

/* Tails that meet in a given state, the tokens in use on both sides of the page's end. */
TEST(closed_paths_are_optimal)
{
    static skvi_search v;
    unsigned char use[TOKENS], ends[LANES];
    uint32_t h, i, l, a, n;
    int round;
    for (h = 1; h <= 8; h++)
        for (round = 0; round < 2; round++) {
            n = short_run(h) + 1;
            a = TOKENS - n / 2;
            random_latents(&v, round ? 100 : 400);
            for (l = 0; l < LANES; l++) ends[l] = (unsigned char)test_u64();
            for (i = 0; i < TOKENS; i++) use[i] = i >= a || i < a + n - TOKENS;
            skvi_search_path(skvi_pick_kernels(), &v, use, h, 0, ends, NULL);
            for (l = 0; l < LANES; l++) {
                CHECK(v.state[63][l] == ends[l]);
                CHECK(path_cost(&v, h, use, l, 0, 1) == brute_force(&v, h, l, a, n, ends[l]));
            }
        }
}

typedef struct batch {
    float u[LANES * TOKENS];
    unsigned char use[TOKENS], codes[LANES * 32];
    uint32_t scale[LANES];
    skvi_search v;
} batch;

static void batch_encode(batch *b, uint32_t h, uint32_t n, const skvi_kernels *k)
{
    uint32_t l;
    for (l = 0; l < n; l++) {
        b->scale[l] = skvi_page_rms(b->u + l * TOKENS, b->use);
        if (b->scale[l] < 2) b->scale[l] = 2;
    }
    memset(b->codes, 0, sizeof b->codes);
    skvi_encode_trellis(k, &b->v, b->u, b->use, h, n, b->scale, b->codes);
}

static void batch_random(batch *b, double missing)
{
    uint32_t i;
    double size = pow(10, 6 * test_uniform() - 3);
    for (i = 0; i < LANES * TOKENS; i++) b->u[i] = (float)(size * test_normal());
    for (i = 0; i < TOKENS; i++) b->use[i] = test_uniform() >= missing;
}

/* Greedy: token by token the best of the windows that can follow. */
static void greedy(const skvi_search *v, const unsigned char *use, uint32_t h, uint32_t lane,
                   unsigned char *s)
{
    uint32_t t, i, k, w = 0, at = 0;
    memset(s, 0, 4 * h);
    for (t = 0; t < TOKENS; t++) {
        uint32_t b = (h + (t & 1u)) >> 1, best_w = w >> b;
        int64_t best = INT64_MAX;
        for (k = 0; k < 1u << b; k++) {
            uint32_t next = w >> b | k << (8 - b);
            int64_t d = use[t] ? v->x[t][lane] - SKVI_FINE * level_of(h, t, next) : 0;
            if (d * d >= best) continue;
            best = d * d;
            best_w = next;
        }
        w = best_w;
        for (i = 0; i < b; i++, at++)
            s[at / 8] = (unsigned char)(s[at / 8] | (w >> (8 - b + i) & 1u) << at % 8);
    }
}

/* Against others at the scale that was taken. All but the last 8 bits are the best for these, so no
   change of bits elsewhere lowers the error. */
TEST(no_other_stream_is_better)
{
    static batch b;
    unsigned char other[32];
    uint32_t h, l, i, k;
    for (h = 1; h <= 8; h++) {
        batch_random(&b, h % 2 ? 0.1 : 0);
        batch_encode(&b, h, LANES, skvi_pick_kernels());
        for (l = 0; l < LANES; l++) skvi_search_load(&b.v, l, b.u + l * TOKENS, h, b.scale[l]);
        for (l = 0; l < LANES; l++) {
            const unsigned char *codes = b.codes + l * 4 * h;
            int64_t mine = stream_cost(codes, h, &b.v, b.use, l);
            for (i = 0; i < 1000 / LANES; i++) {
                random_stream(other, h);
                CHECK(mine < stream_cost(other, h, &b.v, b.use, l));
            }
            greedy(&b.v, b.use, h, l, other);
            CHECK(mine < stream_cost(other, h, &b.v, b.use, l));
            for (i = 0; i < 32 * h - 8; i++) {
                memcpy(other, codes, 4 * h);
                for (k = i; k < 32 * h - 8 && k < i + 5; k++)
                    if (k == i || test_u64() & 1)
                        other[k / 8] = (unsigned char)(other[k / 8] ^ 1u << k % 8);
                CHECK(mine <= stream_cost(other, h, &b.v, b.use, l));
            }
        }
    }
}

TEST(kernels_give_the_same_codes)
{
    static batch a, b;
    uint32_t h, n, l;
    for (h = 1; h <= 8; h++) {
        batch_random(&a, h % 3 ? 0 : 0.2);
        n = 1 + h % LANES;
        b = a;
        batch_encode(&a, h, n, skvi_pick_kernels());
        batch_encode(&b, h, n, &skvi_kernels_c);
        CHECK(!memcmp(a.codes, b.codes, sizeof a.codes));
        for (l = 0; l < n; l++) CHECK(a.scale[l] == b.scale[l]);
    }
}

/* A channel's codes are its own: alone, or beside others. */
TEST(lanes_do_not_mix)
{
    static batch a, b;
    uint32_t h, l;
    for (h = 1; h <= 8; h++) {
        batch_random(&a, 0.05);
        for (l = 0; l < TOKENS; l++) a.u[3 * TOKENS + l] *= 1e4f;
        batch_encode(&a, h, LANES, skvi_pick_kernels());
        for (l = 0; l < LANES; l++) {
            memcpy(b.u, a.u + l * TOKENS, TOKENS * sizeof(float));
            memcpy(b.use, a.use, TOKENS);
            batch_encode(&b, h, 1, skvi_pick_kernels());
            CHECK(b.scale[0] == a.scale[l] && !memcmp(b.codes, a.codes + l * 4 * h, 4 * h));
        }
    }
}

/* --- passes over all channels of a sub ------------------------------------------------------ */

#define PER_MODE 8u
#define CHANNELS (PER_MODE * (SKVI_MODES - 1))

typedef struct pass {
    skvi_coder c;
    skvi_lane lane;
    skvi_stream s;
    skvi_plan plan;
    skvi_search search;
    unsigned char cells[(SKV_MAX_BITS + 1) * 512], use[TOKENS];
    unsigned char sub[SKVI_SUB_HEADER + CHANNELS * 65];
    float u[CHANNELS * TOKENS], out[CHANNELS * TOKENS], var[CHANNELS], err[TOKENS];
} pass;

/* Eight channels of every mode, the richest first; var 1. */
static pass *pass_new(void)
{
    static pass p;
    uint32_t i;
    memset(&p, 0, sizeof p);
    p.c.kern = skvi_pick_kernels();
    p.c.cells = p.cells;
    p.lane.u = p.u;
    p.lane.search = &p.search;
    p.s.D = p.plan.coded = CHANNELS;
    p.s.var = p.var;
    for (i = 1; i <= SKV_MAX_BITS; i++) skvi_cells(i, p.cells + i * 512);
    for (i = 1; i < SKVI_MODES; i++) p.plan.n[i] = PER_MODE;
    for (i = 0; i < CHANNELS; i++) p.var[i] = 1;
    memset(p.use, 1, sizeof p.use);
    return &p;
}

static uint32_t pass_mode(uint32_t channel) { return SKVI_MODES - 1 - channel / PER_MODE; }

static void pass_run(pass *p)
{
    uint32_t ch, m;
    memset(p->sub, 0, sizeof p->sub);
    skvi_encode_pass(&p->c, &p->lane, &p->s, &p->plan, p->use, p->sub, p->err);
    for (ch = 0; ch < CHANNELS; ch += m) {      /* in slabs of any size */
        m = 1 + (uint32_t)(test_u64() % 17);
        m = m < CHANNELS - ch ? m : CHANNELS - ch;
        skvi_expand_slab(&p->c, &p->plan, p->sub, ch, m, p->out + ch * TOKENS);
    }
}

static uint32_t pass_nibble(const pass *p, uint32_t ch)
{
    return (uint32_t)p->sub[SKVI_SUB_HEADER + ch / 2] >> 4 * (ch & 1u) & 15u;
}

/* Mean squared error of unit normals, as the plan counts with it. */
TEST(distortion_is_as_tabled)
{
    pass *p = pass_new();
    double sum[SKVI_MODES] = {0};
    uint32_t i, m;
    int round, rounds = test_.slow ? 1000 : 120;
    for (round = 0; round < rounds; round++) {
        for (i = 0; i < CHANNELS * TOKENS; i++) p->u[i] = (float)test_normal();
        pass_run(p);
        for (i = 0; i < CHANNELS * TOKENS; i++) {
            double d = (double)p->u[i] - (double)p->out[i];
            sum[pass_mode(i / TOKENS)] += d * d / (rounds * (double)PER_MODE * TOKENS);
        }
    }
    CHECK(skvi_distortion[0] == 1);
    for (m = 1; m < SKVI_MODES; m++) {
        CHECK_NEAR(sum[m], skvi_distortion[m], 0.03 * (double)skvi_distortion[m]);
        CHECK(skvi_distortion[m] < skvi_distortion[m - 1]);
    }
}

/* What a token that is not in use holds changes no byte; the error that is told is the error. */
TEST(tokens_not_in_use_do_not_count)
{
    static unsigned char want[sizeof ((pass *)0)->sub];
    pass *p = pass_new();
    uint32_t i, t;
    int round;
    for (i = 0; i < CHANNELS; i++) p->var[i] = (float)(1 + test_uniform());
    for (t = 0; t < TOKENS; t++) p->use[t] = t % 9 != 4 && t < 60;
    for (i = 0; i < CHANNELS * TOKENS; i++) p->u[i] = (float)test_normal();
    for (round = 0; round < 4; round++) {
        for (i = 0; i < CHANNELS * TOKENS; i++)
            if (!p->use[i % TOKENS] && round)
                p->u[i] = (float)(test_normal() * pow(10, 6 * round - 9));
        pass_run(p);
        if (!round) memcpy(want, p->sub, sizeof want);
        CHECK(!memcmp(want, p->sub, sizeof want));
        for (t = 0; t < TOKENS; t++) {
            double e = 0;
            for (i = 0; i < CHANNELS; i++) {
                double d = (double)p->u[i * TOKENS + t] - (double)p->out[i * TOKENS + t];
                e += (double)p->var[i] * d * d;
            }
            CHECK_NEAR(p->err[t], e, 1e-4 * e);
        }
    }
}

/* A few tokens far out pull the scale up: cutting them off would be an error that no rate mends. */
TEST(lone_spikes_are_reached)
{
    float u[TOKENS];
    unsigned char use[TOKENS];
    uint32_t m, t;
    for (t = 0; t < TOKENS; t++) u[t] = (float)test_normal();
    memset(use, 1, sizeof use);
    u[5] = 40;
    for (m = 5; m < SKVI_MODES; m++) {      /* at fewer bits cutting off is the better deal */
        float reach = 128 * skvi_unit_of(skvi_mode_half[m]);
        CHECK(skvi_scale(skvi_page_scale(u, use, m)) * reach > 25);
        CHECK(skvi_scale(skvi_page_rms(u, use)) * reach < 25);
    }
}

/* Of two steps the search takes the better one, the scalar codes the best of many. */
TEST(scales_are_well_chosen)
{
    pass *p = pass_new();
    uint32_t i, t, m, s;
    for (i = 0; i < CHANNELS * TOKENS; i++)
        p->u[i] = (float)(test_normal() * (i % 130 == 7 ? 5 : 1));      /* heavy tails */
    pass_run(p);
    for (i = 0; i < CHANNELS; i++) {
        const float *u = p->u + i * TOKENS;
        uint32_t rms, e = p->sub[4] + pass_nibble(p, i), w;
        double mine = 0, best = 1e300;
        m = pass_mode(i);
        rms = skvi_page_scale(u, p->use, m);    /* or above it, for the tails */
        CHECK(rms >= skvi_page_rms(u, p->use));
        w = skvi_mode_half[m] / 2u;
        if (m < SKVI_TRELLIS_MODES) {
            CHECK(e == rms || e + 1 == rms);
            continue;
        }
        CHECK(e <= rms + 1u && e + 5 >= rms);
        for (s = rms - 5; s <= rms + 1; s++) {
            double sum = 0, step = (double)(skvi_scale(s) * skvi_unit[w]);
            for (t = 0; t < TOKENS; t++) {
                double y = (double)u[t] / step, near = 1e300;
                uint32_t c;
                for (c = 0; c < 1u << w; c++)
                    near = fabs(y - skvi_level(w, c)) < near ? fabs(y - skvi_level(w, c)) : near;
                sum += near * near * step * step;
            }
            best = sum < best ? sum : best;
            if (s == e) mine = sum;
        }
        CHECK(mine > 0 && mine <= 1.15 * best);
    }
}

/* Any finite latent, and what overflow may make of one: levels stay finite. */
TEST(wild_latents)
{
    static const float wild[] = {1e9f, -1e9f, 0, -0.0f, 1e-39f, -1e-45f, 1e30f, -3e38f, 1e-9f, 1,
                                 INFINITY, -INFINITY, NAN};
    pass *p = pass_new();
    uint32_t i, round, kinds = sizeof wild / sizeof wild[0];
    for (round = 0; round < 4 * kinds; round++) {
        for (i = 0; i < CHANNELS * TOKENS; i++)
            p->u[i] = round < kinds ? wild[round] : wild[test_u64() % (round % 2 ? 10 : kinds)];
        for (i = 0; i < TOKENS; i++) p->use[i] = round % 3 != 1 || test_u64() % 2;
        if (round % 7 == 6) memset(p->use, 0, sizeof p->use);
        pass_run(p);
        for (i = 0; i < CHANNELS * TOKENS; i++) CHECK(skvi_is_finite(p->out[i]));
        if (round == 2)
            for (i = 0; i < TOKENS; i++) CHECK(p->err[i] >= 0 && p->err[i] < 1e-12f);
        for (i = 0; i < CHANNELS * TOKENS && !round; i++)       /* 1e9 for all */
            CHECK(pass_mode(i / TOKENS) < 3 || (p->out[i] > 2e8f && p->out[i] < 2e9f));
    }
}

/* One loud channel: it decodes well, the others go as low as nibbles reach. A quiet page: low. */
TEST(gain_and_nibbles)
{
    pass *p = pass_new();
    uint32_t i, loud;
    double e, size;
    for (loud = 0; loud < CHANNELS; loud += 11) {
        const float *u = p->u + loud * TOKENS;
        for (i = 0; i < CHANNELS * TOKENS; i++) p->u[i] = (float)(1e-3 * test_normal());
        for (i = 0; i < TOKENS; i++) p->u[loud * TOKENS + i] *= 1e6f;
        pass_run(p);
        CHECK(p->sub[4] + 14 == (int)skvi_page_rms(u, p->use));
        for (e = size = 0, i = 0; i < TOKENS; i++) {
            double d = (double)u[i] - (double)p->out[loud * TOKENS + i];
            e += d * d;
            size += (double)u[i] * (double)u[i];
        }
        CHECK(e < 2.5 * (double)skvi_distortion[pass_mode(loud)] * size);
        for (i = 0; i < CHANNELS; i++) CHECK(i == loud || pass_nibble(p, i) <= 3);
    }
    memset(p->u, 0, sizeof p->u);
    pass_run(p);
    CHECK(p->sub[4] == 0);
    for (i = 0; i < CHANNELS; i++) CHECK(pass_nibble(p, i) <= 3);
    for (i = 0; i < CHANNELS * TOKENS; i++) CHECK(fabsf(p->out[i]) < 4e-9f);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(tables_are_for_good);
    RUN(expand_of_pack_is_the_path);
    RUN(complement_is_negative);
    RUN(steps_agree_bit_for_bit);
    RUN(expansions_agree_bit_for_bit);
    RUN(free_paths_are_optimal);
    RUN(closed_paths_are_optimal);
    RUN(no_other_stream_is_better);
    RUN(kernels_give_the_same_codes);
    RUN(lanes_do_not_mix);
    RUN(distortion_is_as_tabled);
    RUN(tokens_not_in_use_do_not_count);
    RUN(lone_spikes_are_reached);
    RUN(scales_are_well_chosen);
    RUN(wild_latents);
    RUN(gain_and_nibbles);
    return TEST_END();
}
