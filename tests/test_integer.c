/* test_integer.c: attention on levels, >>integer and >>turned: every kernel of every table against
 * a plain formula in 64-bit integers or doubles, and every table against the C one bit for bit,
 * at the bounds that the driver keeps. Private functions are called directly. */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"
#include "tables.h"

#define TOKENS SKV_PAGE_TOKENS
#define GANG SKVI_GANG
#define PAIRS (SKVI_SLAB / 8)

static uint32_t pick(uint32_t n) { return (uint32_t)(test_u64() % n); }

TEST(a_table_is_picked)
{
    const skvi_kernels *k = skvi_pick_kernels();
    uint32_t last = 0;
    while (table_at(last + 1)) last++;
    printf("  (kernels in use: %s)\n", table_name(k));
    CHECK(k == table_at(last));
    CHECK(!skvi_kernels_c.unsigned_keys);
}

/* --- scores and values --------------------------------------------------------------------- */

/* What one call works on: n pairs of levels as the layout says, rows of queries or weights in the
   plain order, and as kernels want them. Sums stand within guards. */
typedef struct job {
    uint32_t      pairs, rows, bits[PAIRS];
    signed char   levels[PAIRS * SKVI_PAIR_BYTES + 32];
    int           level[8 * PAIRS][TOKENS];
    int           q[GANG][8 * PAIRS], w[GANG][TOKENS];
    signed char   query[PAIRS * GANG * 32 + 32];
    unsigned char weight[GANG * TOKENS + 32];
    int16_t       query_wide[PAIRS * GANG * 16 + 16], weight_wide[GANG * TOKENS + 16];
    uint32_t      shift[3];         /* of levels, the other input and the sums: any alignment */
    int32_t       acc[2][GANG * TOKENS + 24], was[GANG * TOKENS + 24];
} job;

/* Levels, queries or weights: at one end, at the other, at either, or anything in between. */
static int between(int low, int high, int how)
{
    if (how == 0) return high;
    if (how == 1) return low;
    if (how == 2) return test_u64() & 1 ? low : high;
    return low + (int)pick((uint32_t)(high - low + 1));
}

/* kind 0: keys, 1: values; wide: levels of 8 bits. `above` is added to levels, as the driver does
   for kernels that want keys from 0 on. */
static void job_fill(job *j, int kind, int wide, int above, int how)
{
    uint32_t p, c, t, r, i;
    for (i = 0; i < 3; i++) j->shift[i] = pick(i ? 8 : 32);
    for (p = 0; p < j->pairs; p++)
        for (c = 8 * p; c < 8 * p + 8; c++)
            for (t = 0; t < TOKENS; t++) {
                int half = 1 << (wide ? 7 : j->bits[p] - 1), x = between(-half, half - 1, how % 4);
                uint32_t byte = kind ? 4 * (c % 4) + t % 4 : 4 * (t % 4) + c % 4;
                j->level[c][t] = x + (above ? half : 0);
                j->levels[j->shift[0] + p * SKVI_PAIR_BYTES + t / 4 * 32 + c / 4 % 2 * 16 + byte] =
                    (signed char)j->level[c][t];
            }
    for (r = 0; r < j->rows; r++) {
        for (c = 0; c < 8 * j->pairs; c++) {
            int most = wide ? 8191 : 127, x = j->q[r][c] = between(-most, most, how / 4);
            uint32_t at = (c / 8 * j->rows + r) * 32 + c % 8 / 4 * 16 + c % 4;
            for (i = 0; i < 4 && !wide; i++)
                j->query[j->shift[1] + at + 4 * i] = (signed char)x;
            for (i = 0; i < 2; i++)
                j->query_wide[j->shift[1] + (c / 8 * j->rows + r) * 16 + c % 8 / 4 * 8 + c % 4 +
                              4 * i] = (int16_t)x;
        }
        for (t = 0; t < TOKENS; t++) {
            int x = j->w[r][t] = between(0, wide ? 16320 : 254, how / 4);
            j->weight[j->shift[1] + r * TOKENS + t] = (unsigned char)x;
            j->weight_wide[j->shift[1] + r * TOKENS + t] = (int16_t)x;
        }
    }
    for (i = 0; i < GANG * TOKENS + 24; i++) j->was[i] = (int32_t)(uint32_t)(test_u64() >> 36);
}

static void job_score(job *j, const skvi_kernels *k, int wide, int32_t *acc)
{
    memcpy(acc, j->was, sizeof j->was);
    if (wide)
        k->score_wide(j->levels + j->shift[0], j->query_wide + j->shift[1], j->pairs, j->rows,
                      acc + j->shift[2]);
    else
        k->score(j->levels + j->shift[0], j->query + j->shift[1], j->pairs, j->rows,
                 acc + j->shift[2]);
}

static void job_value(job *j, const skvi_kernels *k, int wide, int32_t *acc)
{
    memcpy(acc, j->was, sizeof j->was);
    if (wide)
        k->value_wide(j->levels + j->shift[0], j->weight_wide + j->shift[1], j->pairs, j->rows,
                      acc + j->shift[2]);
    else
        k->value(j->levels + j->shift[0], j->weight + j->shift[1], j->pairs, j->rows,
                 acc + j->shift[2]);
}

