/* kv_coded.c: see kv_coded.h. An exact cache in which rows are overwritten once they are coded. */
#include "kv_coded.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct llm_kv_coded {
    llm_config c;
    llm_codec codec;
    llm_kv_exact *exact;
    llm_kv inner;                   /* of the exact cache */
    int *held, *coded;              /* [n_layers] tokens; behind the sinks, those coded */
    float *rows;                    /* [max_tokens][n_kv_heads][head_dim] */
    double bits;
};

void llm_kv_coded_free(llm_kv_coded *kv)
{
    if (!kv) return;
    if (kv->codec.free) kv->codec.free(kv->codec.self);
    llm_kv_exact_free(kv->exact);
    free(kv->held);
    free(kv->coded);
    free(kv->rows);
    free(kv);
}

int llm_kv_coded_new(llm_kv_coded **out, const llm_config *c, int max_tokens, llm_codec codec,
                     char *err)
{
    llm_kv_coded *kv = calloc(1, sizeof *kv);
    size_t n = (size_t)c->n_layers, width = (size_t)c->n_kv_heads * (size_t)c->head_dim;
    if (!kv) {
        if (codec.free) codec.free(codec.self);
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        return -1;
    }
    kv->c = *c;
    kv->codec = codec;
    if (llm_kv_exact_new(&kv->exact, c, max_tokens, err)) {
        llm_kv_coded_free(kv);
        return -1;
    }
    kv->inner = llm_kv_exact_ops(kv->exact);
    kv->held = calloc(n, sizeof *kv->held);
    kv->coded = calloc(n, sizeof *kv->coded);
    kv->rows = malloc((size_t)max_tokens * width * sizeof *kv->rows);
    if (!kv->held || !kv->coded || !kv->rows) {
        llm_kv_coded_free(kv);
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        return -1;
    }
    *out = kv;
    return 0;
}

void llm_kv_coded_reset(llm_kv_coded *kv)
{
    size_t n = (size_t)kv->c.n_layers;
    llm_kv_exact_truncate(kv->exact, 0);
    memset(kv->held, 0, n * sizeof *kv->held);
    memset(kv->coded, 0, n * sizeof *kv->coded);
    kv->bits = 0;
}

/* n tokens of a layer, K and V, through the codec. */
static int code_page(llm_kv_coded *kv, int layer, int n)
{
    int kind, r, first = LLM_SINKS + kv->coded[layer];
    for (kind = 0; kind < 2; kind++) {
        llm_kv_exact_get(kv->exact, layer, kind, first, n, kv->rows);
        r = kv->codec.code(kv->codec.self, layer, kind, first, n, kv->rows, &kv->bits);
        if (r) return r;
        llm_kv_exact_put(kv->exact, layer, kind, first, n, kv->rows);
    }
    kv->coded[layer] += n;
    return 0;
}

static int coded_append(void *self, int layer, const float *k, const float *v, int n)
{
    llm_kv_coded *kv = self;
    int r, page, prompt = (kv->codec.prompt + LLM_PAGE - 1) / LLM_PAGE * LLM_PAGE;
    if (layer < 0 || layer >= kv->c.n_layers || n < 1) return LLM_KV_BAD_CALL;
    for (;;) {
        page = !kv->coded[layer] && prompt ? prompt : LLM_PAGE;
        if (kv->held[layer] - LLM_SINKS - kv->coded[layer] < LLM_WINDOW + page) break;
        r = code_page(kv, layer, page);
        if (r) return r;
    }
    r = kv->inner.append(kv->inner.self, layer, k, v, n);
    if (r == LLM_KV_OK) kv->held[layer] += n;
    return r;
}

static int coded_attend(void *self, int layer, const float *q, int n, float *o)
{
    llm_kv_coded *kv = self;
    return kv->inner.attend(kv->inner.self, layer, q, n, o);
}

llm_kv llm_kv_coded_ops(llm_kv_coded *kv)
{
    llm_kv ops;
    ops.self = kv;
    ops.append = coded_append;
    ops.attend = coded_attend;
    return ops;
}

double llm_kv_coded_bpe_pages(const llm_kv_coded *kv)
{
    double tokens = 0;
    int l;
    for (l = 0; l < kv->c.n_layers; l++) tokens += kv->coded[l];
    return tokens > 0 ? kv->bits / (tokens * 2 * kv->c.n_kv_heads * kv->c.head_dim) : 0;
}

/* Elements of all tokens held, and the bits of all of them. */
static double all_bits(const llm_kv_coded *kv, double *elements)
{
    double width = 2.0 * kv->c.n_kv_heads * kv->c.head_dim, exact = 0, tokens = 0;
    int l;
    for (l = 0; l < kv->c.n_layers; l++) {
        tokens += kv->held[l];
        exact += kv->held[l] - kv->coded[l];
    }
    *elements = tokens * width;
    return kv->bits + 16 * exact * width;
}

double llm_kv_coded_bpe(const llm_kv_coded *kv)
{
    double elements, bits = all_bits(kv, &elements);
    return elements > 0 ? bits / elements : 0;
}

size_t llm_kv_coded_bytes(const llm_kv_coded *kv)
{
    double elements;
    return (size_t)(all_bits(kv, &elements) / 8);
}
