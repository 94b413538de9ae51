/* 01_quickstart.c - compress the keys and values of a real model, attend, look at the error.

   Shows: calibrate, make a cache, append and attend token by token, ask what it holds.
   The data is a capture: Q, K, V of two layers of SmolLM2-135M-Instruct, 256 tokens of text. The
   first 192 calibrate, then fill the cache; the last 64 are the test. It is one text, and what is
   compressed is what was calibrated on: on other text errors are larger.
   Leaves out: calibration on texts of its own, saving the profile, the model (examples/llm).
   Build in the repository's root, then run ./a.out:
       cc -O2 examples/01_quickstart.c -lm
   Prints for two targets the bits of a K or V number (f16: 16), in the compressed pages and over
   all memory of the cache, and the error of the test's attention outputs against an exact cache. */
#define SPECTRAL_KV_IMPLEMENTATION
#include "../spectral_kv.h"
#include "capture.h"
#include <math.h>
#include <stdlib.h>

#define TEST 64                     /* last tokens: what their queries get is compared */
#define WINDOW 16                   /* recent tokens kept exact: few, for a short text */
static capture cap;

static void need(skv_result r, const char *what)
{
    if (r >= SKV_OK) return;        /* above zero: a warning, the result is usable */
    fprintf(stderr, "%s: %s\n", what, skv_result_text(r));
    exit(1);
}

static skv_profile *calibrate(size_t n_tokens)
{
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *profiler = NULL;
    skv_profile *profile = NULL;
    d.model = capture_model(&cap);
    d.window = WINDOW;
    need(skv_profiler_init(&profiler, &d), "profiler");
    for (uint32_t layer = 0; layer < cap.n_layers; layer++) {
        capture_rows x = capture_at(&cap, layer, 0);
        need(skv_profiler_add(profiler, layer, &x.q, &x.k, &x.v, n_tokens), "calibrate");
    }
    need(skv_profiler_fit(profiler, NULL, &profile), "fit");
    skv_profiler_free(profiler);
    return profile;
}

/* One token in one layer: append its K and V, attend with its queries. */
static void step(skv_cache *cache, uint32_t layer, size_t token, float *row)
{
    capture_rows x = capture_at(&cap, layer, token);
    skv_out out = skv_out_f32(row);
    need(skv_append(cache, layer, &x.k, &x.v, 1), "append");
    need(skv_attend(cache, layer, &x.q, 1, &out, NULL), "attend");
}

static void compress(const skv_profile *profile, float bits)
{
    static float row[8192], exact_row[8192];    /* a capture of 1 MiB has no longer rows */
    double error = 0, norm = 0, token = 2.0 * cap.n_layers * cap.n_kv_heads * cap.head_dim;
    size_t bytes = 0;
    skv_cache *cache = NULL, *exact = NULL;
    skv_cache_desc d = SKV_ZERO;
    skv_usage used;
    d.max_tokens = cap.n_tokens;
    d.window = WINDOW;
    d.max_append = 1;
    d.model = capture_model(&cap);  /* without a profile everything stays exact */
    need(skv_cache_init(&exact, &d), "exact cache");
    d.profile = profile;
    d.target.bpe = bits;
    need(skv_cache_init(&cache, &d), "compressed cache");
    for (size_t t = 0; t < cap.n_tokens; t++)
        for (uint32_t layer = 0; layer < cap.n_layers; layer++) {
            step(exact, layer, t, exact_row);
            step(cache, layer, t, row);
            for (size_t i = 0; t + TEST >= cap.n_tokens && i < cap.n_q / cap.n_tokens; i++) {
                error += pow((double)row[i] - (double)exact_row[i], 2);
                norm += pow((double)exact_row[i], 2);
            }
        }
    need(skv_cache_usage(cache, &used), "usage");
    d.max_tokens = 4096;            /* what this cache would take with 4096 tokens in it */
    need(skv_cache_size(&d, &bytes), "size");
    printf("%.1f bits asked: %.2f in the pages, %.1fx less than f16; attention output off by "
           "%.1f %%\n    all memory: %.2f bits at %u tokens, %.2f at 4096\n", (double)bits,
           used.bpe_pages, 16 / used.bpe_pages, 100 * sqrt(error / norm), used.bpe,
           (unsigned)cap.n_tokens, 8 * (double)bytes / (4096 * token));
    skv_cache_free(cache);
    skv_cache_free(exact);
}

int main(int argc, char **argv)
{
    if (capture_read(&cap, argc > 1 ? argv[1] : CAPTURE_DEFAULT)) return 1;
    skv_profile *profile = calibrate(cap.n_tokens - TEST);
    compress(profile, 4.0f);
    compress(profile, 2.0f);
    skv_profile_free(profile);
    return 0;
}
