/* Time of attention in decode: one query token over T cached tokens, per layer and per query head.
 * skv_attend against an uncompressed f16 kernel (bench_f16.h) and, where its libraries are found,
 * ggml's flash attention with f16, q8_0 and q4_0 caches (bench_ggml.h).
 * cc -std=c99 -O3 -I. bench/bench_attn.c -o bench_attn -lm -ldl
 *   [--json FILE] [--csv FILE] [--runs N] [--shape NAME] [--tokens N,..] [--bits B,..]
 *   [--preset fast|small, or --group N|joint] [--no-rope] [--ws MIB] [--isa NAME]
 *   [--ggml DIR, else $GGML_LIB_DIR] [--ratios: in the table, times of the others in ours]
 *   [--profile FIFO]
 *
 * Data are synthetic: random mixes of channels with falling standard deviations, K with a mean that
 * RoPE turns, calibrated as a model would be. Before anything is timed all outputs are compared
 * with exact attention, ours also with exact attention over its own decoded rows.
 * In a model the weights of a layer pass through the caches before the next layer's attention. So
 * before a contender's turn --ws MiB of other memory are read (which measures the bandwidth too),
 * then a short layer is attended to wake the code, then the timed layers, each of T tokens and all
 * unread since the last round: 8 of 1024 tokens, 2 of 4096, 1 above. The same for everybody; our
 * cache holds its last tokens exactly, as in decode (tokens_paged says how many are compressed).
 * Times are CPU ns of one thread; rounds alternate between the contenders; median and least, and
 * the median of the rounds' ratios.
 * Roofline: a step's bytes are those of its pages and exact rows, once; their rate is set against
 * that of the plain reads of other memory in the same run. Instructions are counted where the
 * system lets a process do so (Linux, perf_event_open), else the field is absent.
 * Linearity: medians at three or more --tokens, ascending, are fitted by fixed + each * tokens, the
 * relative errors' squares being least; `off` is the worst of these errors.
 * --profile FIFO times nothing: `make profile-attn` shows how.
 */
#define _DEFAULT_SOURCE
#define _POSIX_C_SOURCE 200809L
#define SPECTRAL_KV_IMPLEMENTATION
#include "../spectral_kv.h"
#include "bench.h"
#include "bench_f16.h"
#include "bench_ggml.h"
#include <math.h>
#ifdef __linux__
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum {
    WARM = 256, TIMED = 8, LEAST = 8192,        /* tokens of layer 0; timed layers and tokens */
    POOL = 2048, CHUNK = 256,                   /* distinct rows; rows handled at a time */
    MAX_D = 256, MAX_Q = 4096, MAX_KV = 1024,   /* numbers in a head; in a token's Q; in its K */
    CONTENDERS = 5, LIST = 16, FIELDS = 48
};

typedef struct shape {
    const char *name;
    uint32_t    n_q, n_kv, d;
    double      base;                           /* of RoPE's frequencies */
} shape;

static const shape shapes[] = {
    {"SmolLM2-135M", 9, 3, 64, 1e5}, {"Qwen2.5-0.5B", 14, 2, 64, 1e6},
    {"Llama-3-8B", 32, 8, 128, 5e5}, {"Gemma-3-270M", 4, 1, 256, 1e6},
};

typedef struct options {
    const char *json, *csv, *shape, *ggml, *isa, *profile;
    size_t      runs, ws;                       /* ws in MiB */
    uint32_t    group;                          /* 0: all KV heads */
    int         rope, ratios;
    double      tokens[LIST], bits[LIST];
    size_t      n_tokens, n_bits;
} options;

/* K, V and Q of every layer. Token t has row t % POOL of the pools, its sign drawn anew after the
   first POOL tokens, and keys the mean, turned to position t. All are f16 numbers. */
typedef struct source {
    const shape *sh;
    int          rope;
    size_t       n_q, n_kv;                     /* numbers in a token's Q, in its K or V */
    float       *q, *k, *v;
    float        mean[MAX_KV], freq[MAX_D / 2];
} source;

typedef struct contender {
    const char *name;
    void      (*step)(void *self, size_t layer, float *out);
    void       *self;
    double      error, ns[BENCH_MAX_RUNS], ratio[BENCH_MAX_RUNS];  /* ratio: to ours, same round */
} contender;

typedef struct ours {
    skv_cache *cache;
    skv_span   q;
    skv_attn   attn;
    double     bpe, bytes;                      /* of pages; touched by one step */
} ours;

typedef struct f16_cache {
    const f16_kernel *kernel;
    const shape      *sh;
    const float      *q;
    size_t            tokens[1 + TIMED];
    uint16_t         *k[1 + TIMED], *v[1 + TIMED];
} f16_cache;

typedef struct peer {
    ggml_cache   cache;
    const float *q;
    size_t       bytes;                         /* of an output */
} peer;

/* Everything at one shape and number of tokens. */
typedef struct test {
    const options *o;
    source        *src;
    size_t         tokens, timed, n;            /* timed layers; contenders */
    ours           own;
    f16_cache      f16;
    peer           ggml[3];
    contender      c[CONTENDERS];
    double         exact[MAX_Q], own_error, instructions, bandwidth;    /* GB/s */
} test;

