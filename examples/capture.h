/* capture.h - reads examples/data/smollm2_capture.bin: queries, keys and values of a real model.
   Include it after spectral_kv.h. Needs libc only and no malloc: a capture holds its data, so
   declare it static. Format, origin and how to make one: examples/data/README.md. */
#ifndef CAPTURE_H
#define CAPTURE_H

#include <stdio.h>
#include <string.h>

#define CAPTURE_DEFAULT "examples/data/smollm2_capture.bin"     /* from the repository's root */

typedef struct capture {
    uint32_t n_layers, n_tokens, n_q_heads, n_kv_heads, head_dim;
    size_t   n_q, n_kv;             /* numbers in one layer's Q; in its K or V */
    size_t   n_words;
    uint16_t word[512 * 1024];      /* the file after its header, in this machine's byte order */
} capture;

static inline uint32_t capture_u32(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* 0, or -1 after a message. */
static inline int capture_read(capture *c, const char *path)
{
    unsigned char head[28] = {0}, b[2];
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "%s: cannot open; run in the repository's root, or name a capture\n", path);
        return -1;
    }
    c->n_words = 0;
    if (fread(head, 1, sizeof head, f) == sizeof head)
        while (c->n_words < sizeof c->word / 2 && fread(b, 1, 2, f) == 2)
            c->word[c->n_words++] = (uint16_t)(b[0] | b[1] << 8);
    fclose(f);
    c->n_layers = capture_u32(head + 8);
    c->n_tokens = capture_u32(head + 12);
    c->n_q_heads = capture_u32(head + 16);
    c->n_kv_heads = capture_u32(head + 20);
    c->head_dim = capture_u32(head + 24);
    if (!memcmp(head, "SKVCAP1\n", 8) && c->n_layers < 256 && c->n_tokens < 4096 &&
        c->n_q_heads < 256 && c->n_kv_heads < 256 && c->head_dim < 1024) {
        c->n_q = (size_t)c->n_tokens * c->n_q_heads * c->head_dim;
        c->n_kv = (size_t)c->n_tokens * c->n_kv_heads * c->head_dim;
        if (c->n_words == (uint64_t)c->n_layers * (2 + (uint64_t)c->n_q + 2 * (uint64_t)c->n_kv))
            return 0;
    }
    fprintf(stderr, "%s: not a whole capture of at most 1 MiB\n", path);
    return -1;
}

/* Q, K, V of layer i from a token on, as the library takes them: f16, where they lie. */
typedef struct capture_rows {
    skv_span q, k, v;
} capture_rows;

static inline capture_rows capture_at(const capture *c, uint32_t i, size_t token)
{
    const uint16_t *layer = c->word + i * (2 + c->n_q + 2 * c->n_kv) + 2;   /* 2: its number */
    size_t kv = token * c->n_kv_heads * c->head_dim;
    capture_rows r;
    r.q = skv_f16(layer + token * c->n_q_heads * c->head_dim);
    r.k = skv_f16(layer + c->n_q + kv);
    r.v = skv_f16(layer + c->n_q + c->n_kv + kv);
    return r;
}

/* The captured layers, as if they were a model. */
static inline skv_model capture_model(const capture *c)
{
    skv_model m = SKV_ZERO;
    m.n_layers = c->n_layers;
    m.layer.n_q_heads = c->n_q_heads;
    m.layer.n_kv_heads = c->n_kv_heads;
    m.layer.head_dim = c->head_dim;
    m.name = "captured layers";
    return m;
}

/* Calibration on the whole capture, for examples that are about something else; 01 explains it. */
static inline skv_result capture_calibrate(const capture *c, uint32_t window, skv_profile **out)
{
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *profiler = NULL;
    skv_result r;
    uint32_t i;
    d.model = capture_model(c);
    d.window = window;
    r = skv_profiler_init(&profiler, &d);
    for (i = 0; r == SKV_OK && i < c->n_layers; i++) {
        capture_rows x = capture_at(c, i, 0);
        r = skv_profiler_add(profiler, i, &x.q, &x.k, &x.v, c->n_tokens);
    }
    if (r == SKV_OK) r = skv_profiler_fit(profiler, NULL, out);
    skv_profiler_free(profiler);
    return r;
}

#endif
