/* model.h: forward pass of the llama, qwen2, qwen3 and gemma3 families in float32 activations.
 *
 * Weights stay quantised as they are in the file and are expanded row by row; everything else is
 * float32. Attention is not done here: the model hands q, k and v to an llm_kv, which is the exact
 * cache or the compressed one. That is the seam that spectral_kv.h is made for.
 */
#ifndef LLM_MODEL_H
#define LLM_MODEL_H
#include "gguf.h"

typedef struct llm_config {
    char  arch[16];                 /* "llama", "qwen2", "qwen3", "gemma3" */
    char  name[64];                 /* general.name, or the architecture */
    int   n_layers, n_embd, n_ff, n_vocab, n_ctx;
    int   n_q_heads, n_kv_heads, head_dim;
    float attn_scale;               /* what q.k is multiplied with before softmax */
    float norm_eps, rope_base, rope_base_local;
    float final_softcap, attn_softcap;  /* 0 = none */
    int   sliding_window;           /* 0 = none */
    int   sliding_pattern;          /* gemma3: layer l is global when (l + 1) % pattern == 0 */
} llm_config;

typedef struct llm_model llm_model;

/* One cache as the model sees it. Rows are dense float32: k, v are [n][n_kv_heads][head_dim], q and
 * o [n][n_q_heads][head_dim], all after RoPE and norms. The n queries of attend belong to the n
 * tokens appended last. Both return 0, or a negative number that llm_forward passes through. */
typedef struct llm_kv {
    void *self;
    int (*append)(void *self, int layer, const float *k, const float *v, int n);
    int (*attend)(void *self, int layer, const float *q, int n, float *o);
} llm_kv;

/* Watches a forward pass (any member may be NULL). attention sees what goes into attend;
 * residual sees the residual stream after each layer, [n][n_embd]. */
typedef struct llm_probe {
    void *self;
    void (*attention)(void *self, int layer, const float *q, const float *k, const float *v, int n);
    void (*residual)(void *self, int layer, const float *x, int n);
} llm_probe;

/* 0, or -1 with a sentence in err (GGUF_ERR_BYTES). The gguf must outlive the model. */
int  llm_model_open(llm_model **out, const gguf *g, char *err);
void llm_model_close(llm_model *m);
const llm_config *llm_model_config(const llm_model *m);
int  llm_layer_window(const llm_config *c, int layer);   /* sliding window of a layer, 0 = global */

/* Output projection of a layer as float32 [n_embd][n_q_heads * head_dim] into out; and the gain of
 * the norm that follows attention (gemma3), [n_embd], or 0 when the family has none. */
void llm_model_output_projection(const llm_model *m, int layer, float *out);
int  llm_model_post_attention_norm(const llm_model *m, int layer, float *gain);

/* RoPE of a layer: radians per position into freqs [head_dim / 2]; returns whether the pairs are
 * elements (2i, 2i + 1), else (i, i + head_dim / 2). */
int  llm_model_rope(const llm_model *m, int layer, float *freqs);

#define LLM_CHUNK 64                /* most tokens that one call of llm_forward takes */
typedef struct llm_run llm_run;     /* activations of one sequence; allocated once */
int  llm_run_new(llm_run **out, const llm_model *m, char *err);
void llm_run_free(llm_run *r);

/* Runs n <= LLM_CHUNK tokens at positions pos .. pos+n-1. logits: NULL, or [n_logits][n_vocab] for
 * the last n_logits tokens. Returns 0; -1 for a bad token or count; or the llm_kv's own code. */
int  llm_forward(const llm_model *m, llm_run *r, const int *tokens, int n, int pos, llm_kv *kv,
                 const llm_probe *probe, float *logits, int n_logits);

/* The layers first .. of such a pass, first >= 1: x [n][n_embd] is the residual stream that layer
 * first - 1 left (llm_probe). Gives the same bits as llm_forward with the same n and pos when the
 * llm_kv holds the same tokens in those layers. */
int  llm_forward_from(const llm_model *m, llm_run *r, int first, const float *x, int n, int pos,
                      llm_kv *kv, const llm_probe *probe, float *logits, int n_logits);
#endif
