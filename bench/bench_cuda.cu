/* bench_cuda.cu: a decode step of skv_cuda_attend on a device, against the bandwidth of its memory.
 *
 *     nvcc -std=c++17 -O3 -arch=native -I. -Itests bench/bench_cuda.cu -o bench_cuda
 *     ./bench_cuda [--shape NAME] [--batch N,..] [--tokens N,..] [--bits N,..] [--runs N]
 *                  [--json FILE]
 *
 * Every configuration is first checked against attention in double over the decoded rows. Then
 * runs take turns: a step over each of so many sets of pages that the L2 cache holds none of them
 * for the next run, a kernel that only reads those pages, a copy of them by the driver. Prints the
 * least and the median time of a step, bytes of pages a second, and their share of what the
 * reading kernel reached; --json writes one object a line. Peers: bench_cuda_peers.py.
 * In the emulation (-DSKV_CUDA_EMULATION -Itests/cuda_emulation) it checks and times nothing.
 */
#include <cuda_runtime.h>
#define SPECTRAL_KV_IMPLEMENTATION
#define SPECTRAL_KV_CUDA
#include "spectral_kv.h"
#include "synthetic.h"
#include <stdio.h>
#include <algorithm>
#include <vector>

enum { SINKS = 4, RING = 128, RECENT = 64, SEEDS = 16, LIST = 16, MAX_RUNS = 99 };

struct shape {
    const char *name;
    uint32_t    q, kv, d;
};
static const shape shapes[] = {
    {"Llama-3-8B", 32, 8, 128}, {"Qwen3-14B", 40, 8, 128}, {"tiny", 8, 2, 32}   /* to check with */
};

struct options {
    const char *shape, *json;
    double      batch[LIST], tokens[LIST], bits[LIST];
    size_t      n_batch, n_tokens, n_bits, runs;
};

/* Device memory of one shape and rate; a pool of its own for each configuration. */
struct rig {
    const shape          *s;
    skv_profile          *profile;
    skv_codec            *codec;
    std::vector<uint64_t> block;
    const skv_table      *t;
    const void           *tables;
    float                *k, *v, *q;    /* [64 SEEDS] tokens; q: [64 SEEDS][n_q_heads][head_dim] */
    unsigned char        *seeds;        /* SEEDS pages, slots of page_bytes */
    size_t                page_bytes, page_used;    /* room and mean of a page */
    std::vector<void *>   owned;
};

struct step {                           /* `sets` times n_seqs sequences of n_pages */
    uint32_t              n_seqs, n_pages, sets;
    unsigned char        *pool;
    int32_t              *slots;        /* [sets][n_seqs][n_pages] */
    skv_cuda_attend_desc  d;
    std::vector<void *>   owned;
};

static void stop(const char *what)
{
    fprintf(stderr, "bench_cuda: %s\n", what);
    exit(1);
}
static void need(skv_result r, const char *what)
{
    if (r == SKV_OK) return;
    fprintf(stderr, "bench_cuda: %s: %s\n", what, skv_result_text(r));
    exit(1);
}

/* Device memory that goes with the list. NULL: there is not enough. */
static void *device(std::vector<void *> *owned, size_t bytes)
{
    void *p = NULL;
    if (cudaMalloc(&p, bytes ? bytes : 1) != cudaSuccess) {
        (void)cudaGetLastError();
        return NULL;
    }
    owned->push_back(p);
    return p;
}
static void *to_device(std::vector<void *> *owned, const void *from, size_t bytes)
{
    void *p = device(owned, bytes);
    if (!p || cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice) != cudaSuccess)
        stop("no memory on the device");
    return p;
}
static void let_go(std::vector<void *> *owned)
{
    for (void *p : *owned) cudaFree(p);
    owned->clear();
}
static void finish(void)
{
    if (cudaDeviceSynchronize() != cudaSuccess) stop("a kernel failed");
}