typedef struct field {
    const char *name;
    char        text[40];
    int         quoted;
} field;

typedef struct point {                          /* medians of a step, by tokens */
    double tokens, ns, bytes;
} point;

typedef struct record {
    field  f[FIELDS];
    size_t n;
} record;

static float chunk_k[CHUNK * MAX_KV], chunk_v[CHUNK * MAX_KV];
static unsigned char *sweep;                    /* memory to read between the steps */
static volatile uint64_t sink;
static ggml_api ggml;
static int counter = -1;                        /* of instructions: a file */

static void need(skv_result r, const char *what)
{
    if (r >= SKV_OK) return;
    fprintf(stderr, "bench_attn: %s: %s\n", what, skv_result_text(r));
    exit(1);
}

static void *get(size_t bytes)
{
    void *p = malloc(bytes);
    if (p) return p;
    fprintf(stderr, "bench_attn: no memory for %lu bytes: fewer --tokens\n", (unsigned long)bytes);
    exit(1);
}

/* ---- data ---- */

static uint64_t seed;

static uint64_t draw(void)                      /* splitmix64 */
{
    uint64_t x = seed += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static float normal(void)                       /* Box and Muller */
{
    double u = ((double)(draw() >> 11) + 1) / 9007199254740993.0;
    double angle = 6.283185307179586 * (double)(draw() >> 11) / 9007199254740992.0;
    return (float)(sqrt(-2 * log(u)) * cos(angle));
}

/* Rows of heads: sum over c of gain last^(c / (d - 1)) normal() mix[c]. */
static float *mixed(size_t heads, size_t d, double gain, double last, const float *mix)
{
    float *x = (float *)get(POOL * heads * d * sizeof *x), *row = x;
    size_t r, c, i;
    for (r = 0; r < POOL * heads; r++, row += d) {
        memset(row, 0, d * sizeof *row);
        for (c = 0; c < d; c++) {
            float y = normal() * (float)(gain * pow(last, (double)c / (double)(d - 1)));
            for (i = 0; i < d; i++) row[i] += y * mix[c * d + i];
        }
    }
    return x;
}

static void source_init(source *s, const shape *sh, int rope)
{
    static float mix[MAX_D * MAX_D];
    size_t i, d = sh->d;
    seed = 1;
    s->sh = sh;
    s->rope = rope;
    s->n_q = sh->n_q * d;
    s->n_kv = sh->n_kv * d;
    need(skv_turbo_rotation(1, d, mix), "rotation");
    s->k = mixed(sh->n_kv, d, 1, 0.02, mix);
    s->q = mixed(sh->n_q, d, 6, 0.02, mix);     /* scores then deviate by about 2 */
    need(skv_turbo_rotation(2, d, mix), "rotation");
    s->v = mixed(sh->n_kv, d, 1, 0.2, mix);
    for (i = 0; i < s->n_kv; i++) s->mean[i] = 0.5f * normal();
    for (i = 0; i < d / 2; i++) s->freq[i] = (float)pow(sh->base, -2.0 * (double)i / (double)d);
    for (i = 0; i < POOL * s->n_q; i++) s->q[i] = f16_float(f16_round(s->q[i]));
}

static void source_free(source *s)
{
    free(s->q);
    free(s->k);
    free(s->v);
}

/* Tokens first .. first+n-1 into chunk_k and chunk_v. */
static void source_rows(const source *s, size_t first, size_t n)
{
    size_t t, i, h, half = s->sh->d / 2;
    for (t = first; t < first + n; t++) {
        const float *k = s->k + t % POOL * s->n_kv, *v = s->v + t % POOL * s->n_kv;
        float *out_k = chunk_k + (t - first) * s->n_kv, *out_v = chunk_v + (t - first) * s->n_kv;
        float sign = t >= POOL && (uint32_t)t * 2654435761u >> 31 ? -1.0f : 1.0f;
        for (i = 0; i < half; i++) {
            double angle = s->rope ? (double)t * (double)s->freq[i] : 0;
            float cs = (float)cos(angle), sn = (float)sin(angle);
            for (h = i; h < s->n_kv; h += 2 * half) {
                out_k[h] = sign * k[h] + cs * s->mean[h] - sn * s->mean[h + half];
                out_k[h + half] = sign * k[h + half] + sn * s->mean[h] + cs * s->mean[h + half];
            }
        }
        for (i = 0; i < s->n_kv; i++) {
            out_k[i] = f16_float(f16_round(out_k[i]));
            out_v[i] = f16_float(f16_round(sign * v[i]));
        }
    }
}

static skv_profile *calibrate(const source *s, uint32_t group)
{
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *p = NULL;
    skv_profile *f = NULL;
    float *k = (float *)get(POOL * s->n_kv * sizeof *k);
    float *v = (float *)get(POOL * s->n_kv * sizeof *v);
    skv_span sq = skv_f32(s->q), sk = skv_f32(k), sv = skv_f32(v);
    uint32_t i;
    for (i = 0; i < POOL; i += CHUNK) {
        source_rows(s, i, CHUNK);
        memcpy(k + i * s->n_kv, chunk_k, CHUNK * s->n_kv * sizeof *k);
        memcpy(v + i * s->n_kv, chunk_v, CHUNK * s->n_kv * sizeof *v);
    }
    d.model.n_layers = 1 + TIMED;
    d.model.layer.n_q_heads = s->sh->n_q;
    d.model.layer.n_kv_heads = s->sh->n_kv;
    d.model.layer.head_dim = s->sh->d;
    d.head_group = group ? group : s->sh->n_kv;
    d.max_passage = POOL;
    need(skv_profiler_init(&p, &d), "profiler");
    for (i = 0; i < d.model.n_layers; i++) {
        if (s->rope)
            need(skv_profiler_rope(p, i, SKV_ROPE_HALVES, s->freq, s->sh->d / 2), "rope");
        need(skv_profiler_add(p, i, &sq, &sk, &sv, POOL), "calibrate");
    }
    need(skv_profiler_fit(p, NULL, &f), "fit");
    skv_profiler_free(p);
    free(k);
    free(v);
    return f;
}

/* ---- exact attention in double ---- */

typedef void read_rows(void *self, size_t first, size_t n);     /* into chunk_k and chunk_v */

static void rows_of_source(void *self, size_t first, size_t n)
{
    source_rows((const source *)self, first, n);
}

static void rows_of_ours(void *self, size_t first, size_t n)
{
    need(skv_reconstruct(((ours *)self)->cache, 1, first, n, chunk_k, chunk_v), "reconstruct");
}

/* Folds n rows into the online softmax of one query head: o, and max and sum in state. */
static void exact_fold(const float *q, size_t n, size_t stride, size_t at, size_t d,
                       double state[2], double *o)
{
    double score[CHUNK], top = state[0], fade;
    size_t t, i;
    for (t = 0; t < n; t++) {
        const float *k = chunk_k + t * stride + at;
        score[t] = 0;
        for (i = 0; i < d; i++) score[t] += (double)q[i] * (double)k[i];
        score[t] /= sqrt((double)d);
        if (score[t] > top) top = score[t];
    }
    fade = exp(state[0] - top);
    state[0] = top;
    state[1] *= fade;
    for (i = 0; i < d; i++) o[i] *= fade;
    for (t = 0; t < n; t++) {
        const float *v = chunk_v + t * stride + at;
        double p = exp(score[t] - top);
        state[1] += p;
        for (i = 0; i < d; i++) o[i] += p * (double)v[i];
    }
}

static void exact(const source *s, size_t tokens, read_rows *rows, void *self, double *out)
{
    double state[64][2];
    size_t t, h, i, n, d = s->sh->d;
    for (h = 0; h < s->sh->n_q; h++) {
        state[h][0] = -1e300;
        state[h][1] = 0;
    }
    for (i = 0; i < s->n_q; i++) out[i] = 0;
    for (t = 0; t < tokens; t += n) {
        n = tokens - t < CHUNK ? tokens - t : CHUNK;
        rows(self, t, n);
        for (h = 0; h < s->sh->n_q; h++)
            exact_fold(s->q + h * d, n, s->n_kv, h / (s->sh->n_q / s->sh->n_kv) * d, d, state[h],
                       out + h * d);
    }
    for (i = 0; i < s->n_q; i++) out[i] /= state[i / d][1];
}

static double distance(const float *x, const double *want, size_t n)    /* relative */
{
    double e = 0, w = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        e += ((double)x[i] - want[i]) * ((double)x[i] - want[i]);
        w += want[i] * want[i];
    }
    return sqrt(e / w);
}