/* acc[row][token] = sum of level q, and nothing beside it. */
static void check_score(const job *j, const int32_t *acc)
{
    uint32_t r, t, c, i, end = j->shift[2] + j->rows * TOKENS;
    for (r = 0; r < j->rows; r++)
        for (t = 0; t < TOKENS; t++) {
            int64_t sum = 0;
            i = j->shift[2] + r * TOKENS + t;
            for (c = 0; c < 8 * j->pairs; c++) sum += (int64_t)j->level[c][t] * j->q[r][c];
            CHECK(acc[i] == sum);
        }
    for (i = 0; i < j->shift[2]; i++) CHECK(acc[i] == j->was[i]);
    for (i = end; i < GANG * TOKENS + 24; i++) CHECK(acc[i] == j->was[i]);
}

/* acc[pair][row][8] = sum of level w, and nothing beside it. */
static void check_value(const job *j, const int32_t *acc)
{
    uint32_t r, t, c, i, end = j->shift[2] + j->pairs * j->rows * 8;
    for (r = 0; r < j->rows; r++)
        for (c = 0; c < 8 * j->pairs; c++) {
            int64_t sum = 0;
            for (t = 0; t < TOKENS; t++) sum += (int64_t)j->level[c][t] * j->w[r][t];
            CHECK(acc[j->shift[2] + (c / 8 * j->rows + r) * 8 + c % 8] == sum);
        }
    for (i = 0; i < j->shift[2]; i++) CHECK(acc[i] == j->was[i]);
    for (i = end; i < GANG * TOKENS + 24; i++) CHECK(acc[i] == j->was[i]);
}

/* Pairs of any bits that are not wide; `bits` 0: all different. */
static void job_pairs(job *j, uint32_t bits)
{
    uint32_t p;
    j->pairs = bits ? PAIRS : 1 + pick(PAIRS);
    for (p = 0; p < j->pairs; p++) j->bits[p] = bits ? bits : 4 + pick(4);
}

static job job_at_hand;

TEST(scores_are_inner_products)
{
    job *j = &job_at_hand;
    const skvi_kernels *k;
    uint32_t i;
    int how, round;
    for (i = 0; (k = table_at(i)) != NULL; i++)
        for (how = 0; how < 16; how++)
            for (round = 0; round < 12; round++) {
                j->rows = 1 + pick(GANG);
                job_pairs(j, round < 4 ? 4 + (uint32_t)round : 0);
                job_fill(j, 0, 0, k->unsigned_keys, how);
                job_score(j, k, 0, j->acc[0]);
                check_score(j, j->acc[0]);
            }
}

TEST(wide_scores_are_inner_products)
{
    job *j = &job_at_hand;
    const skvi_kernels *k;
    uint32_t i;
    int how, round;
    for (i = 0; (k = table_at(i)) != NULL; i++)
        for (how = 0; how < 16; how++)
            for (round = 0; round < 6; round++) {
                j->rows = 1 + pick(GANG);
                j->pairs = round ? 1 + pick(PAIRS) : PAIRS;
                job_fill(j, 0, 1, 0, how);
                job_score(j, k, 1, j->acc[0]);
                check_score(j, j->acc[0]);
            }
}

TEST(values_are_weighted_sums)
{
    job *j = &job_at_hand;
    const skvi_kernels *k;
    uint32_t i, bits;
    int how, wide;
    for (i = 0; (k = table_at(i)) != NULL; i++)
        for (how = 0; how < 16; how++)
            for (bits = 3; bits <= 7; bits++)
                for (wide = 0; wide < 2; wide++) {
                    j->rows = 1 + pick(GANG);
                    job_pairs(j, bits == 3 ? 0 : bits);
                    job_fill(j, 1, wide, 0, how);
                    job_value(j, k, wide, j->acc[0]);
                    check_value(j, j->acc[0]);
                }
}

static void sums_agree(const skvi_kernels *other)
{
    job *j = &job_at_hand;
    int round, wide;
    for (round = 0; round < 800; round++) {
        wide = round % 2;
        j->rows = 1 + pick(GANG);
        job_pairs(j, 0);
        job_fill(j, 0, wide, !wide && other->unsigned_keys, round % 16);
        job_score(j, &skvi_kernels_c, wide, j->acc[0]);
        job_score(j, other, wide, j->acc[1]);
        CHECK(!memcmp(j->acc[0], j->acc[1], sizeof j->acc[0]));
        job_fill(j, 1, wide, 0, round % 16);
        job_value(j, &skvi_kernels_c, wide, j->acc[0]);
        job_value(j, other, wide, j->acc[1]);
        CHECK(!memcmp(j->acc[0], j->acc[1], sizeof j->acc[0]));
    }
}

TEST(sums_agree_bit_for_bit) { compare_tables(sums_agree); }

/* --- queries ------------------------------------------------------------------------------- */

typedef struct ask {
    float         q[SKVI_SLAB + 16], step[SKVI_SLAB + 16], zero[SKVI_SLAB / 4 + 4];
    int16_t       out[2][PAIRS * GANG * 16 + 32];
    float         unit[2], offset[2];
    uint32_t      n, rows, shift;
    int           wide;
} ask;

