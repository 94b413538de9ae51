/* compare.h: how long a token takes with each of several caches that hold the same prompt. */
#ifndef LLM_COMPARE_H
#define LLM_COMPARE_H
#include "modes.h"

typedef struct llm_pace {
    llm_mode mode;
    double   step, least;           /* seconds of a token: median and least */
    double   cache;                 /* of them in append and attend, median of the share */
    double   ratio;                 /* median of exact's step over this one, taken in turn */
    double   encode;                /* seconds spent in append for the prompt */
    int      agree;                 /* tokens whose likeliest successor is the exact cache's */
    llm_lane_stats stats;
} llm_pace;

/* The first n - steps of ids are the prompt: one forward pass with the exact cache, and every mode
 * appends the same K and V. Then the caches take turns with each of the other tokens. out[0] is the
 * exact cache, out[1 + i] mode i. *prompt: seconds of the pass without the modes' appends. 0, or -1
 * with a sentence in err. */
int llm_compare(llm_pace *out, const llm_mode *modes, int n_modes, const llm_model *m,
                const llm_mode_env *env, const int *ids, int n, int steps, double *prompt,
                char *err);
#endif
