/* kv_cuda.h: the compressed cache on a GPU as an llm_kv: pages are made and attended there, the
 * rest of the model stays on the CPU. Only in an engine built by `make CUDA=1`.
 */
#ifndef LLM_KV_CUDA_H
#define LLM_KV_CUDA_H
#include "kv.h"
#include "spectral_kv.h"

typedef struct llm_kv_cuda llm_kv_cuda;

/* As llm_kv_spectral_new, with the same plan; all memory for max_tokens is taken at once, on device
 * 0. 0, or -1 with a sentence in err (GGUF_ERR_BYTES). */
int    llm_kv_cuda_new(llm_kv_cuda **out, const skv_profile *profile, const skv_model *model,
                       const skv_target *target, int max_tokens, char *err);
void   llm_kv_cuda_free(llm_kv_cuda *kv);
llm_kv llm_kv_cuda_ops(llm_kv_cuda *kv);            /* codes are skv_results, negative */
void   llm_kv_cuda_usage(const llm_kv_cuda *kv, skv_usage *u);  /* bytes: all device memory */
#endif
