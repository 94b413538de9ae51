/* Bit plans: targets are kept and nearly used up, no exchange of bits is better, and outlook and
 * summary say what the plan says.
 * cc -std=c99 -O2 -I. tests/test_plan.c -o test_plan -lm
 */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "profile_build.h"

#define SHARE ((double)0.015f)      /* of the bits for outliers, the default of skv_codec_desc */

/* Three layers of two shapes, heads joint by two: 8 streams of 64 or 32, 448 channels. */
static skv_profile *sample(double steep)
{
    skv_layer l[3];
    skv_model m;
    memset(&m, 0, sizeof m);
    l[0] = l[2] = layer_of(4, 2, 32, 32);
    l[1] = layer_of(3, 3, 32, 32);
    m.n_layers = 3;
    m.layers = l;
    return profile_random(&m, 2, steep);
}

/* Streams of 17, 51, 33 and 99 channels: none ends with a whole quad. */
static skv_profile *uneven(double steep)
{
    skv_layer l[2];
    skv_model m;
    memset(&m, 0, sizeof m);
    l[0] = layer_of(1, 1, 17, 33);
    l[1] = layer_of(3, 3, 17, 33);
    m.n_layers = 2;
    m.layers = l;
    return profile_random(&m, 3, steep);
}

static skv_outlook look(const skv_profile *p, skv_target t)
{
    skv_outlook o;
    memset(&o, 0, sizeof o);
    CHECK(skv_profile_outlook(p, &t, &o) == SKV_OK);
    return o;
}

/* A codec without outlier rows: its pages have exactly the planned bytes. */
static skv_codec *codec_of(const skv_profile *p, skv_target t)
{
    skv_codec_desc d = SKV_ZERO;
    skv_codec *c = NULL;
    d.profile = p;
    d.target = t;
    d.outliers = -1;
    CHECK(skv_codec_init(&c, &d) == SKV_OK);
    return c;
}

/* Mode of every channel of stream i, from the plan's counts. */
static void modes_of(const skvi_plan *plan, uint32_t D, uint32_t *mode)
{
    uint32_t m, c = 0, n;
    for (m = SKVI_MODES; m-- > 0;) {
        CHECK(plan->n[m] % 4 == 0);
        for (n = 0; n < plan->n[m]; n++, c++)           /* the last quad may go beyond D */
            if (c < D) mode[c] = m;
    }
    CHECK(c == (D + 3) / 4 * 4 && plan->coded == c - plan->n[0]);
}

/* Bits of a mode per token, written out. */
static const double mode_bits[SKVI_MODES] = {0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8};

static double pages_bpe(const skv_codec *c)
{
    const skv_profile *p = c->coder.profile;
    double bytes = 0, elements = 0;
    uint32_t layer, i;
    for (layer = 0; layer < p->model.n_layers; layer++) {
        size_t least = 0, most = 0;
        CHECK(skv_codec_page_bytes(c, layer, &least, &most) == SKV_OK && least == most);
        bytes += (double)least;
    }
    for (i = 0; i < p->n_streams; i++) elements += 64.0 * p->stream[i].D;
    return 8 * bytes / elements;
}

/* ---- bits per element ---- */

static const double targets[] = {0.05, 0.1, 0.2, 0.3, 0.5, 0.6, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 3.5,
                                 4, 4.5, 5, 6, 7, 7.5, 8, 8.24, 9, 12, 16};
#define N_TARGETS (sizeof targets / sizeof targets[0])

TEST(bpe_is_kept_and_used)
{
    skv_profile *p = sample(0.9);
    double last = 1e300;
    size_t i;
    for (i = 0; i < N_TARGETS; i++) {
        skv_outlook o = look(p, target_bpe(targets[i]));
        skv_codec *c = codec_of(p, target_bpe(targets[i]));
        double bpe = pages_bpe(c);
        CHECK(o.bpe <= targets[i] * (1 + 1e-7));
        CHECK(bpe <= targets[i] * (1 + 1e-7));
        if (targets[i] >= 0.5 && targets[i] < 8) {
            CHECK(o.bpe >= 0.97 * targets[i]);
            CHECK(bpe >= 0.98 * targets[i]);
        }
        CHECK(o.error <= last);
        CHECK_NEAR(o.ratio, 16 / o.bpe, 1e-9);
        CHECK(o.energy_min <= o.energy_mean && o.energy_min >= 0 && o.energy_mean < 1);
        last = o.error;
        skv_codec_free(c);
    }
    skv_profile_free(p);
}

/* Everything at 8 bits, however much is asked for: 8 + 1/16 for a scale's nibble per 64 codes, the
   subs' headers of 5 bytes, the pages' of 12. */
