/* test_trellis.c: the trellis codes of pages, their search and their scales. Levels are read a
 * second time from the description in >>quant; the search stands against brute force. Private
 * functions are called directly. */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"
#include "tables.h"

#define TOKENS SKV_PAGE_TOKENS
#define LANES SKVI_LANES
#define QUAD_BYTES 256          /* most bytes of a quad: h = 16 */

/* --- the code, once more ------------------------------------------------------------------- */

/* A channel's stream: 4 lanes of h bytes, one after the other. */
static uint32_t bit_at(const unsigned char *s, uint32_t i)
{
    return (uint32_t)s[i / 8] >> i % 8 & 1u;
}

/* The 8 bits before bit (p + 1) h / 2 of a circle of 32 h bits, oldest lowest. */
static uint32_t window_at(const unsigned char *s, uint32_t h, uint32_t p)
{
    uint32_t w = 0, i, end = (p + 1) * h / 2;
    for (i = 0; i < 8; i++) w |= bit_at(s, (end + 32 * h - 8 + i) % (32 * h)) << i;
    return w;
}

static uint32_t mode_of(uint32_t h)
{
    uint32_t m = 0;
    while (skvi_mode_half[m] != h) m++;
    return m;
}

static int level_of(uint32_t h, uint32_t p, uint32_t w)
{
    const skvi_code *c = &skvi_codes[mode_of(h)];
    int odd = (h & p & 1u) != 0;
    return c->part[odd][0][w % 16] + c->part[odd][1][w / 16 ^ w % 16];
}

static uint32_t new_bits(uint32_t h, uint32_t p) { return (p + 1) * h / 2 - p * h / 2; }
static uint32_t token_of(uint32_t p) { return 4 * (p % 16) + p / 16; }
static uint32_t after(uint32_t h) { return h < 8 ? h + 1 : h + 2; }     /* the next h */

/* Where byte i of lane l of channel b of a quad is, and the byte of levels of token 4 s + l. */
static uint32_t place(int kind, uint32_t i, uint32_t l, uint32_t b)
{
    return 16 * i + (kind ? 4 * b + l : 4 * l + b);
}

static void random_stream(unsigned char *s, uint32_t h)
{
    uint32_t i;
    for (i = 0; i < 4 * h; i++) s[i] = (unsigned char)test_u64();
}

static void stream_of(const unsigned char *quad, uint32_t h, int kind, uint32_t b, unsigned char *s)
{
    uint32_t i, l;
    for (l = 0; l < 4; l++)
        for (i = 0; i < h; i++) s[l * h + i] = quad[place(kind, i, l, b)];
}

TEST(tables_are_for_good)
{
    /* pages out there are read with them: another table is another format */
    unsigned char bytes[SKVI_MODES * 72], *at = bytes;
    uint32_t m, i;
    for (m = 0; m < SKVI_MODES; m++, at += 72) {
        skvi_put32(at, skvi_bits(skvi_codes[m].unit));
        skvi_put32(at + 4, skvi_codes[m].bits);
        for (i = 0; i < 64; i++) at[8 + i] = (unsigned char)skvi_codes[m].part[i / 32][i / 16 % 2]
                                                                              [i % 16];
    }
    CHECK(skvi_crc32(bytes, sizeof bytes) == 0xEFD1BCABu);
    CHECK(skvi_crc32(skvi_mode_half, sizeof skvi_mode_half) == 0x99B03DEEu);
}

TEST(levels_keep_to_their_bits)
{
    uint32_t h, w, p;
    for (h = 1; h <= 16; h = after(h)) {
        int half = 1 << (skvi_code_of(h)->bits - 1), least = 0, most = 0;
        CHECK(skvi_code_of(h) == &skvi_codes[mode_of(h)]);
        for (p = 0; p < 2; p++)
            for (w = 0; w < 256; w++) {
                int a = level_of(h, p, w);
                CHECK(skvi_level(h, p, w) == a);
                least = a < least ? a : least;
                most = a > most ? a : most;
            }
        CHECK(least >= -half && most < half && most - least >= half);
        CHECK(h <= SKVI_NARROW ? half >= 8 && half <= 64 : half == 128);    /* see >>integer */
    }
}

/* Random bytes are a random quad: levels of either kind, in all places of the buffer. */
TEST(expand_reads_windows)
{
    unsigned char codes[3 * QUAD_BYTES], s[64];
    signed char levels[3 * SKVI_PAIR_BYTES];
    uint32_t h, q, b, p, i;
    int kind, bias;
    for (h = 1; h <= 16; h = after(h))
        for (kind = 0; kind < 2; kind++)
            for (bias = 0; bias <= 64; bias += 64) {
                for (i = 0; i < sizeof codes; i++) codes[i] = (unsigned char)test_u64();
                memset(levels, 0x55, sizeof levels);
                skvi_expand_c(codes, h, kind, bias, 3, 1, levels);
                for (q = 0; q < 3; q++)
                    for (b = 0; b < 4; b++) {
                        stream_of(codes + q * 16 * h, h, kind, b, s);
                        for (p = 0; p < TOKENS; p++) {
                            const signed char *at = levels + (q + 1) / 2 * SKVI_PAIR_BYTES;
                            at += p % 16 * 32 + (q + 1) % 2 * 16;
                            CHECK(at[place(kind, 0, p / 16, b)] ==
                                  (signed char)(level_of(h, p, window_at(s, h, p)) + bias));
                        }
                    }
                for (i = 0; i < SKVI_PAIR_BYTES; i++)       /* quad 0 was not asked for */
                    CHECK(i % 32 >= 16 || levels[i] == 0x55);
                for (i = 2 * SKVI_PAIR_BYTES; i < sizeof levels; i++) CHECK(levels[i] == 0x55);
            }
}

