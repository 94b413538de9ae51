/* codecs_classic.h: the published codecs of spectral_kv.h (>>classic) as llm_codecs. */
#ifndef LLM_CODECS_CLASSIC_H
#define LLM_CODECS_CLASSIC_H
#include "baselines.h"

/* B: bits 1 to 8 per coordinate; R: rank. :v compresses the values too. */
#define CLASSIC_WORDS "turbo:B, turboqjl:B, residual:B, jarvis:R:B, jarvis:R:B:v"

/* As baseline_open. */
int llm_classic_open(llm_codec *out, const char *name, const baseline_env *env, char *err);
#endif
