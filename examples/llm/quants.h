/* quants.h: expands ggml's quantised blocks, and multiplies by matrices that stay quantised. */
#ifndef LLM_QUANTS_H
#define LLM_QUANTS_H
#include "gguf.h"

#define QUANT_MAX_TOKENS 64         /* most rows of X in one product */

/* Elements and bytes of one block; 0 for a type that quant_expand does not know. */
size_t quant_block_len(int type);
size_t quant_block_bytes(int type);

/* Expands n elements, n a multiple of the block length, to float32. Every product is exact in
 * float32, so a value is rounded once, where a minimum is added: the bits are ggml's. */
void quant_expand(gguf_dtype type, const void *blocks, size_t n, float *out);

/* X of a product: x is [n][cols], n <= QUANT_MAX_TOKENS. quant_pack rearranges it for the inner
 * loops into room (quant_pack_floats(n, cols) floats); x and room must outlive the products. */
typedef struct quant_input {
    const float *x, *packed;
    int          n;
    size_t       cols;
} quant_input;
size_t quant_pack_floats(int n, size_t cols);
void   quant_pack(quant_input *in, const float *x, int n, size_t cols, float *room);

/* One product y[n][rows] = X[n][cols] W^T (+ bias[rows] unless NULL). W is [ne[1]][ne[0]] with
 * ne[0] == cols, in rows of row_bytes. */
typedef struct quant_job {
    const gguf_tensor *w;
    const float       *bias;
    float             *y;
} quant_job;

/* All products of one X, shared out over the threads together. What comes out does not depend on
 * the number of threads, nor, with more than three tokens, on which tokens share the chunk. */
void quant_matmul(const quant_job *jobs, int n_jobs, const quant_input *in);
#endif