TEST(expand_of_pack_is_the_path)
{
    static skvi_search v;
    unsigned char s[LANES][64], quad[QUAD_BYTES + 1], back[64];
    uint32_t h, lane, p, b;
    int kind;
    for (h = 1; h <= 16; h = after(h))
        for (kind = 0; kind < 2; kind++) {
            for (lane = 0; lane < LANES; lane++) {
                random_stream(s[lane], h);
                for (p = 0; p < TOKENS; p++)
                    v.state[p][lane] = (unsigned char)window_at(s[lane], h, p);
            }
            for (lane = 0; lane < LANES; lane += 4) {
                memset(quad, 0xC3, sizeof quad);
                for (b = 0; b < 4; b++) skvi_search_pack(&v, lane + b, h, kind, quad);
                CHECK(quad[16 * h] == 0xC3);
                for (b = 0; b < 4; b++) {
                    stream_of(quad, h, kind, b, back);
                    CHECK(!memcmp(back, s[lane + b], 4 * h));
                }
            }
        }
}

static void expansions_agree(const skvi_kernels *other)
{
    static unsigned char codes[16 * QUAD_BYTES + 33];
    static signed char levels[2][9 * SKVI_PAIR_BYTES];
    uint32_t h, i, round, n, first;
    int kind, bias;
    for (h = 1; h <= 16; h = after(h))
        for (round = 0; round < 100; round++) {
            unsigned char *at = codes + test_u64() % 33;    /* any alignment */
            uint32_t shift = (uint32_t)(test_u64() % 33);
            n = (uint32_t)(test_u64() % 8);
            first = (uint32_t)(test_u64() % 8);
            kind = (int)(test_u64() & 1);
            bias = round % 3 ? 0 : 1 << (skvi_code_of(h)->bits - 1);
            for (i = 0; i < n * 16 * h; i++) at[i] = (unsigned char)(round ? test_u64() : 255);
            memset(levels, 0x7F, sizeof levels);
            skvi_expand_c(at, h, kind, bias, n, first, levels[0] + shift);
            other->expand(at, h, kind, bias, n, first, levels[1] + shift);
            CHECK(!memcmp(levels[0], levels[1], sizeof levels[0]));     /* and nothing beyond */
        }
}

TEST(expansions_agree_bit_for_bit) { compare_tables(expansions_agree); }

/* --- the search ---------------------------------------------------------------------------- */

/* What the search counts for a position: squared fine steps, a byte. */
static int64_t cost_at(const skvi_search *v, uint32_t h, uint32_t lane, uint32_t p, uint32_t w)
{
    const skvi_fine f = skvi_fine_of(h);
    int64_t d = v->x[token_of(p)][lane] - f.unit * level_of(h, p, w);
    d = (d * d * (1 << f.twice) + 16384) / 32768;
    return d < 255 ? d : 255;
}

static int64_t stream_cost(const unsigned char *s, uint32_t h, const skvi_search *v,
                           const unsigned char *use, uint32_t lane)
{
    int64_t sum = 0;
    uint32_t p;
    for (p = 0; p < TOKENS; p++)
        if (use[p]) sum += cost_at(v, h, lane, p, window_at(s, h, p));
    return sum;
}

/* Normal latents at `size` times the scale that modes are made for. */
static void random_latents(skvi_search *v, uint32_t h, double size)
{
    const skvi_code *code = skvi_code_of(h);
    int unit = skvi_fine_of(h).unit, most = unit * ((1 << (code->bits - 1)) + SKVI_BEYOND);
    uint32_t t, l;
    for (t = 0; t < TOKENS; t++)
        for (l = 0; l < LANES; l++) {
            double x = size * test_normal() / (double)code->unit * unit;
            v->x[t][l] = (int16_t)(x < -most ? -most : x > most ? most : x);
        }
    skvi_search_levels(v, h);
}

TEST(fine_steps_fit_16_bits)
{
    uint32_t h;
    for (h = 1; h <= 16; h = after(h)) {
        const skvi_fine f = skvi_fine_of(h);
        int half = 1 << (skvi_code_of(h)->bits - 1);
        double mean = (double)skvi_distortion[mode_of(h)] * f.unit * f.unit * (1 << f.twice) /
                      (double)(skvi_code_of(h)->unit * skvi_code_of(h)->unit) / 32768;
        CHECK(f.unit * (2 * half + SKVI_BEYOND) < 32768);
        CHECK(mean > (h < 14 ? 1.2 : 0.8) && mean < 3);
    }
}

