/* model_internal.h: what model_load.c fills in and model.c reads. */
#ifndef LLM_MODEL_INTERNAL_H
#define LLM_MODEL_INTERNAL_H
#include "model.h"

#define LLM_MAX_HEAD 512            /* largest head_dim; attention keeps tiles of it on the stack */

enum { LLM_LLAMA = 1, LLM_QWEN2 = 2, LLM_QWEN3 = 4, LLM_GEMMA3 = 8 };      /* families, as bits */

/* matrices and vectors of a layer */
enum { MAT_Q, MAT_K, MAT_V, MAT_O, MAT_GATE, MAT_UP, MAT_DOWN, N_MATS };
enum {
    VEC_ATTN_NORM, VEC_FFN_NORM, VEC_Q_BIAS, VEC_K_BIAS, VEC_V_BIAS, VEC_Q_NORM, VEC_K_NORM,
    VEC_POST_ATTN_NORM, VEC_POST_FFN_NORM, N_VECS
};

typedef struct llm_layer {
    const gguf_tensor *mat[N_MATS];
    float *vec[N_VECS];             /* NULL where the family has none */
} llm_layer;

struct llm_model {
    llm_config c;
    unsigned family;
    float embed_scale;
    const gguf_tensor *embed, *output;      /* the same one when tied */
    float *output_norm;
    double *freqs, *freqs_local;    /* RoPE angle per position, [head_dim / 2]; sliding layers */
    llm_layer *layers;
};
#endif