/* --- pages ------------------------------------------------------------------------------------ */
/* Tokens with the profile's spectrum; their keys have the mean that RoPE turns. */
static void rig_tokens(rig *r, const syn *y)
{
    const size_t n = 64 * SEEDS, wide = (size_t)r->s->kv * r->s->d;
    syn_data x = syn_make(y, 0, 1, n);
    float freq[SKV_MAX_HEAD_DIM / 2];
    const uint32_t pairs = r->s->d / 2;
    for (uint32_t p = 0; p < pairs; p++)
        freq[p] = (float)pow(10000, -(double)p / (double)pairs);
    for (size_t i = 0; i < n; i++)
        for (uint32_t h = 0; h < r->s->kv; h++) {
            std::vector<double> mean(r->s->d);
            syn_turn(SKV_ROPE_HALVES, pairs, freq, r->profile->stream[h].turn, (double)(SINKS + i),
                     1, mean.data());
            for (uint32_t e = 0; e < r->s->d; e++)
                x.k[i * wide + h * r->s->d + e] += (float)mean[e];
        }
    r->k = (float *)to_device(&r->owned, x.k, n * wide * sizeof(float));
    r->v = (float *)to_device(&r->owned, x.v, n * wide * sizeof(float));
    r->q = (float *)to_device(&r->owned, x.q, n * r->s->q * r->s->d * sizeof(float));
    syn_free(&x);
}

/* SEEDS pages of the tokens. */
static void rig_encode(rig *r)
{
    std::vector<int32_t> slots, rows;
    std::vector<uint32_t> positions;
    std::vector<void *> owned;
    std::vector<unsigned char> pages(SEEDS * r->page_bytes);
    skv_cuda_encode_desc d = SKV_ZERO;
    for (int p = 0; p < SEEDS; p++) {
        slots.push_back(p);
        positions.push_back((uint32_t)(SINKS + 64 * p));
        for (int i = 0; i < 64; i++) rows.push_back(64 * p + i);
    }
    d.host = r->t;
    d.tables = r->tables;
    d.n_pages = SEEDS;
    d.pool = r->seeds;
    d.page_bytes = r->page_bytes;
    d.slots = (const int32_t *)to_device(&owned, slots.data(), slots.size() * 4);
    d.rows = (const int32_t *)to_device(&owned, rows.data(), rows.size() * 4);
    d.positions = (const uint32_t *)to_device(&owned, positions.data(), positions.size() * 4);
    d.k = skv_f32(r->k);
    d.v = skv_f32(r->v);
    d.work_bytes = skv_cuda_encode_work(&d);
    d.work = device(&owned, d.work_bytes);
    need(d.work ? skv_cuda_encode(&d, NULL) : SKV_ERR_MEMORY, "encode");
    finish();
    if (cudaMemcpy(pages.data(), r->seeds, pages.size(), cudaMemcpyDeviceToHost) != cudaSuccess)
        stop("pages do not come back");
    for (int p = 0; p < SEEDS; p++) r->page_used += skvi_get32(&pages[p * r->page_bytes + 4]);
    r->page_used /= SEEDS;
    let_go(&owned);
}

static void rig_new(rig *r, const shape *s, double bits)
{
    syn y = {{0, 0, 0, 0, 0, 0, 0}, 7, 1.0f, 2.0f, 0, 1};
    skv_codec_desc d = SKV_ZERO;
    size_t bytes = 0;
    r->s = s;
    y.shape.n_q_heads = s->q;
    y.shape.n_kv_heads = s->kv;
    y.shape.head_dim = y.shape.head_dim_v = s->d;
    r->profile = syn_profile_turned(&y, 1, 1, SKV_ROPE_HALVES, s->d / 2);
    d.profile = r->profile;
    d.target.bpe = (float)bits;
    need(skv_codec_init(&r->codec, &d), "codec");
    need(skv_codec_tables(r->codec, 0, NULL, 0, &bytes), "tables");
    r->block.resize(bytes / 8 + 3);
    uint64_t *at = r->block.data() + ((size_t)r->block.data() / 8 & 1);     /* multiple of 16 */
    need(skv_codec_tables(r->codec, 0, at, bytes, &bytes), "tables");
    r->t = (const skv_table *)(const void *)at;
    r->tables = to_device(&r->owned, at, bytes);
    r->page_bytes = (r->t->most + 15) / 16 * 16;
    r->page_used = 0;
    r->seeds = (unsigned char *)device(&r->owned, SEEDS * r->page_bytes);
    if (!r->seeds) stop("no memory on the device");
    rig_tokens(r, &y);
    rig_encode(r);
}

