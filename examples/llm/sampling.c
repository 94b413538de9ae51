/* sampling.c: see sampling.h. */
#include "sampling.h"
#include "gguf.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct llm_sampler {
    int      n, top_k;
    double   temperature, top_p;
    uint64_t state;
    int     *heap;                  /* tokens, likeliest on top */
    double  *picked;                /* probability of the tokens taken off the heap, in order */
};

int llm_argmax(const float *logits, int n)
{
    int i, best = -1;
    for (i = 0; i < n; i++)
        if (!isnan(logits[i]) && (best < 0 || logits[i] > logits[best])) best = i;
    return best;
}

double llm_logsumexp(const float *logits, int n)
{
    int i, best = llm_argmax(logits, n);
    double sum = 0.0, top;
    if (best < 0) return -HUGE_VAL;
    top = logits[best];
    if (isinf(top)) return top;
    for (i = 0; i < n; i++)
        if (!isnan(logits[i])) sum += exp(logits[i] - top);
    return top + log(sum);
}

double llm_log_prob(const float *logits, int n, int id)
{
    return (double)logits[id] - llm_logsumexp(logits, n);
}

double llm_kl(const float *p, const float *q, int n)
{
    double lp = llm_logsumexp(p, n), lq = llm_logsumexp(q, n), sum = 0.0;
    int i;
    for (i = 0; i < n; i++) {
        double a = p[i] - lp, b = q[i] - lq;
        if (isnan(a) || isnan(b)) return a + b;
        if (a > -HUGE_VAL) sum += exp(a) * (a - b);
    }
    return sum < 0.0 ? 0.0 : sum;
}

/* ---- sampler ---- */

int llm_sampler_new(llm_sampler **out, int n_vocab, double temperature, int top_k, double top_p,
                    uint64_t seed, char *err)
{
    llm_sampler *s;
    if (n_vocab < 1 || !(temperature >= 0.0 && temperature <= 100.0) || top_k < 0 ||
        !(top_p > 0.0 && top_p <= 1.0)) {
        strcpy(err, "Sampling needs a temperature of 0 to 100, top_k >= 0 and top_p in (0, 1].");
        return -1;
    }
    s = calloc(1, sizeof *s);
    if (s) {
        s->heap = calloc((size_t)n_vocab, sizeof *s->heap);
        s->picked = calloc((size_t)n_vocab, sizeof *s->picked);
    }
    if (!s || !s->heap || !s->picked) {
        llm_sampler_free(s);
        strcpy(err, "No memory for the sampler.");
        return -1;
    }
    s->n = n_vocab;
    s->temperature = temperature;
    s->top_k = top_k;
    s->top_p = top_p;
    s->state = seed;
    *out = s;
    return 0;
}

void llm_sampler_free(llm_sampler *s)
{
    if (!s) return;
    free(s->heap);
    free(s->picked);
    free(s);
}

static double uniform(llm_sampler *s)           /* [0, 1), splitmix64 */
{
    uint64_t z = (s->state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

/* Larger logit first; equal ones by index, so that the order is always the same */
static int before(const float *logits, int a, int b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static void sift_down(const float *logits, int *heap, int n, int at)
{
    int moved = heap[at];
    for (;;) {
        int child = 2 * at + 1;
        if (child >= n) break;
        if (child + 1 < n && before(logits, heap[child + 1], heap[child])) child++;
        if (!before(logits, heap[child], moved)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

/* Takes tokens off the heap, likeliest first, until top_k or top_p is reached. Those taken end up
 * at the heap's back, in reverse. Returns how many. O(vocabulary + taken log vocabulary). */
static int take_likeliest(llm_sampler *s, const float *logits, int held, double total)
{
    int i, left = held, taken = 0, most = s->top_k && s->top_k < held ? s->top_k : held;
    double top, sum = 0.0, wanted;
    for (i = held / 2 - 1; i >= 0; i--) sift_down(logits, s->heap, held, i);
    top = logits[s->heap[0]];
    wanted = s->top_p * total;
    while (taken < most) {
        int id = s->heap[0];
        double p = exp((logits[id] - top) / s->temperature);
        s->picked[taken++] = p;
        s->heap[0] = s->heap[--left];
        s->heap[left] = id;
        if (left) sift_down(logits, s->heap, left, 0);
        sum += p;
        if (!s->top_k && s->top_p < 1.0 && sum >= wanted) return taken;
    }
    if (!s->top_k || s->top_p == 1.0) return taken;
    wanted = s->top_p * sum;        /* top_p counts within the top_k */
    for (i = 0, sum = 0.0; i < taken && sum < wanted; i++) sum += s->picked[i];
    return i;
}

int llm_sample(llm_sampler *s, const float *logits)
{
    int i, held = 0, taken, best = llm_argmax(logits, s->n);
    double total = 0.0, sum = 0.0, at;
    if (best < 0 || s->temperature == 0.0 || isinf(logits[best])) return best;
    for (i = 0; i < s->n; i++) {
        if (isnan(logits[i])) continue;
        s->heap[held++] = i;
        if (!s->top_k) total += exp((logits[i] - (double)logits[best]) / s->temperature);
    }
    if (!s->top_k && s->top_p == 1.0) {         /* no need to sort */
        at = uniform(s) * total;
        for (i = 0; i < held; i++) {
            at -= exp((logits[s->heap[i]] - (double)logits[best]) / s->temperature);
            if (at < 0.0) return s->heap[i];
        }
        return best;
    }
    taken = take_likeliest(s, logits, held, total);
    for (i = 0; i < taken; i++) sum += s->picked[i];
    at = uniform(s) * sum;
    for (i = 0; i < taken; i++)
        if ((at -= s->picked[i]) < 0.0) return s->heap[held - 1 - i];
    return best;
}
