/* What latent_out (outputs in V's latent, for a folded W_O) saves: one decode step of a layer,
 * skv_append of a token and skv_attend, and skv_append of a prompt, plain and with latent_out.
 * cc -std=c99 -O3 -I. bench/bench_fold.c -o bench_fold -lm
 *   [--json FILE] [--runs N]
 * Random rows and bases, keys with RoPE, head groups of one, 2.3 bits. CPU time; the two take turns
 * and who comes first alternates; medians, and the median and least of the rounds' ratios. First a
 * random W_O, folded, must make of the latent output what it makes of the plain one. The folded
 * product itself costs what W_O's did.
 */
#define _POSIX_C_SOURCE 200809L
#define SPECTRAL_KV_IMPLEMENTATION
#include "../spectral_kv.h"
#include "bench.h"
#include "../tests/synthetic.h"

enum { PROMPT = 512, OUT = 16, STEPS = 4 };     /* rows of W_O; steps of a round */

static const struct { const char *name; uint32_t n_q, n_kv, d, tokens; } shapes[] = {
    {"SmolLM2-135M", 9, 3, 64, 1024},   {"SmolLM2-135M", 9, 3, 64, 4096},
    {"Llama-3-8B", 32, 8, 128, 1024},   {"Llama-3-8B", 32, 8, 128, 4096},
    {"MHA", 8, 8, 128, 1024},           {"MHA", 8, 8, 128, 4096}
};

static void need(skv_result r, const char *what)
{
    if (r >= SKV_OK) return;
    fprintf(stderr, "%s: %s\n", what, skv_result_text(r));
    exit(1);
}

typedef struct bed {
    syn            s;
    syn_data       x;
    size_t         tokens, width;               /* held; numbers in an output */
    skv_profile   *profile;
    skv_cache     *cache[2];                    /* plain, latent_out */
    float         *out[2];
} bed;

static void open_bed(bed *b, uint32_t n_q, uint32_t n_kv, uint32_t d, size_t tokens)
{
    const syn s = {{n_q, n_kv, d, d, 0, 0, 0}, 3, 2.0f, 3.0f, 0, 0};
    skv_span k, v;
    uint32_t i;
    b->s = s;
    b->tokens = tokens;
    b->width = (size_t)n_q * d;
    b->x = syn_make(&s, 0, 0, tokens);
    b->profile = syn_profile_turned(&s, 1, 1, SKV_ROPE_HALVES, d / 2);
    if (!b->profile) need(SKV_ERR_MEMORY, "profile");
    k = skv_f32(b->x.k);
    v = skv_f32(b->x.v);
    for (i = 0; i < 2; i++) {
        skv_cache_desc c = SKV_ZERO;
        c.profile = b->profile;
        c.target.bpe = 2.3f;
        c.max_tokens = (uint32_t)tokens;
        c.latent_out = i;
        need(skv_cache_init(&b->cache[i], &c), "cache");
        need(skv_append(b->cache[i], 0, &k, &v, tokens - STEPS), "append");
        b->out[i] = (float *)malloc(b->width * sizeof(float));
        if (!b->out[i]) need(SKV_ERR_MEMORY, "output");
    }
}

static void close_bed(bed *b)
{
    uint32_t i;
    for (i = 0; i < 2; i++) {
        skv_cache_free(b->cache[i]);
        free(b->out[i]);
    }
    skv_profile_free(b->profile);
    syn_free(&b->x);
}

/* The newest STEPS tokens, one by one; they are forgotten again. Returns ns a step. */
static double steps(bed *b, uint32_t which)
{
    const size_t kv = (size_t)b->s.shape.n_kv_heads * b->s.shape.head_dim;
    skv_out out = skv_out_f32(b->out[which]);
    double start = bench_ns();
    size_t i, at;
    for (i = 0; i < STEPS; i++) {
        skv_span q, k, v;
        at = b->tokens - STEPS + i;
        q = skv_f32(b->x.q + at * b->width);
        k = skv_f32(b->x.k + at * kv);
        v = skv_f32(b->x.v + at * kv);
        need(skv_append(b->cache[which], 0, &k, &v, 1), "append");
        need(skv_attend(b->cache[which], 0, &q, 1, &out, NULL), "attend");
    }
    start = (bench_ns() - start) / STEPS;
    need(skv_truncate(b->cache[which], 0, b->tokens - STEPS), "truncate");
    return start;
}

