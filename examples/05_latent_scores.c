/* 05_latent_scores.c - skv_scores alone: how well do the codes rank the tokens?

   Shows: scores of one query against all held tokens without attention, as a retriever or a sparse
   attention would use them; how close they are to the exact scores at several rates.
   Leaves out: values and attention (01). Only the keys matter here, but a cache holds both.
   Build in the repository's root, then run ./a.out:
       cc -O2 examples/05_latent_scores.c -lm
   Prints, for each rate, averages over the queries of the last 16 tokens, heads and layers:
   correlation with the exact scores over the tokens in pages, share of the exact best 8 and 32 that
   are among the best 8 and 32 by codes, root mean square error in units of the score (a score
   that is off by 0.1 changes a weight of softmax by 10 %). Calibrated on the same text. */
#define SPECTRAL_KV_IMPLEMENTATION
#include "../spectral_kv.h"
#include "capture.h"
#include <math.h>
#include <stdlib.h>

#define QUERIES 16
#define SINKS 4

static capture cap;

static void need(skv_result r, const char *what)
{
    if (r >= SKV_OK) return;        /* above zero: a warning, the result is usable */
    fprintf(stderr, "%s: %s\n", what, skv_result_text(r));
    exit(1);
}

/* A cache with the capture in it; profile NULL keeps it exact. Window 0: all pages that can be. */
static skv_cache *fill(const skv_profile *profile, float bits)
{
    skv_cache_desc d = SKV_ZERO;
    skv_cache *cache = NULL;
    uint32_t layer;
    d.profile = profile;
    d.model = capture_model(&cap);
    d.target.bpe = bits;
    d.max_tokens = cap.n_tokens;
    d.sinks = SINKS;
    d.window = SKV_NONE;
    d.max_append = 1;               /* pages are made before a piece goes in: small pieces */
    need(skv_cache_init(&cache, &d), "cache");
    for (layer = 0; layer < cap.n_layers; layer++) {
        capture_rows x = capture_at(&cap, layer, 0);
        need(skv_append(cache, layer, &x.k, &x.v, cap.n_tokens), "append");
    }
    return cache;
}

/* Of the k highest of a, how many are among the k highest of b? */
static double overlap(const float *a, const float *b, size_t n, size_t k)
{
    size_t i, j, above_a, above_b, both = 0;
    for (i = 0; i < n; i++) {
        for (j = above_a = above_b = 0; j < n; j++) {
            above_a += a[j] > a[i] || (a[j] == a[i] && j < i);
            above_b += b[j] > b[i] || (b[j] == b[i] && j < i);
        }
        both += above_a < k && above_b < k;
    }
    return (double)both / (double)k;
}

static double correlation(const float *a, const float *b, size_t n, double *square_error)
{
    double ma = 0, mb = 0, aa = 0, bb = 0, ab = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        ma += (double)a[i] / (double)n;
        mb += (double)b[i] / (double)n;
        *square_error += pow((double)a[i] - (double)b[i], 2) / (double)n;
    }
    for (i = 0; i < n; i++) {
        aa += pow((double)a[i] - ma, 2);
        bb += pow((double)b[i] - mb, 2);
        ab += ((double)a[i] - ma) * ((double)b[i] - mb);
    }
    return ab / sqrt(aa * bb);
}

static void compare(const skv_profile *profile, skv_cache *exact, float bits)
{
    size_t n = cap.n_tokens, bytes = cap.n_q_heads * n * sizeof(float), t, pages, count = 0;
    float *a = malloc(bytes), *b = malloc(bytes);
    double c = 0, best8 = 0, best32 = 0, square = 0;
    skv_cache *cache = fill(profile, bits);
    skv_usage used;
    uint32_t layer, h;
    if (!a || !b) need(SKV_ERR_MEMORY, "scores");
    need(skv_cache_usage(cache, &used), "usage");
    pages = used.page_elements * n / used.elements;     /* tokens, after the sinks */
    for (layer = 0; layer < cap.n_layers; layer++)
        for (t = n - QUERIES; t < n; t++) {
            capture_rows x = capture_at(&cap, layer, t);
            need(skv_scores(exact, layer, &x.q, a), "exact scores");
            need(skv_scores(cache, layer, &x.q, b), "scores from codes");
            for (h = 0; h < cap.n_q_heads; h++, count++) {
                const float *from = a + h * n + SINKS, *to = b + h * n + SINKS;
                c += correlation(from, to, pages, &square);
                best8 += overlap(from, to, pages, 8);
                best32 += overlap(from, to, pages, 32);
            }
        }
    printf("%9.2f %14.4f %10.0f %% %8.0f %% %9.3f\n", used.bpe_pages, c / (double)count,
           100 * best8 / (double)count, 100 * best32 / (double)count, sqrt(square / (double)count));
    skv_cache_free(cache);
    free(a);
    free(b);
}

int main(int argc, char **argv)
{
    static const float rate[] = {6, 4, 3, 2, 1.5f, 1};
    skv_profile *profile = NULL;
    skv_cache *exact;
    size_t i;
    if (capture_read(&cap, argc > 1 ? argv[1] : CAPTURE_DEFAULT)) return 1;
    need(capture_calibrate(&cap, 16, &profile), "calibrate");
    exact = fill(NULL, 0);
    printf("page bits    correlation     best 8    best 32     error\n");
    for (i = 0; i < sizeof rate / sizeof *rate; i++) compare(profile, exact, rate[i]);
    skv_cache_free(exact);
    skv_profile_free(profile);
    return 0;
}