static void ask_fill(ask *a)
{
    uint32_t i;
    double size = pow(10, 20 * test_uniform() - 10);
    a->n = 4 + 4 * pick(SKVI_SLAB / 4);
    a->rows = 1 + pick(GANG);
    a->shift = pick(9);
    a->wide = (int)pick(2);
    for (i = 0; i < SKVI_SLAB + 16; i++) {      /* q, step and zero are 0 up to whole pairs */
        a->q[i] = i < a->shift || i >= a->shift + a->n ? 0 : (float)(size * test_normal());
        a->step[i] = i < a->shift || i >= a->shift + a->n ? 0 : (float)(0.01 + test_uniform());
    }
    if (pick(5) == 0)                           /* many on the middle between two numbers */
        for (i = a->shift; i < a->shift + a->n; i++) {
            a->q[i] = i == a->shift ? a->wide ? 8191.0f : 127.0f : (float)pick(254) / 2 - 63;
            a->step[i] = 1;
        }
    if (pick(20) == 0) memset(a->q, 0, sizeof a->q);
    for (i = 0; i < SKVI_SLAB / 4 + 4; i++)
        a->zero[i] = i < a->n / 4 && !a->wide ? (float)(8u << pick(4)) : 0;
}

static void ask_run(ask *a, const skvi_kernels *k, uint32_t which)
{
    memset(a->out[which], 0x6B, sizeof a->out[which]);
    a->unit[which] = k->query(a->q + a->shift, a->step + a->shift, a->zero, a->n, a->wide,
                              a->out[which] + a->shift, 32 * (size_t)a->rows, &a->offset[which]);
}

/* Number of channel c as repeat j of it has it. */
static int ask_number(const ask *a, uint32_t c, uint32_t j)
{
    const int16_t *pair = a->out[0] + a->shift + c / 8 * a->rows * 16;
    signed char b;
    if (a->wide) return pair[c % 8 / 4 * 8 + 4 * j + c % 4];
    memcpy(&b, (const signed char *)pair + c % 8 / 4 * 16 + 4 * j + c % 4, 1);
    return b;
}

TEST(queries_are_rounded)
{
    static ask a;
    const skvi_kernels *k;
    uint32_t i, c, j, b, whole;
    int round;
    for (i = 0; (k = table_at(i)) != NULL; i++)
        for (round = 0; round < 400; round++) {
            double top = 0, offset = 0;
            int range, most = 0;
            ask_fill(&a);
            ask_run(&a, k, 0);
            range = a.wide ? 8191 : 127;
            whole = (a.n + 7) / 8 * 8;
            for (c = 0; c < whole; c++) {
                double x = (double)a.q[a.shift + c] * (double)a.step[a.shift + c];
                top = fabs(x) > top ? fabs(x) : top;
            }
            CHECK_NEAR(a.unit[0], top / range, 3e-7 * top / range);
            for (c = 0; c < whole; c++) {
                double x = (double)a.q[a.shift + c] * (double)a.step[a.shift + c];
                int got = ask_number(&a, c, 0);
                for (j = 1; j < (a.wide ? 2u : 4u); j++) CHECK(ask_number(&a, c, j) == got);
                CHECK(c < a.n || got == 0);
                CHECK_NEAR(got * (double)a.unit[0], x, (0.5 + 4e-7 * range) * (double)a.unit[0]);
                offset += got * (double)a.zero[c / 4];
                most = abs(got) > most ? abs(got) : most;
            }
            CHECK(most == (top > 0 ? range : 0) && (double)a.offset[0] == offset);
            for (c = 0; c < PAIRS * GANG * 16 + 32; c++) {      /* other rows, and beyond */
                b = c - a.shift;
                if (c < a.shift || b / 16 % a.rows || b / 16 / a.rows >= whole / 8)
                    CHECK(a.out[0][c] == 0x6B6B);
            }
        }
}

/* Whatever a caller asks with: no NaN where there was none. */
TEST(tiny_queries_stay_finite)
{
    static const float size[] = {1e-30f, 1e-36f, 1e-37f, 1e-38f, 1e-39f, 1e-42f, 1e-45f};
    static ask a;
    const skvi_kernels *k;
    uint32_t i, s, c;
    for (i = 0; (k = table_at(i)) != NULL; i++)
        for (s = 0; s < sizeof size / sizeof size[0]; s++) {
            memset(&a, 0, sizeof a);
            a.n = 8;
            a.rows = 1;
            a.wide = s % 2;
            for (c = 0; c < 8; c++) a.q[c] = c % 3 ? size[s] * (c % 2 ? 1 : -1) : 0;
            for (c = 0; c < 8; c++) a.step[c] = 1;
            ask_run(&a, k, 0);
            CHECK(skvi_is_finite(a.unit[0]) && a.unit[0] >= 0 && skvi_is_finite(a.offset[0]));
            for (c = 0; c < 8; c++)
                CHECK_NEAR((double)a.unit[0] * ask_number(&a, c, 0), a.q[c], 1e-35);
        }
}

static void queries_agree(const skvi_kernels *other)
{
    static ask a;
    int round;
    for (round = 0; round < 4000; round++) {
        ask_fill(&a);
        ask_run(&a, &skvi_kernels_c, 0);
        ask_run(&a, other, 1);
        CHECK(!memcmp(a.out[0], a.out[1], sizeof a.out[0]));
        CHECK(!memcmp(&a.unit[0], &a.unit[1], sizeof a.unit[0]) && a.offset[0] == a.offset[1]);
    }
}