/* ---- contenders ---- */

static void step_ours(void *self, size_t layer, float *out)
{
    ours *x = (ours *)self;
    skv_out o = skv_out_f32(out);
    need(skv_attend(x->cache, (uint32_t)layer, &x->q, 1, &o, &x->attn), "attend");
}

static void step_f16(void *self, size_t layer, float *out)
{
    const f16_cache *x = (const f16_cache *)self;
    size_t d = x->sh->d, group = x->sh->n_q / x->sh->n_kv, h, i, all = x->tokens[layer] * d;
    float q[F16_MAX_GROUP * MAX_D], scale = 1.44269504f / sqrtf((float)d);
    for (h = 0; h < x->sh->n_kv; h++) {
        for (i = 0; i < group * d; i++) q[i] = scale * x->q[h * group * d + i];
        f16_attend(x->kernel, x->k[layer] + h * all, x->v[layer] + h * all,
                   x->tokens[layer] / F16_PAGE, group, d, q, out + h * group * d);
    }
}

static void step_ggml(void *self, size_t layer, float *out)
{
    peer *x = (peer *)self;
    memcpy(out, ggml_cache_step(&x->cache, layer, x->q), x->bytes);
}

/* The chunk's rows, from token `first`, into pages of 64. */
static void f16_put(f16_cache *x, size_t layer, size_t first, size_t n)
{
    size_t d = x->sh->d, n_kv = x->sh->n_kv, h, t, i;
    for (h = 0; h < n_kv; h++)
        for (t = 0; t < n; t++) {
            const float *k = chunk_k + (t * n_kv + h) * d, *v = chunk_v + (t * n_kv + h) * d;
            size_t at = h * x->tokens[layer] * d + (first + t) / F16_PAGE * F16_PAGE * d;
            size_t in = (first + t) % F16_PAGE;
            for (i = 0; i < d; i++) {
                x->k[layer][at + i * F16_PAGE + in] = f16_round(k[i]);
                x->v[layer][at + in * d + i] = f16_round(v[i]);
            }
        }
}

