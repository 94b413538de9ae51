/* test_llm_sampling.c: examples/llm/sampling.c against closed forms and counted draws. */
#include "test.h"
#include "gguf.h"
#include "sampling.h"

static llm_sampler *sampler(int n, double temperature, int top_k, double top_p)
{
    char err[GGUF_ERR_BYTES];
    llm_sampler *s = NULL;
    if (llm_sampler_new(&s, n, temperature, top_k, top_p, test_u64(), err)) exit(2);
    return s;
}

TEST(argmax_and_logsumexp)
{
    const float x[] = {1.0f, NAN, 3.0f, 3.0f, -HUGE_VALF}, none[] = {NAN, NAN};
    const float inf[] = {0.0f, HUGE_VALF}, big[] = {1000.0f, 1000.0f};
    CHECK(llm_argmax(x, 5) == 2);
    CHECK(llm_argmax(none, 2) == -1);
    CHECK(llm_argmax(x, 0) == -1);
    CHECK_NEAR(llm_logsumexp(x, 5), log(exp(1.0) + 2.0 * exp(3.0)), 1e-12);
    CHECK(isinf(llm_logsumexp(none, 2)) && isinf(llm_logsumexp(inf, 2)));
    CHECK_NEAR(llm_logsumexp(big, 2), 1000.0 + log(2.0), 1e-12);
    CHECK_NEAR(llm_log_prob(big, 2, 1), -log(2.0), 1e-12);
}

TEST(kl_of_rows)
{
    const float p[] = {0.0f, 0.0f}, q[] = {5.0f, 5.0f + 1.0f}, bad[] = {NAN, 0.0f};
    const float sure[] = {0.0f, -HUGE_VALF};
    double a = exp(1.0) / (1.0 + exp(1.0));
    CHECK_NEAR(llm_kl(p, q, 2), 0.5 * log(0.5 / a) + 0.5 * log(0.5 / (1.0 - a)), 1e-7);
    CHECK(llm_kl(q, q, 2) == 0.0);
    CHECK_NEAR(llm_kl(sure, p, 2), log(2.0), 1e-12);
    CHECK(isinf(llm_kl(p, sure, 2)));
    CHECK(isnan(llm_kl(p, bad, 2)) && isnan(llm_kl(bad, p, 2)));
}

/* Share of each token in many draws against the probabilities wanted */
static void check_shares(double temperature, int top_k, double top_p, const float *x, int n,
                         const double *wanted)
{
    enum { DRAWS = 20000 };
    int i, count[8] = {0};
    llm_sampler *s = sampler(n, temperature, top_k, top_p);
    for (i = 0; i < DRAWS; i++) {
        int id = llm_sample(s, x);
        CHECK(id >= 0 && id < n);
        if (id >= 0 && id < n) count[id]++;
    }
    for (i = 0; i < n; i++) {
        if (wanted[i] == 0.0) CHECK(count[i] == 0);
        CHECK_NEAR((double)count[i] / DRAWS, wanted[i], 0.02);
    }
    llm_sampler_free(s);
}

TEST(draws_follow_the_distribution)
{
    /* probabilities 0.1, 0.4, absent, 0.2, 0.3 */
    const float x[] = {-2.30258509f, -0.91629073f, NAN, -1.60943791f, -1.2039728f};
    const double all[] = {0.1, 0.4, 0, 0.2, 0.3}, k2[] = {0, 0.4 / 0.7, 0, 0, 0.3 / 0.7};
    const double p6[] = {0, 0.4 / 0.7, 0, 0, 0.3 / 0.7}, p75[] = {0, 4 / 9.0, 0, 2 / 9.0, 3 / 9.0};
    const double k3p5[] = {0, 4 / 7.0, 0, 0, 3 / 7.0}, k3p4[] = {0, 1, 0, 0, 0};
    const double hot[] = {1 / 30.0, 16 / 30.0, 0, 4 / 30.0, 9 / 30.0};
    check_shares(1.0, 0, 1.0, x, 5, all);
    check_shares(1.0, 100, 1.0, x, 5, all);
    check_shares(1.0, 2, 1.0, x, 5, k2);
    check_shares(1.0, 0, 0.6, x, 5, p6);
    check_shares(1.0, 0, 0.75, x, 5, p75);
    check_shares(1.0, 3, 0.5, x, 5, k3p5);      /* 0.4 / 0.9 is not yet half */
    check_shares(1.0, 3, 0.4, x, 5, k3p4);
    check_shares(0.5, 0, 1.0, x, 5, hot);
}

TEST(same_seed_same_tokens)
{
    enum { N = 1000 };
    static float x[N];
    char err[GGUF_ERR_BYTES];
    llm_sampler *a, *b;
    int i;
    for (i = 0; i < N; i++) x[i] = (float)test_normal();
    if (llm_sampler_new(&a, N, 0.8, 40, 0.9, 7, err)) exit(2);
    if (llm_sampler_new(&b, N, 0.8, 40, 0.9, 7, err)) exit(2);
    for (i = 0; i < 200; i++) CHECK(llm_sample(a, x) == llm_sample(b, x));
    llm_sampler_free(a);
    llm_sampler_free(b);
}

TEST(edges)
{
    const float none[] = {NAN, NAN}, inf[] = {1.0f, HUGE_VALF}, low[] = {-HUGE_VALF, -HUGE_VALF};
    const float one[] = {5.0f};
    char err[GGUF_ERR_BYTES];
    llm_sampler *s = sampler(2, 1.0, 1, 0.5), *greedy = sampler(2, 0.0, 0, 1.0);
    llm_sampler *single = sampler(1, 1.0, 3, 0.5);
    CHECK(llm_sample(s, none) == -1 && llm_sample(greedy, none) == -1);
    CHECK(llm_sample(s, inf) == 1 && llm_sample(greedy, inf) == 1);
    CHECK(llm_sample(s, low) == 0);
    CHECK(llm_sample(single, one) == 0);
    llm_sampler_free(s);
    llm_sampler_free(greedy);
    llm_sampler_free(single);
    llm_sampler_free(NULL);
    CHECK(llm_sampler_new(&s, 0, 1.0, 0, 1.0, 1, err) == -1 && strstr(err, "temperature"));
    CHECK(llm_sampler_new(&s, 2, -1.0, 0, 1.0, 1, err) == -1);
    CHECK(llm_sampler_new(&s, 2, NAN, 0, 1.0, 1, err) == -1);
    CHECK(llm_sampler_new(&s, 2, 1.0, -1, 1.0, 1, err) == -1);
    CHECK(llm_sampler_new(&s, 2, 1.0, 0, 0.0, 1, err) == -1);
    CHECK(llm_sampler_new(&s, 2, 1.0, 0, 1.5, 1, err) == -1);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(argmax_and_logsumexp);
    RUN(kl_of_rows);
    RUN(draws_follow_the_distribution);
    RUN(same_seed_same_tokens);
    RUN(edges);
    return TEST_END();
}