TEST(most_and_least)
{
    skv_profile *p = sample(0.9);
    skv_codec *c = codec_of(p, target_bpe(16));
    skv_outlook o;
    skv_target t = target_bpe(0.001);
    uint32_t i;
    memset(&o, 0x5A, sizeof o);
    for (i = 0; i < p->n_streams; i++) CHECK(c->coder.plan[i].n[12] == p->stream[i].D);
    CHECK_NEAR(pages_bpe(c), 8.0625 + (8 * 5 + 3 * 12) * 8 / (448.0 * 64), 1e-9);
    skv_codec_free(c);
    CHECK(skv_profile_outlook(p, &t, &o) == SKV_ERR_TARGET);    /* headers alone take more */
    CHECK(o.rank_min == 0x5A5A5A5Au);                           /* and nothing was written */
    o = look(p, target_error(1e30));                            /* no bits at all */
    CHECK(o.rank_max == 0 && o.bpe < 0.022 && o.energy_mean < 1e-9);
    skv_profile_free(p);
}

/* ---- error and energy ---- */

TEST(error_is_met_with_the_fewest_bits)
{
    skv_profile *p = sample(0.9);
    double all = look(p, target_error(1e30)).error, part, bits = 0;
    skv_target t = target_error(all * 1e-6);
    skv_outlook o;
    for (part = 0.9; part > 2e-4; part *= 0.6) {
        double limit = (double)(float)(all * part);
        o = look(p, target_error(limit));
        CHECK(o.error <= limit);
        CHECK(o.error > 0.95 * limit);
        CHECK(o.bpe >= bits);
        CHECK(look(p, target_bpe(o.bpe * 0.98)).error > limit);
        bits = o.bpe;
    }
    CHECK(skv_profile_outlook(p, &t, &o) == SKV_ERR_TARGET);    /* 8 bits reach 4e-5 of all */
    skv_profile_free(p);
}

TEST(energy_is_met_by_every_stream)
{
    static const double share[] = {0.01, 0.3, 0.5, 0.8, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9998};
    skv_profile *p = sample(0.9);
    skv_target t = target_energy(0.99997);
    skv_outlook o;
    size_t k;
    uint32_t i;
    for (k = 0; k < sizeof share / sizeof share[0]; k++) {
        skv_codec *c = codec_of(p, target_energy(share[k]));
        double want = (double)(float)share[k], worst = 0;
        for (i = 0; i < p->n_streams; i++) {
            const skvi_plan *plan = &c->coder.plan[i];
            skvi_plan less;
            double kept = 1 - plan->error / plan->energy;
            CHECK(kept >= want - 1e-12);
            skvi_plan_stream(&p->stream[i], (double)plan->lambda * 1.05, &less);
            if (less.bytes < plan->bytes && 1 - less.error / less.energy >= want) worst = 1;
        }
        CHECK(worst == 0);                      /* a little less precision is not enough */
        o = look(p, target_energy(share[k]));
        CHECK(o.energy_min >= want - 1e-12 && o.energy_min <= want + 0.15 * (1 - want) + 0.02);
        skv_codec_free(c);
    }
    CHECK(skv_profile_outlook(p, &t, &o) == SKV_ERR_TARGET);
    skv_profile_free(p);
}

TEST(impossible_targets)
{
    static const float bad[] = {-1, -1e-9f, 16.001f, 1e30f, NAN, INFINITY, -INFINITY};
    skv_profile *p = sample(0.9);
    skv_codec_desc d = SKV_ZERO;
    skv_codec *c = NULL;
    skv_outlook o;
    skv_target t;
    size_t i;
    int k;
    memset(&o, 0x5A, sizeof o);
    d.profile = p;
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++)
        for (k = 0; k < 3; k++) {
            memset(&t, 0, sizeof t);
            if (k == 0) t.bpe = bad[i];
            if (k == 1) t.energy = bad[i];
            if (k == 2) t.error = bad[i];
            if (k == 2 && bad[i] > 0 && bad[i] < 1e38f) continue;
            CHECK(skv_profile_outlook(p, &t, &o) == SKV_ERR_ARG);
            d.target = t;
            CHECK(skv_codec_init(&c, &d) == SKV_ERR_ARG && c == NULL);
        }
    t = target_energy(1);
    CHECK(skv_profile_outlook(p, &t, &o) == SKV_ERR_ARG);       /* all of it is not possible */
    for (k = 1; k < 8; k++) {                                   /* more than one at a time */
        t.bpe = k & 1 ? 4.0f : 0;
        t.energy = k & 2 ? 0.9f : 0;
        t.error = k & 4 ? 1.0f : 0;
        CHECK((skv_profile_outlook(p, &t, &o) == SKV_ERR_ARG) == (k != 1 && k != 2 && k != 4));
        memset(&o, 0x5A, sizeof o);
    }
    CHECK(skv_profile_outlook(NULL, &t, &o) == SKV_ERR_ARG);
    CHECK(skv_profile_outlook(p, NULL, NULL) == SKV_ERR_ARG);
    skv_profile_free(p);
}