static void add(test *t, const char *name, void (*step)(void *, size_t, float *), void *self)
{
    contender *c = &t->c[t->n++];
    memset(c, 0, sizeof *c);
    c->name = name;
    c->step = step;
    c->self = self;
}

static size_t layer_tokens(const test *t, size_t layer)
{
    return layer ? t->tokens : WARM;
}

/* The uncompressed ones and ggml's; ours comes later. */
static void test_init(test *t, const options *o, source *s, size_t tokens)
{
    static const char *const names[3] = {"ns_ggml_f16", "ns_ggml_q8_0", "ns_ggml_q4_0"};
    static const int types[3] = {GGML_F16, GGML_Q8_0, GGML_Q4_0};
    ggml_shape g = {s->sh->n_q, s->sh->n_kv, s->sh->d, 0, {0}};
    size_t i, at, step, layer, bytes;
    memset(t, 0, sizeof *t);
    t->o = o;
    t->src = s;
    t->tokens = tokens;
    t->timed = LEAST / tokens < 1 ? 1 : LEAST / tokens > TIMED ? TIMED : LEAST / tokens;
    t->f16.kernel = f16_pick(o->isa);
    t->f16.sh = s->sh;
    t->f16.q = s->q;
    add(t, "ns_per_token_head", step_ours, &t->own);
    add(t, "ns_f16_own", step_f16, &t->f16);
    g.layers = 1 + t->timed;
    for (layer = 0; layer < g.layers; layer++) {
        g.tokens[layer] = t->f16.tokens[layer] = layer_tokens(t, layer);
        bytes = g.tokens[layer] * s->n_kv * sizeof(uint16_t);
        t->f16.k[layer] = (uint16_t *)get(bytes);
        t->f16.v[layer] = (uint16_t *)get(bytes);
    }
    for (i = 0; o->ggml && i < 3; i++) {
        if (ggml_cache_init(&t->ggml[i].cache, &ggml, &g, types[i], 1 / sqrtf((float)s->sh->d)))
            need(SKV_ERR_MEMORY, "ggml");
        t->ggml[i].q = s->q;
        t->ggml[i].bytes = s->n_q * sizeof(float);
        add(t, names[i], step_ggml, &t->ggml[i]);
    }
    for (at = 0; at < tokens; at += step) {
        step = tokens - at < CHUNK ? tokens - at : CHUNK;
        source_rows(s, at, step);
        for (layer = 0; layer < g.layers; layer++) {
            if (at >= g.tokens[layer]) continue;
            f16_put(&t->f16, layer, at, step);
            for (i = 0; o->ggml && i < 3; i++)
                ggml_cache_put(&t->ggml[i].cache, layer, at, step, chunk_k, chunk_v);
        }
    }
}

static void test_free(test *t)
{
    size_t i;
    for (i = 0; i <= t->timed; i++) {
        free(t->f16.k[i]);
        free(t->f16.v[i]);
    }
    for (i = 0; t->o->ggml && i < 3; i++) ggml_cache_free(&t->ggml[i].cache);
}

/* A cache with T tokens in each timed layer. */
static void ours_init(test *t, const skv_profile *p, double bits)
{
    const source *s = t->src;
    skv_cache_desc d = SKV_ZERO;
    skv_span k = skv_f32(chunk_k), v = skv_f32(chunk_v);
    size_t at, n, layer;
    memset(&t->own, 0, sizeof t->own);
    t->own.q = skv_f32(s->q);
    d.profile = p;
    d.target.bpe = (float)bits;
    d.max_tokens = (uint32_t)t->tokens;
    need(skv_cache_init(&t->own.cache, &d), "cache");
    for (at = 0; at < t->tokens; at += n) {
        size_t left = t->tokens - at;           /* the last 64 singly, as decode appends */
        n = left <= SKV_PAGE_TOKENS ? 1 : left - SKV_PAGE_TOKENS;
        if (n > CHUNK) n = CHUNK;
        source_rows(s, at, n);
        for (layer = 0; layer <= t->timed; layer++)
            if (at < layer_tokens(t, layer))
                need(skv_append(t->own.cache, (uint32_t)layer, &k, &v, n), "append");
    }
}

/* ---- time ---- */

