/* modes.h: the words of --kv, and the cache that each stands for.
 *
 * Own words are in modes.c's table, codecs of the header in codecs_classic.c, rivals in
 * bench/baselines. The last two run through llm_kv_coded: exact floats that have been through the
 * codec and back, every stored bit counted.
 */
#ifndef LLM_MODES_H
#define LLM_MODES_H
#include "kv.h"
#include "kv_coded.h"
#include "spectral_kv.h"

struct baseline_grams;

typedef struct llm_mode {
    char       name[48];
    int        kind;                /* row of the table in modes.c, -1: a codec's word */
    int        profile;             /* reads the profile */
    skv_target target;              /* of the words that take BPE */
} llm_mode;

/* What lanes are opened with; what no mode needs may be NULL. Must outlive the lanes. */
typedef struct llm_mode_env {
    const llm_config *c;
    const skv_profile *profile;
    const struct baseline_grams *grams;
    const skv_cold_profile *cold;
    int cuda;                       /* fast, small and spectral on a GPU */
} llm_mode_env;

/* One sequence under one mode; exactly one of the caches is there. */
typedef struct llm_lane {
    llm_kv kv;
    llm_kv_exact *exact;
    llm_kv_coded *coded;
    skv_cache *cache;
    struct llm_kv_cuda *cuda;
} llm_lane;

typedef struct llm_lane_stats {
    double bpe, bpe_pages;          /* of all tokens, of the compressed ones; exact counts as 16 */
    size_t bytes;                   /* in f16 where the cache is exact */
    skv_usage usage;                /* zero unless there is an skv_cache */
} llm_lane_stats;

/* 0, or -1 with a sentence in err (GGUF_ERR_BYTES). word is not zero terminated. */
int  llm_mode_parse(llm_mode *m, const char *word, size_t n, char *err);

/* 0, or -1 with a sentence in err. The lane may be freed in both cases. */
int  llm_lane_open(llm_lane *lane, const llm_mode *mode, const llm_mode_env *env, int max_tokens,
                   char *err);
void llm_lane_free(llm_lane *lane);
void llm_lane_measure(const llm_lane *lane, llm_lane_stats *s);
const char *llm_lane_error(const llm_lane *lane, int code);     /* of llm_forward; a sentence */
#endif
