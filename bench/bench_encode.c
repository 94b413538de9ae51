/* Time to make pages and to read them back, hot and cold, on the captured rows of the examples.
 * cc -std=c99 -O3 -I. bench/bench_encode.c -o bench_encode -lm         [--json FILE] [--runs N]
 * Run it in the repository's root.
 *
 * Profiles come from the very capture: this measures time, `make bench-quality` quality. Before
 * anything is timed, pages are read back and their squared error must fall as bits rise. Times are
 * CPU nanoseconds per element of K or V, one thread, median over runs that alternate between the
 * codecs; a page is 64 tokens of one layer. "decode" gives dense float rows back.
 */
#define _POSIX_C_SOURCE 200809L
#define SPECTRAL_KV_IMPLEMENTATION
#include "../spectral_kv.h"
#include "../examples/capture.h"
#include "bench.h"
#include <math.h>

enum { RATES = 4, PAGE = SKV_PAGE_TOKENS, KEEP = 1 << 20 };

typedef struct subject {
    const char *name;               /* preset */
    float       bpe;
    skv_codec  *hot;                /* one of the two */
    skv_cold   *cold;
    size_t      bytes;              /* of all pages */
    double      error, encode[BENCH_MAX_RUNS], decode[BENCH_MAX_RUNS];
} subject;

static capture cap;
static unsigned char pages[KEEP];
static size_t page_at[256];
static float rows[2][PAGE * 4096];

static void need(skv_result r, const char *what)
{
    if (r >= SKV_OK) return;
    fprintf(stderr, "bench_encode: %s: %s\n", what, skv_result_text(r));
    exit(1);
}

/* ---- profiles ---- */

static skv_profile *calibrate(uint32_t head_group, skv_cold_profile **cold)
{
    skv_profiler_desc d = SKV_ZERO;
    skv_chain_desc cd = SKV_ZERO;
    skv_profiler *p = NULL;
    skv_chain *chain = NULL;
    skv_profile *f = NULL;
    float freq[SKV_MAX_HEAD_DIM / 2];
    uint32_t i, pairs = cap.head_dim / 2;
    for (i = 0; i < pairs; i++) freq[i] = (float)pow(100000, -(double)i / pairs);
    d.model = capture_model(&cap);
    d.head_group = head_group;
    d.window = 16;
    need(skv_profiler_init(&p, &d), "profiler");
    for (i = 0; i < cap.n_layers; i++)
        need(skv_profiler_rope(p, i, SKV_ROPE_ADJACENT, freq, pairs), "rope");
    cd.profiler = p;
    if (cold) need(skv_chain_init(&chain, &cd), "chain");
    for (i = 0; i < cap.n_layers; i++) {
        capture_rows x = capture_at(&cap, i, 0);
        need(skv_profiler_add(p, i, &x.q, &x.k, &x.v, cap.n_tokens), "calibrate");
        if (cold) need(skv_chain_add(chain, i, &x.k, &x.v, cap.n_tokens), "calibrate");
    }
    need(skv_profiler_fit(p, NULL, &f), "fit");
    if (cold) need(skv_chain_fit(chain, p, cold), "fit");
    skv_chain_free(chain);
    skv_profiler_free(p);
    return f;
}

static void subject_hot(subject *s, const char *name, const skv_profile *p, float bpe)
{
    skv_codec_desc d = SKV_ZERO;
    memset(s, 0, sizeof *s);
    s->name = name;
    s->bpe = d.target.bpe = bpe;
    d.profile = p;
    need(skv_codec_init(&s->hot, &d), name);
}

static void subject_cold(subject *s, const skv_cold_profile *p, float bpe)
{
    skv_cold_desc d = SKV_ZERO;
    memset(s, 0, sizeof *s);
    s->name = "cold";
    s->bpe = d.bpe = bpe;
    d.profile = p;
    need(skv_cold_init(&s->cold, &d), s->name);
}

/* ---- work ---- */

/* All pages of the capture, page by page and in it layer by layer. */
static void encode_all(subject *s)
{
    size_t t, used = 0, n = 0, bytes = 0;
    uint32_t i;
    for (t = 0; t + PAGE <= cap.n_tokens; t += PAGE)
        for (i = 0; i < cap.n_layers; i++, used += bytes) {
            capture_rows x = capture_at(&cap, i, t);
            page_at[n++] = used;
            need(s->hot ? skv_encode(s->hot, i, &x.k, &x.v, PAGE, t, pages + used, KEEP - used,
                                     &bytes)
                        : skv_cold_encode(s->cold, i, (uint32_t)t, &x.k, &x.v, PAGE, pages + used,
                                          KEEP - used, &bytes), "encode");
        }
    page_at[n] = s->bytes = used;
}

