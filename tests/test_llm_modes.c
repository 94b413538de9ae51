/* test_llm_modes.c: the words of --kv, and the published codecs of the header as the judge runs
 * them. The codecs themselves: test_classic.c. */
#include "test.h"
#include "codecs_classic.h"
#include "grams.h"
#include "modes.h"

enum { D = 48, HEADS = 2, TOKENS = LLM_SINKS + LLM_WINDOW + 2 * LLM_PAGE + 10 };

static llm_config config(void)
{
    llm_config c;
    memset(&c, 0, sizeof c);
    c.n_layers = 2;
    c.n_q_heads = 4;
    c.n_kv_heads = HEADS;
    c.head_dim = D;
    c.attn_scale = 0.2f;
    return c;
}

static int parses(const char *word, char *err)
{
    llm_mode m;
    return !llm_mode_parse(&m, word, strlen(word), err);
}

TEST(words)
{
    static const char *const good[] = {"exact", "spectral:4", "spectral:0.5", "turbo:3", "q4_0",
                                       "jarvis:32:8:v", "kivi:2", "svdq:84420000:v"};
    static const char *const bad[] = {"", "nonsense", "spectral", "spectral:", "spectral:x",
        "spectral:-1", "spectral:nan", "spectral:17", "exact:1", "exac", "exactly", ":", ":3", ",",
        "turb:3", "turbos:3", "B", "R:B",
        "turbo:33333333333333333333333333333333333333333333333333333333333333"};
    char err[GGUF_ERR_BYTES];
    llm_mode m;
    size_t i;
    for (i = 0; i < sizeof good / sizeof *good; i++) CHECK(parses(good[i], err));
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        err[0] = 0;
        CHECK(!parses(bad[i], err));
        CHECK(strlen(err) > 10);
    }
    CHECK(!parses("nonsense", err));                    /* the message lists every word */
    CHECK(strstr(err, "spectral:BPE") && strstr(err, "jarvis:R:B:v") && strstr(err, "kivi:B"));
    CHECK(strstr(err, "q4_0h") != NULL);
    CHECK(!llm_mode_parse(&m, "turbo:3,exact", 7, err) && !strcmp(m.name, "turbo:3"));
    CHECK(!llm_mode_parse(&m, "spectral:2.5", 12, err) && m.profile && m.target.bpe == 2.5f);
}

/* Grams whose K and V have a few strong directions, of which the first axes are the strongest. */
static baseline_grams *grams(void)
{
    static float mean[2 * HEADS * GRAM_KINDS * D], gram[2 * HEADS * GRAM_KINDS * D * D];
    static baseline_grams g;
    size_t at, i;
    g.n_layers = 2;
    g.n_q_heads = 4;
    g.n_kv_heads = HEADS;
    g.head_dim = D;
    g.n_tokens = 1000;
    g.mean = mean;
    g.gram = gram;
    for (at = 0; at < 2 * HEADS * GRAM_KINDS; at++)
        for (i = 0; i < D; i++) gram[at * D * D + i * D + i] = powf(0.7f, (float)i);
    return &g;
}

/* TOKENS rows of both layers through a mode; bits per element of the pages, or -1. */
static double run(const char *word, const baseline_grams *g, double *error)
{
    static float k[TOKENS * HEADS * D], q[4 * D], o[4 * D], want[4 * D];
    char err[GGUF_ERR_BYTES];
    llm_config c = config();
    llm_mode_env env;
    llm_mode mode, exact;
    llm_lane lane, reference;
    llm_lane_stats s;
    int i, l, t, bad;
    env.c = &c;
    env.profile = NULL;
    env.grams = g;
    env.cuda = 0;
    if (llm_mode_parse(&mode, word, strlen(word), err) || llm_mode_parse(&exact, "exact", 5, err))
        return -1;
    bad = llm_lane_open(&lane, &mode, &env, TOKENS, err);
    CHECK(!llm_lane_open(&reference, &exact, &env, TOKENS, err));
    for (i = 0; i < 4 * D; i++) q[i] = (float)test_normal();
    for (i = 0; i < TOKENS * HEADS * D; i++)
        k[i] = (float)(test_normal() * pow(0.7, i % D / 2.0));
    for (l = 0; l < 2 && !bad; l++) {
        for (t = 0; t < TOKENS; t += 10) {
            int n = TOKENS - t < 10 ? TOKENS - t : 10;
            const float *row = k + t * HEADS * D;
            CHECK(!lane.kv.append(lane.kv.self, l, row, row, n));
            CHECK(!reference.kv.append(reference.kv.self, l, row, row, n));
        }
        CHECK(!lane.kv.attend(lane.kv.self, l, q, 1, o));
        CHECK(!reference.kv.attend(reference.kv.self, l, q, 1, want));
        for (i = 0, *error = 0; i < 4 * D; i++) *error += pow(o[i] - want[i], 2);
    }
    llm_lane_measure(&lane, &s);
    if (!bad) CHECK(s.bytes > 0 && s.bpe >= s.bpe_pages && s.bpe <= 16 && !s.usage.bytes);
    llm_lane_free(&lane);
    llm_lane_free(&reference);
    return bad ? -1 : s.bpe_pages;
}

/* Every stored bit is counted, and more bits are less error. */
TEST(codecs_count_their_bits)
{
    double e = 0, e2 = 0, e4 = 0, e8 = 0;
    baseline_grams *g = grams();
    CHECK_NEAR(run("turbo:2", NULL, &e2), 2 + 16.0 / D, 1e-9);
    CHECK_NEAR(run("turbo:4", NULL, &e4), 4 + 16.0 / D, 1e-9);
    CHECK_NEAR(run("turbo:8", NULL, &e8), 8 + 16.0 / D, 1e-9);
    CHECK(e2 > 2 * e4 && e4 > 10 * e8 && e8 > 0);
    CHECK_NEAR(run("turboqjl:4", NULL, &e), 4 + 32.0 / D, 1e-9);
    CHECK(e > 0);
    CHECK_NEAR(run("residual:2", g, &e), 2 + 16.0 * 2 / D, 1e-9);      /* 3 % of 48: rank 1 */
    CHECK_NEAR(run("jarvis:16:8", g, &e4), (16 + (16 * 9 + 32.0) / D) / 2, 1e-9);
    CHECK_NEAR(run("jarvis:16:8:v", g, &e2), (16 * 9 + 32.0) / D, 1e-9);
    CHECK(e4 > 0 && e2 > 0);
    CHECK(run("exact", NULL, &e) == 0 && e == 0);
}

TEST(malformed_codecs)
{
    static const char *const bad[] = {"turbo:0", "turbo:9", "turbo:", "turbo", "turbo:4x",
        "turbo:-1", "turbo:4:v", "jarvis:4", "jarvis:1:4", "jarvis:49:4", "jarvis:4:0",
        "jarvis:4:4:k", "jarvis::4", "residual:2:v", "turbo:99999999999"};
    size_t i;
    double e;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) CHECK(run(bad[i], grams(), &e) < 0);
    CHECK(run("jarvis:4:4", NULL, &e) < 0);             /* no grams */
    CHECK(run("residual:2", NULL, &e) < 0);
    CHECK(run("spectral:4", NULL, &e) < 0);             /* no profile */
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(words);
    RUN(codecs_count_their_bits);
    RUN(malformed_codecs);
    return TEST_END();
}
