/* kv_coded.h: a cache whose old tokens have been through a lossy codec and back. It keeps floats,
 * so it saves nothing; it shows what a codec does to the model, under the same rules as skv_cache:
 * the first LLM_SINKS tokens and the LLM_WINDOW newest stay exact, and a page of LLM_PAGE tokens is
 * coded, before an append, once window + page tokens have gathered behind the sinks.
 */
#ifndef LLM_KV_CODED_H
#define LLM_KV_CODED_H
#include "kv.h"

#define LLM_PAGE 64                 /* tokens that are coded together */

typedef struct llm_codec {
    void *self;
    int   prompt;                   /* the first call comes with at least so many tokens; or 0 */
    /* K (kind 0) or V (1) of n tokens of a layer, positions first .. first+n-1, after RoPE:
     * rows [n][n_kv_heads][head_dim] become what a decoder gives back. n is LLM_PAGE, or a multiple
     * in a first call with prompt. Adds the bits that are stored, every one, to *bits. Returns 0,
     * or a negative code. Per layer the calls come in order, K before V; layers in any order. */
    int (*code)(void *self, int layer, int kind, int first, int n, float *rows, double *bits);
    void (*free)(void *self);
} llm_codec;

typedef struct llm_kv_coded llm_kv_coded;

/* Takes the codec over, also on failure. 0, or -1 with a sentence in err (GGUF_ERR_BYTES). */
int    llm_kv_coded_new(llm_kv_coded **out, const llm_config *c, int max_tokens, llm_codec codec,
                        char *err);
void   llm_kv_coded_free(llm_kv_coded *kv);
void   llm_kv_coded_reset(llm_kv_coded *kv);        /* forgets all tokens; the codec stays */
llm_kv llm_kv_coded_ops(llm_kv_coded *kv);

/* Bits of the coded tokens per element of theirs (0 when none is coded), and over all tokens held
 * with the exact ones at 16 bits an element. */
double llm_kv_coded_bpe_pages(const llm_kv_coded *kv);
double llm_kv_coded_bpe(const llm_kv_coded *kv);
size_t llm_kv_coded_bytes(const llm_kv_coded *kv);  /* of the latter, all tokens */
#endif