TEST(queries_agree_bit_for_bit) { compare_tables(queries_agree); }

/* --- sums back to floats ------------------------------------------------------------------- */

typedef struct sums {
    int32_t acc[PAIRS * GANG * 8 + 8];
    float   s[2][TOKENS + 16], out[2][SKVI_SLAB + 16], was[TOKENS + 16], step[SKVI_SLAB + 8];
    float   unit, offset;
    uint32_t n, stride, shift;
} sums;

static void sums_fill(sums *x)
{
    uint32_t i;
    for (i = 0; i < PAIRS * GANG * 8 + 8; i++)
        x->acc[i] = (int32_t)(uint32_t)(test_u64() >> (33 + pick(20))) * (pick(2) ? 1 : -1);
    for (i = 0; i < TOKENS + 16; i++) x->was[i] = (float)(3 * test_normal());
    x->n = 4 + 4 * pick(SKVI_SLAB / 4);
    x->stride = 8 * (1 + pick(GANG));
    x->shift = pick(8);
    x->unit = (float)pow(10, 6 * test_uniform() - 6);
    x->offset = (float)((int)pick(1u << 20) - (1 << 19));
    for (i = 0; i < SKVI_SLAB + 8; i++) x->step[i] = i < x->n ? (float)(1 + test_uniform()) : 0;
}

static void sums_run(sums *x, const skvi_kernels *k, uint32_t i)
{
    memcpy(x->s[i], x->was, sizeof x->was);
    memcpy(x->out[i], x->was, sizeof x->was);
    k->add_scores(x->acc + x->shift, x->unit, x->offset, x->s[i] + x->shift);
    k->add_values(x->acc, x->stride, x->step, x->unit, x->n, x->out[i] + x->shift);
}

TEST(sums_are_added)
{
    static sums x;
    const skvi_kernels *k;
    uint32_t i, t;
    int round;
    for (i = 0; (k = table_at(i)) != NULL; i++)
        for (round = 0; round < 300; round++) {
            sums_fill(&x);
            sums_run(&x, k, 0);
            for (t = 0; t < TOKENS + 16; t++) {
                uint32_t at = t - x.shift;
                double add, want = (double)x.was[t], big = fabs(want);
                if (t >= x.shift && at < TOKENS) {
                    add = (double)x.unit * ((double)x.acc[t] - (double)x.offset);
                    big += (double)x.unit * (fabs((double)x.acc[t]) + fabs((double)x.offset));
                    CHECK_NEAR(x.s[0][t], want + add, 3e-7 * big);
                } else CHECK(x.s[0][t] == x.was[t]);
                if (t >= x.shift && at < x.n) {
                    add = (double)x.unit * (double)x.step[at] *
                          (double)x.acc[at / 8 * x.stride + at % 8];
                    CHECK_NEAR(x.out[0][t], want + add, 3e-7 * (fabs(want) + fabs(add)));
                } else CHECK(x.out[0][t] == x.was[t]);
            }
        }
}

static void additions_agree(const skvi_kernels *other)
{
    static sums x;
    int round;
    for (round = 0; round < 2000; round++) {
        sums_fill(&x);
        sums_run(&x, &skvi_kernels_c, 0);
        sums_run(&x, other, 1);
        CHECK(!memcmp(x.s[0], x.s[1], sizeof x.s[0]));
        CHECK(!memcmp(x.out[0], x.out[1], sizeof x.out[0]));
    }
}

TEST(additions_agree_bit_for_bit) { compare_tables(additions_agree); }

/* --- softmax ------------------------------------------------------------------------------- */

/* Scores, some masked, the greatest anywhere; exact zeros of one sign only. */
static void random_scores(float *s, uint32_t n)
{
    double size = pow(10, 4 * test_uniform() - 2);
    uint32_t i, masked = pick(3);
    for (i = 0; i < n; i++) s[i] = (float)(size * test_normal());
    for (i = 0; i < n && masked; i++)
        if (pick(masked == 1 ? 8 : 2)) s[i] = -INFINITY;
    s[n / 2] = 1;
}

static float plain_top(const float *s)
{
    uint32_t i, at = 0;
    for (i = 1; i < TOKENS; i++) at = s[i] > s[at] ? i : at;
    return s[at];
}

/* 2^x by a polynomial: 2e-7, and x log2(e) is rounded: half an ulp of x. */
static double exp_bound(double x) { return 2.5e-7 + 7.5e-8 * fabs(x); }

