/* kv_spectral.c: see kv_spectral.h. */
#include "kv_spectral.h"
#include "files.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

skv_model llm_skv_model(const llm_config *c, uint64_t fingerprint, skv_layer *layers)
{
    skv_model m = SKV_ZERO;
    int i;
    m.n_layers = (uint32_t)c->n_layers;
    m.fingerprint = fingerprint;
    m.name = c->name;
    m.layers = layers;
    for (i = 0; i < c->n_layers; i++) {
        memset(&layers[i], 0, sizeof layers[i]);
        layers[i].n_q_heads = (uint32_t)c->n_q_heads;
        layers[i].n_kv_heads = (uint32_t)c->n_kv_heads;
        layers[i].head_dim = (uint32_t)c->head_dim;
        layers[i].sliding_window = (uint32_t)llm_layer_window(c, i);
        layers[i].scale = c->attn_scale;
        layers[i].softcap = c->attn_softcap;
    }
    return m;
}

static uint64_t mix(uint64_t h, const void *data, size_t n)     /* FNV-1a */
{
    const unsigned char *p = data;
    size_t i;
    for (i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001B3u;
    return h;
}

uint64_t llm_fingerprint(const gguf *g, const llm_config *c)
{
    uint64_t h = mix(0xCBF29CE484222325u, c->arch, strlen(c->arch)), i;
    for (i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        size_t at, step = t->bytes / 61 + 1;
        h = mix(h, t->name.p, t->name.n);
        for (at = 0; at < t->bytes; at += step) h = mix(h, (const char *)t->data + at, 1);
    }
    return h ? h : 1;
}

/* A file, and the model that it has to be made for; both to be freed by the caller, the model by
 * its layers. */
typedef struct blob {
    void *data;
    size_t bytes;
    skv_layer *layers;
    skv_model model;
} blob;

static int blob_open(blob *b, const char *path, const gguf *g, const llm_config *c, char *err)
{
    b->data = NULL;
    b->bytes = 0;
    b->layers = malloc(sizeof *b->layers * (size_t)c->n_layers);
    if (!b->layers) {
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        return -1;
    }
    b->model = llm_skv_model(c, llm_fingerprint(g, c), b->layers);
    if (!llm_read_file(path, &b->data, &b->bytes, err)) return 0;
    free(b->layers);
    return -1;
}

static int blob_close(blob *b, const char *path, skv_result r, char *err)
{
    free(b->data);
    free(b->layers);
    if (r == SKV_OK) return 0;
    snprintf(err, GGUF_ERR_BYTES, "profile %.100s: %s", path, skv_result_text(r));
    return -1;
}

int llm_profile_load(skv_profile **out, const char *path, const gguf *g, const llm_config *c,
                     size_t *file_bytes, char *err)
{
    blob b;
    if (blob_open(&b, path, g, c, err)) return -1;
    *file_bytes = b.bytes;
    return blob_close(&b, path, skv_profile_load(out, b.data, b.bytes, &b.model, NULL), err);
}

int llm_cold_profile_load(skv_cold_profile **out, const char *path, const gguf *g,
                          const llm_config *c, char *err)
{
    blob b;
    if (blob_open(&b, path, g, c, err)) return -1;
    return blob_close(&b, path, skv_cold_profile_load(out, b.data, b.bytes, &b.model, NULL), err);
}

/* Head groups are independent: one OpenMP loop over them is all the threading there is. */
static void run_tasks(void *user, size_t n, void (*task)(void *arg, size_t i), void *arg)
{
    long i;
    (void)user;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1)
#endif
    for (i = 0; i < (long)n; i++) task(arg, (size_t)i);
}

int llm_kv_spectral_new(skv_cache **out, const skv_profile *profile, const skv_model *model,
                        const skv_target *target, int max_tokens, char *err)
{
    skv_cache_desc d = SKV_ZERO;
    skv_result r;
    d.profile = profile;
    d.model = *model;
    d.target = *target;
    d.max_tokens = (uint32_t)max_tokens;
    d.sinks = LLM_SINKS;
    d.window = LLM_WINDOW;
    d.max_append = LLM_CHUNK;
    d.parallel.run = run_tasks;
#ifdef _OPENMP
    d.parallel.n_threads = (uint32_t)omp_get_max_threads();
#endif
    r = skv_cache_init(out, &d);
    if (r == SKV_OK) return 0;
    snprintf(err, GGUF_ERR_BYTES, "compressed cache: %s", skv_result_text(r));
    return -1;
}

static int spectral_append(void *self, int layer, const float *k, const float *v, int n)
{
    skv_span sk = skv_f32(k), sv = skv_f32(v);
    return (int)skv_append(self, (uint32_t)layer, &sk, &sv, (size_t)n);
}

static int spectral_attend(void *self, int layer, const float *q, int n, float *o)
{
    skv_span sq = skv_f32(q);
    skv_out so = skv_out_f32(o);
    return (int)skv_attend(self, (uint32_t)layer, &sq, (size_t)n, &so, NULL);
}

llm_kv llm_kv_spectral_ops(skv_cache *cache)
{
    llm_kv kv;
    kv.self = cache;
    kv.append = spectral_append;
    kv.attend = spectral_attend;
    return kv;
}
