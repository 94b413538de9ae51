/* bench_ggml.h: ggml's CPU flash attention as a peer, loaded at run time: nothing is linked and no
 * header of ggml is needed. The libraries come with `pip install llama-cpp-python` (llama_cpp/lib)
 * or any shared build of ggml since 2024. The cache lies as in llama.cpp: a row per token, heads
 * side by side; the mask is passed and all zero. Needs libdl where libc lacks dlopen.
 */
#ifndef BENCH_GGML_H
#define BENCH_GGML_H
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ggml_context;
struct ggml_tensor;
struct ggml_cgraph;
struct ggml_threadpool;
enum { GGML_F32 = 0, GGML_F16 = 1, GGML_Q4_0 = 2, GGML_Q8_0 = 8 };     /* enum ggml_type */
struct ggml_init_params {
    size_t size;
    void  *buffer;
    bool   no_alloc;
};
struct ggml_cplan {                 /* returned in memory: what newer versions add fits in rest */
    size_t work_size;
    void  *work_data, *rest[14];
};

/* X(result, name without ggml_, parameters) */
#define GGML_API(X) \
    X(struct ggml_context *, init, (struct ggml_init_params)) \
    X(void, free, (struct ggml_context *)) \
    X(size_t, row_size, (int, int64_t)) \
    X(size_t, tensor_overhead, (void)) \
    X(size_t, graph_overhead_custom, (size_t, bool)) \
    X(struct ggml_tensor *, new_tensor_2d, (struct ggml_context *, int, int64_t, int64_t)) \
    X(struct ggml_tensor *, new_tensor_3d, (struct ggml_context *, int, int64_t, int64_t, \
                                            int64_t)) \
    X(struct ggml_tensor *, view_3d, (struct ggml_context *, struct ggml_tensor *, int64_t, \
                                      int64_t, int64_t, size_t, size_t, size_t)) \
    X(struct ggml_tensor *, permute, (struct ggml_context *, struct ggml_tensor *, int, int, int, \
                                      int)) \
    X(struct ggml_tensor *, flash_attn_ext, (struct ggml_context *, struct ggml_tensor *, \
                                             struct ggml_tensor *, struct ggml_tensor *, \
                                             struct ggml_tensor *, float, float, float)) \
    X(void *, get_data, (const struct ggml_tensor *)) \
    X(size_t, nbytes, (const struct ggml_tensor *)) \
    X(struct ggml_cgraph *, new_graph_custom, (struct ggml_context *, size_t, bool)) \
    X(void, build_forward_expand, (struct ggml_cgraph *, struct ggml_tensor *)) \
    X(size_t, quantize_chunk, (int, const float *, void *, int64_t, int64_t, int64_t, \
                               const float *)) \
    X(void, cpu_init, (void)) \
    X(struct ggml_cplan, graph_plan, (const struct ggml_cgraph *, int, struct ggml_threadpool *)) \
    X(int, graph_compute, (struct ggml_cgraph *, struct ggml_cplan *)) \
    X(int, cpu_has_avx2, (void)) \
    X(int, cpu_has_avx512, (void))

#define GGML_MEMBER(result, name, parameters) result (*name) parameters;
typedef struct ggml_api {
    GGML_API(GGML_MEMBER)
    char version[32], isa[16];
} ggml_api;
#undef GGML_MEMBER

enum { GGML_LAYERS = 16 };

/* Caches of several layers of one type, and a graph for a query over each. */
typedef struct ggml_cache {
    const ggml_api      *api;
    struct ggml_context *ctx;
    struct ggml_tensor  *q, *k[GGML_LAYERS], *v[GGML_LAYERS], *out[GGML_LAYERS];
    struct ggml_cgraph  *graph[GGML_LAYERS];
    struct ggml_cplan    plan;
    int64_t              row;       /* numbers in a token's K or V */
    int                  type;
} ggml_cache;

typedef struct ggml_shape {
    size_t heads, kv_heads, d, layers;
    size_t tokens[GGML_LAYERS];
} ggml_shape;