/* Scaled latents: rounded, bounded, NaN is something. What the bounds hide is told. */
TEST(latents_are_loaded)
{
    static skvi_search v;
    float u[TOKENS];
    unsigned char use[TOKENS];
    uint32_t h, t, e, wild;
    for (t = 0; t < TOKENS; t++) use[t] = t != 13;
    for (h = 1; h <= 16; h = after(h))
        for (e = 60; e < 200; e += 35)
            for (wild = 0; wild < 2; wild++) {
                const skvi_fine f = skvi_fine_of(h);
                double step = (double)skvi_code_of(h)->unit * (double)skvi_scale(e), hidden = 0;
                int last = f.unit << (skvi_code_of(h)->bits - 1);
                int most = last + f.unit * SKVI_BEYOND;
                uint32_t got;
                for (t = 0; t < TOKENS; t++)
                    u[t] = (float)(step * test_normal() * (t % 2 ? most / f.unit : 3));
                if (wild) {
                    u[0] = INFINITY;
                    u[1] = -INFINITY;
                    u[2] = 1e38f;
                    u[3] = NAN;
                }
                memset(v.x, 0x33, sizeof v.x);
                got = skvi_search_load(&v, 5, u, use, h, e);
                for (t = 0; t < TOKENS; t++) {
                    double want = (double)u[t] / step * f.unit;
                    CHECK(abs(v.x[t][5]) <= most);
                    CHECK(v.x[t][4] == 0x3333 && v.x[t][6] == 0x3333);
                    if (!(fabs(want) <= most)) {
                        double far = fabs(want) < 32000 ? fabs(want) : 32000;
                        if (t != token_of(13)) hidden += ((far - last) * (far - last) -
                                   (most - last) * (most - last)) / 32768 * (1 << f.twice);
                        want = want > 0 ? most : -most;
                    }
                    CHECK_NEAR(v.x[t][5], want, 0.501);
                }
                CHECK(hidden > 0 && (wild || fabs(got - hidden) < 40 * (1 << f.twice)));
                CHECK(!wild || got > 20000u << f.twice);
            }
}

/* Few values too, so that there are ties; some at the end of the range. */
static void random_costs(unsigned char *c, int round)
{
    uint32_t i;
    for (i = 0; i < 256 * LANES; i++) {
        c[i] = (unsigned char)(test_u64() % (round % 2 ? 256u : 4u));
        if (round % 4 == 3 && i % 5 == 0) c[i] = 255;
    }
}

/* A step of h with costs, rows for its results, latents (NULL: it costs nothing). */
static skvi_trial trial_of(uint32_t h, uint32_t step, const unsigned char *c, const int16_t *x,
                           const uint16_t *level)
{
    skvi_trial t;
    memset(&t, 0, sizeof t);
    t.c = c;
    t.x = x;
    t.level = level;
    t.levels = 1u << skvi_code_of(h)->bits;
    t.unit = skvi_fine_of(h).unit;
    t.twice = skvi_fine_of(h).twice;
    t.b = new_bits(h, step);
    return t;
}

typedef struct outcome {
    unsigned char d[256 * LANES], dist[256 * LANES], low[LANES], from[512];
    uint16_t total[LANES];
    unsigned char least[LANES + 1], first[LANES + 1];
} outcome;

static void outcome_of(const skvi_kernels *kern, skvi_trial t, outcome *o)
{
    t.d = o->d;
    t.dist = o->dist;
    t.low = o->low;
    t.total = o->total;
    t.from = o->from;
    kern->search(&t);
    memset(o->dist, 0, sizeof o->dist);         /* room, no result */
    kern->low(o->d, o->least, o->first);
}

static void steps_agree(const skvi_kernels *other)
{
    static unsigned char c[256 * LANES];
    static outcome o[2];
    static int16_t x[LANES];
    static uint16_t level[256];
    uint32_t h, step, i;
    int round;
    for (h = 1; h <= 16; h = after(h))
        for (step = 0; step < 2; step++)
            for (round = 0; round < 40; round++) {
                const skvi_trial t = trial_of(h, step, c, round % 5 == 4 ? NULL : x, level);
                int edge = t.unit * ((int)t.levels / 2 + SKVI_BEYOND);
                random_costs(c, round);
                for (i = 0; i < 256; i++) level[i] = (uint16_t)(test_u64() % t.levels * LANES);
                memset(&o[0], 0xEE, sizeof o[0]);
                for (i = 0; i < LANES; i++) {
                    int y = (int)(test_u64() % (2u * (unsigned)edge + 1)) - edge;
                    x[i] = (int16_t)(i == 3 ? edge : i == 4 ? -edge : y);
                    o[0].low[i] = (unsigned char)(round % 3 ? 0 : test_u64());
                    o[0].total[i] = (uint16_t)(test_u64() % 65000);
                }
                o[1] = o[0];
                outcome_of(&skvi_kernels_c, t, &o[0]);
                outcome_of(other, t, &o[1]);
                CHECK(!memcmp(&o[0], &o[1], sizeof o[0]));
                CHECK(o[1].least[LANES] == 0xEE && o[1].first[LANES] == 0xEE);
            }
}

TEST(steps_agree_bit_for_bit) { compare_tables(steps_agree); }

