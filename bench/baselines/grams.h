/* grams.h: second moments of queries, keys and values over calibration texts, for the baselines
 * that are fitted ahead (KQ-SVD, Eigen Attention, ThinK, SpectralQuant). Plain averages over
 * tokens; the first LLM_SINKS tokens of a passage, which no codec sees, are left out.
 */
#ifndef BASELINES_GRAMS_H
#define BASELINES_GRAMS_H
#include "model.h"
#include "tokenizer.h"

/* Which rows x the averages of x and x x^T are over. Queries: those of all heads of a KV head's
 * group, summed over heads (KQ-SVD's stacking). PRE: RoPE taken off. UNIT: divided by their norms.
 * WO: sum over the group's heads of W^T W, W = the head's columns of the output projection; no
 * mean. */
enum { GRAM_K, GRAM_K_PRE, GRAM_K_UNIT, GRAM_Q, GRAM_Q_PRE, GRAM_V, GRAM_V_UNIT, GRAM_WO,
       GRAM_KINDS };

typedef struct baseline_grams {
    int    n_layers, n_q_heads, n_kv_heads, head_dim;
    double n_tokens;
    float *mean;                    /* [n_layers][n_kv_heads][GRAM_KINDS][d] */
    float *gram;                    /* the same with [d][d] */
} baseline_grams;

const float *baseline_gram(const baseline_grams *g, int layer, int head, int kind);
const float *baseline_mean(const baseline_grams *g, int layer, int head, int kind);

/* Runs the texts, at most `tokens` of each, through the model with the exact cache and writes the
 * file. 0, or -1 with a sentence in err (GGUF_ERR_BYTES). */
int baseline_grams_make(const char *path, const llm_model *m, const llm_tokenizer *t,
                        char *const *texts, int n_texts, int tokens, char *err);

/* The parts of it, for tests: sums of n tokens of a layer from position `first`, then averages. */
typedef struct baseline_sums {
    const llm_config *c;
    double *mean, *gram;            /* as in baseline_grams */
    double *n;                      /* [n_layers] tokens */
    float  *room;                   /* [3][LLM_CHUNK][widest heads][d] */
} baseline_sums;
int  baseline_sums_new(baseline_sums *s, const llm_config *c);      /* 0, or -1: out of memory */
void baseline_sums_free(baseline_sums *s);
void baseline_sums_add(baseline_sums *s, int layer, int first, const float *q, const float *k,
                       const float *v, int n);
int  baseline_grams_save(const baseline_sums *s, const char *path, char *err);
#endif
