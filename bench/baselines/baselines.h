/* baselines.h: codecs of others that are no part of spectral_kv.h, as llm_codecs for the judge. */
#ifndef BASELINES_H
#define BASELINES_H
#include "kv_coded.h"

/* kvarn:BK:BV, svdq:SCHEDULE:v and eigen:R:post are variants, see the .c files; kqsvd, eigen, think
 * and spectralquant need Grams, from `skv-llm grams`.
 *
 * Every word that baseline_open knows, for messages; a mode whose word (up to a colon) is not in
 * this list is refused before the model is loaded. Keep it in step with baseline_open. */
#define BASELINE_WORDS \
    "kqsvd:R, svdq:SCHEDULE, spectralquant:B, eigen:R, think:F, kivi:B, kvarn:B, q8_0, q4_0, q4_0h"

struct baseline_grams;              /* second moments of a calibration run, read from a file */

typedef struct baseline_env {
    const llm_config *c;
    const struct baseline_grams *grams;     /* or NULL */
} baseline_env;

/* name is the whole mode word, such as "kivi:2". 0; 1 = not one of these; -1 = an error, with a
 * sentence in err (GGUF_ERR_BYTES). */
int  baseline_open(llm_codec *out, const char *name, const baseline_env *env, char *err);

/* 0, or -1 with a sentence in err (GGUF_ERR_BYTES). */
int  baseline_grams_load(struct baseline_grams **out, const char *path, const llm_config *c,
                         char *err);
void baseline_grams_free(struct baseline_grams *g);
#endif
