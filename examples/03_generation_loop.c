/* 03_generation_loop.c - the loop of an inference engine, around tensors as engines have them.

   Shows: f16 Q, K and V read in place from one fused QKV buffer (strides), f16 output, a prompt in
   chunks, decoding token by token, sinks and window, and skv_truncate for draft tokens that the
   model rejected (speculative decoding).
   Leaves out: everything that an engine does besides attention; examples/llm does it. The toy here
   takes its activations from a capture. It calibrates on the same text (04 loads a profile).
   Build in the repository's root, then run ./a.out:
       cc -O2 examples/03_generation_loop.c -lm
   Prints what the cache holds after the chunks of the prompt, then where that changes, and whether
   the last output, after drafts and rejections, is that of a run without drafts. */
#define SPECTRAL_KV_IMPLEMENTATION
#include "../spectral_kv.h"
#include "capture.h"
#include <stdlib.h>

#define PROMPT 144
#define CHUNK 48                    /* tokens that the engine runs at once */
#define DRAFT 4

static capture cap;
/* A capture is at most 1 MiB and longer than PROMPT: these hold a chunk of any. */
static uint16_t qkv[256 * 1024];        /* [token][n_q + 2 n_kv][head_dim], of the projection */
static uint16_t attention[256 * 1024];  /* [token][n_q][head_dim], for the output projection */

static void need(skv_result r, const char *what)
{
    if (r >= SKV_OK) return;        /* above zero: a warning, the result is usable */
    fprintf(stderr, "%s: %s\n", what, skv_result_text(r));
    exit(1);
}

/* Stands for norm, projection and RoPE of a layer. A wrong draft token has the rows of token 0. */
static void toy_projection(uint32_t layer, size_t token, size_t n, int wrong)
{
    size_t q = cap.n_q / cap.n_tokens, kv = cap.n_kv / cap.n_tokens, i;
    for (i = 0; i < n; i++) {
        capture_rows x = capture_at(&cap, layer, wrong && i ? 0 : token + i);
        uint16_t *row = qkv + i * (q + 2 * kv);
        memcpy(row, x.q.data, q * sizeof *row);
        memcpy(row + q, x.k.data, kv * sizeof *row);
        memcpy(row + q + kv, x.v.data, kv * sizeof *row);
    }
}

/* Runs n tokens through all layers. The two calls in the loop are all that an engine needs. */
static void forward(skv_cache *cache, size_t token, size_t n, int wrong)
{
    size_t q_row = cap.n_q / cap.n_tokens, kv_row = cap.n_kv / cap.n_tokens;
    skv_span q = skv_f16(qkv), k = skv_f16(qkv + q_row), v = skv_f16(qkv + q_row + kv_row);
    skv_out out = skv_make_out(attention, SKV_F16);
    uint32_t layer;
    q.token_stride = k.token_stride = v.token_stride = (ptrdiff_t)(q_row + 2 * kv_row);
    for (layer = 0; layer < cap.n_layers; layer++) {    /* heads lie side by side: stride 0 */
        toy_projection(layer, token, n, wrong);
        need(skv_append(cache, layer, &k, &v, n), "append");
        need(skv_attend(cache, layer, &q, n, &out, NULL), "attend");
    }
}

static void report(const skv_cache *cache, const char *what, int always)
{
    static size_t before;
    skv_usage u;
    need(skv_cache_usage(cache, &u), "usage");
    if (always || u.page_bytes != before)
        printf("%-32s %3lu tokens, %2.0f %% in pages, %5lu bytes of pages, %6lu in all\n", what,
               (unsigned long)u.tokens, 100.0 * (double)u.page_elements / (double)u.elements,
               (unsigned long)u.page_bytes, (unsigned long)u.bytes);
    before = u.page_bytes;
}

/* Prompt, then decoding. With drafts, some steps guess DRAFT tokens, of which only one is right. */
static void generate(skv_cache *cache, int drafts)
{
    size_t token, n;
    uint32_t layer;
    for (token = 0; token < PROMPT; token += n) {
        n = PROMPT - token < CHUNK ? PROMPT - token : CHUNK;
        forward(cache, token, n, 0);
        if (drafts) report(cache, "prompt chunk", 1);
    }
    for (; token < cap.n_tokens; token++) {
        int guess = drafts && token % 32 == 0;
        forward(cache, token, guess ? DRAFT : 1, guess);
        if (guess) report(cache, "4 draft tokens appended", 1);
        for (layer = 0; guess && layer < cap.n_layers; layer++)
            need(skv_truncate(cache, layer, token + 1), "truncate");
        if (drafts) report(cache, guess ? "3 of them rejected" : "one token, and a page", guess);
    }
}

int main(int argc, char **argv)
{
    static uint16_t drafted[4096];
    skv_cache_desc d = SKV_ZERO;
    skv_cache *cache = NULL;
    skv_profile *profile = NULL;
    size_t row;
    if (capture_read(&cap, argc > 1 ? argv[1] : CAPTURE_DEFAULT)) return 1;
    if (cap.n_tokens <= PROMPT) return fprintf(stderr, "this capture is too short\n"), 1;
    row = cap.n_q / cap.n_tokens * sizeof *attention;
    need(capture_calibrate(&cap, 16, &profile), "calibrate");
    d.profile = profile;
    d.target.bpe = 3.0f;
    d.max_tokens = cap.n_tokens + DRAFT;
    d.sinks = 4;
    d.window = 16;                  /* 64 is the default; few here, for a text of 256 tokens */
    d.max_append = CHUNK;
    need(skv_cache_init(&cache, &d), "cache");
    generate(cache, 1);
    memcpy(drafted, attention, row);
    skv_cache_reset(cache);         /* the same memory, a new conversation */
    generate(cache, 0);
    printf("last output with and without drafts: %s\n",
           memcmp(drafted, attention, row) ? "different" : "identical");
    skv_cache_free(cache);
    skv_profile_free(profile);
    return 0;
}