TEST(default_target)
{
    skv_profile *p = sample(0.9);
    skv_target zero;
    skv_outlook a, b;
    memset(&zero, 0, sizeof zero);
    CHECK(skv_profile_outlook(p, NULL, &a) == SKV_OK);          /* none given: 4 bits */
    CHECK(a.bpe <= 4 && a.bpe > 3.9);
    p->target = target_energy(0.97);
    CHECK(skv_profile_outlook(p, NULL, &a) == SKV_OK);
    b = look(p, zero);
    CHECK(a.bpe == b.bpe && a.error == b.error && a.energy_min >= 0.97 - 1e-6);
    b = look(p, target_energy(0.97));
    CHECK(a.bpe == b.bpe && a.error == b.error);
    b = look(p, target_bpe(6));                                 /* one given counts alone */
    CHECK(b.bpe > 5.8 && b.bpe <= 6);
    skv_profile_free(p);
}

/* ---- optimality ---- */

/* Bits of storage from mode m to m + 1: 64 codes, and with the first ones a scale's nibble. */
static double cost_of_step(uint32_t m)
{
    return 64 * (mode_bits[m + 1] - mode_bits[m]) + (m ? 0 : 4);
}

/* Best gain of a step up against the least loss of a step down, over all channels of all streams,
   per bit of storage: no exchange lowers the error at equal bits. */
static void check_no_exchange(const skv_codec *c)
{
    const skv_profile *p = c->coder.profile;
    double gain = 0, loss = 1e300;
    uint32_t i, ch, mode[256];
    for (i = 0; i < p->n_streams; i++) {
        const skvi_stream *s = &p->stream[i];
        modes_of(&c->coder.plan[i], s->D, mode);
        for (ch = 0; ch < s->D; ch++) {
            uint32_t m = mode[ch], j;
            double var = 0, x;
            if (ch % 4) {                               /* a quad has one mode */
                CHECK(m == mode[ch - 1]);
                continue;
            }
            for (j = ch; j < s->D && j < ch + 4; j++) var += (double)s->var[j] / 4;
            if (m + 1 < SKVI_MODES) {
                x = var * (double)(skvi_distortion[m] - skvi_distortion[m + 1]) / cost_of_step(m);
                gain = x > gain ? x : gain;
            }
            if (m > 0) {
                x = var * (double)(skvi_distortion[m - 1] - skvi_distortion[m]) /
                    cost_of_step(m - 1);
                loss = x < loss ? x : loss;
            }
        }
    }
    CHECK(gain <= loss * (1 + 1e-6));
}

/* Modes are on the lower hull of distortion against bits: each step is worth less per bit than the
   one before, or a plan by steps would stop short of better ones. */
TEST(steps_are_worth_ever_less)
{
    double last = 1e300;
    uint32_t m;
    for (m = 0; m + 1 < SKVI_MODES; m++) {
        double worth = (double)(skvi_distortion[m] - skvi_distortion[m + 1]) / cost_of_step(m);
        CHECK(skvi_mode_half[m] == 2 * mode_bits[m] && skvi_mode_half[m + 1] > skvi_mode_half[m]);
        CHECK(worth > 0 && worth < last);
        last = worth;
    }
    CHECK(skvi_mode_half[SKVI_MODES - 1] == 2 * SKV_MAX_BITS);
}

TEST(no_exchange_of_bits_is_better)
{
    double steep;
    size_t i, odd;
    for (steep = 0.5; steep < 1; steep += 0.24)
        for (odd = 0; odd < 2; odd++) {
            skv_profile *p = odd ? uneven(steep) : sample(steep);
            for (i = odd ? 4 : 0; i < N_TARGETS; i += 2) {      /* headers take 0.33 bits there */
                skv_codec *c = codec_of(p, target_bpe(targets[i]));
                check_no_exchange(c);
                skv_codec_free(c);
            }
            skv_profile_free(p);
        }
}

