/* kv.h: caches that fit the model's llm_kv.
 *
 * The exact cache is the reference: K and V as float32, attention in float32 with a running
 * softmax, causal inside a chunk, sliding windows and the soft cap honoured. It keeps every token
 * of every layer, those that have left a sliding window included.
 */
#ifndef LLM_KV_H
#define LLM_KV_H
#include "model.h"

/* What compressed caches of the engine keep exact: first tokens, and recent ones */
enum { LLM_SINKS = 4, LLM_WINDOW = 64 };

enum { LLM_KV_OK = 0, LLM_KV_FULL = -2, LLM_KV_BAD_CALL = -3 };     /* codes of append and attend */

typedef struct llm_kv_exact llm_kv_exact;

/* Room for max_tokens tokens of every layer. 0, or -1 with a sentence in err (GGUF_ERR_BYTES). */
int    llm_kv_exact_new(llm_kv_exact **out, const llm_config *c, int max_tokens, char *err);
void   llm_kv_exact_free(llm_kv_exact *kv);
llm_kv llm_kv_exact_ops(llm_kv_exact *kv);

int    llm_kv_exact_tokens(const llm_kv_exact *kv);     /* held by every layer */
void   llm_kv_exact_truncate(llm_kv_exact *kv, int tokens);     /* forgets all but the first ones */
/* Rows [n][n_kv_heads][head_dim] of K (kind 0) or V (1) of a layer's tokens first .. first+n-1, all
 * of them held: out of the cache, and back into it. */
void   llm_kv_exact_get(const llm_kv_exact *kv, int layer, int kind, int first, int n, float *rows);
void   llm_kv_exact_put(llm_kv_exact *kv, int layer, int kind, int first, int n,
                        const float *rows);
/* Bytes of the tokens held: as they are (float32), and as the usual float16 would take. */
size_t llm_kv_exact_bytes(const llm_kv_exact *kv);
size_t llm_kv_exact_bytes_f16(const llm_kv_exact *kv);

/* A cache with the seconds counted that append and attend take; must outlive its ops. */
typedef struct llm_kv_timed {
    llm_kv kv;
    double seconds;
} llm_kv_timed;

llm_kv llm_kv_timed_ops(llm_kv_timed *t);
#endif
