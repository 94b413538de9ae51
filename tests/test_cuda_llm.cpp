/* test_cuda_llm.cpp: the engine's cache on a GPU (examples/llm/kv_cuda.cu), emulated, beside its
 * cache on the CPU, which has the same plan.
 *
 * Linked with libllm.a; see group `cuda` of tests/run.
 */
#define SKV_STATIC
#define SPECTRAL_KV_IMPLEMENTATION
#define SPECTRAL_KV_CUDA
#include "spectral_kv.h"
#include "test.h"
#include "synthetic.h"
#include "../examples/llm/kv_cuda.cu"

enum { LAYERS = 2, TOKENS = 340 };

static double difference(const std::vector<float> &a, const std::vector<float> &b)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < a.size(); i++) {
        error += pow((double)a[i] - (double)b[i], 2);
        norm += pow((double)b[i], 2);
    }
    return sqrt(error / norm);
}

TEST(agrees_with_the_cache_on_the_cpu)
{
    static const int chunks[] = {64, 64, 9, 1, 1, 64, 64, 40, 1, 30, 1, 1};     /* TOKENS in all */
    syn y = {{4, 2, 32, 32, 0, 0, 0}, 7, 1.0f, 2.0f, 0.02f, 3};
    skv_profile *profile = syn_profile_turned(&y, LAYERS, 1, SKV_ROPE_HALVES, 16);
    const syn_data x[LAYERS] = {syn_make(&y, 0, 1, TOKENS), syn_make(&y, 1, 1, TOKENS)};
    skv_layer layers[LAYERS] = {y.shape, y.shape};
    skv_model model = SKV_ZERO;
    skv_target target = SKV_ZERO;
    skv_cache *cache = NULL;
    llm_kv_cuda *gpu = NULL;
    skv_usage use, cpu;
    char err[GGUF_ERR_BYTES];
    double worst = 0;
    int at = 0;
    model.n_layers = LAYERS;
    model.layers = layers;
    target.bpe = 4;
    CHECK(!llm_kv_spectral_new(&cache, profile, &model, &target, TOKENS, err));
    CHECK(!llm_kv_cuda_new(&gpu, profile, &model, &target, TOKENS, err));
    llm_kv a = llm_kv_cuda_ops(gpu), b = llm_kv_spectral_ops(cache);
    for (int n : chunks) {
        for (int l = 0; l < LAYERS; l++) {
            const float *k = x[l].k + at * 64, *v = x[l].v + at * 64, *q = x[l].q + at * 128;
            std::vector<float> got((size_t)n * 128), want((size_t)n * 128);
            CHECK(!a.append(a.self, l, k, v, n) && !b.append(b.self, l, k, v, n));
            CHECK(!a.attend(a.self, l, q, n, got.data()));
            CHECK(!b.attend(b.self, l, q, n, want.data()));
            worst = fmax(worst, difference(got, want));
        }
        at += n;
    }
    printf("    at most %.1e of the output apart\n", worst);
    CHECK(at == TOKENS && worst < 0.03);
    CHECK(a.append(a.self, 0, x[0].k, x[0].v, 1) == SKV_ERR_FULL);
    CHECK(a.append(a.self, 0, x[0].k, x[0].v, LLM_CHUNK + 1) == SKV_ERR_ARG);
    llm_kv_cuda_usage(gpu, &use);
    CHECK(use.tokens == TOKENS && use.elements == TOKENS * LAYERS * 128);
    CHECK(skv_cache_usage(cache, &cpu) == SKV_OK && use.page_elements == cpu.page_elements);
    CHECK(use.page_elements > 0 && use.bytes > use.page_bytes);
    CHECK(use.bpe_pages > 3.5 && use.bpe_pages < 5);
    llm_kv_cuda_free(gpu);
    skv_cache_free(cache);
    for (const syn_data &d : x) {
        syn_data copy = d;
        syn_free(&copy);
    }
    skv_profile_free(profile);
}

TEST(bad_numbers_are_refused)
{
    syn y = {{2, 1, 32, 32, 0, 0, 0}, 7, 1.0f, 2.0f, 0, 3};
    skv_profile *profile = syn_profile_direct(&y, 1, 1);
    syn_data x = syn_make(&y, 0, 1, 256);
    skv_model model = SKV_ZERO;
    skv_target target = SKV_ZERO;
    llm_kv_cuda *gpu = NULL;
    char err[GGUF_ERR_BYTES];
    int r = 0;
    model.n_layers = 1;
    model.layers = &y.shape;
    target.bpe = 4;
    x.k[10 * 32] = NAN;
    CHECK(!llm_kv_cuda_new(&gpu, profile, &model, &target, 256, err));
    llm_kv a = llm_kv_cuda_ops(gpu);
    for (int at = 0; at < 256 && !r; at += 64)
        r = a.append(a.self, 0, x.k + at * 32, x.v + at * 32, 64);
    CHECK(r == SKV_ERR_NOT_FINITE);                 /* when its page was to be made */
    llm_kv_cuda_free(gpu);
    syn_free(&x);
    skv_profile_free(profile);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(agrees_with_the_cache_on_the_cpu);
    RUN(bad_numbers_are_refused);
    return TEST_END();
}
