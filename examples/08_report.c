/* 08_report.c - is this profile safe here? Compressed attention beside exact attention.

   Shows: skv_report on captured Q, K, V, its page of text, the figures of one head, a verdict that
   a program can act on.
   Leaves out: the whole model. `skv-llm judge` compares next-token distributions; a report needs
   nothing but the tensors of a layer, so it fits into any engine.
   Build in the repository's root, then run ./a.out:
       cc -O2 examples/08_report.c -lm
   Prints a report for a profile of the captured text, asked for 4 bits and for 1, then for one
   that was made for other layers, which must not pass. Bits: of a K or V number in the pages. */
#define SPECTRAL_KV_IMPLEMENTATION
#include "../spectral_kv.h"
#include "capture.h"
#include <stdlib.h>

#define WINDOW 16
static capture cap;

static void need(skv_result r, const char *what)
{
    if (r >= SKV_OK) return;        /* above zero: a warning, the result is usable */
    fprintf(stderr, "%s: %s\n", what, skv_result_text(r));
    exit(1);
}

/* A calibration gone wrong: each layer got the tensors of another, keys and values exchanged. */
static skv_profile *careless(void)
{
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *profiler = NULL;
    skv_profile *profile = NULL;
    d.model = capture_model(&cap);
    d.window = WINDOW;
    need(skv_profiler_init(&profiler, &d), "profiler");
    for (uint32_t layer = 0; layer < cap.n_layers; layer++) {
        capture_rows x = capture_at(&cap, cap.n_layers - 1 - layer, 0);     /* another layer's */
        need(skv_profiler_add(profiler, layer, &x.q, &x.v, &x.k, cap.n_tokens), "calibrate");
    }
    need(skv_profiler_fit(profiler, NULL, &profile), "fit");
    skv_profiler_free(profiler);
    return profile;
}

static skv_verdict report(const skv_profile *profile, float bits, const char *title)
{
    static skv_layer_report layers[256];
    static skv_head_report heads[256];
    static char text[1 << 16];
    skv_report_desc d = SKV_ZERO;
    d.profile = profile;
    d.target.bpe = bits;
    d.window = WINDOW;
    for (uint32_t i = 0; i < cap.n_layers; i++) {
        capture_rows x = capture_at(&cap, i, 0);
        need(skv_report(&d, i, &x.q, &x.k, &x.v, cap.n_tokens, &layers[i], heads), "report");
    }
    need(skv_report_text(layers, cap.n_layers, text, sizeof text, NULL), "text");
    const skv_head_report *h = &heads[layers[cap.n_layers - 1].worst_head];
    printf("%s, %.1f bits\n%sWorst head of the last layer: KL %.4f, no score off by more than %.2f "
           "(found %.2f)\n\n", title, (double)bits, text, h->kl_mean, h->score_bound, h->score_max);
    return skv_report_verdict(layers, cap.n_layers);
}

int main(int argc, char **argv)
{
    if (capture_read(&cap, argc > 1 ? argv[1] : CAPTURE_DEFAULT)) return 1;
    skv_profile *good = NULL, *bad = careless();
    need(capture_calibrate(&cap, WINDOW, &good), "calibrate");
    skv_verdict a = report(good, 4, "A profile of this text");
    (void)report(good, 1, "The same profile");
    skv_verdict b = report(bad, 4, "A profile of other layers");
    skv_profile_free(good);
    skv_profile_free(bad);
    printf("ship the first: %s; the last: %s\n", a == SKV_UNSAFE ? "no" : "yes",
           b == SKV_UNSAFE ? "no" : "yes");
    return 0;
}