/* ns a token of a prompt's skv_append into the emptied cache. */
static double prompt(bed *b, uint32_t which)
{
    skv_span k = skv_f32(b->x.k), v = skv_f32(b->x.v);
    double start;
    skv_cache_reset(b->cache[which]);
    start = bench_ns();
    need(skv_append(b->cache[which], 0, &k, &v, PROMPT), "append");
    return (bench_ns() - start) / PROMPT;
}

/* W_O by both ways, relative squared difference. */
static double check(bed *b)
{
    const size_t n = OUT * b->width;
    float *w = (float *)malloc(2 * n * sizeof *w), bias[OUT], plain[OUT], folded[OUT];
    uint64_t state = 1;
    skv_span span;
    size_t t, i;
    if (!w) need(SKV_ERR_MEMORY, "W_O");
    span = skv_f32(w);
    for (i = 0; i < n; i++) w[i] = (float)(syn_unit(&state) - 0.5);
    need(skv_profile_fold(b->profile, 0, &span, OUT, w + n, bias), "fold");
    steps(b, 0);
    steps(b, 1);
    for (t = 0; t < OUT; t++) {
        plain[t] = 0;
        folded[t] = bias[t];
        for (i = 0; i < b->width; i++) {
            plain[t] += w[t * b->width + i] * b->out[0][i];
            folded[t] += w[n + t * b->width + i] * b->out[1][i];
        }
    }
    free(w);
    return syn_relative_error(folded, plain, OUT);
}

/* Medians of both in ns, and their rounds' ratio: median, least. */
typedef struct figures { double ns[2], ratio, least; } figures;

static figures compare(bed *b, double (*run)(bed *, uint32_t), size_t runs)
{
    double ns[2][BENCH_MAX_RUNS], ratio[BENCH_MAX_RUNS];
    figures f;
    size_t r;
    for (r = 0; r < runs; r++) {
        ns[r % 2][r] = run(b, r % 2);
        ns[1 - r % 2][r] = run(b, 1 - r % 2);
        ratio[r] = ns[1][r] / ns[0][r];
    }
    for (r = 0; r < 2; r++) bench_sort(ns[r], runs);
    bench_sort(ratio, runs);
    for (r = 0; r < 2; r++) f.ns[r] = ns[r][runs / 2];
    f.ratio = ratio[runs / 2];
    f.least = ns[1][0] / ns[0][0];
    return f;
}

int main(int argc, char **argv)
{
    const char *json = NULL;
    size_t runs = 31, i;
    FILE *f = NULL;
    if (bench_arguments("bench_fold", argc, argv, &json, &runs)) return 2;
    if (json && (f = fopen(json, "w")) == NULL) return perror(json), 1;
    printf("%s kernels; us a step (append and attend of a token, one layer) and us a token of a "
           "prompt\n\n%-14s %7s %7s %5s %9s %9s %7s %7s %9s %9s %7s\n", skv_isa_name(), "shape",
           "heads", "tokens", "d", "plain", "latent", "ratio", "least", "prompt", "latent",
           "ratio");
    for (i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        bed b;
        figures step, fill;
        double apart;
        open_bed(&b, shapes[i].n_q, shapes[i].n_kv, shapes[i].d, shapes[i].tokens);
        apart = check(&b);
        if (!(apart < 0.01)) return fprintf(stderr, "the outputs differ: %g\n", apart), 1;
        step = compare(&b, steps, runs);
        fill = compare(&b, prompt, runs < 9 ? runs : 9);
        printf("%-14s %4u:%-2u %7u %5u %9.1f %9.1f %7.3f %7.3f %9.1f %9.1f %7.3f\n",
               shapes[i].name, shapes[i].n_q, shapes[i].n_kv, shapes[i].tokens, shapes[i].d,
               step.ns[0] / 1e3, step.ns[1] / 1e3, step.ratio, step.least, fill.ns[0] / 1e3,
               fill.ns[1] / 1e3, fill.ratio);
        if (f)
            fprintf(f, "{\"isa\": \"%s\", \"shape\": \"%s\", \"n_q\": %u, \"n_kv\": %u, "
                    "\"head_dim\": %u, \"tokens\": %u, \"step_ns\": %.0f, "
                    "\"step_ns_latent\": %.0f, \"step_ratio\": %.4f, \"prompt_ns\": %.0f, "
                    "\"prompt_ns_latent\": %.0f, \"prompt_ratio\": %.4f}\n", skv_isa_name(),
                    shapes[i].name, shapes[i].n_q, shapes[i].n_kv, shapes[i].d, shapes[i].tokens,
                    step.ns[0], step.ns[1], step.ratio, fill.ns[0], fill.ns[1], fill.ratio);
        close_bed(&b);
    }
    if (f && fclose(f)) return perror(json), 1;
    return 0;
}
