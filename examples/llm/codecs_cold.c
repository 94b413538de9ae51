/* codecs_cold.c: see codecs_cold.h. A cold page holds K and V of a layer and is read with the
 * layer before, so there is one coder per page of the sequence, and each walks through the layers.
 * K comes before V and does not depend on it: the page is coded once with zeros for V, then as it
 * is. */
#include "codecs_cold.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct cold {
    const skv_cold_profile *profile;
    float bpe;
    int heads, dim, n_slots;
    skv_cold **slot;                /* [n_slots], per page, made when first needed */
    float *k, *v;                   /* [LLM_PAGE][heads][dim]: the page's K, and zeros or V */
    unsigned char *page;
    size_t most;
} cold;

static void cold_free(void *self)
{
    cold *s = self;
    int i;
    for (i = 0; i < s->n_slots; i++) skv_cold_free(s->slot[i]);
    free(s->slot);
    free(s->k);
    free(s->v);
    free(s->page);
    free(s);
}

static skv_result slot_new(const cold *s, skv_cold **out)
{
    skv_cold_desc d = SKV_ZERO;
    d.profile = s->profile;
    d.bpe = s->bpe;
    return skv_cold_init(out, &d);
}

/* The coder of page i. */
static skv_result slot_at(cold *s, int i, skv_cold **out)
{
    skv_result r = SKV_OK;
    if (i >= s->n_slots) {
        skv_cold **more = realloc(s->slot, (size_t)(i + 1) * sizeof *more);
        if (!more) return SKV_ERR_MEMORY;
        s->slot = more;
        for (; s->n_slots <= i; s->n_slots++) more[s->n_slots] = NULL;
    }
    if (!s->slot[i]) r = slot_new(s, &s->slot[i]);
    *out = s->slot[i];
    return r;
}

static int cold_code(void *self, int layer, int kind, int first, int n, float *rows, double *bits)
{
    cold *s = self;
    size_t count = (size_t)n * (size_t)(s->heads * s->dim), bytes = 0;
    skv_span k = skv_f32(s->k), v = skv_f32(s->v);
    skv_cold *c;
    skv_result r = slot_at(s, first / LLM_PAGE, &c);
    if (r != SKV_OK) return (int)r;
    memset(s->v, 0, count * sizeof *s->v);
    memcpy(kind ? s->v : s->k, rows, count * sizeof *rows);
    r = skv_cold_encode(c, (uint32_t)layer, (uint32_t)first, &k, &v, (size_t)n, s->page, s->most,
                        &bytes);
    if (r == SKV_OK)
        r = skv_cold_rows(c, (uint32_t)layer, SKV_NONE, kind ? NULL : rows, kind ? rows : NULL);
    if (kind) *bits += 8.0 * (double)bytes;
    return (int)r;
}

int llm_cold_open(llm_codec *out, const char *name, const llm_config *c, const skv_cold_profile *p,
                  char *err)
{
    cold *s;
    char *end;
    float bpe;
    skv_result r;
    size_t n = (size_t)LLM_PAGE * (size_t)(c->n_kv_heads * c->head_dim);
    if (strncmp(name, "cold:", 5)) return 1;
    bpe = (float)strtod(name + 5, &end);
    if (end == name + 5 || *end || !(bpe > 0 && bpe <= 12) || !p) {
        snprintf(err, GGUF_ERR_BYTES, "mode %.30s: %s", name, p ? "not of the form cold:BPE, bits "
                 "per element above 0, at most 12" : "needs --cold FILE (made by "
                 "`skv-llm profile --cold FILE`)");
        return -1;
    }
    s = calloc(1, sizeof *s);
    if (!s) {
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        return -1;
    }
    s->profile = p;
    s->bpe = bpe;
    s->heads = c->n_kv_heads;
    s->dim = c->head_dim;
    s->k = malloc(n * sizeof *s->k);
    s->v = malloc(n * sizeof *s->v);
    s->slot = calloc(1, sizeof *s->slot);
    s->n_slots = s->slot ? 1 : 0;
    r = s->k && s->v && s->slot ? slot_new(s, s->slot) : SKV_ERR_MEMORY;
    if (r == SKV_OK) {
        s->most = skv_cold_page_most(s->slot[0]);
        s->page = malloc(s->most);
        if (!s->page) r = SKV_ERR_MEMORY;
    }
    if (r != SKV_OK) {
        snprintf(err, GGUF_ERR_BYTES, "mode %.30s: %s", name, skv_result_text(r));
        cold_free(s);
        return -1;
    }
    out->self = s;
    out->prompt = 0;
    out->code = cold_code;
    out->free = cold_free;
    return 0;
}
