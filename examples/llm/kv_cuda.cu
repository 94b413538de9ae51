/* kv_cuda.cu: see kv_cuda.h. */
#define SPECTRAL_KV_CUDA_IMPLEMENTATION
#include "spectral_kv_cuda.cuh"
extern "C" {
#include "kv_cuda.h"
#include "kv_spectral.h"
}
#include <stdio.h>
#include <stdlib.h>
#include <vector>

/* Sinks, and the recent tokens that there may be when a chunk has been appended. */
static const uint32_t RING = LLM_WINDOW + 63 + LLM_CHUNK, ROWS = LLM_SINKS + RING;

struct layer {
    std::vector<uint64_t> tables;       /* a block at a multiple of 16 in it */
    const skv_table *t;
    void            *device;            /* the same */
    unsigned char   *pool;              /* [max_pages] */
    float           *k, *v;             /* [ROWS][n_kv_heads][head_dim] */
    uint32_t        *credit;
    int32_t         *state;             /* tokens, pages */
    uint32_t         total, n_pages;
    size_t           page_bytes;
};

struct llm_kv_cuda {
    std::vector<layer>  layers;
    std::vector<void *> memory;         /* all of the device's */
    size_t   bytes;
    uint32_t max_tokens, max_pages;
    int32_t *slots, *rows;              /* every layer's page i lies in slot i; rows of a page */
    int32_t *status;                    /* of the page, then 0 and 1: whose pages it is among */
    uint32_t *position;
    float   *q, *out;                   /* [LLM_CHUNK][n_q_heads][head_dim] */
    void    *work;
    size_t   work_bytes;
};

static int copy_in(void *to, const void *from, size_t n)
{
    return cudaMemcpy(to, from, n, cudaMemcpyHostToDevice) == cudaSuccess;
}

/* Room for n things on the device, or NULL. */
template <class T> static T *take(llm_kv_cuda *kv, size_t n)
{
    void *p = NULL;
    if (cudaMalloc(&p, n * sizeof(T)) != cudaSuccess) return NULL;
    kv->memory.push_back(p);
    kv->bytes += n * sizeof(T);
    return (T *)p;
}

static int layer_tables(layer *l, const skv_cache *plan, uint32_t i, size_t *bytes)
{
    if (skv_cache_tables(plan, i, NULL, 0, bytes) != SKV_OK) return 0;
    l->tables.resize(*bytes / 8 + 2);
    uint64_t *at = l->tables.data() + ((size_t)l->tables.data() % 16 ? 1 : 0);
    l->t = (const skv_table *)at;
    return skv_cache_tables(plan, i, at, *bytes, bytes) == SKV_OK;
}

/* Pages have room for a fourth of the outlier rows that they might take. */
static int layer_new(llm_kv_cuda *kv, layer *l, const skv_cache *plan, uint32_t i)
{
    const uint32_t zero[2] = {0, 0};
    size_t bytes = 0;
    if (!layer_tables(l, plan, i, &bytes)) return 0;
    const skv_layer *s = &l->t->shape;
    const size_t width = (size_t)s->n_kv_heads * s->head_dim;
    l->page_bytes = (l->t->least + (l->t->most - l->t->least) / 4 + 15) / 16 * 16;
    l->device = take<unsigned char>(kv, bytes);
    l->pool = take<unsigned char>(kv, kv->max_pages * l->page_bytes);
    l->k = take<float>(kv, ROWS * width);
    l->v = take<float>(kv, ROWS * width);
    l->credit = take<uint32_t>(kv, 2 * l->t->n_groups);
    l->state = take<int32_t>(kv, 2);
    if (!l->device || !l->pool || !l->k || !l->v || !l->credit || !l->state) return 0;
    for (uint32_t g = 0; g < l->t->n_groups; g++)
        if (!copy_in(l->credit + 2 * g, zero, sizeof zero)) return 0;
    return copy_in(l->device, l->t, bytes);
}

static skv_cuda_attend_desc attend_desc(const llm_kv_cuda *kv, const layer *l, uint32_t n)
{
    skv_cuda_attend_desc d = SKV_ZERO;
    d.host = l->t;
    d.tables = l->device;
    d.n_seqs = 1;
    d.n_queries = n;
    d.q = skv_f32(kv->q);
    d.out = skv_out_f32(kv->out);
    d.tokens = l->state;
    d.pages.pool = l->pool;
    d.pages.page_bytes = l->page_bytes;
    d.pages.slots = kv->slots;
    d.pages.count = l->state + 1;
    d.pages.stride = kv->max_pages;
    d.max_pages = kv->max_pages;
    d.k = skv_f32(l->k);
    d.v = skv_f32(l->v);
    d.sinks = LLM_SINKS;
    d.ring = RING;
    d.work = kv->work;
    d.work_bytes = kv->work_bytes;
    return d;
}