/* One step and the least of all costs against their descriptions. */
TEST(a_step_takes_the_least)
{
    static unsigned char c[256 * LANES], low[LANES];
    static outcome o;
    static uint16_t level[256];
    static int16_t x[LANES];
    uint32_t h, i, l, s, k;
    for (h = 2; h <= 16; h += 2) {
        const skvi_trial t = trial_of(h, 0, c, x, level);
        uint32_t n = 256u >> t.b, ways = 1u << t.b, per = t.b > 4 ? 1 : t.b > 2 ? 2 : 8 / t.b;
        random_costs(c, h % 4 == 0);
        for (s = 0; s < 256; s++)
            level[s] = (uint16_t)((uint32_t)(level_of(h, 0, s) + (int)t.levels / 2) * LANES);
        for (l = 0; l < LANES; l++) {
            x[l] = (int16_t)(t.unit * ((int)l - 15) / 2);
            o.low[l] = low[l] = (unsigned char)(c[l] < 100 ? l : 0);
            o.total[l] = (uint16_t)(3 * l);
        }
        outcome_of(skvi_pick_kernels(), t, &o);
        for (l = 0; l < LANES; l++) {
            uint32_t least = 255;
            for (i = 0, s = 1; s < 256; s++) i = o.d[s * LANES + l] < o.d[i * LANES + l] ? s : i;
            CHECK(o.least[l] == o.d[i * LANES + l] && o.first[l] == i);
            CHECK(o.total[l] == 3 * l + low[l]);
            for (s = 0; s < 256; s++) {
                uint32_t rest = s % n, best = 0, who = o.from[rest / per * LANES + l], sum;
                int d = x[l] - t.unit * level_of(h, 0, s);
                for (k = 1; k < ways; k++)          /* the last of equals */
                    if (c[(rest * ways + k) * LANES + l] <=
                        c[(rest * ways + best) * LANES + l]) best = k;
                CHECK((who >> (per - 1 - rest % per) * (8 / per) & (ways - 1)) == best);
                sum = c[(rest * ways + best) * LANES + l];
                sum = sum > low[l] ? sum - low[l] : 0;
                least = sum < least ? sum : least;
                sum += (uint32_t)((d * d * (1 << t.twice) + 16384) / 32768);
                CHECK(o.d[s * LANES + l] == (sum < 255 ? sum : 255));
            }
            CHECK(o.low[l] == least);
        }
    }
}

/* Positions a .. a + n - 1 of the circle are in use. Least cost over all bits that they see: those
   of position a's window and all newer ones; with `end` not -1, position 63's window is that. */
static int64_t brute_force(const skvi_search *v, uint32_t h, uint32_t lane, uint32_t a, uint32_t n,
                           int end)
{
    static int64_t table[16][256];
    uint32_t at[16], i, x, w;
    int64_t best = INT64_MAX;
    for (i = 0; i < n; i++) {
        uint32_t p = (a + i) % TOKENS;
        at[i] = i ? at[i - 1] + new_bits(h, p) : 0;
        for (w = 0; w < 256; w++)
            table[i][w] = end < 0 || p != 63 || w == (uint32_t)end ? cost_at(v, h, lane, p, w)
                                                                   : 1000000000;
    }
    for (x = 0; x >> (8 + at[n - 1]) == 0; x++) {
        int64_t sum = 0;
        for (i = 0; i < n; i++) sum += table[i][x >> at[i] & 255u];
        if (sum < best) best = sum;
    }
    return best;
}

/* Cost of the states found, which must follow one another, around the circle where `round`. */
static int64_t path_cost(const skvi_search *v, uint32_t h, const unsigned char *use, uint32_t lane,
                         uint32_t first, int round)
{
    int64_t sum = 0;
    uint32_t i;
    for (i = 0; i < TOKENS; i++) {
        uint32_t p = (first + i) % TOKENS, last = (p + TOKENS - 1) % TOKENS, b = new_bits(h, p);
        uint32_t s = v->state[p][lane];
        if (i || round) CHECK((s & (255u >> b)) == (uint32_t)v->state[last][lane] >> b);
        if (use[p]) sum += cost_at(v, h, lane, p, s);
    }
    return sum;
}

static uint32_t short_run(uint32_t h)   /* positions whose bits are few enough for brute force */
{
    static const uint32_t n[17] = {0, 12, 7, 5, 4, 4, 3, 3, 3, 0, 2, 0, 1, 0, 1, 0, 1};
    return n[h];
}

/* Costs are exact up to a byte above the best state. */
#define SANE 255

/* Best paths of all lanes once round the circle. */
static void path_of(skvi_search *v, const unsigned char *use, uint32_t h, uint32_t first,
                    const unsigned char *ends)
{
    const skvi_kernels *kern = skvi_pick_kernels();
    unsigned char lane[LANES], s[LANES];
    uint32_t l;
    for (l = 0; l < LANES; l++) lane[l] = (unsigned char)l;
    skvi_search_run(kern, v, v->x[0], use, h, first, TOKENS, ends);
    kern->low(v->cost[0][0], v->low, s);
    if (ends) memcpy(s, ends, sizeof s);
    skvi_search_trace(v, h, first, TOKENS, lane, LANES, s, 0);
}

TEST(free_paths_are_optimal)
{
    static skvi_search v;
    unsigned char use[TOKENS];
    uint32_t h, i, l, a, n, first, round, sane = 0, all = 0;
    for (h = 1; h <= 16; h = after(h))
        for (round = 0; round < 4; round++) {
            n = short_run(h);
            first = round % 2 * 32;
            a = first + (uint32_t)(test_u64() % (TOKENS - n));
            random_latents(&v, h, round < 2 ? 0.5 : 1);
            memset(use, 0, sizeof use);
            for (i = 0; i < n; i++) use[(a + i) % TOKENS] = 1;
            path_of(&v, use, h, first, NULL);
            for (l = 0; l < LANES; l++, all++) {
                int64_t best = brute_force(&v, h, l, a, n, -1), mine;
                mine = path_cost(&v, h, use, l, first, 0);
                CHECK(mine == best || best >= (int64_t)SANE);
                sane += best < (int64_t)SANE;
            }
        }
    CHECK(sane > all * 9 / 10);
}