TEST(exps_are_exponentials)
{
    float s[TOKENS + 16], was[TOKENS + 16], top;
    const skvi_kernels *k;
    uint32_t i, t, shift;
    int round;
    for (i = 0; (k = table_at(i)) != NULL; i++)
        for (round = 0; round < 2000; round++) {
            double sum = 0;
            float got;
            random_scores(was, TOKENS + 16);
            shift = pick(16);
            if (round % 4 == 1)         /* about the end */
                for (t = 0; t < TOKENS + 16; t++)
                    was[t] = t == 20 ? 0 : (float)(-86.9 - 0.2 * test_uniform());
            if (round == 2)
                for (t = 0; t < TOKENS + 16; t++) was[t] = t == 20 ? -0.25f : -INFINITY;
            if (round == 3)
                for (t = 0; t < TOKENS + 16; t++) was[t] = t == 20 ? 0 : -3e38f;
            memcpy(s, was, sizeof s);
            top = k->top(s + shift);
            CHECK(top == plain_top(s + shift));
            got = k->exps(s + shift, top);
            for (t = 0; t < TOKENS + 16; t++)
                if (t < shift || t >= shift + TOKENS) {
                    CHECK(s[t] == was[t]);
                } else {
                    double x = (double)(float)(was[t] - top), want = x > -87 ? exp(x) : 0;
                    CHECK_NEAR(s[t], want, want > 0 ? exp_bound(x) * want : 0);
                    CHECK(want > 0 || s[t] == 0);
                    CHECK(x < 0 || s[t] == 1);
                    sum += (double)s[t];
                }
            CHECK_NEAR(got, sum, 1e-6 * sum);
            CHECK(got >= 1);
        }
}

TEST(exps_rise)         /* from octave to octave too, and nowhere above 1 */
{
    float s[TOKENS], last = 0, x = -87.5f;
    const skvi_kernels *k = skvi_pick_kernels();
    uint32_t i;
    while (x < 0) {
        for (i = 0; i < TOKENS; i++, x += 0.00171f) s[i] = x < 0 ? x : 0;
        (void)k->exps(s, 0);
        for (i = 0; i < TOKENS; i++) {
            CHECK(s[i] >= last && s[i] <= 1);
            last = s[i];
        }
    }
}

typedef struct weights {
    float         s[TOKENS + 8], unit[2];
    unsigned char p[2][TOKENS + 16];
    int16_t       wide[2][TOKENS + 16];
    uint32_t      shift;
    int           has_wide;
} weights;

static void weights_fill(weights *w)
{
    uint32_t i, how = pick(6);
    double size = pow(10, -test_uniform() * (pick(3) ? 3 : 29));
    w->shift = pick(8);
    w->has_wide = (int)pick(2);
    for (i = 0; i < TOKENS + 8; i++) {
        double x = how == 0 ? test_uniform() : how == 1 ? exp(-20 * test_uniform())
                 : how == 2 ? 1 : how == 3 ? 0.4 / 254 : how == 4 ? 0.5 / 254 : i % 7 ? 0 : 0.9;
        w->s[i] = (float)(size * x);
    }
    w->s[w->shift + pick(TOKENS)] = (float)size;
    for (i = 0; i < TOKENS; i += 1 + pick(9))
        if (pick(4) == 0) w->s[w->shift + i] = 0;
}

static void weights_run(weights *w, const skvi_kernels *k, uint32_t i)
{
    memset(w->p[i], 0xD7, sizeof w->p[i]);
    memset(w->wide[i], 0xD7, sizeof w->wide[i]);
    w->unit[i] = k->weights(w->s + w->shift, w->p[i] + w->shift,
                            w->has_wide ? w->wide[i] + w->shift : NULL);
}

TEST(weights_keep_the_mass)
{
    static weights w;
    const skvi_kernels *k;
    uint32_t i, t;
    int round;
    for (i = 0; (k = table_at(i)) != NULL; i++)
        for (round = 0; round < 2000; round++) {
            double mass = 0, told = 0, lane[16] = {0}, top = 0;
            weights_fill(&w);
            weights_run(&w, k, 0);
            for (t = 0; t < TOKENS; t++)
                top = (double)w.s[w.shift + t] > top ? (double)w.s[w.shift + t] : top;
            if (top < 1e-30) {          /* the test below is about these */
                CHECK(w.unit[0] == 0);
                continue;
            }
            CHECK_NEAR(w.unit[0], top / 254, 2e-7 * top / 254);
            for (t = 0; t < TOKENS + 16; t++) {
                double x;
                if (t < w.shift || t >= w.shift + TOKENS) {
                    CHECK(w.p[0][t] == 0xD7 && w.wide[0][t] == (int16_t)0xD7D7);
                    continue;
                }
                x = (double)w.s[t] / (double)w.unit[0];
                CHECK_NEAR(w.p[0][t], x, 1.0005);
                if (w.has_wide) CHECK_NEAR(w.wide[0][t], 64 * x, 0.51);
                else CHECK(w.wide[0][t] == (int16_t)0xD7D7);
                mass += x;
                told += w.p[0][t];
                lane[(t - w.shift) % 16] += w.p[0][t] - x;
            }
            CHECK_NEAR(told, mass, 8.01);
            for (t = 0; t < 16; t++) CHECK_NEAR(lane[t], 0, 0.502);
        }
}

TEST(nothing_weighs_nothing)
{
    static weights w;
    const skvi_kernels *k;
    uint32_t i;
    for (i = 0; (k = table_at(i)) != NULL; i++) {
        memset(&w, 0, sizeof w);
        weights_run(&w, k, 0);
        CHECK(w.unit[0] == 0);
        w.s[9] = 1e-31f;            /* 1 / that is too near infinity */
        weights_run(&w, k, 0);
        CHECK(w.unit[0] == 0);
        w.s[9] = 1.1e-30f;
        weights_run(&w, k, 0);
        CHECK(w.unit[0] > 0 && w.p[0][9] == 254 && w.p[0][10] == 0);
    }
}