/* Squared error of a page's rows. */
static double page_error(const capture_rows *x, size_t n)
{
    const uint16_t *k = (const uint16_t *)x->k.data, *v = (const uint16_t *)x->v.data;
    double sum = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        double dk = (double)(rows[0][i] - skvi_from_f16(k[i]));
        double dv = (double)(rows[1][i] - skvi_from_f16(v[i]));
        sum += dk * dk + dv * dv;
    }
    return sum;
}

static double decode_all(subject *s, int check)
{
    size_t t, n = 0, got = 0;
    double error = 0;
    uint32_t i;
    for (t = 0; t + PAGE <= cap.n_tokens; t += PAGE)
        for (i = 0; i < cap.n_layers; i++, n++) {
            const unsigned char *page = pages + page_at[n];
            size_t bytes = page_at[n + 1] - page_at[n];
            capture_rows x = capture_at(&cap, i, t);
            need(s->hot ? skv_decode(s->hot, i, page, bytes, rows[0], rows[1], &got)
                        : skv_cold_decode(s->cold, i, SKV_NONE, page, bytes, rows[0], rows[1],
                                          &got), "decode");
            if (check) error += page_error(&x, PAGE * cap.n_kv_heads * cap.head_dim);
        }
    return error;
}

static int measure(subject *s, size_t n, size_t runs, double elements)
{
    size_t i, r;
    for (i = 0; i < n; i++) {                   /* correctness and warm-up first */
        encode_all(&s[i]);
        s[i].error = decode_all(&s[i], 1);
        if (i % RATES && !(s[i].error < s[i - 1].error)) {
            fprintf(stderr, "bench_encode: %s: error does not fall with bits\n", s[i].name);
            return 1;
        }
    }
    for (r = 0; r < runs; r++)
        for (i = 0; i < n; i++) {
            double start = bench_ns(), middle;
            encode_all(&s[i]);
            middle = bench_ns();
            (void)decode_all(&s[i], 0);
            s[i].encode[r] = (middle - start) / elements;
            s[i].decode[r] = (bench_ns() - middle) / elements;
        }
    for (i = 0; i < n; i++) {
        bench_sort(s[i].encode, runs);
        bench_sort(s[i].decode, runs);
    }
    return 0;
}

static int report(const char *json, const subject *s, size_t n, size_t runs, double elements)
{
    FILE *f = json && strcmp(json, "-") ? fopen(json, "w") : stdout;
    size_t i;
    if (!f) {
        fprintf(stderr, "bench_encode: cannot write %s\n", json);
        return 1;
    }
    if (!json || f != stdout)
        printf("kernels %s; CPU ns per element, %lu runs\n\n%-7s %9s %9s %9s %9s\n",
               skv_isa_name(), (unsigned long)runs, "preset", "bits", "encode", "decode",
               "rel.err.");
    for (i = 0; i < n; i++) {
        double bits = 8.0 * (double)s[i].bytes / elements;
        if (!json || f != stdout)
            printf("%-7s %9.2f %9.1f %9.1f %9.4f\n", s[i].name, bits, s[i].encode[runs / 2],
                   s[i].decode[runs / 2], s[i].error / s[0].error);
        if (json)
            fprintf(f, "{\"bench\": \"encode\", \"isa\": \"%s\", \"preset\": \"%s\", "
                    "\"bits\": %.3f, \"encode_ns\": %.2f, \"decode_ns\": %.2f}\n", skv_isa_name(),
                    s[i].name, bits, s[i].encode[runs / 2], s[i].decode[runs / 2]);
    }
    return (f == stdout ? fflush(f) : fclose(f)) ? 1 : 0;
}

int main(int argc, char **argv)
{
    static const float rate[RATES] = {1.5f, 2, 3, 4};
    static subject s[3 * RATES];
    skv_profile *fast, *small;
    skv_cold_profile *cold = NULL;
    const char *json = NULL;
    size_t i, runs = 9;
    double elements;
    int bad;
    if (bench_arguments("bench_encode", argc, argv, &json, &runs)) return 2;
    if (capture_read(&cap, CAPTURE_DEFAULT)) return 1;
    elements = (double)(cap.n_tokens / PAGE * PAGE) * 2.0 * (double)cap.n_layers *
               (double)(cap.n_kv_heads * cap.head_dim);
    fast = calibrate(1, NULL);
    small = calibrate(cap.n_kv_heads, &cold);
    for (i = 0; i < RATES; i++) {
        subject_hot(&s[i], "fast", fast, rate[i]);
        subject_hot(&s[RATES + i], "small", small, rate[i]);
        subject_cold(&s[2 * RATES + i], cold, rate[i]);
    }
    bad = measure(s, 3 * RATES, runs, elements) || report(json, s, 3 * RATES, runs, elements);
    for (i = 0; i < 3 * RATES; i++) {
        skv_codec_free(s[i].hot);
        skv_cold_free(s[i].cold);
    }
    skv_profile_free(fast);
    skv_profile_free(small);
    skv_cold_profile_free(cold);
    return bad;
}
