/* 07_cuda_attend.cu - one decode step on a GPU, over pages that the CPU made.

   Shows: tables and pages of a cache to device memory, exact tokens beside them, skv_cuda_attend,
   and how far its outputs are from skv_attend's. The data is the capture of 01_quickstart.c.
   Leaves out: a batch of sequences, streams, graphs, more than one layer; where the exact tokens
   come from (an engine has them in device memory, this copies them from the capture).
   Build in the repository's root, then run ./a.out:
       nvcc -std=c++17 -arch=native examples/07_cuda_attend.cu
   Without a GPU it says so and succeeds. */
#define SPECTRAL_KV_CUDA
#define SPECTRAL_KV_IMPLEMENTATION
#include "../spectral_kv.h"
#include "capture.h"
#include <cuda_runtime.h>
#include <math.h>
#include <stdlib.h>
#include <vector>

#define WINDOW 16                   /* recent tokens kept exact: few, for a short text */
#define SINKS 4
#define RING (WINDOW + 128)         /* room for the recent tokens: the cache adds 64 at a time */
static capture cap;

static void need(int fine, const char *what)
{
    if (fine) return;
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void *device(size_t bytes)
{
    void *p = NULL;
    need(cudaMalloc(&p, bytes) == cudaSuccess, "cudaMalloc");
    return p;
}
static void *to_device(const void *from, size_t bytes)
{
    void *p = device(bytes);
    need(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice) == cudaSuccess, "cudaMemcpy");
    return p;
}

/* Layer 0's pages, one after the other; how many. */
static uint32_t copy_pages(const skv_cache *cache, const skv_table *t, skv_cuda_pages *p)
{
    std::vector<int32_t> slots;
    std::vector<unsigned char> pool;
    const void *page;
    size_t bytes;
    p->page_bytes = (t->most + 15) / 16 * 16;
    while (skv_cache_page(cache, 0, slots.size(), &page, &bytes) == SKV_OK) {
        pool.resize(pool.size() + p->page_bytes);
        memcpy(pool.data() + slots.size() * p->page_bytes, page, bytes);
        slots.push_back((int32_t)slots.size());
    }
    const int32_t count = (int32_t)slots.size();
    need(count > 0, "the text is too short for a page");
    p->pool = to_device(pool.data(), pool.size());
    p->slots = (const int32_t *)to_device(slots.data(), slots.size() * sizeof slots[0]);
    p->count = (const int32_t *)to_device(&count, sizeof count);
    p->stride = slots.size();
    return (uint32_t)count;
}

/* Exact keys or values as skv_cuda_attend_desc lays them out. */
static skv_span copy_exact(const skv_span *from, uint32_t n_pages)
{
    const size_t width = (size_t)cap.n_kv_heads * cap.head_dim;
    std::vector<uint16_t> rows((SINKS + RING) * width);
    for (size_t p = 0; p < cap.n_tokens; p++) {
        if (p >= SINKS && p < SINKS + 64 * n_pages) continue;
        const size_t row = p < SINKS ? p : SINKS + (p - SINKS) % RING;
        memcpy(&rows[row * width], (const uint16_t *)from->data + p * width, 2 * width);
    }
    return skv_make_span(to_device(rows.data(), rows.size() * 2), from->dtype);
}

static void compare(skv_cache *cache)
{
    const size_t n = (size_t)cap.n_q_heads * cap.head_dim;
    const capture_rows x = capture_at(&cap, 0, 0), last = capture_at(&cap, 0, cap.n_tokens - 1);
    const int32_t tokens = (int32_t)cap.n_tokens;
    std::vector<float> cpu(n), gpu(n);
    size_t bytes = 0;
    double error = 0, norm = 0;
    skv_out out = skv_out_f32(cpu.data());
    skv_cuda_attend_desc d = SKV_ZERO;
    need(skv_cache_tables(cache, 0, NULL, 0, &bytes) == SKV_OK, "tables");
    std::vector<uint4> block(bytes / 16 + 1);       /* at a multiple of 16 */
    need(skv_cache_tables(cache, 0, block.data(), bytes, &bytes) == SKV_OK, "tables");
    d.host = (const skv_table *)block.data();
    d.tables = to_device(block.data(), bytes);
    d.n_seqs = d.n_queries = 1;
    d.max_pages = copy_pages(cache, d.host, &d.pages);
    d.sinks = SINKS;
    d.ring = RING;
    d.k = copy_exact(&x.k, d.max_pages);
    d.v = copy_exact(&x.v, d.max_pages);
    d.q = skv_make_span(to_device(last.q.data, n * 2), last.q.dtype);
    d.out = skv_out_f32((float *)device(n * sizeof(float)));
    d.tokens = (const int32_t *)to_device(&tokens, sizeof tokens);
    d.work_bytes = skv_cuda_attend_work(&d);
    d.work = device(d.work_bytes);
    const skv_result r = skv_cuda_attend(&d, NULL);         /* the default stream */
    need(r == SKV_OK, skv_result_text(r));
    need(cudaMemcpy(gpu.data(), d.out.data, n * sizeof(float), cudaMemcpyDeviceToHost) ==
         cudaSuccess, "the kernels failed");
    need(skv_attend(cache, 0, &last.q, 1, &out, NULL) == SKV_OK, "attend");
    for (size_t i = 0; i < n; i++) {
        error += pow((double)gpu[i] - (double)cpu[i], 2);
        norm += pow((double)cpu[i], 2);
    }
    printf("%u tokens, %u pages: GPU and CPU differ by %.2f %% of the output\n", cap.n_tokens,
           d.max_pages, 100 * sqrt(error / norm));
    need(error < 1e-3 * norm, "that is too much");
}

int main(int argc, char **argv)
{
    int devices = 0;
    skv_profile *profile = NULL;
    skv_cache *cache = NULL;
    skv_cache_desc d = SKV_ZERO;
    if (capture_read(&cap, argc > 1 ? argv[1] : CAPTURE_DEFAULT)) return 1;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || !devices) {
        printf("no CUDA device here\n");
        return 0;
    }
    need(capture_calibrate(&cap, WINDOW, &profile) >= SKV_OK, "calibrate");
    d.profile = profile;
    d.target.bpe = 3.0f;
    d.max_tokens = cap.n_tokens;
    d.window = WINDOW;
    d.sinks = SINKS;
    need(skv_cache_init(&cache, &d) == SKV_OK, "cache");
    const capture_rows x = capture_at(&cap, 0, 0);
    need(skv_append(cache, 0, &x.k, &x.v, cap.n_tokens) == SKV_OK, "append");
    compare(cache);
    skv_cache_free(cache);
    skv_profile_free(profile);
    return 0;
}
