/* cold_world.h: a made-up model whose layers depend on one another, calibrated for cold pages. For
 * C and C++; include after spectral_kv.h with its implementation, and test.h. */
#ifndef SKV_COLD_WORLD_H
#define SKV_COLD_WORLD_H

enum { TOKENS = 512, MAX_LAYERS = 3, MAX_WIDTH = 4 * 80, HIDDEN = 48 };

/* x_t drives all layers: K and V are linear in it, plus a little of their own; K is then turned. */
typedef struct world {
    skv_layer shape;
    uint32_t  n_layers, group, depth;
    skv_rope  style;
    float     freq[40];
    float    *mix;                      /* [layers][2][width][HIDDEN] */
    float    *q, *k[MAX_LAYERS], *v[MAX_LAYERS];
    skv_profiler *profiler;
    skv_chain *chain;
    skv_cold_profile *cold;
} world;

static void world_text(world *w, uint32_t n, uint32_t position)
{
    uint32_t t, l, i, j, h, d = w->shape.head_dim, dv = w->shape.head_dim_v;
    uint32_t nk = w->shape.n_kv_heads * d, nv = w->shape.n_kv_heads * dv;
    skvi_turn turn;
    turn.style = (uint32_t)w->style;
    turn.pairs = d / 2;
    turn.freq = w->freq;
    for (t = 0; t < n; t++) {
        float x[HIDDEN];
        for (j = 0; j < HIDDEN; j++) x[j] = (float)(test_normal() * exp2(-0.1 * j));
        for (i = 0; i < w->shape.n_q_heads * d; i++)
            w->q[t * w->shape.n_q_heads * d + i] = (float)test_normal();
        for (l = 0; l < w->n_layers; l++) {
            const float *m = w->mix + (size_t)l * 2 * MAX_WIDTH * HIDDEN;
            for (i = 0; i < nk + nv; i++) {
                float sum = 0.1f * (float)test_normal() + (i < nk ? 1.5f : 0);
                for (j = 0; j < HIDDEN; j++) sum += m[i * HIDDEN + j] * x[j];
                if (i < nk) w->k[l][t * nk + i] = sum;
                else w->v[l][t * nv + i - nk] = sum;
            }
            for (h = 0; h < w->shape.n_kv_heads; h++)
                skvi_cold_turn(&turn, (double)position + t, 0, w->k[l] + t * nk + h * d);
        }
    }
}

static int world_new(world *w, uint32_t kv, uint32_t d, uint32_t dv, uint32_t group, uint32_t depth,
                     skv_rope style)
{
    skv_profiler_desc pd = SKV_ZERO;
    skv_chain_desc cd = SKV_ZERO;
    uint32_t l, i;
    int passage;
    skv_result r;
    memset(w, 0, sizeof *w);
    w->n_layers = MAX_LAYERS;
    w->shape.n_kv_heads = kv;
    w->shape.n_q_heads = 2 * kv;
    w->shape.head_dim = d;
    w->shape.head_dim_v = dv;
    w->style = style;
    for (i = 0; i < d / 2; i++) w->freq[i] = (float)pow(1e4, -2.0 * i / d);
    w->mix = (float *)malloc((size_t)MAX_LAYERS * 2 * MAX_WIDTH * HIDDEN * sizeof *w->mix);
    w->q = (float *)malloc((size_t)TOKENS * 2 * MAX_WIDTH * sizeof *w->q);
    for (i = 0; i < MAX_LAYERS * 2 * MAX_WIDTH * HIDDEN; i++)
        w->mix[i] = (float)(0.3 * test_normal());
    pd.model.n_layers = w->n_layers;
    pd.model.layer = w->shape;
    pd.head_group = group;
    pd.max_passage = TOKENS;
    pd.max_queries = 8;
    r = skv_profiler_init(&w->profiler, &pd);
    for (l = 0; l < w->n_layers; l++) {
        w->k[l] = (float *)malloc((size_t)TOKENS * MAX_WIDTH * sizeof(float));
        w->v[l] = (float *)malloc((size_t)TOKENS * MAX_WIDTH * sizeof(float));
        if (r == SKV_OK) r = skv_profiler_rope(w->profiler, l, style, w->freq, d / 2);
    }
    cd.profiler = w->profiler;
    cd.depth = depth ? depth : SKV_NONE;
    if (r == SKV_OK) r = skv_chain_init(&w->chain, &cd);
    for (passage = 0; passage < 3; passage++) {
        world_text(w, TOKENS, 0);
        for (l = 0; l < w->n_layers && r == SKV_OK; l++) {
            skv_span q = skv_f32(w->q), k = skv_f32(w->k[l]), v = skv_f32(w->v[l]);
            r = skv_profiler_add(w->profiler, l, &q, &k, &v, TOKENS);
            if (r == SKV_OK) r = skv_chain_add(w->chain, l, &k, &v, TOKENS);
        }
    }
    if (r == SKV_OK) r = skv_chain_fit(w->chain, w->profiler, &w->cold);
    CHECK(r >= SKV_OK);
    return r >= SKV_OK;
}

static void world_free(world *w)
{
    uint32_t l;
    skv_cold_profile_free(w->cold);
    skv_chain_free(w->chain);
    skv_profiler_free(w->profiler);
    for (l = 0; l < w->n_layers; l++) {
        free(w->k[l]);
        free(w->v[l]);
    }
    free(w->q);
    free(w->mix);
}

static skv_cold *coder_of(const world *w, double bpe)
{
    skv_cold_desc d = SKV_ZERO;
    skv_cold *c = NULL;
    d.profile = w->cold;
    d.bpe = (float)bpe;
    CHECK(skv_cold_init(&c, &d) == SKV_OK);
    return c;
}

#endif