static void rig_free(rig *r)
{
    let_go(&r->owned);
    skv_codec_free(r->codec);
    skv_profile_free(r->profile);
}

/* --- a decode step ---------------------------------------------------------------------------- */
/* Slot i of the pool has a copy of page i % SEEDS; tables go through slots in a mixed order. */
static int step_pages(const rig *r, step *x)
{
    const size_t n = (size_t)x->sets * x->n_seqs * x->n_pages;
    std::vector<int32_t> to(n), from(n);
    uint64_t state = 3;
    x->pool = (unsigned char *)device(&x->owned, n * r->page_bytes);
    if (!x->pool || n > 0x7FFFFFFF) return 0;
    for (size_t i = 0; i < n; i++) {
        to[i] = (int32_t)i;
        from[i] = (int32_t)(i % SEEDS);
    }
    need(skv_cuda_copy_pages(x->pool, to.data(), r->seeds, from.data(), n, r->page_bytes, NULL),
         "copy");
    for (size_t i = n; i > 1; i--) std::swap(to[i - 1], to[syn_next(&state) % i]);
    x->slots = (int32_t *)to_device(&x->owned, to.data(), n * 4);
    return 1;
}

/* 0: not enough memory. */
static int step_new(const rig *r, step *x, uint32_t n_seqs, uint32_t tokens, uint32_t sets)
{
    const size_t rows = (size_t)n_seqs * (SINKS + RING), wide = (size_t)r->s->kv * r->s->d;
    const size_t out = (size_t)n_seqs * r->s->q * r->s->d * sizeof(float);
    skv_cuda_attend_desc *d = &x->d;
    x->n_seqs = n_seqs;
    x->n_pages = tokens / 64 ? tokens / 64 : 1;
    x->sets = sets;
    if (!step_pages(r, x)) return 0;
    std::vector<int32_t> total(n_seqs, (int32_t)(SINKS + 64 * x->n_pages + RECENT));
    std::vector<int32_t> count(n_seqs, (int32_t)x->n_pages);
    std::vector<float> one(64 * SEEDS * wide), k(rows * wide);
    void *exact[2];
    for (int i = 0; i < 2; i++) {       /* sinks and recent tokens: of the same text */
        if (cudaMemcpy(one.data(), i ? r->v : r->k, one.size() * sizeof(float),
                       cudaMemcpyDeviceToHost) != cudaSuccess) stop("rows do not come back");
        for (size_t j = 0; j < k.size(); j++) k[j] = one[j % one.size()];
        exact[i] = device(&x->owned, rows * wide * sizeof(uint16_t));
        if (!exact[i]) return 0;
        std::vector<uint16_t> half(k.size());
        for (size_t j = 0; j < k.size(); j++) half[j] = skvi_to_f16(k[j]);
        if (cudaMemcpy(exact[i], half.data(), half.size() * 2, cudaMemcpyHostToDevice) !=
            cudaSuccess) stop("rows do not go over");
    }
    memset(d, 0, sizeof *d);
    d->host = r->t;
    d->tables = r->tables;
    d->n_seqs = n_seqs;
    d->n_queries = 1;
    d->q = skv_f32(r->q);
    d->tokens = (const int32_t *)to_device(&x->owned, total.data(), n_seqs * 4);
    d->pages.pool = x->pool;
    d->pages.page_bytes = r->page_bytes;
    d->pages.count = (const int32_t *)to_device(&x->owned, count.data(), n_seqs * 4);
    d->pages.stride = d->max_pages = x->n_pages;
    d->k = skv_make_span(exact[0], SKV_F16);
    d->v = skv_make_span(exact[1], SKV_F16);
    d->sinks = SINKS;
    d->ring = RING;
    d->out = skv_out_f32((float *)device(&x->owned, out));
    d->work_bytes = skv_cuda_attend_work(d);
    d->work = device(&x->owned, d->work_bytes);
    return d->out.data && d->work;
}

static void step_run(step *x)
{
    for (uint32_t i = 0; i < x->sets; i++) {
        x->d.pages.slots = x->slots + (size_t)i * x->n_seqs * x->n_pages;
        need(skv_cuda_attend(&x->d, NULL), "attend");
    }
}