/* Tails that meet in a given state, the positions in use on both sides of the circle's end. */
TEST(closed_paths_are_optimal)
{
    static skvi_search v;
    unsigned char use[TOKENS], ends[LANES];
    uint32_t h, i, l, a, n, round, sane = 0, all = 0;
    for (h = 1; h <= 16; h = after(h))
        for (round = 0; round < 2; round++) {
            n = short_run(h) + 1;
            a = TOKENS - n / 2;
            random_latents(&v, h, round ? 0.25 : 0.5);
            for (l = 0; l < LANES; l++) ends[l] = (unsigned char)test_u64();
            for (i = 0; i < TOKENS; i++) use[i] = i >= a || i < a + n - TOKENS;
            path_of(&v, use, h, 0, ends);
            for (l = 0; l < LANES; l++, all++) {
                int64_t best = brute_force(&v, h, l, a, n, ends[l]);
                CHECK(v.state[63][l] == ends[l]);
                CHECK(path_cost(&v, h, use, l, 0, 1) == best || best >= (int64_t)SANE);
                sane += best < (int64_t)SANE;
            }
        }
    CHECK(sane > all / 2);
}

typedef struct batch {
    float u[LANES * TOKENS];                    /* by token */
    unsigned char use[TOKENS], in[TOKENS];      /* by token, by position */
    unsigned char codes[LANES / 4 * QUAD_BYTES];
    uint32_t scale[LANES];
    skvi_search v;
} batch;

static void batch_encode(batch *b, uint32_t h, int kind, uint32_t n, const skvi_kernels *k)
{
    uint32_t l, p;
    skvi_batch job;
    skvi_coding of;
    for (p = 0; p < TOKENS; p++) b->in[p] = b->use[token_of(p)];
    for (l = 0; l < n; l++) {
        b->scale[l] = skvi_page_scale(b->u + l * TOKENS, b->use, mode_of(h));
        if (b->scale[l] < 2) b->scale[l] = 2;
    }
    memset(b->codes, 0, sizeof b->codes);
    memset(&job, 0, sizeof job);
    memset(&of, 0, sizeof of);
    of.kind = kind;
    of.u = b->u;
    memcpy(of.in, b->in, sizeof of.in);
    job.n = n;
    memcpy(job.scale, b->scale, n * sizeof *job.scale);
    for (l = 0; l < n; l += 4) {
        job.of[l / 4] = &of;
        job.ch[l / 4] = l;
        job.codes[l / 4] = b->codes + l / 4 * 16 * h;
    }
    skvi_encode_quads(k, &b->v, h, &job);
    memcpy(b->scale, job.scale, n * sizeof *job.scale);
}

static void batch_random(batch *b, double missing)
{
    uint32_t i;
    double size = pow(10, 6 * test_uniform() - 3);
    for (i = 0; i < LANES * TOKENS; i++) b->u[i] = (float)(size * test_normal());
    for (i = 0; i < TOKENS; i++) b->use[i] = test_uniform() >= missing;
}

static void batch_stream(const batch *b, uint32_t h, int kind, uint32_t lane, unsigned char *s)
{
    stream_of(b->codes + lane / 4 * 16 * h, h, kind, lane % 4, s);
}

/* Greedy: position by position the best of the windows that can follow. */
static void greedy(const skvi_search *v, const unsigned char *use, uint32_t h, uint32_t lane,
                   unsigned char *s)
{
    uint32_t p, i, k, w = 0, at = 0;
    memset(s, 0, 4 * h);
    for (p = 0; p < TOKENS; p++) {
        uint32_t b = new_bits(h, p), best_w = w >> b;
        int64_t best = INT64_MAX;
        for (k = 0; k < 1u << b; k++) {
            uint32_t next = w >> b | k << (8 - b);
            int64_t d = use[p] ? cost_at(v, h, lane, p, next) : 0;
            if (d >= best) continue;
            best = d;
            best_w = next;
        }
        w = best_w;
        for (i = 0; i < b; i++, at++)
            s[at / 8] = (unsigned char)(s[at / 8] | (w >> (8 - b + i) & 1u) << at % 8);
    }
}

/* The position that brings bit i of the circle. */
static uint32_t position_of(uint32_t h, uint32_t i)
{
    uint32_t p = 0;
    while ((p + 1) * h / 2 <= i % (32 * h)) p++;
    return p;
}

/* Against others at the scale that was taken. The path is the best of those that agree with it
   outside the seam, and of those that agree with it in the seam: bits that no window on the other
   side sees are the best for those that are left. */
TEST(no_other_stream_is_better)
{
    static batch b;
    unsigned char codes[64], other[64];
    uint32_t h, l, i, k, flips = 0;
    for (h = 1; h <= 16; h = after(h)) {
        uint32_t seam = skvi_seam(h), first = TOKENS - seam / 2;
        int kind = h % 3 == 0;
        CHECK(seam <= TOKENS && seam % 2 == 0 && seam * h / 2 >= 32);
        batch_random(&b, h % 2 ? 0.1 : 0);
        batch_encode(&b, h, kind, LANES, skvi_pick_kernels());
        for (l = 0; l < LANES; l++)
            (void)skvi_search_load(&b.v, l, b.u + l * TOKENS, b.in, h, b.scale[l]);
        for (l = 0; l < LANES; l++) {
            int64_t mine;
            batch_stream(&b, h, kind, l, codes);
            mine = stream_cost(codes, h, &b.v, b.in, l);
            for (i = 0; i < 20; i++) {
                random_stream(other, h);
                CHECK(mine < stream_cost(other, h, &b.v, b.in, l));
            }
            greedy(&b.v, b.in, h, l, other);
            i = mine <= stream_cost(other, h, &b.v, b.in, l);   /* ties at 6 bits and up */
            CHECK(i && (h >= 12 || mine < stream_cost(other, h, &b.v, b.in, l)));
            for (i = l % 4; i < 32 * h; i += 1 + h / 4) {
                uint32_t from = (position_of(h, i) + TOKENS - first) % TOKENS;
                uint32_t to = (position_of(h, i + 4 + 7) + TOKENS - first) % TOKENS;
                if (to < from || (from < seam && to >= seam)) continue;
                memcpy(other, codes, 4 * h);
                for (k = i; k < i + 5; k++)
                    if (k == i || test_u64() & 1)
                        other[k % (32 * h) / 8] =
                            (unsigned char)(other[k % (32 * h) / 8] ^ 1u << k % 8);
                CHECK(mine <= stream_cost(other, h, &b.v, b.in, l));
                flips++;
            }
        }
    }
    CHECK(flips > 10000);
}