/* The plan's own figures, from its modes. A last quad that goes beyond D has all its bytes. */
static void check_sums(const skv_codec *c)
{
    const skv_profile *p = c->coder.profile;
    uint32_t i, ch, mode[256];
    for (i = 0; i < p->n_streams; i++) {
        const skvi_stream *s = &p->stream[i];
        const skvi_plan *plan = &c->coder.plan[i];
        double error = 0, energy = 0, bytes = 5;
        modes_of(plan, s->D, mode);
        for (ch = 0; ch < s->D; ch++) {
            CHECK(!ch || mode[ch] <= mode[ch - 1]);
            error += (double)s->var[ch] * (double)skvi_distortion[mode[ch]];
            energy += (double)s->var[ch];
            if (ch % 4 == 0) bytes += mode[ch] ? 2 + 32 * mode_bits[mode[ch]] : 0;
        }
        CHECK(bytes == plan->bytes);
        CHECK_NEAR(plan->error, error, 1e-12 * energy);
        CHECK_NEAR(plan->energy, energy, 1e-12 * energy);
    }
}

TEST(plan_adds_up)
{
    size_t k, odd;
    for (odd = 0; odd < 2; odd++) {
        skv_profile *p = odd ? uneven(0.85) : sample(0.85);
        for (k = odd ? 6 : 0; k < N_TARGETS; k += 3) {
            skv_codec *c = codec_of(p, target_bpe(targets[k]));
            check_sums(c);
            skv_codec_free(c);
        }
        skv_profile_free(p);
    }
}