static void softmax_agrees(const skvi_kernels *other)
{
    static weights w;
    static float s[2][TOKENS + 16];
    uint32_t shift;
    int round;
    for (round = 0; round < 4000; round++) {
        float top[2], sum[2];
        random_scores(s[0], TOKENS + 16);
        if (round % 5 == 0)
            for (shift = 0; shift < TOKENS; shift++)
                s[0][shift] = (float)(-86 - 2 * test_uniform());
        memcpy(s[1], s[0], sizeof s[0]);
        shift = pick(16);
        top[0] = skvi_top_c(s[0] + shift);
        top[1] = other->top(s[1] + shift);
        CHECK(top[0] == top[1]);
        sum[0] = skvi_exps_c(s[0] + shift, top[0]);
        sum[1] = other->exps(s[1] + shift, top[0]);
        CHECK(!memcmp(&sum[0], &sum[1], sizeof sum[0]) && !memcmp(s[0], s[1], sizeof s[0]));
        weights_fill(&w);
        weights_run(&w, &skvi_kernels_c, 0);
        weights_run(&w, other, 1);
        CHECK(!memcmp(&w.unit[0], &w.unit[1], sizeof w.unit[0]));
        CHECK(!memcmp(w.p[0], w.p[1], sizeof w.p[0]));
        CHECK(!memcmp(w.wide[0], w.wide[1], sizeof w.wide[0]));
    }
}

TEST(softmax_agrees_bit_for_bit) { compare_tables(softmax_agrees); }

/* --- expanding and multiplying at once ------------------------------------------------------ */

#define JOINT_ROWS 9u               /* three gangs */
#define JOINT_WHOLE (SKVI_SLAB + 8)
typedef struct joint_job {
    skvi_slab      slab[2];         /* for the C kernels, for the others */
    unsigned char *sub;             /* its last byte ends a block of memory */
    uint32_t       rows;
    float          q[JOINT_ROWS * JOINT_WHOLE], s[2][JOINT_ROWS * TOKENS];
    float          out[2][JOINT_ROWS * JOINT_WHOLE], unit[2][JOINT_ROWS], weigh[JOINT_ROWS];
    unsigned char  w[JOINT_ROWS * TOKENS];
    signed char    levels[SKVI_SLAB / 8 * SKVI_PAIR_BYTES], gang[PAIRS * GANG * 32];
    int32_t        acc[GANG * TOKENS];
} joint_job;

/* A slab of random runs from channel `ch` of its sub on; only, unless 0: of this mode alone. */
static void joint_slab(joint_job *j, int kind, uint32_t only, uint32_t ch)
{
    uint32_t quads = 1 + pick(SKVI_SLAB / 4), at = 0, m, n, i, side;
    uint32_t codes = SKVI_SUB_HEADER + (ch + 4 * quads + 1) / 2 + 16 * pick(3);
    memset(j->slab, 0, sizeof j->slab);
    for (m = skvi_mode_of(SKVI_NARROW); m; m--) {
        uint32_t bias = kind ? 0 : 1u << (skvi_codes[m].bits - 1), h = skvi_mode_half[m];
        n = only ? (m == only ? quads : 0) : m == 1 ? quads - at : pick(4);
        if (n > quads - at) n = quads - at;
        for (side = 0; n && side < 2; side++) {
            skvi_slab *b = &j->slab[side];
            b->run[b->n_runs].h = h;
            b->run[b->n_runs].first = at;
            b->run[b->n_runs].quads = n;
            b->run[b->n_runs].bias = side ? bias : 0;
            b->run[b->n_runs++].codes = codes;
            for (i = at; i < at + n; i++) {
                b->unit[i] = skvi_codes[m].unit;
                b->zero[i] = side ? (float)bias : 0;
            }
        }
        at += n;
        codes += 16 * h * n;
    }
    for (side = 0; side < 2; side++) {
        j->slab[side].kind = kind;
        j->slab[side].ch = ch;
        j->slab[side].n = 4 * quads;
    }
    j->sub = (unsigned char *)malloc(codes + 16) + 16;      /* a page has more than that before */
    for (i = 0; i < codes; i++) j->sub[i] = (unsigned char)test_u64();
    j->sub[4] = (unsigned char)(100 + pick(40));
}

static void joint_fill(joint_job *j)
{
    uint32_t i, here;
    j->rows = 1 + pick(JOINT_ROWS);
    for (i = 0; i < JOINT_ROWS * JOINT_WHOLE; i++) {    /* beyond n: a 0 added or read shows */
        here = i % JOINT_WHOLE < j->slab[0].n;
        j->q[i] = here ? (float)test_normal() : INFINITY;
        j->out[0][i] = j->out[1][i] = here ? (float)test_normal() : -0.0f;
    }
    for (i = 0; i < JOINT_ROWS * TOKENS; i++) {
        j->s[0][i] = j->s[1][i] = (float)test_normal();
        j->w[i] = (unsigned char)(i % 5 ? pick(255) : i % 2 ? 254 : 0);
    }
    for (i = 0; i < JOINT_ROWS; i++) j->weigh[i] = (float)(0.001 + test_uniform());
    if (pick(8) == 0) memset(j->q, 0, sizeof j->q);
}