/* Pages of the ring's oldest tokens. */
static skv_cuda_encode_desc encode_desc(const llm_kv_cuda *kv, const layer *l)
{
    skv_cuda_encode_desc d = SKV_ZERO;
    d.host = l->t;
    d.tables = l->device;
    d.n_pages = 1;
    d.pool = l->pool;
    d.page_bytes = l->page_bytes;
    d.slots = kv->slots + l->n_pages;
    d.rows = kv->rows;
    d.positions = kv->position;
    d.k = skv_f32(l->k);
    d.v = skv_f32(l->v);
    d.status = kv->status;
    d.n_seqs = 1;
    d.first = kv->status + 1;
    d.credit = l->credit;
    d.work = kv->work;
    d.work_bytes = kv->work_bytes;
    return d;
}

/* What the layers share. */
static int shared_new(llm_kv_cuda *kv)
{
    const skv_layer *s = &kv->layers[0].t->shape;
    const size_t width = (size_t)LLM_CHUNK * s->n_q_heads * s->head_dim;
    const int32_t order[3] = {0, 0, 1};
    std::vector<int32_t> slots(kv->max_pages);
    for (uint32_t i = 0; i < kv->max_pages; i++) slots[i] = (int32_t)i;
    kv->slots = take<int32_t>(kv, kv->max_pages);
    kv->rows = take<int32_t>(kv, 64);
    kv->status = take<int32_t>(kv, 3);
    kv->position = take<uint32_t>(kv, 1);
    kv->q = take<float>(kv, width);
    kv->out = take<float>(kv, width);
    for (const layer &l : kv->layers) {
        const skv_cuda_attend_desc a = attend_desc(kv, &l, LLM_CHUNK);
        const skv_cuda_encode_desc e = encode_desc(kv, &l);
        const size_t n = skv_cuda_attend_work(&a), m = skv_cuda_encode_work(&e);
        if (!n || !m) return 0;
        kv->work_bytes = n > kv->work_bytes ? n : kv->work_bytes;
        kv->work_bytes = m > kv->work_bytes ? m : kv->work_bytes;
    }
    kv->work = take<unsigned char>(kv, kv->work_bytes);
    return kv->slots && kv->rows && kv->status && kv->position && kv->q && kv->out && kv->work &&
           copy_in(kv->slots, slots.data(), slots.size() * sizeof slots[0]) &&
           copy_in(kv->status, order, sizeof order);
}

extern "C" int llm_kv_cuda_new(llm_kv_cuda **out, const skv_profile *profile,
                               const skv_model *model, const skv_target *target, int max_tokens,
                               char *err)
{
    skv_cache *plan = NULL;
    int devices = 0, fine;
    *out = NULL;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || !devices) {
        snprintf(err, GGUF_ERR_BYTES, "no CUDA device here: leave out --device cuda");
        return -1;
    }
    if (llm_kv_spectral_new(&plan, profile, model, target, max_tokens, err)) return -1;
    llm_kv_cuda *kv = *out = new llm_kv_cuda();
    kv->max_tokens = (uint32_t)max_tokens;
    kv->max_pages = kv->max_tokens / 64 + 1;
    kv->layers.resize(model->n_layers);
    fine = 1;
    for (uint32_t i = 0; fine && i < model->n_layers; i++)
        fine = layer_new(kv, &kv->layers[i], plan, i);
    fine = fine && shared_new(kv);
    skv_cache_free(plan);
    if (fine) return 0;
    llm_kv_cuda_free(kv);
    *out = NULL;
    snprintf(err, GGUF_ERR_BYTES, "the GPU has no memory for %d tokens: use a smaller context",
             max_tokens);
    return -1;
}

extern "C" void llm_kv_cuda_free(llm_kv_cuda *kv)
{
    if (!kv) return;
    for (void *p : kv->memory) cudaFree(p);
    delete kv;
}

static uint32_t row_of(uint32_t position)
{
    return position < LLM_SINKS ? position : LLM_SINKS + (position - LLM_SINKS) % RING;
}