/* --- correctness ------------------------------------------------------------------------------ */
/* Rows of sequence 0 of the last set, sinks to recent tokens, as they stand for what they do. */
static void decoded(const rig *r, const step *x, std::vector<float> *k, std::vector<float> *v)
{
    const size_t n = SINKS + 64 * (size_t)x->n_pages + RECENT, wide = (size_t)r->s->kv * r->s->d;
    std::vector<void *> owned;
    std::vector<int32_t> rows;
    std::vector<float> *to[2] = {k, v};
    std::vector<uint16_t> exact((SINKS + RING) * wide);
    skv_cuda_decode_desc d = SKV_ZERO;
    for (uint32_t i = 0; i < 64 * x->n_pages; i++) rows.push_back((int32_t)(SINKS + i));
    d.host = r->t;
    d.tables = r->tables;
    d.n_pages = x->n_pages;
    d.pool = x->pool;
    d.page_bytes = r->page_bytes;
    d.slots = x->d.pages.slots;
    d.rows = (const int32_t *)to_device(&owned, rows.data(), rows.size() * 4);
    d.k = skv_out_f32((float *)device(&owned, n * wide * sizeof(float)));
    d.v = skv_out_f32((float *)device(&owned, n * wide * sizeof(float)));
    if (!d.k.data || !d.v.data) stop("no memory on the device");
    need(skv_cuda_decode(&d, NULL), "decode");
    finish();
    for (int i = 0; i < 2; i++) {
        to[i]->resize(n * wide);
        if (cudaMemcpy(to[i]->data(), i ? d.v.data : d.k.data, n * wide * sizeof(float),
                       cudaMemcpyDeviceToHost) != cudaSuccess ||
            cudaMemcpy(exact.data(), i ? x->d.v.data : x->d.k.data, exact.size() * 2,
                       cudaMemcpyDeviceToHost) != cudaSuccess)
            stop("rows do not come back");
        for (size_t p = 0; p < n; p++) {
            const size_t row = p < SINKS ? p : SINKS + (p - SINKS) % RING;
            for (size_t e = 0; (p < SINKS || p >= n - RECENT) && e < wide; e++)
                (*to[i])[p * wide + e] = skvi_from_f16(exact[row * wide + e]);
        }
    }
    let_go(&owned);
}

/* Root mean square error of sequence 0's output, as a share of the output's. */
static double step_error(const rig *r, const step *x)
{
    const size_t n = SINKS + 64 * (size_t)x->n_pages + RECENT, width = (size_t)r->s->q * r->s->d;
    std::vector<float> k, v, q(width), out(width);
    std::vector<double> want(width), lse(r->s->q);
    double error = 0, square = 0;
    decoded(r, x, &k, &v);
    if (cudaMemcpy(q.data(), r->q, width * sizeof(float), cudaMemcpyDeviceToHost) != cudaSuccess ||
        cudaMemcpy(out.data(), x->d.out.data, width * sizeof(float), cudaMemcpyDeviceToHost) !=
        cudaSuccess)
        stop("the output does not come back");
    syn_attention(&r->t->shape, q.data(), k.data(), v.data(), n, 1, want.data(), lse.data());
    for (size_t i = 0; i < width; i++) {
        error += (out[i] - want[i]) * (out[i] - want[i]);
        square += want[i] * want[i];
    }
    return sqrt(error / square);
}

/* Queries and weights in 8 bits: 0.01 is usual. NaN does not pass. */
static void check(const rig *r, double bits)
{
    step x;
    if (!step_new(r, &x, 2, 500, 2)) stop("no memory on the device");
    step_run(&x);
    finish();
    const double error = step_error(r, &x);
    printf("%s at %g bits: %.4f of the output off attention over decoded rows\n", r->s->name, bits,
           error);
    if (!(error < 0.05)) stop("that is too much: nothing is timed");
    let_go(&x.owned);
}

/* --- time ------------------------------------------------------------------------------------- */
#ifdef SKV_CUDA_EMULATION
static void banner(void) { printf("emulated: the answers are checked, nothing is timed\n"); }
static void measure(const rig *r, double bits, uint32_t n_seqs, uint32_t tokens, size_t runs,
                    FILE *json)
{
    (void)r, (void)bits, (void)n_seqs, (void)tokens, (void)runs, (void)json;
}
#else
static cudaDeviceProp device_is;