/* By the C kernels one after the other; what they write beyond n is 0 times something. */
static void joint_plain(joint_job *j, int kind)
{
    const skvi_kernels *k = &skvi_kernels_c;
    skvi_slab *b = &j->slab[0];
    uint32_t i, r, pairs = (b->n + 7) / 8;
    float offset;
    memset(j->levels, 0, sizeof j->levels);
    for (i = 0; i < b->n_runs; i++)
        k->expand(j->sub + b->run[i].codes, b->run[i].h, kind, 0, b->run[i].quads, b->run[i].first,
                  j->levels);
    k->steps(j->sub + SKVI_SUB_HEADER + b->ch / 2, b->n, j->sub[4], b->unit, b->step);
    for (r = 0; r < j->rows; r++) {
        if (!kind) {
            j->unit[0][r] = k->query(j->q + r * JOINT_WHOLE, b->step, b->zero, b->n, 0, j->gang, 32,
                                     &offset);
            k->score(j->levels, j->gang, pairs, 1, j->acc);
            k->add_scores(j->acc, j->unit[0][r], offset, j->s[0] + r * TOKENS);
        } else {
            k->value(j->levels, j->w + r * TOKENS, pairs, 1, j->acc);
            k->add_values(j->acc, 8, b->step, j->weigh[r], b->n, j->out[0] + r * JOINT_WHOLE);
        }
    }
}

static void joint_run(joint_job *j, const skvi_kernels *k, int kind)
{
    skvi_joint x;
    uint32_t r;
    x.slab = &j->slab[1];
    x.sub = j->sub;
    x.next = pick(2) ? j->sub : NULL;
    x.whole = JOINT_WHOLE;
    x.levels = j->rows > GANG ? j->levels : NULL;
    x.kept = 0;
    for (r = 0; r < j->rows; r += GANG, x.kept = 1) {
        x.rows = j->rows - r < GANG ? j->rows - r : GANG;
        x.unit = kind ? j->weigh + r : j->unit[1] + r;
        if (kind) k->values(&x, j->w + r * TOKENS, j->out[1] + r * JOINT_WHOLE);
        else k->keys(&x, j->q + r * JOINT_WHOLE, j->s[1] + r * TOKENS);
    }
}

TEST(at_once_is_one_after_the_other)
{
    static joint_job j;
    const skvi_kernels *k;
    uint32_t i, only, tables = 0;
    int round, kind;
    for (i = 0; (k = table_at(i)) != NULL; i++) {
        if (!k->keys || !k->values) continue;
        tables++;
        for (round = 0; round < 1200; round++) {
            kind = round % 2;
            only = round < 400 ? 1 + (uint32_t)round / 2 % 9 : 0;
            joint_slab(&j, kind, only, 4 * pick(20));
            joint_fill(&j);
            joint_plain(&j, kind);
            joint_run(&j, k, kind);
            CHECK(!memcmp(j.slab[0].step, j.slab[1].step, j.slab[0].n * sizeof(float)));
            CHECK(!memcmp(j.s[0], j.s[1], sizeof j.s[0]));
            CHECK(!memcmp(j.out[0], j.out[1], sizeof j.out[0]));
            CHECK(kind || !memcmp(j.unit[0], j.unit[1], j.rows * sizeof(float)));
            free(j.sub - 16);
        }
    }
    if (!tables) SKIP("no kernels here that expand and multiply at once: AVX-512 has them");
}

/* --- means that RoPE turns ------------------------------------------------------------------ */

typedef struct wave_job {
    skvi_arena  a;
    skvi_waves *w;
    skvi_turn   turn;
    uint32_t    rows;
    float       freq[SKV_MAX_HEAD_DIM / 2], base[GANG], unit[GANG];
    float       still[GANG][SKV_MAX_HEAD_DIM + 16], s[GANG * SKVI_SPAN];
} wave_job;

/* Waves of `pairs` random frequencies of both signs; `how` 0: all slow, 1: all fast, else mixed. */
static void wave_open(wave_job *j, uint32_t pairs, int how)
{
    uint32_t p, r;
    memset(j, 0, sizeof *j);
    (void)skvi_waves_layout(&j->a, SKV_MAX_HEAD_DIM);
    j->a.base = (unsigned char *)calloc(1, j->a.used);
    j->a.used = 0;
    if (!j->a.base) abort();
    j->w = skvi_waves_layout(&j->a, SKV_MAX_HEAD_DIM);
    j->turn.pairs = pairs;
    j->turn.freq = j->freq;
    for (p = 0; p < pairs; p++) {
        double low = how == 1 ? -3 : -14, high = how ? 0 : -3.8;
        j->freq[p] = (float)exp(low + (high - low) * test_uniform());
        if (pick(8) == 0) j->freq[p] = -j->freq[p];
    }
    skvi_wave_begin(&j->turn, j->w);
    j->rows = 1 + pick(GANG);
    for (r = 0; r < j->rows; r++) {
        double size = pick(9) ? pow(10, 6 * test_uniform() - 3) : 0;
        j->base[r] = (float)test_normal();
        for (p = 0; p < pairs; p++) {
            j->still[r][p] = (float)(size * test_normal());
            j->still[r][j->w->whole + p] = (float)(size * test_normal());
        }
    }
}