static void codes_agree(const skvi_kernels *other)
{
    static batch a, b;
    uint32_t h, n;
    for (h = 1; h <= 16; h = after(h))
        for (n = 4; n <= LANES; n += 4) {
            int kind = (h + n / 4) % 2 == 1;
            batch_random(&a, h % 3 ? 0 : 0.2);
            if (n == 8) a.u[70] *= 100;         /* one far out */
            b = a;
            batch_encode(&a, h, kind, n, other);
            batch_encode(&b, h, kind, n, &skvi_kernels_c);
            CHECK(!memcmp(a.codes, b.codes, sizeof a.codes));
            CHECK(!memcmp(a.scale, b.scale, n * sizeof a.scale[0]));
        }
}

TEST(kernels_give_the_same_codes) { compare_tables(codes_agree); }

/* A channel's codes are its own, whatever is beside it and in whichever lane it is. */
TEST(lanes_do_not_mix)
{
    static batch a, b;
    unsigned char s[2][64];
    uint32_t h, l;
    for (h = 1; h <= 16; h = after(h)) {
        batch_random(&a, 0.05);
        for (l = 0; l < TOKENS; l++) a.u[3 * TOKENS + l] *= 1e4f;
        batch_encode(&a, h, 0, LANES, skvi_pick_kernels());
        for (l = 0; l < LANES; l += 3) {
            uint32_t to = (l + 1) % 4;
            batch_random(&b, 0);
            memcpy(b.u + to * TOKENS, a.u + l * TOKENS, TOKENS * sizeof(float));
            memcpy(b.use, a.use, TOKENS);
            batch_encode(&b, h, 1, 4, skvi_pick_kernels());
            batch_stream(&a, h, 0, l, s[0]);
            batch_stream(&b, h, 1, to, s[1]);
            CHECK(b.scale[to] == a.scale[l] && !memcmp(s[0], s[1], 4 * h));
        }
    }
}

/* --- passes over all channels of a sub ------------------------------------------------------ */

#define PER_MODE 12u
#define CHANNELS (PER_MODE * (SKVI_MODES - 1))

typedef struct pass {
    skvi_coder c;
    skvi_lane lane;
    skvi_stream s;
    skvi_plan plan;
    skvi_search search;
    int kind;
    unsigned char use[TOKENS];
    signed char levels[SKVI_SLAB / 8 * SKVI_PAIR_BYTES];
    unsigned char sub[SKVI_SUB_HEADER + CHANNELS * 65];
    float u[CHANNELS * TOKENS], out[CHANNELS * TOKENS], var[CHANNELS], err[TOKENS];
    uint16_t scale[CHANNELS + 8];
} pass;

/* Twelve channels of every mode, the richest first; var 1. */
static pass *pass_new(void)
{
    static pass p;
    uint32_t i;
    memset(&p, 0, sizeof p);
    p.c.kern = skvi_pick_kernels();
    p.lane.u = p.u;
    p.lane.search = &p.search;
    p.lane.levels = p.levels;
    p.s.D = p.plan.coded = CHANNELS;
    p.s.var = p.var;
    for (i = 1; i < SKVI_MODES; i++) p.plan.n[i] = PER_MODE;
    for (i = 0; i < CHANNELS; i++) p.var[i] = 1;
    memset(p.use, 1, sizeof p.use);
    return &p;
}

static uint32_t pass_mode(uint32_t channel) { return SKVI_MODES - 1 - channel / PER_MODE; }

static skvi_sub pass_sub(const pass *p)
{
    skvi_sub at;
    memset(&at, 0, sizeof at);
    at.stream = &p->s;
    at.plan = &p->plan;
    at.bytes = p->sub;
    at.kind = p->kind;
    return at;
}

static void pass_run(pass *p)
{
    const skvi_sub at = pass_sub(p);
    uint32_t ch, i, t;
    skvi_slab slab;
    skvi_coding k;
    memset(p->sub, 0, sizeof p->sub);
    memset(&k, 0, sizeof k);
    k.s = &p->s;
    k.plan = &p->plan;
    k.kind = p->kind;
    k.u = p->lane.u;
    k.scale = p->scale;
    k.sub = p->sub;
    memcpy(k.use, p->use, sizeof k.use);
    skvi_encode_pass(&p->c, &p->lane, &k, 1);
    memcpy(p->err, k.err, sizeof p->err);
    for (ch = 0; ch < CHANNELS; ch += slab.n) {
        skvi_slab_plan(&p->c, at.plan, at.kind, ch, &slab);
        skvi_slab_expand(&p->c, at.bytes, NULL, &slab, p->levels);
        CHECK(slab.ch == ch && slab.n && slab.n <= SKVI_SLAB && slab.n % SKVI_QUAD == 0);
        for (i = 0; i < slab.n; i++)
            for (t = 0; t < TOKENS; t++)
                p->out[(ch + i) * TOKENS + t] =
                    slab.step[i] * (float)(skvi_slab_level(p->levels, p->kind, i, t) -
                                           (int)slab.zero[i / 4]);
    }
}

