/* 06_streaming_calibration.c - calibration passage by passage, on two workers, in fixed memory.

   Shows: a profiler keeps sums and never tokens, so its memory does not grow; two profilers that
   saw different passages merge into what one would have that saw them all.
   Leaves out: running the workers as threads or machines of their own. A merge needs both profilers
   in one process.
   Build in the repository's root, then run ./a.out:
       cc -O2 examples/06_streaming_calibration.c -lm
   Prints the memory held after every passage, and how far the merged profile is from that of the
   single profiler: the same sums in another order, so equal but for rounding. The four passages are
   pieces of 64 tokens of the capture; real passages are whole texts of 1000 tokens and more. */
#define SPECTRAL_KV_IMPLEMENTATION
#include "../spectral_kv.h"
#include "capture.h"
#include <math.h>
#include <stdlib.h>

#define PASSAGE 64

static capture cap;

static void need(skv_result r, const char *what)
{
    if (r >= SKV_OK) return;        /* above zero: a warning, the result is usable */
    fprintf(stderr, "%s: %s\n", what, skv_result_text(r));
    exit(1);
}

/* Profilers that shall merge need the same description. */
static skv_profiler *start(void)
{
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *profiler = NULL;
    d.model = capture_model(&cap);
    d.window = 16;
    d.max_passage = PASSAGE;
    need(skv_profiler_init(&profiler, &d), "profiler");
    return profiler;
}

static void add_passage(skv_profiler *profiler, size_t first)
{
    uint32_t layer;
    for (layer = 0; layer < cap.n_layers; layer++) {
        capture_rows x = capture_at(&cap, layer, first);
        need(skv_profiler_add(profiler, layer, &x.q, &x.k, &x.v, PASSAGE), "add");
    }
}

static skv_profile *fit(const skv_profiler *profiler)
{
    skv_profile *profile = NULL;
    need(skv_profiler_fit(profiler, NULL, &profile), "fit");
    return profile;
}

/* Largest relative difference between the channel variances of two profiles. */
static double spectra_differ(const skv_profile *a, const skv_profile *b)
{
    double worst = 0;
    uint32_t layer, group;
    int kind;
    for (layer = 0; layer < cap.n_layers; layer++)
        for (group = 0; group < cap.n_kv_heads; group++)    /* one head a group: the default */
            for (kind = 0; kind < 2; kind++) {
                const float *va = NULL, *vb = NULL;
                size_t na = 0, nb = 0, i;
                skv_kind of = kind ? SKV_V : SKV_K;
                need(skv_profile_spectrum(a, layer, of, group, &va, &na), "spectrum");
                need(skv_profile_spectrum(b, layer, of, group, &vb, &nb), "spectrum");
                if (na != nb) return INFINITY;
                for (i = 0; i < na; i++)
                    worst = fmax(worst, fabs((double)va[i] - (double)vb[i]) / (double)va[0]);
            }
    return worst;
}

static void outlook(const char *what, const skv_profile *profile)
{
    skv_target target = SKV_ZERO;
    skv_outlook o;
    target.bpe = 3.0f;
    need(skv_profile_outlook(profile, &target, &o), "outlook");
    printf("%-22s at %.2f bits: expected error %.6f, energy kept %.4f %%\n", what, o.bpe, o.error,
           100 * o.energy_mean);
}

int main(int argc, char **argv)
{
    skv_profiler *worker[2], *single;
    skv_profile *merged, *whole, *half;
    size_t n, first;
    if (capture_read(&cap, argc > 1 ? argv[1] : CAPTURE_DEFAULT)) return 1;
    worker[0] = start();
    worker[1] = start();
    single = start();
    for (n = 0, first = 0; first + PASSAGE <= cap.n_tokens; first += PASSAGE, n++) {
        add_passage(worker[n % 2], first);
        add_passage(single, first);
        printf("passage %lu, to worker %lu: it holds %lu bytes\n", (unsigned long)n + 1,
               (unsigned long)(n % 2) + 1, (unsigned long)skv_profiler_bytes(worker[n % 2]));
    }
    printf("after a million tokens it would hold the same; their Q, K, V in f16 take %.1f GB\n",
           2e-3 * (double)(cap.n_q + 2 * cap.n_kv) * cap.n_layers / cap.n_tokens);
    half = fit(worker[0]);
    need(skv_profiler_merge(worker[0], worker[1]), "merge");
    merged = fit(worker[0]);
    whole = fit(single);
    outlook("worker 1 alone", half);
    outlook("workers 1 and 2 merged", merged);
    outlook("one profiler", whole);
    printf("largest difference of a channel's variance, merged against one: %.1e of the largest\n",
           spectra_differ(merged, whole));
    skv_profile_free(half);
    skv_profile_free(merged);
    skv_profile_free(whole);
    skv_profiler_free(worker[0]);
    skv_profiler_free(worker[1]);
    skv_profiler_free(single);
    return 0;
}
