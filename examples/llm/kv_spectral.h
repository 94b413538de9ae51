/* kv_spectral.h: the compressed cache of spectral_kv.h as an llm_kv. What an engine of your own
 * would have to write is about this much. */
#ifndef LLM_KV_SPECTRAL_H
#define LLM_KV_SPECTRAL_H
#include "kv.h"
#include "spectral_kv.h"

/* The model's shape as the library wants it; layers is room for [n_layers]. */
skv_model llm_skv_model(const llm_config *c, uint64_t fingerprint, skv_layer *layers);

/* Hash of the weights (a sample of every tensor) and the architecture. */
uint64_t llm_fingerprint(const gguf *g, const llm_config *c);

/* Loads a profile made for this model. 0, or -1 with a sentence in err (GGUF_ERR_BYTES). */
int llm_profile_load(skv_profile **out, const char *path, const gguf *g, const llm_config *c,
                     size_t *file_bytes, char *err);

/* The same for the profile of cold pages. */
int llm_cold_profile_load(skv_cold_profile **out, const char *path, const gguf *g,
                          const llm_config *c, char *err);

/* A cache; profile NULL keeps every token exact in f16. The profile must outlive it. */
int llm_kv_spectral_new(skv_cache **out, const skv_profile *profile, const skv_model *model,
                        const skv_target *target, int max_tokens, char *err);
llm_kv llm_kv_spectral_ops(skv_cache *cache);       /* codes are skv_results, negative */
#endif