static uint32_t pass_nibble(const pass *p, uint32_t ch)
{
    return (uint32_t)p->sub[SKVI_SUB_HEADER + ch / 2] >> 4 * (ch & 1u) & 15u;
}

/* Slabs from any quad on, read a second time from the layout: gain, nibbles, then quads. */
TEST(slabs_are_as_described)
{
    pass *p = pass_new();
    unsigned char s[64];
    uint32_t ch, i, t, m, from;
    skvi_slab slab;
    double reach;
    int round;
    for (i = 0; i < CHANNELS * TOKENS; i++)
        p->u[i] = (float)(test_normal() * (i / TOKENS % 4 + 1));
    for (round = 0; round < 6; round++) {
        const skvi_sub at = pass_sub(p);
        p->kind = round % 2;
        p->c.precise = round / 2 == 1;
        p->c.kern = round / 2 == 2 ? &skvi_kernels_c : skvi_pick_kernels();
        pass_run(p);
        for (from = 0; from < CHANNELS; from += 4) {
            const unsigned char *codes = p->sub + SKVI_SUB_HEADER + CHANNELS / 2;
            skvi_sub sub = at;
            sub.kind = p->kind;
            memset(&slab, 0x7F, sizeof slab);
            skvi_slab_plan(&p->c, sub.plan, sub.kind, from, &slab);
            skvi_slab_expand(&p->c, sub.bytes, NULL, &slab, p->levels);
            reach = 0;
            for (ch = 0; ch < from + slab.n; ch++) {
                uint32_t h = skvi_mode_half[m = pass_mode(ch)];
                float unit = skvi_scale(p->sub[4] + pass_nibble(p, ch)) * skvi_codes[m].unit;
                const unsigned char *quad = codes;
                if (ch % 4 == 3) codes += 16 * h;
                if (ch < from) continue;
                i = ch - from;
                reach += (double)(1 << (skvi_codes[m].bits - 1));
                stream_of(quad, h, p->kind, ch % 4, s);
                CHECK(slab.wide == (p->c.precise || h > SKVI_NARROW) && slab.step[i] == unit);
                for (t = 0; t < TOKENS; t++) {
                    uint32_t pos = t % 4 * 16 + t / 4;
                    int level = skvi_slab_level(p->levels, p->kind, i, t);
                    CHECK(level - (int)slab.zero[i / 4] == level_of(h, pos, window_at(s, h, pos)));
                    CHECK(slab.wide || p->kind || !p->c.kern->unsigned_keys || level >= 0);
                    CHECK(slab.zero[i / 4] == 0 || (!p->kind && !slab.wide));
                }
            }
            for (i = slab.n; i % 8; i++) CHECK(slab.step[i] == 0);
            CHECK((double)slab.reach == reach);
        }
    }
}

/* Gain, scales and codes of latents that are plain integers: the same on every machine, with every
   table. They may change with the encoder, not with the compiler. */
TEST(codes_are_the_same_everywhere)
{
    static const uint32_t crc[2] = {0xFB229F38u, 0x25346288u};
    pass *p = pass_new();
    const skvi_kernels *k;
    uint32_t i, j, n, state = 1;
    for (i = 0; i < CHANNELS * TOKENS; i++) {
        int x = 0;
        for (j = 0; j < 4; j++) x += (int)((state = state * 1664525u + 1013904223u) >> 20) - 2048;
        p->u[i] = (float)x * (1.0f / 2048) * (float)(1 + i / TOKENS % 5);
    }
    for (n = 0; (k = table_at(n)) != NULL; n++)
        for (p->kind = 0; p->kind < 2; p->kind++) {
            p->c.kern = k;
            pass_run(p);
            CHECK(skvi_crc32(p->sub, sizeof p->sub) == crc[p->kind]);
        }
}