static void banner(void)
{
    if (cudaGetDeviceProperties(&device_is, 0) != cudaSuccess) stop("no device properties");
    printf("%s, sm_%d%d, %d multiprocessors, L2 %d MiB\n", device_is.name, device_is.major,
           device_is.minor, device_is.multiProcessorCount, device_is.l2CacheSize >> 20);
}

/* Reads n words of 16 bytes; the sum is written so that no read is left out. */
static __global__ void read_kernel(const uint4 *from, size_t n, unsigned *sum)
{
    unsigned x = 0;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += gridDim.x * (size_t)blockDim.x) {
        const uint4 y = from[i];
        x ^= y.x ^ y.y ^ y.z ^ y.w;
    }
    if (x == 0x9E3779B9u) atomicAdd(sum, 1u);
}

/* us of what is launched between two events. */
template <class F> static double timed(cudaEvent_t *e, F launch)
{
    float ms = 0;
    cudaEventRecord(e[0]);
    launch();
    cudaEventRecord(e[1]);
    if (cudaEventSynchronize(e[1]) != cudaSuccess ||
        cudaEventElapsedTime(&ms, e[0], e[1]) != cudaSuccess)
        stop("a kernel failed");
    return 1e3 * (double)ms;
}

struct times {
    double us[MAX_RUNS];
    size_t n;
};
static double least(times *t) { std::sort(t->us, t->us + t->n); return t->us[0]; }
static double median(times *t) { std::sort(t->us, t->us + t->n); return t->us[t->n / 2]; }

static void told(const rig *r, const step *x, double bits, uint32_t tokens, times *t, FILE *json)
{
    const double pages = (double)x->n_seqs * x->n_pages, bytes = pages * (double)r->page_used;
    const double swept = pages * x->sets * (double)r->page_bytes;
    const double us = median(&t[0]) / x->sets, rate = bytes / us / 1e3;
    const double read = swept / median(&t[1]) / 1e3, copied = 2 * swept / median(&t[2]) / 1e3;
    const double ns = 1e3 * us / (pages * 64 * r->s->q);
    printf("%-11s %2g bits %3u x %6u tokens: %9.1f us (least %9.1f), %7.1f GB/s, %4.1f %% of "
           "reading (%.0f GB/s)\n", r->s->name, bits, x->n_seqs, tokens, us, least(&t[0]) / x->sets,
           rate, 100 * rate / read, read);
    if (!json) return;
    fprintf(json, "{\"name\": \"skv_cuda_attend\", \"device\": \"%s\", \"shape\": \"%s\", "
            "\"bits\": %g, \"batch\": %u, \"tokens\": %u, \"us_min\": %.3f, \"us_median\": %.3f, "
            "\"ns_per_token_head\": %.5f, \"bytes_per_token\": %.1f, \"gb_per_s\": %.1f, "
            "\"read_gb_per_s\": %.1f, \"copy_gb_per_s\": %.1f, \"sets\": %u}\n", device_is.name,
            r->s->name, bits, x->n_seqs, tokens, least(&t[0]) / x->sets, us, ns,
            (double)r->page_used / 64, rate, read, copied, x->sets);
    fflush(json);
}

