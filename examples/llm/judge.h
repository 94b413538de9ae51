/* judge.h: teacher-forced comparison of compressed caches with the exact one on a text. */
#ifndef LLM_JUDGE_H
#define LLM_JUDGE_H
#include "modes.h"

typedef struct llm_verdict {
    llm_mode mode;
    int      tokens;                /* of the text, all of them through the cache */
    double   bpe;                   /* all bytes of the cache / elements; exact counts as f16: 16 */
    double   bpe_pages, ratio;      /* pages alone; 16 / bpe */
    double   kl_mean, kl_p99, top1; /* over positions start .. tokens-1, against the exact cache */
    double   ppl_exact, ppl;        /* of the next token, start .. tokens-2 */
    double   seconds;               /* all forward passes of this mode */
    skv_usage usage;                /* of the modes with an skv_cache, else zero */
} llm_verdict;

/* Runs ids[0..n) in chunks: first the sinks, then at most LLM_CHUNK each, through append and attend
 * of every mode side by side with the exact cache. */
int llm_judge(llm_verdict *out, const llm_mode *modes, int n_modes, const llm_model *m,
              const llm_mode_env *env, const int *ids, int n, int start, char *err);
#endif