static skv_result make_page(llm_kv_cuda *kv, layer *l)
{
    const uint32_t first = LLM_SINKS + 64 * l->n_pages;
    int32_t rows[64];
    for (uint32_t i = 0; i < 64; i++) rows[i] = (int32_t)row_of(first + i);
    if (!copy_in(kv->rows, rows, sizeof rows) || !copy_in(kv->position, &first, sizeof first))
        return SKV_ERR_DEVICE;
    const skv_cuda_encode_desc d = encode_desc(kv, l);
    const skv_result r = skv_cuda_encode(&d, NULL);
    int32_t status = SKV_ERR_DEVICE;
    if (r != SKV_OK) return r;
    if (cudaMemcpy(&status, kv->status, sizeof status, cudaMemcpyDeviceToHost) != cudaSuccess)
        return SKV_ERR_DEVICE;
    if (status == SKV_OK) l->n_pages++;
    return (skv_result)status;
}

static int cuda_append(void *self, int index, const float *k, const float *v, int n)
{
    llm_kv_cuda *kv = (llm_kv_cuda *)self;
    layer *l = &kv->layers[(size_t)index];
    const size_t width = (size_t)l->t->shape.n_kv_heads * l->t->shape.head_dim;
    uint32_t left = (uint32_t)n, m;
    if (n < 1 || n > LLM_CHUNK) return SKV_ERR_ARG;
    if (left > kv->max_tokens - l->total) return SKV_ERR_FULL;
    while (l->total >= LLM_SINKS + 64 * l->n_pages + LLM_WINDOW + 64) {
        const skv_result r = make_page(kv, l);
        if (r != SKV_OK) return r;
    }
    for (; left; left -= m, l->total += m, k += m * width, v += m * width) {
        const uint32_t row = row_of(l->total);
        const uint32_t end = row < LLM_SINKS ? (uint32_t)LLM_SINKS : ROWS;
        m = end - row < left ? end - row : left;
        if (!copy_in(l->k + row * width, k, m * width * sizeof *k) ||
            !copy_in(l->v + row * width, v, m * width * sizeof *v))
            return SKV_ERR_DEVICE;
    }
    return SKV_OK;
}

static int cuda_attend(void *self, int index, const float *q, int n, float *o)
{
    llm_kv_cuda *kv = (llm_kv_cuda *)self;
    const layer *l = &kv->layers[(size_t)index];
    const skv_layer *s = &l->t->shape;
    const size_t bytes = (size_t)n * s->n_q_heads * s->head_dim * sizeof *q;
    const int32_t state[2] = {(int32_t)l->total, (int32_t)l->n_pages};
    if (n < 1 || n > LLM_CHUNK) return SKV_ERR_ARG;
    if (!copy_in(kv->q, q, bytes) || !copy_in(l->state, state, sizeof state)) return SKV_ERR_DEVICE;
    const skv_cuda_attend_desc d = attend_desc(kv, l, (uint32_t)n);
    const skv_result r = skv_cuda_attend(&d, NULL);
    if (r != SKV_OK) return r;
    return cudaMemcpy(o, kv->out, bytes, cudaMemcpyDeviceToHost) == cudaSuccess ? SKV_OK
                                                                                : SKV_ERR_DEVICE;
}

extern "C" llm_kv llm_kv_cuda_ops(llm_kv_cuda *kv)
{
    llm_kv ops;
    ops.self = kv;
    ops.append = cuda_append;
    ops.attend = cuda_attend;
    return ops;
}

extern "C" void llm_kv_cuda_usage(const llm_kv_cuda *kv, skv_usage *u)
{
    memset(u, 0, sizeof *u);
    for (const layer &l : kv->layers) {
        const skv_layer *s = &l.t->shape;
        const size_t width = (size_t)s->n_kv_heads * (s->head_dim + s->head_dim_v);
        u->tokens = l.total > u->tokens ? l.total : u->tokens;
        u->elements += l.total * width;
        u->page_elements += (size_t)64 * l.n_pages * width;
        u->exact_bytes += ROWS * width * sizeof *l.k;
        for (size_t i = 0; i < l.n_pages; i++) {
            unsigned char head[8];
            if (cudaMemcpy(head, l.pool + i * l.page_bytes, sizeof head,
                           cudaMemcpyDeviceToHost) != cudaSuccess)
                return;
            const uint32_t bytes = head[4] | (uint32_t)head[5] << 8 | (uint32_t)head[6] << 16;
            u->page_bytes += bytes;
            u->outlier_bytes += bytes - l.t->least;
            u->outlier_rows += head[2] | (uint32_t)head[3] << 8;
        }
    }
    u->work_bytes = kv->work_bytes;
    u->bytes = kv->bytes;
    if (u->elements) u->bpe = 8.0 * (double)u->bytes / (double)u->elements;
    if (u->page_elements) u->bpe_pages = 8.0 * (double)u->page_bytes / (double)u->page_elements;
}