static void measure(const rig *r, double bits, uint32_t n_seqs, uint32_t tokens, size_t runs,
                    FILE *json)
{
    const size_t one = (size_t)n_seqs * (tokens / 64 ? tokens / 64 : 1) * r->page_bytes;
    const size_t sets = 4 * (size_t)device_is.l2CacheSize / one + 1, all = sets * one;
    static times t[3];
    cudaEvent_t e[2];
    step x;
    if (!step_new(r, &x, n_seqs, tokens, (uint32_t)sets)) {
        printf("%-11s %2g bits %3u x %6u tokens: left out, does not fit into memory\n", r->s->name,
               bits, n_seqs, tokens);
        let_go(&x.owned);
        return;
    }
    void *copy = device(&x.owned, all);     /* without: no copy is timed */
    unsigned *sum = (unsigned *)device(&x.owned, sizeof *sum);
    if (cudaEventCreate(&e[0]) != cudaSuccess || cudaEventCreate(&e[1]) != cudaSuccess || !sum)
        stop("no events");
    for (size_t i = 0; i <= runs; i++) {    /* the first warms up */
        for (int k = 0; k < 3; k++) t[k].n = i;
        double *to[3] = {&t[0].us[i ? i - 1 : 0], &t[1].us[i ? i - 1 : 0], &t[2].us[i ? i - 1 : 0]};
        *to[0] = timed(e, [&] { step_run(&x); });
        *to[1] = timed(e, [&] {
            read_kernel<<<8 * device_is.multiProcessorCount, 256>>>((const uint4 *)x.pool, all / 16,
                                                                    sum);
        });
        *to[2] = !copy ? INFINITY : timed(e, [&] {
            cudaMemcpyAsync(copy, x.pool, all, cudaMemcpyDeviceToDevice);
        });
    }
    told(r, &x, bits, tokens, t, json);
    cudaEventDestroy(e[0]);
    cudaEventDestroy(e[1]);
    let_go(&x.owned);
}
#endif

/* --- command line ----------------------------------------------------------------------------- */
static int usage(void)
{
    fprintf(stderr, "usage: bench_cuda [--shape Llama-3-8B|Qwen3-14B|tiny] [--batch N,..] "
            "[--tokens N,..] [--bits N,..] [--runs 1..%d] [--json FILE]\n", MAX_RUNS);
    return 2;
}

/* Numbers from least to most, between commas. */
static int list_of(const char *text, double least, double most, double *to, size_t *n)
{
    char *end;
    for (*n = 0; *n < LIST; text = end + 1) {
        to[*n] = strtod(text, &end);
        if (end == text || !(to[*n] >= least && to[*n] <= most)) return 0;
        ++*n;
        if (!*end) return 1;
        if (*end != ',') return 0;
    }
    return 0;
}

static int parsed(int argc, char **argv, options *o)
{
    double runs;
    size_t n;
    for (int i = 1; i < argc; i += 2) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        int fine = 0;
        if (!strcmp(name, "--shape")) {
            o->shape = value;
            for (const shape &s : shapes) fine |= !strcmp(s.name, value);
        }
        if (!strcmp(name, "--json")) o->json = value, fine = *value != 0;
        if (!strcmp(name, "--batch")) fine = list_of(value, 1, 1024, o->batch, &o->n_batch);
        if (!strcmp(name, "--tokens")) fine = list_of(value, 64, 1 << 20, o->tokens, &o->n_tokens);
        if (!strcmp(name, "--bits")) fine = list_of(value, 0.5, 8, o->bits, &o->n_bits);
        if (!strcmp(name, "--runs") && list_of(value, 1, MAX_RUNS, &runs, &n) && n == 1)
            o->runs = (size_t)runs, fine = 1;
        if (fine) continue;
        fprintf(stderr, "bench_cuda: %s %s?\n", name, value);
        return 0;
    }
    return 1;
}

int main(int argc, char **argv)
{
    options o = {NULL, NULL, {1, 8, 64}, {1024, 16384, 131072}, {2, 3, 4}, 3, 3, 3, 9};
    int devices = 0;
    FILE *json = NULL;
    if (!parsed(argc, argv, &o)) return usage();
    if (cudaGetDeviceCount(&devices) != cudaSuccess || !devices) {
        printf("no CUDA device here: nothing timed\n");
        return 2;
    }
    if (o.json && !(json = fopen(o.json, "w"))) stop("cannot write the --json file");
    banner();
    for (const shape &s : shapes) {
        if (o.shape ? strcmp(o.shape, s.name) != 0 : !strcmp(s.name, "tiny")) continue;
        for (size_t b = 0; b < o.n_bits; b++) {
            rig r;
            rig_new(&r, &s, o.bits[b]);
            check(&r, o.bits[b]);
            for (size_t t = 0; t < o.n_tokens; t++)
                for (size_t k = 0; k < o.n_batch; k++)
                    measure(&r, o.bits[b], (uint32_t)o.batch[k], (uint32_t)o.tokens[t], o.runs,
                            json);
            rig_free(&r);
        }
    }
    if (json && fclose(json)) stop("cannot write the --json file");
    return 0;
}
