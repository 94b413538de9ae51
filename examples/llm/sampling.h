/* sampling.h: from a row of logits to a token, and figures about rows of logits. */
#ifndef LLM_SAMPLING_H
#define LLM_SAMPLING_H
#include <stddef.h>
#include <stdint.h>

/* All of these pass over NaN logits as if they were absent, and add up in double. */
int    llm_argmax(const float *logits, int n);      /* first of the largest; -1: there is none */
double llm_logsumexp(const float *logits, int n);   /* -HUGE_VAL when no logit is left */
double llm_log_prob(const float *logits, int n, int id);

/* KL(p || q) in nats of the distributions behind two rows; a NaN in either row gives NaN. Rounding
 * may leave a value slightly below 0; it is given as 0. */
double llm_kl(const float *p, const float *q, int n);

typedef struct llm_sampler llm_sampler;

/* temperature 0: the largest logit, always. Else draws from softmax(logits / temperature), cut to
 * the top_k likeliest tokens (0: all) and of those to the fewest that hold top_p of the probability
 * (1: all). The same seed and logits give the same tokens. 0, or -1 with a sentence in err
 * (GGUF_ERR_BYTES). */
int  llm_sampler_new(llm_sampler **out, int n_vocab, double temperature, int top_k, double top_p,
                     uint64_t seed, char *err);
void llm_sampler_free(llm_sampler *s);
int  llm_sample(llm_sampler *s, const float *logits);   /* -1: no logit is a number */
#endif