static void counter_open(void)
{
#ifdef __linux__
    struct perf_event_attr a;
    memset(&a, 0, sizeof a);
    a.type = PERF_TYPE_HARDWARE;
    a.size = sizeof a;
    a.config = PERF_COUNT_HW_INSTRUCTIONS;
    a.exclude_kernel = 1;
    a.exclude_hv = 1;
    counter = (int)syscall(SYS_perf_event_open, &a, 0, -1, -1, 0);
#endif
}

static double counter_read(void)                /* instructions so far; 0: not to be had */
{
    uint64_t x = 0;
#ifdef __linux__
    if (counter >= 0 && read(counter, &x, sizeof x) != (ssize_t)sizeof x) return 0;
#endif
    return (double)x;
}

/* All outputs against exact attention: 0, or 1 after a message. */
static int check(test *t)
{
    static float out[MAX_Q];
    static double decoded[MAX_Q];
    size_t i, n = t->src->n_q;
    skv_usage use = SKV_ZERO;
    double element = 2.0 * (double)t->src->n_kv;
    exact(t->src, t->tokens, rows_of_source, t->src, t->exact);
    exact(t->src, t->tokens, rows_of_ours, &t->own, decoded);
    for (i = 0; i < t->n; i++) {
        t->c[i].step(t->c[i].self, 1, out);
        t->c[i].error = distance(out, t->exact, n);
        if (!i) t->own_error = distance(out, decoded, n);
    }
    need(skv_cache_usage(t->own.cache, &use), "usage");
    t->own.bpe = use.bpe_pages;
    t->own.bytes = element * ((double)t->own.attn.tokens_paged * use.bpe_pages / 8 +
                              (double)t->own.attn.tokens_exact * 2);
    if (t->own_error < 0.05 && t->c[1].error < 2e-3) return 0;
    fprintf(stderr, "bench_attn: %s, %lu tokens: wrong output: ours is off by %.2g against its "
            "own rows (0.05 allowed), f16 by %.2g (0.002)\n", t->src->sh->name,
            (unsigned long)t->tokens, t->own_error, t->c[1].error);
    return 1;
}

static void measure(test *t)
{
    static float out[MAX_Q];
    double reads[BENCH_MAX_RUNS], start, before, work = (double)t->timed * (double)t->tokens;
    size_t r, i, layer, bytes = t->o->ws << 20;
    for (r = 0; r < t->o->runs; r++)
        for (i = 0; i < t->n; i++) {
            contender *c = &t->c[i];
            start = bench_ns();
            sink += f16_pick(NULL)->read(sweep, bytes);
            if (!i) reads[r] = bench_ns() - start;
            c->step(c->self, 0, out);
            before = counter_read();
            start = bench_ns();
            for (layer = 1; layer <= t->timed; layer++) c->step(c->self, layer, out);
            c->ns[r] = (bench_ns() - start) / (work * t->src->sh->n_q);
            c->ratio[r] = c->ns[r] / t->c[0].ns[r];
            if (!i) t->instructions = (counter_read() - before) / work;
        }
    bench_sort(reads, t->o->runs);
    t->bandwidth = (double)bytes / reads[t->o->runs / 2];
    for (i = 0; i < t->n; i++) {
        bench_sort(t->c[i].ns, t->o->runs);
        bench_sort(t->c[i].ratio, t->o->runs);
    }
}

/* Ten seconds of our steps alone for `perf record -D -1 --control fifo:FIFO`. */
static void profile(test *t)
{
    static float out[MAX_Q];
    FILE *f = fopen(t->o->profile, "w");
    double start;
    size_t layer;
    if (!f) {
        perror(t->o->profile);
        exit(1);
    }
    fputs("enable\n", f);
    fflush(f);
    for (start = bench_ns(); bench_ns() - start < 1e10;)
        for (layer = 1; layer <= t->timed; layer++) step_ours(&t->own, layer, out);
    fputs("disable\n", f);
    fclose(f);
}

/* ---- reports ---- */

static void put(record *r, const char *name, const char *text, int quoted)
{
    field *f = &r->f[r->n++];
    f->name = name;
    f->quoted = quoted;
    snprintf(f->text, sizeof f->text, "%s", text);
}

static void put_number(record *r, const char *name, double x)
{
    char text[40];
    snprintf(text, sizeof text, "%.4g", x);
    put(r, name, text, 0);
}

static void put_count(record *r, const char *name, size_t x)
{
    char text[40];
    snprintf(text, sizeof text, "%lu", (unsigned long)x);
    put(r, name, text, 0);
}

/* isa, shape and configuration, which every line begins with. */
static void fill_head(record *r, const char *bench, const options *o, const shape *sh, double bits)
{
    uint32_t group = o->group;
    char text[40];
    snprintf(text, sizeof text, "group%u", (unsigned)group);
    r->n = 0;
    put(r, "bench", bench, 1);
    put(r, "isa", skv_isa_name(), 1);
    put(r, "shape", sh->name, 1);
    put(r, "preset", group == 1 ? "fast" : !group || group == sh->n_kv ? "small" : text, 1);
    put_count(r, "rope", (size_t)o->rope);
    put_number(r, "bits", bits);
}