/* Scores of the span at a position, after those of the spans before it. */
static void wave_run(wave_job *j, const skvi_kernels *k, uint32_t position, uint32_t spans)
{
    uint32_t r, odd = SKVI_WAVE_ROOM(j->w->whole);
    float unit[GANG], line[GANG][2];
    for (r = 0; r <= spans; r++) skvi_wave_move(k, j->w, position - SKVI_SPAN * (spans - r));
    for (r = 0; r < j->rows; r++) {
        j->unit[r] = k->wave_coef(j->w->now, j->still[r], j->w->poly, j->w->whole, j->w->fast,
                                  j->w->coef + 2 * r * odd, line[r]);
        line[r][0] += j->base[r];
        unit[r] = j->unit[r] * SKVI_WAVE_UNIT;
    }
    k->wave_sum(j->w->wave, j->w->coef, skvi_wave_count(j->w->fast), odd, j->rows, unit, line[0],
                j->s);
}

/* Against cosines and sines of every token's own angle: half a unit for every number's rounding,
   of coefficients and of waves, is what score_bound counts. */
static void wave_check(const wave_job *j, uint32_t position)
{
    uint32_t r, t, p;
    for (r = 0; r < j->rows; r++)
        for (t = 0; t < SKVI_SPAN; t++) {
            double sum = (double)j->base[r], size = fabs(sum), tol;
            for (p = 0; p < j->turn.pairs; p++) {
                double f = (double)j->freq[j->w->order[p]] * (position + t);
                double a = (double)j->still[r][p], b = (double)j->still[r][j->w->whole + p];
                sum += cos(f) * a + sin(f) * b;
                size += fabs(a) + fabs(b);
            }
            tol = (double)j->unit[r] * (j->w->fast + SKVI_WAVE_POLY + 1) + 6e-6 * size;
            CHECK_NEAR(j->s[r * SKVI_SPAN + t], sum, tol);
        }
}

TEST(turned_means_are_waves)
{
    static const uint32_t pairs[] = {1, 2, 7, 8, 9, 16, 31, 32, 33, 48, 64, 127, 128};
    const skvi_kernels *k;
    static wave_job j;
    uint32_t i, n, how, position;
    for (i = 0; (k = table_at(i)) != NULL; i++)
        for (n = 0; n < sizeof pairs / sizeof *pairs; n++)
            for (how = 0; how < 6; how++) {
                wave_open(&j, pairs[n], (int)how % 3);
                CHECK(j.w->fast <= pairs[n] && (how % 3 || !j.w->fast));
                CHECK(how % 3 != 1 || j.w->fast == pairs[n]);
                position = 8192 + pick(100000);
                wave_run(&j, k, position, pick(64));
                wave_check(&j, position);
                free(j.a.base);
            }
}

/* What the last frequencies left behind does not stay when others come. */
TEST(waves_are_made_anew)
{
    static wave_job j;
    uint32_t p;
    wave_open(&j, 32, 2);
    for (p = 0; p < 32; p++) j.freq[p] = (float)exp(-9 * test_uniform());
    skvi_wave_begin(&j.turn, j.w);
    wave_run(&j, skvi_pick_kernels(), 1000, 2);
    wave_check(&j, 1000);
    j.turn.pairs = 20;
    skvi_wave_begin(&j.turn, j.w);
    memset(j.still, 0, sizeof j.still);
    for (p = 0; p < 20; p++) j.still[0][p] = j.still[0][24 + p] = (float)test_normal();
    wave_run(&j, skvi_pick_kernels(), 5000, 0);
    wave_check(&j, 5000);
    free(j.a.base);
}

static void waves_agree(const skvi_kernels *other)
{
    static wave_job j;
    static float s[GANG * SKVI_SPAN], unit[GANG];
    int round;
    for (round = 0; round < 200; round++) {
        uint32_t position = 8192 + pick(10000), spans = pick(64);
        wave_open(&j, 1 + pick(128), round % 3);
        wave_run(&j, &skvi_kernels_c, position, spans);
        memcpy(s, j.s, sizeof s);
        memcpy(unit, j.unit, sizeof unit);
        wave_run(&j, other, position, spans);
        CHECK(!memcmp(s, j.s, sizeof s) && !memcmp(unit, j.unit, j.rows * sizeof *unit));
        free(j.a.base);
    }
}

TEST(waves_agree_bit_for_bit) { compare_tables(waves_agree); }

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(a_table_is_picked);
    RUN(scores_are_inner_products);
    RUN(wide_scores_are_inner_products);
    RUN(values_are_weighted_sums);
    RUN(sums_agree_bit_for_bit);
    RUN(queries_are_rounded);
    RUN(tiny_queries_stay_finite);
    RUN(queries_agree_bit_for_bit);
    RUN(sums_are_added);
    RUN(additions_agree_bit_for_bit);
    RUN(exps_are_exponentials);
    RUN(exps_rise);
    RUN(at_once_is_one_after_the_other);
    RUN(weights_keep_the_mass);
    RUN(nothing_weighs_nothing);
    RUN(softmax_agrees_bit_for_bit);
    RUN(turned_means_are_waves);
    RUN(waves_are_made_anew);
    RUN(waves_agree_bit_for_bit);
    return TEST_END();
}