/* 0, or -1 after a message. */
static int ggml_load(ggml_api *a, const char *dir)
{
    static const char *const names[3] = {"libggml-base", "libggml-cpu", "libggml"};
    const char *(*version)(void) = NULL;
    void *lib[3], *at = NULL;
    char path[1024];
    size_t i;
    for (i = 0; i < 3; i++) {
#ifdef __APPLE__
        snprintf(path, sizeof path, "%s/%s.dylib", dir, names[i]);
#else
        snprintf(path, sizeof path, "%s/%s.so", dir, names[i]);
#endif
        lib[i] = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
        if (!lib[i] && i < 2) {                     /* the third has nothing that is needed */
            fprintf(stderr, "ggml: %s\n", dlerror());
            return -1;
        }
    }
#define GGML_FIND(result, name, parameters) \
    for (i = 0, at = NULL; i < 2 && !at; i++) at = dlsym(lib[i], "ggml_" #name); \
    if (!at) { \
        fprintf(stderr, "ggml: no ggml_%s in %s\n", #name, dir); \
        return -1; \
    } \
    memcpy(&a->name, &at, sizeof at);
    GGML_API(GGML_FIND)
#undef GGML_FIND
    at = dlsym(lib[0], "ggml_version");
    memcpy(&version, &at, sizeof at);
    snprintf(a->version, sizeof a->version, "%s", version ? version() : "unknown");
    a->cpu_init();
    snprintf(a->isa, sizeof a->isa, "%s",
             a->cpu_has_avx512() ? "avx512" : a->cpu_has_avx2() ? "avx2" : "other");
    return 0;
}

static void ggml_cache_free(ggml_cache *c)
{
    if (c->ctx) c->api->free(c->ctx);
    free(c->plan.work_data);
    memset(c, 0, sizeof *c);
}

static void ggml_cache_layer(ggml_cache *c, const ggml_shape *s, size_t i, float scale)
{
    const ggml_api *a = c->api;
    int64_t d = (int64_t)s->d, n = (int64_t)s->tokens[i], kv = (int64_t)s->kv_heads;
    size_t head = a->row_size(c->type, d), row = a->row_size(c->type, c->row);
    struct ggml_tensor *mask = a->new_tensor_2d(c->ctx, GGML_F16, n, 64);  /* once 64 rows, now 1 */
    struct ggml_tensor *k, *v;
    memset(a->get_data(mask), 0, a->nbytes(mask));
    c->k[i] = a->new_tensor_2d(c->ctx, c->type, c->row, n);
    c->v[i] = a->new_tensor_2d(c->ctx, c->type, c->row, n);
    k = a->view_3d(c->ctx, c->k[i], d, n, kv, row, head, 0);
    v = a->view_3d(c->ctx, c->v[i], d, n, kv, row, head, 0);
    c->out[i] = a->flash_attn_ext(c->ctx, a->permute(c->ctx, c->q, 0, 2, 1, 3), k, v, mask, scale,
                                  0, 0);
    c->graph[i] = a->new_graph_custom(c->ctx, 16, false);
    a->build_forward_expand(c->graph[i], c->out[i]);
}

/* 0, or -1 when out of memory. */
static int ggml_cache_init(ggml_cache *c, const ggml_api *a, const ggml_shape *s, int type,
                           float scale)
{
    struct ggml_init_params p = {0, NULL, false};
    size_t i, work = 0;
    memset(c, 0, sizeof *c);
    c->api = a;
    c->type = type;
    c->row = (int64_t)(s->kv_heads * s->d);
    p.size = (size_t)1 << 20;
    for (i = 0; i < s->layers; i++)
        p.size += s->tokens[i] * (2 * a->row_size(type, c->row) + 128) + 8 * s->heads * s->d +
                  16 * a->tensor_overhead() + a->graph_overhead_custom(16, false);
    c->ctx = a->init(p);
    if (!c->ctx) return -1;
    c->q = a->new_tensor_3d(c->ctx, GGML_F32, (int64_t)s->d, (int64_t)s->heads, 1);
    for (i = 0; i < s->layers; i++) {
        ggml_cache_layer(c, s, i, scale);
        c->plan = a->graph_plan(c->graph[i], 1, NULL);
        if (c->plan.work_size > work) work = c->plan.work_size;
    }
    c->plan.work_size = work;
    c->plan.work_data = malloc(work + 64);
    if (c->plan.work_data) return 0;
    ggml_cache_free(c);
    return -1;
}

/* K and V rows [n][kv_heads][d] at tokens first and on. */
static void ggml_cache_put(ggml_cache *c, size_t layer, size_t first, size_t n, const float *k,
                           const float *v)
{
    const ggml_api *a = c->api;
    size_t at = a->row_size(c->type, c->row) * first;
    a->quantize_chunk(c->type, k, (char *)a->get_data(c->k[layer]) + at, 0, (int64_t)n, c->row,
                      NULL);
    a->quantize_chunk(c->type, v, (char *)a->get_data(c->v[layer]) + at, 0, (int64_t)n, c->row,
                      NULL);
}

/* The output lies where this points, [heads][d], until the next step of the layer. */
static const float *ggml_cache_step(ggml_cache *c, size_t layer, const float *q)
{
    memcpy(c->api->get_data(c->q), q, c->api->nbytes(c->q));
    c->api->graph_compute(c->graph[layer], &c->plan);
    return (const float *)c->api->get_data(c->out[layer]);
}

#endif