/* What a step reads, against what the machine can read. */
static void fill_roofline(record *r, const test *t)
{
    double rate = t->own.bytes / (t->c[0].ns[t->o->runs / 2] * (double)t->tokens * t->src->sh->n_q);
    put_count(r, "bytes_per_step", (size_t)t->own.bytes);
    put_number(r, "bytes_per_token", t->own.bytes / (double)t->tokens);
    put_number(r, "gb_per_s", rate);
    put_number(r, "read_bandwidth_gb_per_s", t->bandwidth);
    put_number(r, "bandwidth_share", rate / t->bandwidth);
    if (t->instructions > 0) put_number(r, "instructions_per_token", t->instructions);
    put_count(r, "working_set_mib", t->o->ws);
}

static void fill(record *r, const test *t, double bits)
{
    static const char *const least[CONTENDERS] = {"min_ns_per_token_head", "min_ns_f16_own",
        "min_ns_ggml_f16", "min_ns_ggml_q8_0", "min_ns_ggml_q4_0"};
    static const char *const ratio[CONTENDERS] = {"", "f16_own_to_ours", "ggml_f16_to_ours",
        "ggml_q8_0_to_ours", "ggml_q4_0_to_ours"};
    static const char *const error[CONTENDERS] = {"error", "error_f16_own", "error_ggml_f16",
        "error_ggml_q8_0", "error_ggml_q4_0"};
    size_t i, half = t->o->runs / 2;
    fill_head(r, "attn", t->o, t->src->sh, bits);
    put(r, "isa_f16_own", t->f16.kernel->isa, 1);
    put_count(r, "tokens", t->tokens);
    put_count(r, "tokens_paged", t->own.attn.tokens_paged);
    put_count(r, "layers_timed", t->timed);
    put_number(r, "bpe", t->own.bpe);
    for (i = 0; i < t->n; i++) put_number(r, t->c[i].name, t->c[i].ns[half]);
    for (i = 0; i < t->n; i++) put_number(r, least[i], t->c[i].ns[0]);
    for (i = 1; i < t->n; i++) put_number(r, ratio[i], t->c[i].ratio[half]);
    fill_roofline(r, t);
    put_number(r, "error_to_own_rows", t->own_error);
    for (i = 0; i < t->n; i++) put_number(r, error[i], t->c[i].error);
    if (t->o->ggml) {
        put(r, "ggml_version", ggml.version, 1);
        put(r, "ggml_isa", ggml.isa, 1);
    }
}

static const char *field_text(const record *r, const char *name)
{
    size_t i;
    for (i = 0; i < r->n; i++)
        if (!strcmp(r->f[i].name, name)) return r->f[i].text;
    return "-";
}

enum { COLUMNS = 15 };

static void print_table(FILE *f, const record *r, int ratios, int first)
{
    static const char *const column[2][COLUMNS][2] = {
        {{"shape", "shape"}, {"tokens", "tokens"}, {"bits", "bpe"}, {"ours", "ns_per_token_head"},
         {"least", "min_ns_per_token_head"}, {"f16", "ns_f16_own"}, {"least", "min_ns_f16_own"},
         {"ggml f16", "ns_ggml_f16"}, {"q8_0", "ns_ggml_q8_0"}, {"q4_0", "ns_ggml_q4_0"},
         {"B/token", "bytes_per_token"}, {"GB/s", "gb_per_s"}, {"of read", "bandwidth_share"},
         {"instr.", "instructions_per_token"}, {"error", "error"}},
        {{"shape", "shape"}, {"tokens", "tokens"}, {"bits", "bpe"}, {"ours", "ns_per_token_head"},
         {"f16", "f16_own_to_ours"}, {"ggml f16", "ggml_f16_to_ours"},
         {"q8_0", "ggml_q8_0_to_ours"}, {"q4_0", "ggml_q4_0_to_ours"}, {"error", "error"},
         {"f16", "error_f16_own"}, {"ggml f16", "error_ggml_f16"}, {"q8_0", "error_ggml_q8_0"},
         {"q4_0", "error_ggml_q4_0"}, {"to own", "error_to_own_rows"}}};
    const char *const (*c)[2] = column[ratios];
    size_t i;
    if (first)
        fprintf(f, "our kernels %s, preset %s, f16 kernel %s, ggml %s; CPU ns per token and query "
                "head, %s; reading: %s GB/s\n\n", field_text(r, "isa"), field_text(r, "preset"),
                field_text(r, "isa_f16_own"), field_text(r, "ggml_isa"),
                ratios ? "then times ours (medians of the rounds' ratios) and errors"
                       : "median and least; instructions per token, all heads",
                field_text(r, "read_bandwidth_gb_per_s"));
    for (i = 0; first && i < COLUMNS && c[i][0]; i++) fprintf(f, i ? " %8s" : "%-13s", c[i][0]);
    if (first) fprintf(f, "\n");
    for (i = 0; i < COLUMNS && c[i][0]; i++)
        fprintf(f, i ? " %8s" : "%-13s", field_text(r, c[i][1]));
    fprintf(f, "\n");
    fflush(f);
}

