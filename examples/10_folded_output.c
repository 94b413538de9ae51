/* 10_folded_output.c - attention that leaves its output in the latent of V, for a folded W_O.

   Shows: skv_profile_fold, once for each layer's output projection, and a cache with latent_out.
   The rotation from latent back to the model's coordinates is then part of W_O.
   Leaves out: when it pays. Where several query heads share a KV head, head_dim is 128 or more and
   contexts are short, by a few per cent of attention (bench/bench_fold.c). Not with joint head
   groups, and not where W_O stays quantised as it was loaded.
   Build in the repository's root, then run ./a.out:
       cc -O2 examples/10_folded_output.c -lm
   Prints, layer by layer, how far W_O of the plain output and the folded W_O of the latent one are
   apart, against how far compression moves either: rounding differs, accuracy does not. W_O is
   random here, the rows are a model's. */
#define SPECTRAL_KV_IMPLEMENTATION
#include "../spectral_kv.h"
#include "capture.h"
#include <math.h>
#include <stdlib.h>

#define OUT 64                      /* rows of W_O; a model has as many as its hidden size */

static capture cap;
static float w_o[OUT * 8192], folded[OUT * 8192];   /* a capture of 1 MiB has no longer rows */

static void need(skv_result r, const char *what)
{
    if (r >= SKV_OK) return;        /* above zero: a warning, the result is usable */
    fprintf(stderr, "%s: %s\n", what, skv_result_text(r));
    exit(1);
}

static skv_cache *make(const skv_profile *profile, uint32_t latent_out)
{
    skv_cache_desc d = SKV_ZERO;
    skv_cache *cache = NULL;
    d.profile = profile;            /* NULL: every token exact */
    d.model = capture_model(&cap);
    d.target.bpe = profile ? 3.0f : 0;
    d.max_tokens = cap.n_tokens;
    d.window = 16;
    d.latent_out = latent_out;
    need(skv_cache_init(&cache, &d), "cache");
    return cache;
}

/* y = matrix * attention output of the last token (+ bias) */
static void project(skv_cache *cache, uint32_t layer, const float *matrix, const float *bias,
                    float *y)
{
    static float o[8192];
    capture_rows x = capture_at(&cap, layer, 0), last = capture_at(&cap, layer, cap.n_tokens - 1);
    size_t width = (size_t)cap.n_q_heads * cap.head_dim, t, i;
    skv_out out = skv_out_f32(o);
    need(skv_append(cache, layer, &x.k, &x.v, cap.n_tokens), "append");
    need(skv_attend(cache, layer, &last.q, 1, &out, NULL), "attend");
    for (t = 0; t < OUT; t++)
        for (y[t] = bias ? bias[t] : 0, i = 0; i < width; i++) y[t] += matrix[t * width + i] * o[i];
}

static double apart(const float *a, const float *b)
{
    double e = 0, s = 0;
    size_t t;
    for (t = 0; t < OUT; t++) {
        e += ((double)a[t] - (double)b[t]) * ((double)a[t] - (double)b[t]);
        s += (double)b[t] * (double)b[t];
    }
    return sqrt(e / s);
}

int main(int argc, char **argv)
{
    skv_profile *profile = NULL;
    skv_cache *exact, *plain, *latent;
    skv_span w = skv_f32(w_o);
    uint32_t layer, random = 1;
    size_t i;
    if (capture_read(&cap, argc > 1 ? argv[1] : CAPTURE_DEFAULT)) return 1;
    need(capture_calibrate(&cap, 16, &profile), "calibrate");
    exact = make(NULL, 0);
    plain = make(profile, 0);
    latent = make(profile, 1);
    printf("layer  folded against plain  plain against exact  folded against exact\n");
    for (layer = 0; layer < cap.n_layers; layer++) {
        float bias[OUT], y[3][OUT];
        for (i = 0; i < (size_t)OUT * cap.n_q_heads * cap.head_dim; i++) {
            random = random * 1664525u + 1013904223u;
            w_o[i] = (float)(random >> 8) / 16777216.0f - 0.5f;
        }
        need(skv_profile_fold(profile, layer, &w, OUT, folded, bias), "fold");  /* when loading */
        project(exact, layer, w_o, NULL, y[0]);
        project(plain, layer, w_o, NULL, y[1]);
        project(latent, layer, folded, bias, y[2]);
        printf("%5lu %20.2f%% %19.2f%% %20.2f%%\n", (unsigned long)layer, 100 * apart(y[2], y[1]),
               100 * apart(y[1], y[0]), 100 * apart(y[2], y[0]));
    }
    skv_cache_free(exact);
    skv_cache_free(plain);
    skv_cache_free(latent);
    skv_profile_free(profile);
    return 0;
}