/* Mean squared error of unit normals, as the plan counts with it. */
TEST(distortion_is_as_tabled)
{
    pass *p = pass_new();
    double sum[SKVI_MODES] = {0};
    uint32_t i, m;
    int round, few = p->c.kern == &skvi_kernels_c || getenv("SKV_SANITIZED");
    int rounds = test_.slow ? 1000 : few ? 40 : 200;
    for (round = 0; round < rounds; round++) {
        p->kind = round % 2;
        for (i = 0; i < CHANNELS * TOKENS; i++) p->u[i] = (float)test_normal();
        pass_run(p);
        for (i = 0; i < CHANNELS * TOKENS; i++) {
            double d = (double)p->u[i] - (double)p->out[i];
            sum[pass_mode(i / TOKENS)] += d * d / (rounds * (double)PER_MODE * TOKENS);
        }
    }
    CHECK(skvi_distortion[0] == 1);
    for (m = 1; m < SKVI_MODES; m++) {
        CHECK_NEAR(sum[m], skvi_distortion[m], (few ? 0.08 : 0.05) * (double)skvi_distortion[m]);
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
    for (round = 0; round < 8; round++) {
        p->kind = round / 4;
        for (i = 0; i < CHANNELS * TOKENS; i++)
            if (!p->use[i % TOKENS] && round % 4)
                p->u[i] = (float)(test_normal() * pow(10, 6 * (round % 4) - 9));
        pass_run(p);
        if (round % 4 == 0) memcpy(want, p->sub, sizeof want);
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

/* Channels that only fill the last quad, and channels without codes, in the error that is told. */
TEST(error_counts_real_channels)
{
    pass *p = pass_new();
    uint32_t i, t, real[2] = {CHANNELS - 3, CHANNELS + 2}, r;
    static float u[(CHANNELS + 2) * TOKENS], var[CHANNELS + 2];
    for (i = 0; i < (CHANNELS + 2) * TOKENS; i++) u[i] = (float)test_normal();
    for (i = 0; i < CHANNELS + 2; i++) var[i] = 1 + (float)(i % 3);
    for (r = 0; r < 2; r++) {
        p->s.D = real[r];
        p->s.var = var;
        p->lane.u = u;
        for (i = real[r] * TOKENS; i < CHANNELS * TOKENS; i++) u[i] = 0;
        pass_run(p);
        for (t = 0; t < TOKENS; t++) {
            double e = 0;
            for (i = 0; i < real[r]; i++) {
                double d = (double)u[i * TOKENS + t];
                if (i < CHANNELS) d -= (double)p->out[i * TOKENS + t];
                e += (double)var[i] * d * d;
            }
            CHECK_NEAR(p->err[t], e, 1e-4 * e);
        }
        for (i = 0; i < (CHANNELS + 2) * TOKENS; i++) u[i] = (float)test_normal();
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
        CHECK(skvi_reach(m) == skvi_codes[m].unit * (float)(1 << (skvi_codes[m].bits - 1)));
        CHECK(skvi_scale(skvi_page_scale(u, use, m)) * skvi_reach(m) > 25);
        CHECK(skvi_scale(skvi_page_rms(u, use)) * skvi_reach(m) < 25);
    }
}

/* Of two steps the search takes the better one by the cost of a free path, which is the squared
   error but for rounding. */
TEST(scales_are_well_chosen)
{
    static batch b;
    pass *p = pass_new();
    uint32_t i, t, down = 0, wrong = 0;
    for (i = 0; i < CHANNELS * TOKENS; i++)
        p->u[i] = (float)(test_normal() * (i % 130 == 7 ? 5 : 1));      /* heavy tails */
    pass_run(p);
    for (i = 0; i < CHANNELS; i++) {
        const float *u = p->u + i * TOKENS;
        uint32_t m = pass_mode(i), h = skvi_mode_half[m], e = p->sub[4] + pass_nibble(p, i), try;
        uint32_t start = skvi_page_scale(u, p->use, m);     /* rms, or above it for the tails */
        const skvi_fine f = skvi_fine_of(h);
        double cost[2], error[2];
        CHECK(start >= skvi_page_rms(u, p->use) && start <= skvi_page_rms(u, p->use) + 12);
        CHECK(e == start || e + 1 == start);
        down += e != start;
        skvi_search_levels(&b.v, h);
        memset(b.v.x, 0, sizeof b.v.x);
        for (try = 0; try < 2; try++) {
            double step = (double)(skvi_scale(start - try) * skvi_codes[m].unit);
            uint32_t hidden = skvi_search_load(&b.v, 0, u, p->use, h, start - try);
            path_of(&b.v, p->use, h, 0, NULL);
            cost[try] = step * step * (hidden + b.v.total[0] + b.v.low[0]);
            for (t = 0, error[try] = 0; t < TOKENS; t++) {
                double d = (double)u[token_of(t)] - step * level_of(h, t, b.v.state[t][0]);
                error[try] += d * d;
            }
            error[try] *= (double)f.unit * f.unit * (1 << f.twice) / 32768;
            CHECK_NEAR(cost[try], error[try], 0.25 * error[try] + 4 * step * step);
        }
        CHECK(e == (cost[1] < cost[0] ? start - 1 : start));
        wrong += e != (error[1] < error[0] ? start - 1 : start);
    }
    CHECK(down > CHANNELS / 20 && down < CHANNELS * 19 / 20);
    CHECK(wrong < CHANNELS / 10);
}

/* Any finite latent, and what overflow may make of one: levels stay finite. */
TEST(wild_latents)
{
    static const float wild[] = {1e9f, -1e9f, 0, -0.0f, 1e-39f, -1e-45f, 1e30f, -3e38f, 1e-9f, 1,
                                 INFINITY, -INFINITY, NAN};
    pass *p = pass_new();
    uint32_t i, round, kinds = sizeof wild / sizeof wild[0];
    for (round = 0; round < (p->c.kern == &skvi_kernels_c ? 2 : 4) * kinds; round++) {
        p->kind = round % 5 > 2;
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
        CHECK(p->sub[4] + 14 == (int)skvi_page_scale(u, p->use, pass_mode(loud)));
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
    RUN(levels_keep_to_their_bits);
    RUN(expand_reads_windows);
    RUN(expand_of_pack_is_the_path);
    RUN(expansions_agree_bit_for_bit);
    RUN(fine_steps_fit_16_bits);
    RUN(latents_are_loaded);
    RUN(steps_agree_bit_for_bit);
    RUN(a_step_takes_the_least);
    RUN(free_paths_are_optimal);
    RUN(closed_paths_are_optimal);
    RUN(no_other_stream_is_better);
    RUN(kernels_give_the_same_codes);
    RUN(lanes_do_not_mix);
    RUN(slabs_are_as_described);
    RUN(codes_are_the_same_everywhere);
    RUN(distortion_is_as_tabled);
    RUN(tokens_not_in_use_do_not_count);
    RUN(error_counts_real_channels);
    RUN(lone_spikes_are_reached);
    RUN(scales_are_well_chosen);
    RUN(wild_latents);
    RUN(gain_and_nibbles);
    return TEST_END();
}