static void print_csv(FILE *f, const record *r, int first)
{
    size_t i;
    for (i = 0; first && i < r->n; i++) fprintf(f, "%s%s", i ? "," : "", r->f[i].name);
    if (first) fprintf(f, "\n");
    for (i = 0; i < r->n; i++) fprintf(f, "%s%s", i ? "," : "", r->f[i].text);
    fprintf(f, "\n");
    fflush(f);
}

static void print_json(FILE *f, const record *r)
{
    size_t i;
    for (i = 0; i < r->n; i++) {
        const char *mark = r->f[i].quoted ? "\"" : "";
        fprintf(f, "%s\"%s\": %s%s%s", i ? ", " : "{", r->f[i].name, mark, r->f[i].text, mark);
    }
    fprintf(f, "}\n");
    fflush(f);
}

/* Weighted fit of n points, see the top: sums of w w^T x = w, w = (1, tokens) / ns. */
static void fill_linear(record *r, const point *p, size_t n)
{
    double a = 0, b = 0, c = 0, u = 0, v = 0, fixed, each, off = 0, bytes;
    size_t i;
    for (i = 0; i < n; i++) {
        double x = 1 / p[i].ns, y = p[i].tokens / p[i].ns;
        a += x * x;
        b += x * y;
        c += y * y;
        u += x;
        v += y;
    }
    bytes = (p[n - 1].bytes - p[0].bytes) / (p[n - 1].tokens - p[0].tokens);
    fixed = (c * u - b * v) / (a * c - b * b);
    each = (a * v - b * u) / (a * c - b * b);
    for (i = 0; i < n; i++)
        off = fmax(off, fabs((fixed + each * p[i].tokens) / p[i].ns - 1));
    put_count(r, "tokens_least", (size_t)p[0].tokens);
    put_count(r, "tokens_most", (size_t)p[n - 1].tokens);
    put_number(r, "fixed_ns", fixed);
    put_number(r, "ns_each_token", each);
    put_number(r, "off", off);
    put_number(r, "fixed_bytes", p[0].bytes - bytes * p[0].tokens);
    put_number(r, "bytes_each_token", bytes);
}

static void print_linear(FILE *f, const record *r)
{
    fprintf(f, "%s, %s bits, a step of %s to %s tokens: %s ns + %s ns each, off by %s of it at "
            "most; %s bytes + %s each\n", field_text(r, "shape"), field_text(r, "bits"),
            field_text(r, "tokens_least"), field_text(r, "tokens_most"),
            field_text(r, "fixed_ns"), field_text(r, "ns_each_token"), field_text(r, "off"),
            field_text(r, "fixed_bytes"), field_text(r, "bytes_each_token"));
}

/* ---- options ---- */

static int list(const char *text, double least, double most, double *x, size_t *n)
{
    char *end = NULL;
    for (*n = 0; *n < LIST; text = end + 1) {
        x[*n] = strtod(text, &end);
        if (end == text || !(x[*n] >= least && x[*n] <= most)) return 1;
        ++*n;
        if (*end != ',') return *end != 0;
    }
    return 1;
}

static int option(options *o, const char *name, const char *value)
{
    double x[LIST];
    size_t n = 0;
    if (!strcmp(name, "--json")) o->json = value;
    else if (!strcmp(name, "--csv")) o->csv = value;
    else if (!strcmp(name, "--shape")) o->shape = value;
    else if (!strcmp(name, "--ggml")) o->ggml = value;
    else if (!strcmp(name, "--isa")) o->isa = value;
    else if (!strcmp(name, "--profile")) o->profile = value;
    else if (!strcmp(name, "--bits")) return list(value, 0.1, 8, o->bits, &o->n_bits);
    else if (!strcmp(name, "--tokens")) return list(value, WARM, 1 << 24, o->tokens, &o->n_tokens);
    else if (!strcmp(name, "--group") && !strcmp(value, "joint")) o->group = 0;
    else if (!strcmp(name, "--preset") && !strcmp(value, "small")) o->group = 0;
    else if (!strcmp(name, "--preset") && !strcmp(value, "fast")) o->group = 1;
    else if (list(value, 1, 1 << 16, x, &n) || n != 1) return 1;
    else if (!strcmp(name, "--group")) o->group = (uint32_t)x[0];
    else if (!strcmp(name, "--ws")) o->ws = (size_t)x[0];
    else if (!strcmp(name, "--runs") && x[0] <= BENCH_MAX_RUNS) o->runs = (size_t)x[0];
    else return 1;
    return 0;
}

