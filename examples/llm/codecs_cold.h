/* codecs_cold.h: cold pages of spectral_kv.h as an llm_codec. */
#ifndef LLM_CODECS_COLD_H
#define LLM_CODECS_COLD_H
#include "kv_coded.h"
#include "spectral_kv.h"

#define COLD_WORDS "cold:BPE"

/* The word cold:BPE, bits per element to aim at. p is borrowed; NULL is refused with a sentence.
 * 0; 1 = another word; -1 = an error, with a sentence in err (GGUF_ERR_BYTES). */
int llm_cold_open(llm_codec *out, const char *name, const llm_config *c, const skv_cold_profile *p,
                  char *err);
#endif