static int up(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Every field of the outlook from the plan of a codec with the same share of outliers. */
TEST(outlook_adds_up)
{
    skv_profile *p = sample(0.8);
    skv_codec_desc d = SKV_ZERO;
    skv_codec *c = NULL;
    skv_outlook o = look(p, target_bpe(3));
    static const int is_v[8] = {0, 1, 0, 0, 1, 1, 0, 1};
    double bytes[2] = {0, 0}, elements[2] = {0, 0}, error = 0, mean = 0, least = 1, outliers = 0;
    uint32_t i, rank[8], rank95[8], n = p->n_streams;
    d.profile = p;
    d.target = target_bpe(3);
    CHECK(skv_codec_init(&c, &d) == SKV_OK && n == 8);
    for (i = 0; i < n; i++) {
        const skvi_stream *s = &p->stream[i];
        const skvi_plan *plan = &c->coder.plan[i];
        double kept = 1 - plan->error / plan->energy, sum = 0;
        bytes[is_v[i]] += plan->bytes;
        elements[is_v[i]] += 64.0 * s->D;
        outliers += floor(plan->bytes * SHARE / (1 - SHARE));
        error += plan->error;
        mean += kept / n;
        least = kept < least ? kept : least;
        rank[i] = plan->coded;
        for (rank95[i] = 0; sum < 0.95 * plan->energy; rank95[i]++)
            sum += (double)s->var[rank95[i]];
    }
    CHECK_NEAR(o.bpe_k, 8 * bytes[0] / elements[0], 1e-12);
    CHECK_NEAR(o.bpe_v, 8 * bytes[1] / elements[1], 1e-12);
    CHECK_NEAR(o.bpe, 8 * (bytes[0] + bytes[1] + 3 * 12 + outliers) / (448 * 64), 1e-12);
    qsort(rank, n, sizeof rank[0], up);
    qsort(rank95, n, sizeof rank95[0], up);
    CHECK_NEAR(o.error, error, 1e-9 * error);
    CHECK_NEAR(o.energy_mean, mean, 1e-12);
    CHECK_NEAR(o.energy_min, least, 1e-12);
    CHECK(o.rank_min == rank[0] && o.rank_max == rank[n - 1] && o.rank_median == rank[(n - 1) / 2]);
    CHECK(o.rank95_min == rank95[0] && o.rank95_max == rank95[n - 1]);
    CHECK(o.rank95_median == rank95[(n - 1) / 2]);
    skv_codec_free(c);
    skv_profile_free(p);
}

/* ---- odd spectra ---- */

static void all_vars(skv_profile *p, double first, double factor)
{
    uint32_t i, c;
    for (i = 0; i < p->n_streams; i++)
        for (c = 0; c < p->stream[i].D; c++) {
            double v = first * pow(factor, c);
            p->stream[i].var[c] = (float)(v > 1e-36 ? v : 1e-36);
        }
}

/* All channels alike: whole steps of all channels only, but never above the target. */
TEST(odd_spectra)
{
    static const double first[] = {1, 1e-36, 1e30, 3e38, 1e-20};
    static const double factor[] = {1, 1e-3, 0.5, 0.999};
    skv_profile *p = sample(0.9);
    size_t i, j, k;
    for (i = 0; i < 5; i++)
        for (j = 0; j < 4; j++) {
            double last = 1e300;
            all_vars(p, first[i], factor[j]);
            for (k = 1; k < N_TARGETS; k += 2) {
                skv_outlook o = look(p, target_bpe(targets[k]));
                CHECK(o.bpe <= targets[k] * (1 + 1e-7) && o.bpe > 0);
                CHECK(o.error <= last && o.error >= 0);
                last = o.error;
            }
            CHECK(look(p, target_energy(0.9)).energy_min >= 0.9 - 1e-6);
        }
    skv_profile_free(p);
}

/* ---- summary ---- */

TEST(summary_says_it_all)
{
    skv_profile *p = sample(0.9);
    skv_target t = target_bpe(3);
    skv_outlook o = look(p, t);
    char text[2000], want[200];
    size_t bytes = 0;
    CHECK(skv_profile_summary(p, &t, text, sizeof text, &bytes) == SKV_OK);
    CHECK(bytes == strlen(text) + 1);
    CHECK(strstr(text, "Spectral profile: (unnamed)\n") == text);
    CHECK(strstr(text, "\nArchitecture: 3L x 2H (4 query heads), d_h=32, heads joint\n") != NULL);
    CHECK(strstr(text, "5000 tokens") && strstr(text, "4 sinks") && strstr(text, "a window of 64"));
    snprintf(want, sizeof want, "\nEnergy kept: mean=%.4f, min=%.4f\n", o.energy_mean,
             o.energy_min);
    CHECK(strstr(text, want) != NULL);
    snprintf(want, sizeof want, "\nEffective rank (95%% energy): median=%u, range=[%u, %u]\n",
             o.rank95_median, o.rank95_min, o.rank95_max);
    CHECK(strstr(text, want) != NULL);
    snprintf(want, sizeof want, "\nCoded channels: median=%u, range=[%u, %u]\n", o.rank_median,
             o.rank_min, o.rank_max);
    CHECK(strstr(text, want) != NULL);
    snprintf(want, sizeof want,
             "\nBits per element: %.3f in pages (keys %.2f, values %.2f)\n", o.bpe,
             o.bpe_k, o.bpe_v);
    CHECK(strstr(text, want) != NULL);
    snprintf(want, sizeof want, "\nCompression: %.2fx against f16, pages only\n", o.ratio);
    CHECK(strstr(text, want) != NULL);
    snprintf(want, sizeof want, "\nExpected output error: %.3g", o.error);
    CHECK(strstr(text, want) != NULL);
    CHECK(text[bytes - 2] == '\n');
    skv_profile_free(p);
}

TEST(summary_sizes)
{
    skv_profile *p = profile_golden(NULL);
    char text[2000], part[2000];
    size_t bytes = 0, n, need;
    skv_target bad = target_energy(2);
    CHECK(skv_profile_summary(p, NULL, text, sizeof text, &need) == SKV_OK);
    CHECK(strstr(text, "Spectral profile: golden\n") == text && strstr(text, ", per head\n"));
    CHECK(strstr(text, "1000 tokens") != NULL);
    CHECK(skv_profile_summary(p, NULL, NULL, 0, &bytes) == SKV_ERR_ARG && bytes == need);
    for (n = 0; n < need; n++) {
        memset(part, '#', sizeof part);
        bytes = 0;
        CHECK(skv_profile_summary(p, NULL, part, n, &bytes) == SKV_ERR_ARG && bytes == need);
        CHECK(part[n] == '#' && (!n || part[0] == '#' || memchr(part, 0, n)));
    }
    memset(part, '#', sizeof part);
    CHECK(skv_profile_summary(p, NULL, part, need, NULL) == SKV_OK && !strcmp(part, text));
    CHECK(part[need] == '#');
    CHECK(skv_profile_summary(p, NULL, NULL, 10, &bytes) == SKV_ERR_ARG);
    CHECK(skv_profile_summary(NULL, NULL, part, 10, &bytes) == SKV_ERR_ARG);
    CHECK(skv_profile_summary(p, &bad, part, sizeof part, &bytes) == SKV_ERR_ARG);
    skv_profile_free(p);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(bpe_is_kept_and_used);
    RUN(most_and_least);
    RUN(error_is_met_with_the_fewest_bits);
    RUN(energy_is_met_by_every_stream);
    RUN(impossible_targets);
    RUN(default_target);
    RUN(steps_are_worth_ever_less);
    RUN(no_exchange_of_bits_is_better);
    RUN(plan_adds_up);
    RUN(outlook_adds_up);
    RUN(odd_spectra);
    RUN(summary_says_it_all);
    RUN(summary_sizes);
    return TEST_END();
}