static int parse(options *o, int argc, char **argv)
{
    size_t i;
    int k, bad = 0;
    for (k = 1; k < argc && !bad; k++) {
        if (!strcmp(argv[k], "--no-rope")) o->rope = 0;
        else if (!strcmp(argv[k], "--ratios")) o->ratios = 1;
        else if (k + 1 == argc || option(o, argv[k], argv[k + 1])) bad = 1;
        else k++;
    }
    for (i = 0; i < o->n_tokens; i++) bad |= fmod(o->tokens[i], F16_PAGE) != 0;
    if (!bad) {
        if (f16_pick(o->isa)) return 0;
        fprintf(stderr, "bench_attn: this processor or build has no \"%s\": avx512, avx2 or c\n",
                o->isa);
        return -1;
    }
    fprintf(stderr, "usage: bench_attn [--json FILE] [--csv FILE] [--runs 1..%d] [--shape NAME]\n"
            "  [--tokens N,.. (multiples of 64, from %d)] [--bits B,..] [--preset fast|small]\n"
            "  [--group N|joint] [--no-rope] [--ws MIB] [--isa avx512|avx2|c] [--ggml DIR]\n"
            "  [--ratios] [--profile FIFO]\n", BENCH_MAX_RUNS, WARM);
    return -1;
}

/* ---- main ---- */

typedef struct output {
    FILE *table, *json, *csv;
    size_t lines;
} output;

static FILE *output_open(const char *path)
{
    FILE *f = !path ? NULL : !strcmp(path, "-") ? stdout : fopen(path, "w");
    if (f || !path) return f;
    fprintf(stderr, "bench_attn: cannot write %s\n", path);
    exit(1);
}

static void output_record(output *out, const options *o, const record *r)
{
    if (out->table) print_table(out->table, r, o->ratios, !out->lines);
    if (out->json) print_json(out->json, r);
    if (out->csv) print_csv(out->csv, r, !out->lines);
    out->lines++;
}

/* How the medians of a shape grow with the tokens, a line for every rate. */
static void output_linear(output *out, const options *o, const shape *sh, point p[LIST][LIST])
{
    record r;
    size_t i, b;
    for (i = 1; i < o->n_tokens && o->tokens[i] > o->tokens[i - 1]; i++) {}
    for (b = 0; b < o->n_bits && i > 2 && i == o->n_tokens; b++) {
        fill_head(&r, "attn_linear", o, sh, o->bits[b]);
        fill_linear(&r, p[b], o->n_tokens);
        if (out->table) print_linear(out->table, &r);
        if (out->json) print_json(out->json, &r);
    }
}

static int bench_shape(const options *o, const shape *sh, output *out)
{
    static source s;
    static test t;
    static point step[LIST][LIST];
    skv_profile *p;
    record r;
    size_t i, b;
    int bad = 0;
    source_init(&s, sh, o->rope);
    p = calibrate(&s, o->group);
    for (i = 0; i < o->n_tokens && !bad; i++) {
        test_init(&t, o, &s, (size_t)o->tokens[i]);
        for (b = 0; b < o->n_bits && !bad; b++) {
            ours_init(&t, p, o->bits[b]);
            bad = check(&t);
            if (!bad && o->profile) {
                profile(&t);
                out->lines++;
            } else if (!bad) {
                measure(&t);
                fill(&r, &t, o->bits[b]);
                output_record(out, o, &r);
                step[b][i].tokens = o->tokens[i];
                step[b][i].ns = t.c[0].ns[o->runs / 2] * o->tokens[i] * sh->n_q;
                step[b][i].bytes = t.own.bytes;
            }
            skv_cache_free(t.own.cache);
        }
        test_free(&t);
    }
    if (!bad && !o->profile) output_linear(out, o, sh, step);
    skv_profile_free(p);
    source_free(&s);
    return bad;
}

int main(int argc, char **argv)
{
    options o = {NULL, NULL, NULL, NULL, NULL, NULL, 11, 192, 1, 1, 0, {1024, 4096, 16384, 65536},
                 {1.5, 2, 3, 4}, 4, 4};
    output out = {NULL, NULL, NULL, 0};
    size_t i;
    int bad = 0;
    o.ggml = getenv("GGML_LIB_DIR");
    if (parse(&o, argc, argv)) return 2;
    if (o.ggml && ggml_load(&ggml, o.ggml)) return 2;
    out.json = output_open(o.json);
    out.csv = output_open(o.csv);
    out.table = out.json == stdout || out.csv == stdout ? NULL : stdout;
    sweep = (unsigned char *)get(o.ws << 20);
    memset(sweep, 1, o.ws << 20);
    counter_open();
    for (i = 0; i < sizeof shapes / sizeof *shapes && !bad; i++)
        if (!o.shape || !strcmp(o.shape, shapes[i].name)) bad = bench_shape(&o, &shapes[i], &out);
    free(sweep);
    if (out.json && out.json != stdout && fclose(out.json)) bad = 1;
    if (out.csv && out.csv != stdout && fclose(out.csv)) bad = 1;
    if (out.table && out.lines && counter < 0 && !o.profile)
        printf("instr.: this system does not let a process count its instructions\n");
    if (out.lines || bad) return bad;
    fprintf(stderr, "bench_attn: no shape \"%s\"; there are", o.shape);
    for (i = 0; i < sizeof shapes / sizeof *shapes; i++) fprintf(stderr, " %s", shapes[i].name);
    fprintf(stderr, "\n");
    return 2;
}
