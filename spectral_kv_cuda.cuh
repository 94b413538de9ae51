/* spectral_kv_cuda.cuh - v0.2.0 - the CUDA companion of spectral_kv.h, in one file.
   MIT-0 or public domain, at your choice; the text is at the end of this file.

   Do this in ONE .cu file of your project:

       #define SPECTRAL_KV_CUDA_IMPLEMENTATION
       #include "spectral_kv_cuda.cuh"

   and include it without the define wherever else you need it, in C, C++ or CUDA; or define
   SPECTRAL_KV_CUDA before spectral_kv.h, which then includes it, and whose
   SPECTRAL_KV_IMPLEMENTATION in a .cu file brings the kernels too. Declarations need no CUDA
   header; the implementation needs nvcc (CUDA 12 or 13) and nothing else.

   WHAT IT DOES
     The pages of skv_encode and skv_cache (format 3) on a GPU: their bytes are the same on both
     sides, so pages made on one are read on the other.
     - skv_cuda_attend is skv_attend for a batch of sequences with paged tables as vLLM or
       FlashInfer keep them, exact sinks and recent tokens in the same call. It takes whatever the
       CPU takes: head_dim 16 to 576, joint head groups, GQA, RoPE means, outlier rows, soft cap,
       sliding windows, f32, f16 and bf16; as long as 8 rows of a joint head group's channels fit
       into the device's shared memory (about 1,300 channels on sm_75, 6,500 on sm_90): else
       SKV_ERR_DEVICE. Up to 3 query rows of a head group meet codes by dp4a, more on tensor cores,
       prompts 32 rows at a time. Exact tokens meet rows of one KV head on tensor cores too from
       sm_80 on (tf32 numbers, two or three products for one of floats), else in float sums.
     - skv_cuda_encode makes many pages at once out of rows that lie anywhere (a ring, a paged f16
       cache), skv_cuda_decode gives rows back.
     - skv_cuda_cold_decode gives rows of cold pages, layer after layer, as skv_cold_decode does.
     - skv_cuda_profile makes the sums that skv_profiler_add makes, for calibration.

   HOW TO USE IT, PER LAYER
     1. skv_codec_tables or skv_cache_tables on the host; copy the block to the device once.
     2. Pages into slots of a pool in device memory, slot numbers into a table there: by
        skv_cuda_encode, or from the CPU (skv_encode, skv_cache_page). They hold no pointers, so
        they move as they are: skv_cuda_copy_pages, to pools in host memory and back.
     3. skv_cuda_attend_work bytes of device memory, for as long as the launches run.
     4. skv_cuda_attend on a stream.
     Calls launch one to five kernels, allocate nothing and wait for nothing, so a graph may capture
     them. A refused launch is SKV_ERR_DEVICE.

   WHAT AGREES WITH THE CPU
     Products of queries and weights with codes are integers, the same as skv_attend's for equal
     numbers. Floats are summed in another order, but one that is fixed: the same call gives the
     same bits, on one architecture. Results are as far from exact attention over the decoded rows
     as skv_attend's are (tests/test_cuda_attend.cpp).
     The encoder searches in integers, like the CPU's, so equal latents get equal bytes. Latents are
     float sums in the order of the portable C code; a device may fuse products with additions and
     has a sine of its own, which can change a page as another instruction set does: other bytes
     here and there, the same error (tests/test_cuda_pages.cpp).

   HOW IT IS CHECKED
     `make test` compiles the kernels with nvcc for sm_75, 80, 86, 89, 90, 100 and 120, and runs
     them on the CPU under an emulation that permutes the order of threads (tests/cuda_emulation).
     They have not been run on a real device yet, so nothing is said of their speed.

   OUTLINE (search for the tag)
     In the API             >>pages  >>attend  >>encode  >>cold  >>calibrate
     In the implementation  >>device  >>expand  >>product  >>query  >>attention  >>merge  >>rows
                            >>choose  >>search  >>finish  >>dense  >>cold  >>calibrate
                            >>launch
*/
#ifndef SPECTRAL_KV_CUDA_H
#define SPECTRAL_KV_CUDA_H

#include "spectral_kv.h"

#define SKV_CUDA_VERSION_MAJOR 0
#define SKV_CUDA_VERSION_MINOR 2
#define SKV_CUDA_VERSION_PATCH 0

#if SKV_CUDA_VERSION_MAJOR != SKV_VERSION_MAJOR || SKV_CUDA_VERSION_MINOR != SKV_VERSION_MINOR
#error "spectral_kv_cuda.cuh and spectral_kv.h differ in version: take both from one release"
#endif

#define SKV_CUDA_AVAILABLE 1    /* this version has kernels */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *skv_cuda_stream;    /* a cudaStream_t */

/* >>pages -------------------------------------------------------------------------------------
   A pool of pages of one layer in device memory: slots of page_bytes each, a multiple of 16, the
   pool itself at a multiple of 16. A page needs skv_table.least to .most bytes; in slots with less
   skv_cuda_encode leaves out outlier rows. Page i of sequence s lies in slot
       slots[first[s] + i], i < first[s + 1] - first[s]     where first is given (FlashInfer's
                                                            indptr and indices), else
       slots[s * stride + i], i < count[s]                  (vLLM's block table)
   Its tokens are those from position sinks + 64 i on. All pointers are device memory. */
typedef struct skv_cuda_pages {
    void          *pool;
    size_t         page_bytes;
    const int32_t *slots, *first, *count;
    size_t         stride;
} skv_cuda_pages;

/* >>attend ------------------------------------------------------------------------------------
   Attention of the newest n_queries tokens of every sequence over its sinks, its pages and its
   recent tokens, causal, with the layer's scale, soft cap and sliding window: skv_attend for a
   batch. Positions: [0, sinks) sinks, 64 a page, the rest recent. Exact keys and values, rows of
   sequence s: sinks first, then a ring,
       position p lies in row s (sinks + ring) + (p < sinks ? p : sinks + (p - sinks) % ring).
   What cannot be attended (more pages than max_pages, more recent tokens than the ring, fewer
   tokens than queries, a page that is not whole) gives NaN for that sequence, and only there.
   Queries meet codes in 8 bits, as on the CPU, in 14 where codes are wide or `precise` is set. All
   pointers but host are device memory. Results do not depend on the other sequences, but on
   `split`, and in their last bits on whether a head group's rows are enough for tensor cores. */
typedef struct skv_cuda_attend_desc {
    const skv_table *host;          /* the layer's tables (skv_codec_tables, skv_cache_tables) */
    const void      *tables;        /* the same bytes in device memory, at a multiple of 16 */
    uint32_t         n_seqs, n_queries;
    skv_span         q;             /* [n_seqs * n_queries][n_q_heads][head_dim] */
    skv_out          out;           /* [n_seqs * n_queries][n_q_heads][head_dim_v] */
    float           *lse;           /* [n_seqs * n_queries][n_q_heads], or NULL */
    const int32_t   *tokens;        /* [n_seqs] positions so far, the queries' own included */
    const int32_t   *first_query;   /* NULL, or [n_seqs + 1]: the queries of sequence s are tokens
                                       first_query[s] to first_query[s + 1] - 1 of q, out and lse,
                                       n_queries at most (FlashInfer's qo_indptr) */
    skv_cuda_pages   pages;
    uint32_t         max_pages;     /* of a sequence */
    skv_span         k, v;          /* [n_seqs * (sinks + ring)][n_kv_heads][head_dim, _v] */
    uint32_t         sinks, ring;
    uint32_t         split;         /* pages or blocks of 64 exact tokens of a block; 0 = 16 */
    uint32_t         precise;       /* 1: 14 bits everywhere */
    void            *work;          /* at a multiple of 16 */
    size_t           work_bytes;    /* skv_cuda_attend_work at least */
} skv_cuda_attend_desc;

/* Reads host, n_seqs, n_queries, max_pages, sinks, ring and split. 0: they make no sense. */
SKVDEF size_t     skv_cuda_attend_work(const skv_cuda_attend_desc *desc);
SKVDEF skv_result skv_cuda_attend(const skv_cuda_attend_desc *desc, skv_cuda_stream stream);

/* >>encode ------------------------------------------------------------------------------------
   Pages of one layer from rows of K and V, and back: skv_encode and skv_decode for many pages. All
   pointers but host are device memory. Page p goes to (comes from) slots[p] of the pool; its token
   t < counts[p] (NULL: 64) is row rows[64 p + t] of k and v, as of a ring or of a paged cache.
   Outliers: credit[s][i] has the bytes that outlier rows of sub i of sequence s may still take.
   A page adds its allowance and takes off what it spends, as in a cache, so a sequence's pages
   come in their order, first[s] to first[s + 1] - 1. NULL: at most 8 rows a sub, as skv_encode. In
   slots of least + x (most - least) bytes a sub has at most 8 x rows in both cases.
   A page with a number that is not finite or beyond 1e9, or with no token, gets status
   SKV_ERR_NOT_FINITE, SKV_ERR_RANGE or SKV_ERR_ARG and page format 0: skv_decode refuses it,
   attention over it gives NaN. */
typedef struct skv_cuda_encode_desc {
    const skv_table *host;          /* the layer's tables (skv_codec_tables, skv_cache_tables) */
    const void      *tables;        /* the same bytes in device memory, at a multiple of 16 */
    uint32_t         n_pages;       /* at most 65535 */
    void            *pool;          /* see skv_cuda_pages */
    size_t           page_bytes;
    const int32_t   *slots, *rows;  /* [n_pages], [n_pages][64] */
    const uint32_t  *counts, *positions;    /* [n_pages], of their first tokens */
    skv_span         k, v;          /* [any][n_kv_heads][head_dim, _v] */
    int32_t         *status;        /* [n_pages] skv_result, or NULL */
    uint32_t         n_seqs;        /* at most 65535; these three only with credit */
    const int32_t   *first;         /* [n_seqs + 1] */
    uint32_t        *credit;        /* [n_seqs][2 n_groups], or NULL */
    void            *work;          /* at a multiple of 16 */
    size_t           work_bytes;    /* skv_cuda_encode_work at least */
} skv_cuda_encode_desc;

/* Reads host and n_pages. 0: they make no sense. Launches four kernels. */
SKVDEF size_t     skv_cuda_encode_work(const skv_cuda_encode_desc *desc);
SKVDEF skv_result skv_cuda_encode(const skv_cuda_encode_desc *desc, skv_cuda_stream stream);

/* Rows of tokens that a page does not have stay as they are; a page of another format gives NaN in
   rows of its first counts[p] tokens. One kernel. */
typedef struct skv_cuda_decode_desc {
    const skv_table *host;
    const void      *tables;
    uint32_t         n_pages;
    const void      *pool;
    size_t           page_bytes;
    const int32_t   *slots, *rows;
    const uint32_t  *counts;        /* NULL: 64 */
    skv_out          k, v;          /* [any][n_kv_heads][head_dim, _v]; data NULL: not wanted */
} skv_cuda_decode_desc;

SKVDEF skv_result skv_cuda_decode(const skv_cuda_decode_desc *desc, skv_cuda_stream stream);

/* >>cold --------------------------------------------------------------------------------------
   Cold pages (>>cold in spectral_kv.h) of one layer back to rows: skv_cold_decode for many pages,
   layer after layer from 0 on, with the same pages in the same places. All pointers but host are
   device memory. Page p is bytes at[p] to at[p + 1] - 1 of `pages`; rows of its first counts[p]
   tokens (NULL: 64) are written as skv_cuda_decode does. Keys are turned to positions[p] on; NULL:
   where they were. Integers come out as the CPU's; floats are summed in another order.
   status[p]: what skv_cold_decode would return, and NaN in the rows where that is an error; then
   the layers that follow have SKV_ERR_STATE. To attend them, skv_cuda_encode the rows. */
typedef struct skv_cuda_cold_desc {
    const skv_cold_table *host;     /* the layer's tables (skv_cold_tables) */
    const void      *tables;        /* the same bytes in device memory, at a multiple of 16 */
    uint32_t         n_pages;       /* at most 65535 */
    const void      *pages;         /* anywhere */
    const uint64_t  *at;            /* [n_pages + 1] */
    const uint32_t  *counts, *positions;    /* [n_pages] or NULL */
    const int32_t   *rows;          /* [n_pages][64] */
    skv_out          k, v;          /* [any][n_kv_heads][head_dim, _v]; data NULL: not wanted */
    int32_t         *status;        /* [n_pages] skv_result, or NULL */
    void            *held;          /* kept from layer to layer, at a multiple of 16 */
    size_t           held_bytes;    /* skv_cuda_cold_held at least: the same for all layers */
    void            *work;          /* at a multiple of 16 */
    size_t           work_bytes;    /* skv_cuda_cold_work at least */
} skv_cuda_cold_desc;

/* These read host and n_pages. 0: they make no sense. Launches four kernels. */
SKVDEF size_t     skv_cuda_cold_held(const skv_cuda_cold_desc *desc);
SKVDEF size_t     skv_cuda_cold_work(const skv_cuda_cold_desc *desc);
SKVDEF skv_result skv_cuda_cold_decode(const skv_cuda_cold_desc *desc, skv_cuda_stream stream);

/* >>calibrate ---------------------------------------------------------------------------------
   skv_profiler_add on a GPU: one passage of one layer, tokens from position 0 on, into sums that
   lie in device memory. They start as zeros; after any number of passages copy them to the host and
   give them to skv_profiler_add_sums, a layer at a time. All pointers but host are device memory.
   Numbers that are not finite make sums that skv_profiler_add_sums refuses. Grams are float sums
   over 32 tokens, then doubles, in a fixed order: the same call gives the same bits. */
typedef struct skv_cuda_profile_desc {
    const skv_profiler_table *host; /* the layer's tables (skv_profiler_tables) */
    const void      *tables;        /* the same bytes in device memory, at a multiple of 16 */
    uint32_t         n_tokens;      /* at most max_passage; scores of a query are kept in shared
                                       memory: SKV_ERR_DEVICE beyond some 10,000 to 50,000 */
    skv_span         q, k, v;       /* [n_tokens][heads][head_dim, _v] */
    double          *sums;          /* [host->n_sums], as skv_profiler_sums says */
    void            *work;          /* at a multiple of 16 */
    size_t           work_bytes;    /* skv_cuda_profile_work at least */
} skv_cuda_profile_desc;

/* Reads host and n_tokens. 0: they make no sense. Launches five kernels. */
SKVDEF size_t     skv_cuda_profile_work(const skv_cuda_profile_desc *desc);
SKVDEF skv_result skv_cuda_profile(const skv_cuda_profile_desc *desc, skv_cuda_stream stream);

/* Copies n slots of page_bytes: from[i] of one pool to to[i] of another, either of them in device
   or in host memory; from and to are the host's. Neighbours that stay neighbours go in one piece.
   Host memory that is not pinned (cudaMallocHost) makes the call wait. */
SKVDEF skv_result skv_cuda_copy_pages(void *to_pool, const int32_t *to, const void *from_pool,
                                      const int32_t *from, size_t n, size_t page_bytes,
                                      skv_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif /* SPECTRAL_KV_CUDA_H */

#if (defined(SPECTRAL_KV_CUDA_IMPLEMENTATION) || defined(SPECTRAL_KV_IMPLEMENTATION)) && \
    (defined(__CUDACC__) || defined(SKV_CUDA_EMULATION)) && \
    !defined(SPECTRAL_KV_CUDA_IMPLEMENTATION_DONE)
#define SPECTRAL_KV_CUDA_IMPLEMENTATION_DONE
#include <cuda_runtime.h>
#include <cuda_fp16.h>

/* >>device ------------------------------------------------------------------------------------
   Blocks have BLOCK threads. Shared memory is one array, carved up by skvi_cu_room. */
#define SKVI_CU_BLOCK 128u
#define SKVI_CU_WARPS (SKVI_CU_BLOCK / 32)
#define SKVI_CU_ALL 0xFFFFFFFFu
#define SKVI_CU_SUB_HEADER 5u           /* of a page's sub: two norms and the gain */
#define SKVI_CU_NARROW 10u              /* most half bits that 8-bit queries meet: SKVI_NARROW */
#define SKVI_CU_ROWS_MOST 8u            /* outlier rows of one sub */
#define SKVI_CU_NAN __uint_as_float(0x7FC00000u)

/* Takes n items off the front of the shared memory that is left, at multiples of 16 bytes. */
template <class T> __device__ __forceinline__ T *skvi_cu_room(unsigned char **at, uint32_t n)
{
    T *here = (T *)*at;
    *at += (n * sizeof(T) + 15) & ~(size_t)15;
    return here;
}
static inline size_t skvi_cu_room_bytes(size_t bytes) { return (bytes + 15) & ~(size_t)15; }

__device__ __forceinline__ uint32_t skvi_cu_get16(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8;
}
__device__ __forceinline__ uint32_t skvi_cu_get32(const unsigned char *p)
{
    return skvi_cu_get16(p) | skvi_cu_get16(p + 2) << 16;
}

__device__ __forceinline__ float skvi_cu_from_f16(uint32_t h)
{
    return __half2float(__ushort_as_half((unsigned short)h));
}
__device__ __forceinline__ uint32_t skvi_cu_to_f16(float x)
{
    return __half_as_ushort(__float2half_rn(x));
}

/* The nearest bf16, ties to even; NaN stays NaN. */
__device__ __forceinline__ uint32_t skvi_cu_to_bf16(float x)
{
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return u >> 16 | 0x40u;
    return (u + 0x7FFFu + (u >> 16 & 1u)) >> 16;
}

/* Element i of a tensor of dtype. */
__device__ __forceinline__ float skvi_cu_read(const void *data, int dtype, int64_t i)
{
    if (dtype == SKV_F32) return ((const float *)data)[i];
    const uint32_t h = ((const uint16_t *)data)[i];
    return dtype == SKV_F16 ? skvi_cu_from_f16(h) : __uint_as_float(h << 16);
}
__device__ __forceinline__ void skvi_cu_write(void *data, int dtype, int64_t i, float x)
{
    if (dtype == SKV_F32) ((float *)data)[i] = x;
    else ((uint16_t *)data)[i] = (uint16_t)(dtype == SKV_F16 ? skvi_cu_to_f16(x)
                                                             : skvi_cu_to_bf16(x));
}

/* Sums and maxima over a warp: all lanes get them. */
__device__ __forceinline__ float skvi_cu_warp_sum(float x)
{
    for (int i = 16; i; i >>= 1) x += __shfl_xor_sync(SKVI_CU_ALL, x, i);
    return x;
}
__device__ __forceinline__ float skvi_cu_warp_max(float x)
{
    for (int i = 16; i; i >>= 1) x = fmaxf(x, __shfl_xor_sync(SKVI_CU_ALL, x, i));
    return x;
}

/* 2^(e/4 - 32), the scale of a page's quarter octave e: as skvi_scale. */
__device__ __forceinline__ float skvi_cu_scale(uint32_t e)
{
    const uint32_t q = e & 3u;
    const float f = q < 2 ? (q ? 1.1892071f : 1.0f) : (q > 2 ? 1.6817929f : 1.4142135f);
    return __uint_as_float(((e >> 2) + 95) << 23) * f;
}

/* The layer's tables, and parts of them. */
template <class T, class B>
__device__ __forceinline__ const T *skvi_cu_at(const B *t, uint32_t offset)
{
    return (const T *)((const unsigned char *)t + offset);
}
/* Streams are numbered as subs: K of every group, then V. */
__device__ __forceinline__ const skv_table_stream *skvi_cu_stream(const skv_table *t, uint32_t i)
{
    return skvi_cu_at<skv_table_stream>(t, t->stream) + i;
}

/* Bytes of an outlier row. */
__device__ __forceinline__ uint32_t skvi_cu_row_bytes(const skv_table_stream *s)
{
    return 2 + 2 * s->n;
}

/* Whether a slot holds a page that attention and decoding can read. */
__device__ __forceinline__ int skvi_cu_whole(const skv_table *t, const unsigned char *page,
                                             size_t page_bytes)
{
    return page[0] == t->page_format && skvi_cu_get32(page + 4) <= page_bytes;
}

/* cos and sin of (position + half / 2) freqs[p]. */
__device__ __forceinline__ void skvi_cu_turn(const uint64_t *turns, uint32_t p, uint32_t position,
                                             uint32_t half, float *c, float *s)
{
    const uint64_t x = turns[p] * (2 * (uint64_t)position + half);
    sincospif((float)(int32_t)(uint32_t)(x >> 32) * 4.656612873e-10f, s, c);    /* 2^-31 */
}

static __device__ __forceinline__ int64_t skvi_cu_page_count(const skv_cuda_pages &p, uint32_t seq)
{
    return p.first ? p.first[seq + 1] - p.first[seq] : p.count[seq];
}
static __device__ __forceinline__ unsigned char *skvi_cu_page(const skv_cuda_pages &p,
                                                              uint32_t seq, uint32_t i)
{
    const size_t at = p.first ? (size_t)p.first[seq] + i : (size_t)seq * p.stride + i;
    return (unsigned char *)p.pool + (size_t)p.slots[at] * p.page_bytes;
}

/* >>expand ------------------------------------------------------------------------------------
   Codes to levels: see >>quant in spectral_kv.h. A thread takes one lane (keys) or one channel
   (values) of a quad, half of its steps, four byte streams side by side in a word. Look-ups of 16
   entries are byte permutations: eight nibbles at once, of two windows that share a table. */
#define SKVI_CU_SLAB 64u                /* channels at a time */
#define SKVI_CU_LINE 20u                /* words from one token (values: channel) to the next: 16
                                           and room that keeps banks apart */
#define SKVI_CU_QUAD 68u                /* words of a staged quad: 17 rows of 16 bytes, the first
                                           has what comes before each stream */
#define SKVI_CU_STAGE (SKVI_CU_SLAB / 4 * SKVI_CU_QUAD + 4)

/* The windows of four streams that end at bit `end` of codes, from the row before them on. */
__device__ __forceinline__ uint32_t skvi_cu_window(const uint32_t *rows, uint32_t end)
{
    const uint32_t *at = rows + (end >> 3) * 4, s = end & 7u, keep = 0x01010101u * (255u >> s);
    return (at[0] >> s & keep) | (at[4] << (8 - s) & ~keep);
}

/* Entries of t's nibbles in a table of 16 bytes: of nibbles 0 to 3, and 4 to 7. */
__device__ __forceinline__ uint2 skvi_cu_look(const uint4 &table, uint32_t t)
{
    const uint32_t low = t & 0x77777777u, up = (t >> 1 & 0x44444444u) | 0x32103210u;
    uint2 y;
    y.x = __byte_perm(__byte_perm(table.x, table.y, low), __byte_perm(table.z, table.w, low), up);
    y.y = __byte_perm(__byte_perm(table.x, table.y, low >> 16),
                      __byte_perm(table.z, table.w, low >> 16), up >> 16);
    return y;
}

/* Levels of two words of windows in the same tables, A then B, whose entries have 128 between them
   added: no sum carries into the next byte. */
__device__ __forceinline__ void skvi_cu_levels(const uint4 *part, uint32_t w0, uint32_t w1,
                                               uint32_t *l0, uint32_t *l1)
{
    const uint32_t low = (w0 & 0x0F0F0F0Fu) | (w1 << 4 & 0xF0F0F0F0u);
    const uint32_t high = (w0 >> 4 & 0x0F0F0F0Fu) | (w1 & 0xF0F0F0F0u);
    const uint2 a = skvi_cu_look(part[0], low), b = skvi_cu_look(part[1], low ^ high);
    const uint32_t x = (a.x + b.x) ^ 0x80808080u, y = (a.y + b.y) ^ 0x80808080u;
    *l0 = __byte_perm(x, y, 0x6420);
    *l1 = __byte_perm(x, y, 0x7531);
}

/* Eight steps from step 8 half on of codes of h half bits; write(step, four words of levels) gets
   them by fours. */
template <class W>
__device__ __forceinline__ void skvi_cu_expand(const uint32_t *rows, uint32_t h, const uint4 *part,
                                               uint32_t half, W write)
{
    const uint4 *odd = part + 2 * (h & 1u);
    uint32_t w[4], l[4];
    #pragma unroll
    for (uint32_t step = 0; step < 8; step += 4) {
        #pragma unroll
        for (uint32_t k = 0; k < 4; k++)
            w[k] = skvi_cu_window(rows, ((8 * half + step + k + 1) * h) >> 1);
        skvi_cu_levels(part, w[0], w[2], &l[0], &l[2]);
        skvi_cu_levels(odd, w[1], w[3], &l[1], &l[3]);
        write(8 * half + step, l);
    }
}

/* Tables of all modes, [13][A, B of even steps, of odd ones], biased as skvi_cu_levels wants. */
__device__ __forceinline__ void skvi_cu_load_parts(const skv_table *t, unsigned char *parts)
{
    uint32_t i, m, k;
    for (m = threadIdx.x; m < 2 * SKV_TABLE_MODES; m += SKVI_CU_BLOCK) {
        const int8_t (*from)[16] = t->mode[m / 2].part[m & 1u];
        unsigned char *to = parts + 32 * m;
        int least = 0;
        for (i = 0; i < 16; i++) least = from[0][i] < least ? from[0][i] : least;
        for (k = 0; k < 2; k++)
            for (i = 0; i < 16; i++)
                to[16 * k + i] = (unsigned char)(from[k][i] + (k ? 128 + least : -least));
    }
}

/* 16 bytes from anywhere; no word is read that has none of them. */
__device__ __forceinline__ uint4 skvi_cu_load16(const unsigned char *p)
{
    const uint32_t *from = (const uint32_t *)((size_t)p & ~(size_t)3), s = 8 * ((size_t)p & 3u);
    const uint32_t w1 = from[1], w2 = from[2], w3 = from[3], w4 = s ? from[4] : 0;
    return make_uint4(__funnelshift_r(from[0], w1, s), __funnelshift_r(w1, w2, s),
                      __funnelshift_r(w2, w3, s), __funnelshift_r(w3, w4, s));
}

/* Codes of n quads of a slab into shared memory, 8 threads a quad. What comes before a stream is
   the last byte of the lane before. */
__device__ __forceinline__ void skvi_cu_stage(const skv_table *t, const unsigned char *sub,
                                              const uint32_t *quads, uint32_t n, int values,
                                              uint32_t *stage)
{
    const uint32_t q = threadIdx.x / 8;
    if (q >= n) return;
    const uint32_t quad = quads[q], h = t->mode[quad & 15u].half;
    uint4 *to = (uint4 *)(stage + q * SKVI_CU_QUAD);
    for (uint32_t row = threadIdx.x % 8; row < h; row += 8) {
        const uint4 x = skvi_cu_load16(sub + (quad >> 4) + 16 * row);
        to[row + 1] = x;
        if (row + 1 == h)
            to[0] = values ? make_uint4(x.x << 8 | x.x >> 24, x.y << 8 | x.y >> 24,
                                        x.z << 8 | x.z >> 24, x.w << 8 | x.w >> 24)
                           : make_uint4(x.w, x.x, x.y, x.z);
    }
}

/* Levels of a staged slab: keys [64 tokens][16 words of channels], values [64 channels][16 words of
   tokens], LINE words apart. Lines and words beyond n quads are left as they are. */
__device__ __forceinline__ void skvi_cu_slab(const skv_table *t, const uint32_t *quads, uint32_t n,
                                             int values, const uint32_t *stage, const uint4 *parts,
                                             uint32_t *levels)
{
    const uint32_t task = threadIdx.x & 63u, half = threadIdx.x >> 6;
    const uint32_t quad = values ? task >> 2 : task & 15u, line = values ? task & 3u : task >> 4;
    if (quad >= n) return;
    const uint32_t mode = quads[quad] & 15u, h = t->mode[mode].half;
    const uint32_t *rows = stage + quad * SKVI_CU_QUAD + line;
    if (values)
        skvi_cu_expand(rows, h, parts + 4 * mode, half, [&](uint32_t step, const uint32_t *l) {
            *(uint4 *)(levels + (4 * quad + line) * SKVI_CU_LINE + step) =
                make_uint4(l[0], l[1], l[2], l[3]);
        });
    else
        skvi_cu_expand(rows, h, parts + 4 * mode, half, [&](uint32_t step, const uint32_t *l) {
            for (uint32_t k = 0; k < 4; k++)
                levels[(4 * (step + k) + line) * SKVI_CU_LINE + quad] = l[k];
        });
}

/* Factors of a slab's channels: scale times unit, 0 from 4 n on. */
__device__ __forceinline__ void skvi_cu_steps(const skv_table *t, const unsigned char *sub,
                                              const uint32_t *quads, uint32_t ch, uint32_t n,
                                              float *step)
{
    const uint32_t i = threadIdx.x;
    if (i >= SKVI_CU_SLAB) return;
    step[i] = 0;
    if (i >= 4 * n) return;
    const uint32_t two = sub[SKVI_CU_SUB_HEADER + (ch + i) / 2], nibble = two >> 4 * (i & 1u) & 15u;
    step[i] = skvi_cu_scale(sub[4] + nibble) * t->mode[quads[i / 4] & 15u].unit;
}

/* >>product -----------------------------------------------------------------------------------
   Rows of bytes times the levels of a slab, in integers, so in any order: keys give scores of 64
   tokens, values sums of 64 channels. */
__device__ __forceinline__ int skvi_cu_dp4a(uint32_t a, uint32_t b, int c, int is_unsigned)
{
    if (!is_unsigned) return __dp4a((int)a, (int)b, c);
#ifdef __CUDA_ARCH__
    int d;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
#else
    for (uint32_t i = 0; i < 32; i += 8) c += (int)(a >> i & 255u) * (int8_t)(b >> i & 255u);
    return c;
#endif
}

/* c += a b on tensor cores, 8 rows by 8 lines by 16 bytes, a warp together: lane l holds four bytes
   of row l / 4 (a) and of line l / 4 (b), from 4 (l % 4) on, and gets sums of row l / 4, lines
   2 (l % 4) and the next (PTX ISA, mma.m8n8k16). */
template <int UNSIGNED>
__device__ __forceinline__ void skvi_cu_mma(int *c, uint32_t a, uint32_t b)
{
#ifdef __CUDA_ARCH__
    if (UNSIGNED)
        asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                     : "+r"(c[0]), "+r"(c[1]) : "r"(a), "r"(b));
    else
        asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                     : "+r"(c[0]), "+r"(c[1]) : "r"(a), "r"(b));
#else
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t k = 0; k < 4; k++)
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t x = __shfl_sync(SKVI_CU_ALL, a, lane / 4 * 4 + k);
            const uint32_t y = __shfl_sync(SKVI_CU_ALL, b, (lane % 4 * 2 + i) * 4 + k);
            c[i] = skvi_cu_dp4a(x, y, c[i], UNSIGNED);
        }
#endif
}

/* skvi_cu_product for rows by eights: a warp takes 16 lines. */
template <uint32_t ROWS, int UNSIGNED, class F>
__device__ __forceinline__ void skvi_cu_product_mma(const uint32_t *levels, const uint32_t *a,
                                                    int wide, uint32_t upto, F emit)
{
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, at = lane % 4;
    const uint32_t *from = levels + (16 * warp + row) * SKVI_CU_LINE + at;
    uint32_t x[2][4], k;
    #pragma unroll
    for (k = 0; k < 8; k++) x[k / 4][k % 4] = from[k / 4 * 8 * SKVI_CU_LINE + 4 * (k % 4)];
    #pragma unroll 1
    for (uint32_t r = row; r < row + upto; r += 8) {
        int c[2][2] = {{0, 0}, {0, 0}};
        for (int i = 0; i <= wide; i++) {
            #pragma unroll
            for (k = 0; k < 4; k++) c[k / 2][k % 2] *= 128;
            #pragma unroll
            for (k = 0; k < 4; k++) {
                const uint32_t y = a[16 * (ROWS * (uint32_t)i + r) + 4 * k + at];
                skvi_cu_mma<UNSIGNED>(c[0], y, x[0][k]);
                skvi_cu_mma<UNSIGNED>(c[1], y, x[1][k]);
            }
        }
        #pragma unroll
        for (k = 0; k < 4; k++)
            emit(r, 16 * warp + 8 * (k / 2) + 2 * at + k % 2, c[k / 2][k % 2]);
    }
}

/* emit(row, line, sum of a[row][64] levels[line][64]) for all lines and `upto` rows; a is [high or
   low][ROWS][16] words, and with `wide` the numbers are 128 high + low. Every pair is one
   thread's. 8 rows and more go to tensor cores, `upto` is then a multiple of 8; else it is ROWS. */
template <uint32_t ROWS, int UNSIGNED, class F>
__device__ __forceinline__ void skvi_cu_product(const uint32_t *levels, const uint32_t *a, int wide,
                                                uint32_t upto, F emit)
{
    if (ROWS >= 8) {
        skvi_cu_product_mma<ROWS, UNSIGNED>(levels, a, wide, upto, emit);
        return;
    }
    const uint32_t line = threadIdx.x & 63u, r0 = threadIdx.x >> 6;
    const uint4 *x = (const uint4 *)(levels + line * SKVI_CU_LINE), *y = (const uint4 *)a;
    int sum[ROWS / 2], part, i;
    uint32_t j, w;
    #pragma unroll
    for (j = 0; j < ROWS / 2; j++) sum[j] = 0;
    for (i = 0; i <= wide; i++, y += 4 * ROWS)
        #pragma unroll
        for (j = 0; j < ROWS / 2; j++) {
            part = 0;
            #pragma unroll
            for (w = 0; w < 4; w++) {
                const uint4 l = x[w], q = y[4 * (r0 + 2 * j) + w];
                part = skvi_cu_dp4a(q.x, l.x, part, UNSIGNED);
                part = skvi_cu_dp4a(q.y, l.y, part, UNSIGNED);
                part = skvi_cu_dp4a(q.z, l.z, part, UNSIGNED);
                part = skvi_cu_dp4a(q.w, l.w, part, UNSIGNED);
            }
            sum[j] = 128 * sum[j] + part;
        }
    #pragma unroll
    for (j = 0; j < ROWS / 2; j++) emit(r0 + 2 * j, line, sum[j]);
}

/* A number of a row as bytes: v itself, or its high and low part. */
__device__ __forceinline__ void skvi_cu_put(uint32_t *a, uint32_t rows, uint32_t r, uint32_t i,
                                            int v, int wide, int low)
{
    unsigned char *to = (unsigned char *)a + 64 * r + i;
    const int high = (v + low) >> 7;
    to[0] = (unsigned char)(wide ? high : v);
    if (wide) to[64 * rows] = (unsigned char)(v - 128 * high);
}

/* >>query -------------------------------------------------------------------------------------
   What attention asks of a query before any page: a block a row, CPU: skvi_tile_queries. */
typedef struct skvi_cu_job {
    skv_cuda_attend_desc d;
    uint32_t rows;                  /* of a sequence: n_q_heads * n_queries */
    uint32_t width;                 /* channels of the widest head group's keys */
    uint32_t values;                /* and of its values */
    uint32_t tile, tiles;           /* rows of a tile; tiles of a head group */
    uint32_t splits, per, sink_units, ring_units;
    float *q, *ql, *mean, *still, *part;    /* [n_seqs * rows] times head_dim, width, 1, 2 pairs,
                                               splits * (4 + values + head_dim_v) */
} skvi_cu_job;

typedef struct skvi_cu_row {        /* a row's place */
    uint32_t head, query, kv, g, slice;     /* slice: of its KV head in the group, in heads */
} skvi_cu_row;
__device__ __forceinline__ skvi_cu_row skvi_cu_row_of(const skvi_cu_job &j, const skv_table *t,
                                                      uint32_t row)
{
    skvi_cu_row r;
    r.head = row / j.d.n_queries;
    r.query = row % j.d.n_queries;
    r.kv = r.head / (t->shape.n_q_heads / t->shape.n_kv_heads);
    r.g = r.kv / t->head_group;
    r.slice = r.kv % t->head_group;
    return r;
}

/* Queries of a sequence, and where the tokens of its first lies in q and out. */
__device__ __forceinline__ int64_t skvi_cu_queries(const skvi_cu_job &j, uint32_t seq)
{
    return j.d.first_query ? (int64_t)j.d.first_query[seq + 1] - j.d.first_query[seq]
                           : (int64_t)j.d.n_queries;
}
__device__ __forceinline__ int64_t skvi_cu_first_query(const skvi_cu_job &j, uint32_t seq)
{
    return j.d.first_query ? j.d.first_query[seq] : (int64_t)seq * j.d.n_queries;
}

/* Element 0 of a row of a tensor of `heads` heads of `dim`. */
__device__ __forceinline__ int64_t skvi_cu_start(int64_t token_stride, int64_t head_stride,
                                                 uint32_t heads, uint32_t dim, int64_t token,
                                                 uint32_t head)
{
    if (!head_stride) head_stride = dim;
    if (!token_stride) token_stride = heads * head_stride;
    return token * token_stride + head * head_stride;
}

__device__ __forceinline__ void skvi_cu_still(const skv_table *t, const float *turn, const float *q,
                                              float *still)
{
    const uint32_t n = t->pairs, apart = t->style == SKV_ROPE_ADJACENT ? 1 : n;
    for (uint32_t p = threadIdx.x; p < n; p += SKVI_CU_BLOCK) {
        const uint32_t i = t->style == SKV_ROPE_ADJACENT ? 2 * p : p;
        still[p] = q[i] * turn[i] + q[i + apart] * turn[i + apart];
        still[n + p] = q[i + apart] * turn[i] - q[i] * turn[i + apart];
    }
}

/* Grid: row of a sequence, sequence. Shared: the query, zeros where the sequence has fewer. */
__global__ void __launch_bounds__(SKVI_CU_BLOCK) skvi_cu_query_kernel(skvi_cu_job j)
{
    extern __shared__ uint4 skvi_cu_shared[];
    const skv_table *t = (const skv_table *)j.d.tables;
    const uint32_t d = t->shape.head_dim, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const skvi_cu_row r = skvi_cu_row_of(j, t, blockIdx.x);
    const skv_table_stream *s = skvi_cu_stream(t, r.g);
    const size_t row = (size_t)blockIdx.y * j.rows + blockIdx.x;
    const float *decode = skvi_cu_at<float>(t, s->decode) + r.slice * d;
    const float *mean = skvi_cu_at<float>(t, s->mean) + r.slice * d;
    const int64_t from = skvi_cu_start(j.d.q.token_stride, j.d.q.head_stride, t->shape.n_q_heads, d,
                                       skvi_cu_first_query(j, blockIdx.y) + r.query, r.head);
    const int real = r.query < skvi_cu_queries(j, blockIdx.y);
    float *q = (float *)skvi_cu_shared;
    for (uint32_t i = threadIdx.x; i < d; i += SKVI_CU_BLOCK) {
        q[i] = real ? t->shape.scale * skvi_cu_read(j.d.q.data, j.d.q.dtype, from + i) : 0;
        j.q[row * d + i] = q[i];
    }
    __syncthreads();
    for (uint32_t c = warp; c <= s->n; c += SKVI_CU_WARPS) {    /* the last: with the mean */
        const float *x = c < s->n ? decode + (size_t)c * s->n : mean;
        float sum = 0;
        for (uint32_t i = lane; i < d; i += 32) sum += q[i] * x[i];
        sum = skvi_cu_warp_sum(sum);
        if (!lane) *(c < s->n ? &j.ql[row * j.width + c] : &j.mean[row]) = sum;
    }
    if (s->turn)
        skvi_cu_still(t, skvi_cu_at<float>(t, s->turn) + r.slice * d, q,
                      j.still + row * 2 * t->pairs);
}

/* >>attention ---------------------------------------------------------------------------------
   A block: ROWS rows of one head group of one sequence over `per` units, each 64 exact tokens or a
   page, with one running softmax. CPU: skvi_tile_range. */
#define SKVI_CU_NEVER (-INFINITY)
template <uint32_t ROWS> struct skvi_cu_tile {
    const skv_table *t;
    const skv_table_stream *s[2];
    uint32_t seq, g, first, n;      /* rows first .. first + n - 1 of the sequence */
    uint32_t upto;                  /* n as whole eights; ROWS where that is less */
    uint32_t total, n_pages, queries;       /* tokens, pages and queries of the sequence */
    uint32_t *levels, *stage, *bytes;       /* bytes: [2][ROWS][16] */
    uint4    *parts;
    float    *step, *score;         /* [64], [ROWS][64]: then weights */
    float    *turn;                 /* [ROWS][2 pairs] */
    float    *top, *sum, *paged, *unit, *keep;      /* [ROWS] */
    float    *fix;                  /* [ROWS][ROWS_MOST] scores of outlier tokens */
    float    *ol, *oo;              /* [ROWS][values], [ROWS][head_dim_v] */
};

/* Where things lie in shared memory; skvi_cu_attend_bytes says how much that takes. */
template <uint32_t ROWS>
__device__ __forceinline__ void skvi_cu_carve(const skvi_cu_job &j, unsigned char *at,
                                              skvi_cu_tile<ROWS> &x)
{
    x.levels = skvi_cu_room<uint32_t>(&at, 64 * SKVI_CU_LINE);
    x.stage = skvi_cu_room<uint32_t>(&at, SKVI_CU_STAGE);
    x.bytes = skvi_cu_room<uint32_t>(&at, 2 * ROWS * 16);
    x.parts = skvi_cu_room<uint4>(&at, 4 * SKV_TABLE_MODES);
    x.step = skvi_cu_room<float>(&at, SKVI_CU_SLAB);
    x.score = skvi_cu_room<float>(&at, ROWS * 64);
    x.top = skvi_cu_room<float>(&at, 5 * ROWS);
    x.sum = x.top + ROWS;
    x.paged = x.sum + ROWS;
    x.unit = x.paged + ROWS;
    x.keep = x.unit + ROWS;
    x.fix = skvi_cu_room<float>(&at, ROWS * SKVI_CU_ROWS_MOST);
    x.ol = skvi_cu_room<float>(&at, ROWS * j.values);
    x.oo = skvi_cu_room<float>(&at, ROWS * x.t->shape.head_dim_v);
    x.turn = skvi_cu_room<float>(&at, ROWS * 2 * x.t->pairs);
}
static size_t skvi_cu_attend_bytes(uint32_t rows, const skv_table *t, uint32_t values)
{
    const size_t n[] = {256 * SKVI_CU_LINE, 4 * SKVI_CU_STAGE, 128 * rows, 64 * SKV_TABLE_MODES,
                        4 * SKVI_CU_SLAB, 256 * rows, 20 * rows, 4 * rows * SKVI_CU_ROWS_MOST,
                        (size_t)4 * rows * values, (size_t)4 * rows * t->shape.head_dim_v,
                        (size_t)8 * rows * t->pairs};
    size_t sum = 0;
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) sum += skvi_cu_room_bytes(n[i]);
    return sum;
}

/* Scores of the mean of every token of a page, before its codes. CPU: skvi_page_base. */
template <uint32_t ROWS>
__device__ __forceinline__ void skvi_cu_base(const skvi_cu_job &j, const skvi_cu_tile<ROWS> &x,
                                             uint32_t position)
{
    const uint32_t n = x.s[0]->turn ? x.t->pairs : 0, warp = threadIdx.x / 32;
    const uint32_t lane = threadIdx.x % 32;
    const float2 *waves = skvi_cu_at<float2>(x.t, x.t->waves) + lane;
    const size_t row = (size_t)x.seq * j.rows + x.first;
    for (uint32_t p = threadIdx.x; p < n; p += SKVI_CU_BLOCK) {     /* on to the middle */
        float c, s;
        skvi_cu_turn(skvi_cu_at<uint64_t>(x.t, x.t->turns), p, position + 31, 1, &c, &s);
        for (uint32_t r = 0; r < x.n; r++) {
            const float *still = j.still + (row + r) * 2 * n;
            x.turn[2 * n * r + 2 * p] = c * still[p] + s * still[n + p];
            x.turn[2 * n * r + 2 * p + 1] = c * still[n + p] - s * still[p];
        }
    }
    __syncthreads();
    for (uint32_t r = warp; r < x.n; r += SKVI_CU_WARPS) {
        const float2 *turn = (const float2 *)(x.turn + 2 * n * r);
        float even = j.mean[row + r], odd = 0;
        for (uint32_t p = 0; p < n; p++) {
            even += turn[p].x * waves[32 * p].x;
            odd += turn[p].y * waves[32 * p].y;
        }
        x.score[64 * r + 32 + lane] = even + odd;
        x.score[64 * r + 31 - lane] = even - odd;
    }
    __syncthreads();
}

/* The next outlier row of stream `sub` from *at on, or NULL; *at goes behind it. */
__device__ __forceinline__ const unsigned char *skvi_cu_next_row(const skv_table *t, uint32_t sub,
                                                                 const unsigned char *end,
                                                                 const unsigned char **at,
                                                                 uint32_t *token)
{
    while (*at < end) {
        const unsigned char *row = *at;
        const uint32_t who = row[0] | (uint32_t)(row[1] >> 6) << 8;
        *at += skvi_cu_row_bytes(skvi_cu_stream(t, who));
        *token = row[1] & 63u;
        if (who == sub) return row + 2;
    }
    return NULL;
}

/* Scores of the tokens whose keys are rows, into fix; their tokens, a byte each from the lowest on,
   255: none. CPU: the ends of skvi_page_scores. */
template <uint32_t ROWS>
__device__ __forceinline__ uint64_t skvi_cu_key_rows(const skvi_cu_job &j,
                                                     const skvi_cu_tile<ROWS> &x,
                                                     const unsigned char *page)
{
    const unsigned char *at = page + x.t->least, *end = page + skvi_cu_get32(page + 4), *row;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = x.s[0]->n;
    uint32_t token, i;
    uint64_t tokens = ~(uint64_t)0;
    for (i = 0; i < SKVI_CU_ROWS_MOST; i++) {
        row = skvi_cu_next_row(x.t, x.g, end, &at, &token);
        if (!row) break;
        tokens ^= (uint64_t)(255u ^ token) << 8 * i;
        for (uint32_t r = warp; r < x.n; r += SKVI_CU_WARPS) {
            const float *ql = j.ql + ((size_t)x.seq * j.rows + x.first + r) * j.width;
            float sum = 0;
            for (uint32_t c = lane; c < n; c += 32)
                sum += ql[c] * skvi_cu_from_f16(skvi_cu_get16(row + 2 * c));
            sum = skvi_cu_warp_sum(sum);
            if (!lane) x.fix[r * SKVI_CU_ROWS_MOST + i] = x.score[64 * r + token] + sum;
        }
    }
    return tokens;
}

/* Queries times factors as whole numbers: a warp a row. Rows from n on become 0. */
template <uint32_t ROWS>
__device__ __forceinline__ void skvi_cu_quantise(const skvi_cu_job &j, const skvi_cu_tile<ROWS> &x,
                                                 uint32_t ch, uint32_t n, int wide)
{
    const uint32_t lane = threadIdx.x % 32;
    const float range = wide ? 8191.0f : 127.0f;
    for (uint32_t r = threadIdx.x / 32; r < x.upto; r += SKVI_CU_WARPS) {
        const float *ql = j.ql + ((size_t)x.seq * j.rows + x.first + r) * j.width + ch;
        float y[2], top, inv;
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t c = lane + 32 * i;
            y[i] = r < x.n && c < n && ch + c < x.s[0]->n ? ql[c] * x.step[c] : 0;
        }
        top = skvi_cu_warp_max(fmaxf(fabsf(y[0]), fabsf(y[1])));
        inv = top > 1e-34f ? range / top : 0;
        for (uint32_t i = 0; i < 2; i++)
            skvi_cu_put(x.bytes, ROWS, r, lane + 32 * i, __float2int_rn(y[i] * inv), wide, 64);
        if (!lane) x.unit[r] = top / range;
    }
}

/* Whether a slab's codes want 14 bits: widths fall from channel to channel. */
__device__ __forceinline__ int skvi_cu_wide(const skvi_cu_job &j, const skv_table *t, uint32_t quad)
{
    return j.d.precise || t->mode[quad & 15u].half > SKVI_CU_NARROW;
}

template <uint32_t ROWS>
__device__ __forceinline__ void skvi_cu_page_scores(const skvi_cu_job &j,
                                                    const skvi_cu_tile<ROWS> &x,
                                                    const unsigned char *page)
{
    const skv_table_stream *s = x.s[0];
    const unsigned char *sub = page + s->offset;
    const uint32_t *quads = skvi_cu_at<uint32_t>(x.t, s->quads);
    for (uint32_t ch = 0; ch < s->coded; ch += SKVI_CU_SLAB, quads += SKVI_CU_SLAB / 4) {
        const uint32_t n = (s->coded - ch < SKVI_CU_SLAB ? s->coded - ch : SKVI_CU_SLAB) / 4;
        const int wide = skvi_cu_wide(j, x.t, quads[0]);
        skvi_cu_stage(x.t, sub, quads, n, 0, x.stage);
        skvi_cu_steps(x.t, sub, quads, ch, n, x.step);
        __syncthreads();
        skvi_cu_quantise(j, x, ch, 4 * n, wide);
        skvi_cu_slab(x.t, quads, n, 0, x.stage, x.parts, x.levels);
        __syncthreads();
        skvi_cu_product<ROWS, 0>(x.levels, x.bytes, wide, x.upto,
                                 [&](uint32_t r, uint32_t line, int sum) {
            x.score[64 * r + line] += x.unit[r] * (float)sum;
        });
        __syncthreads();
    }
}

/* Soft cap, masks, running maximum and sum: a warp a row, tokens lane and lane + 32. Scores become
   weights, in bytes too, but for the tokens of `out`, whose values are rows. CPU: skvi_softmax. */
template <uint32_t ROWS>
__device__ __forceinline__ void skvi_cu_softmax(const skvi_cu_job &j, const skvi_cu_tile<ROWS> &x,
                                                uint32_t position, uint32_t n, int is_page,
                                                int wide, uint64_t out)
{
    const uint32_t lane = threadIdx.x % 32, window = x.t->shape.sliding_window;
    const float range = wide ? 16383.0f : 255.0f, cap = x.t->shape.softcap;
    for (uint32_t r = threadIdx.x / 32; r < x.upto; r += SKVI_CU_WARPS) {
        const uint32_t query = x.total - x.queries + (x.first + r) % j.d.n_queries;
        float s[2], w[2], top = x.top[r], keep = 1, mass, most;
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t at = lane + 32 * i, p = position + at;
            const int seen = r < x.n && at < n && p <= query && (!window || p + window > query);
            s[i] = seen ? x.score[64 * r + at] : SKVI_CU_NEVER;
            if (cap > 0 && seen) s[i] = cap * tanhf(s[i] / cap);
        }
        top = fmaxf(top, skvi_cu_warp_max(fmaxf(s[0], s[1])));
        for (uint32_t i = 0; i < 2; i++) s[i] = s[i] > SKVI_CU_NEVER ? expf(s[i] - top) : 0;
        if (top > x.top[r]) keep = expf(x.top[r] - top);
        mass = skvi_cu_warp_sum(s[0] + s[1]);
        for (uint32_t i = 0; i < 2; i++) {
            x.score[64 * r + lane + 32 * i] = s[i];
            w[i] = out >> (lane + 32 * i) & 1u ? 0 : s[i];
        }
        most = skvi_cu_warp_max(fmaxf(w[0], w[1]));
        for (uint32_t i = 0; is_page && i < 2; i++)
            skvi_cu_put(x.bytes, ROWS, r, lane + 32 * i,
                        most > 0 ? __float2int_rn(w[i] * (range / most)) : 0, wide, 0);
        __syncwarp();
        if (lane) continue;
        x.top[r] = top;
        x.keep[r] = keep;
        x.unit[r] = most / range;
        x.sum[r] = x.sum[r] * keep + mass;
        x.paged[r] = x.paged[r] * keep + (is_page ? mass : 0);
    }
    __syncthreads();
    for (uint32_t r = 0; r < x.n; r++)
        if (x.keep[r] < 1) {
            for (uint32_t i = threadIdx.x; i < j.values; i += SKVI_CU_BLOCK)
                x.ol[r * j.values + i] *= x.keep[r];
            for (uint32_t i = threadIdx.x; i < x.t->shape.head_dim_v; i += SKVI_CU_BLOCK)
                x.oo[r * x.t->shape.head_dim_v + i] *= x.keep[r];
        }
}

template <uint32_t ROWS>
__device__ __forceinline__ void skvi_cu_page_values(const skvi_cu_job &j,
                                                    const skvi_cu_tile<ROWS> &x,
                                                    const unsigned char *page, int wide)
{
    const skv_table_stream *s = x.s[1];
    const unsigned char *sub = page + s->offset, *end = page + skvi_cu_get32(page + 4), *row;
    const unsigned char *at = page + x.t->least;
    const uint32_t *quads = skvi_cu_at<uint32_t>(x.t, s->quads);
    uint32_t token;
    while ((row = skvi_cu_next_row(x.t, x.t->n_groups + x.g, end, &at, &token)) != NULL)
        for (uint32_t c = threadIdx.x; c < s->n; c += SKVI_CU_BLOCK)
            for (uint32_t r = 0; r < x.n; r++)
                x.ol[r * j.values + c] +=
                    x.score[64 * r + token] * skvi_cu_from_f16(skvi_cu_get16(row + 2 * c));
    for (uint32_t ch = 0; ch < s->coded; ch += SKVI_CU_SLAB, quads += SKVI_CU_SLAB / 4) {
        const uint32_t n = (s->coded - ch < SKVI_CU_SLAB ? s->coded - ch : SKVI_CU_SLAB) / 4;
        skvi_cu_stage(x.t, sub, quads, n, 1, x.stage);
        skvi_cu_steps(x.t, sub, quads, ch, n, x.step);
        __syncthreads();
        skvi_cu_slab(x.t, quads, n, 1, x.stage, x.parts, x.levels);
        __syncthreads();
        skvi_cu_product<ROWS, 1>(x.levels, x.bytes, wide, x.upto,
                                 [&](uint32_t r, uint32_t line, int sum) {
            if (line < 4 * n && ch + line < s->n)
                x.ol[r * j.values + ch + line] += x.unit[r] * x.step[line] * (float)sum;
        });
        __syncthreads();
    }
}

/* A page of the sequence. */
template <uint32_t ROWS>
__device__ __forceinline__ void skvi_cu_one_page(const skvi_cu_job &j, const skvi_cu_tile<ROWS> &x,
                                                 uint32_t i)
{
    const unsigned char *page = skvi_cu_page(j.d.pages, x.seq, i), *row;
    const unsigned char *at = page + x.t->least, *end = page + skvi_cu_get32(page + 4);
    const uint32_t *quads = skvi_cu_at<uint32_t>(x.t, x.s[1]->quads);
    const int wide = x.s[1]->coded ? skvi_cu_wide(j, x.t, quads[0]) : 0;
    uint64_t tokens, out = 0;
    uint32_t token, k;
    if (!skvi_cu_whole(x.t, page, j.d.pages.page_bytes) || page[1] != 64) {
        if (threadIdx.x < x.n) x.sum[threadIdx.x] = SKVI_CU_NAN;
        __syncthreads();
        return;
    }
    skvi_cu_base(j, x, skvi_cu_get32(page + 8));
    tokens = skvi_cu_key_rows(j, x, page);
    __syncthreads();
    skvi_cu_page_scores(j, x, page);
    for (k = 0; k < SKVI_CU_ROWS_MOST && (tokens >> 8 * k & 255u) < 64; k++)
        if (threadIdx.x < x.n)
            x.score[64 * threadIdx.x + (tokens >> 8 * k & 255u)] =
                x.fix[threadIdx.x * SKVI_CU_ROWS_MOST + k];
    while ((row = skvi_cu_next_row(x.t, x.t->n_groups + x.g, end, &at, &token)) != NULL)
        out |= (uint64_t)1 << token;
    __syncthreads();
    skvi_cu_softmax(j, x, j.d.sinks + 64 * i, page[1], 1, wide, out);
    skvi_cu_page_values(j, x, page, wide);
}

/* Row of an exact token in k and v: see skv_cuda_attend_desc. */
__device__ __forceinline__ int64_t skvi_cu_exact_row(const skv_cuda_attend_desc &d, uint32_t seq,
                                                     uint32_t p)
{
    return (int64_t)seq * (d.sinks + d.ring) + (p < d.sinks ? p : d.sinks + (p - d.sinks) % d.ring);
}

/* c += a b on tensor cores, 16 lines by 8 rows by 8 numbers, a warp together, tf32 numbers as
   floats whose low 13 bits do not count: lane l holds lines l / 4 and 8 more (a) and row l / 4 (b),
   numbers l % 4 and 4 more, and gets sums of those lines, rows 2 (l % 4) and the next (PTX ISA,
   mma.m16n8k8). */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define SKVI_CU_TF32 1
__device__ __forceinline__ void skvi_cu_mma_tf32(float *c, const float *a, const float *b)
{
#ifdef __CUDA_ARCH__
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])),
                   "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
                   "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#else
    const uint32_t lane = threadIdx.x % 32, row = 2 * (lane % 4), cut = 0xFFFFE000u;
    for (uint32_t k = 0; k < 8; k++)
        for (uint32_t i = 0; i < 4; i++) {
            const float x = __shfl_sync(SKVI_CU_ALL, a[i / 2 + 2 * (k / 4)], lane / 4 * 4 + k % 4);
            const float y = __shfl_sync(SKVI_CU_ALL, b[k / 4], (row + i % 2) * 4 + k % 4);
            c[i] += __uint_as_float(__float_as_uint(x) & cut) *
                    __uint_as_float(__float_as_uint(y) & cut);
        }
#endif
}

/* The nearest tf32 number. What it leaves of a float is one more but for its last bits: together
   they are exact to 2^-23. */
__device__ __forceinline__ float skvi_cu_tf32(float x)
{
    return __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xFFFFE000u);
}

/* c += a b for floats; a is exact as it is where it comes from 16 bits. */
__device__ __forceinline__ void skvi_cu_mma_float(float *c, const float *a, const float *b,
                                                  int is_f32)
{
    const float y[2] = {skvi_cu_tf32(b[0]), skvi_cu_tf32(b[1])}, rest[2] = {b[0] - y[0],
                                                                            b[1] - y[1]};
    float x[4], low[4];
    #pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        x[i] = is_f32 ? skvi_cu_tf32(a[i]) : a[i];
        low[i] = a[i] - x[i];
    }
    if (is_f32) skvi_cu_mma_tf32(c, low, y);
    skvi_cu_mma_tf32(c, x, rest);
    skvi_cu_mma_tf32(c, x, y);
}

/* Scores of n exact tokens, a warp 16 of them, for rows of one KV head. */
template <uint32_t ROWS>
__device__ __forceinline__ void skvi_cu_exact_scores_mma(const skvi_cu_job &j,
                                                         const skvi_cu_tile<ROWS> &x,
                                                         uint32_t position, uint32_t n)
{
    const uint32_t d = x.t->shape.head_dim, lane = threadIdx.x % 32, at = lane % 4;
    const uint32_t kv = skvi_cu_row_of(j, x.t, x.first).kv, token = threadIdx.x / 32 * 16;
    const float *q = j.q + ((size_t)x.seq * j.rows + x.first) * d;
    int64_t from[2];
    float c[ROWS / 8][4] = {};
    for (uint32_t i = 0; i < 2; i++)
        from[i] = skvi_cu_start(j.d.k.token_stride, j.d.k.head_stride, x.t->shape.n_kv_heads, d,
                                skvi_cu_exact_row(j.d, x.seq, position + token + lane / 4 + 8 * i),
                                kv);
    if (token < n)
        for (uint32_t e = 0; e < d; e += 8) {
            float a[4], b[2];
            #pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t k = e + at + i / 2 * 4, line = token + lane / 4 + i % 2 * 8;
                a[i] = k < d && line < n ? skvi_cu_read(j.d.k.data, j.d.k.dtype, from[i % 2] + k)
                                         : 0;
            }
            #pragma unroll
            for (uint32_t r = 0; r < ROWS / 8; r++) {
                if (8 * r >= x.n) break;
                #pragma unroll
                for (uint32_t i = 0; i < 2; i++) {
                    const uint32_t row = 8 * r + lane / 4, k = e + at + 4 * i;
                    b[i] = k < d && row < x.n ? q[(size_t)row * d + k] : 0;
                }
                skvi_cu_mma_float(c[r], a, b, j.d.k.dtype == SKV_F32);
            }
        }
    #pragma unroll
    for (uint32_t r = 0; r < ROWS / 8; r++)
        #pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t row = 8 * r + 2 * at + i % 2, line = token + lane / 4 + i / 2 * 8;
            if (row < x.n && line < n) x.score[64 * row + line] = c[r][i];
        }
}

/* Weighted sums of their values, a warp 16 elements at a time. */
template <uint32_t ROWS>
__device__ __forceinline__ void skvi_cu_exact_values_mma(const skvi_cu_job &j,
                                                         const skvi_cu_tile<ROWS> &x,
                                                         uint32_t position, uint32_t n)
{
    const uint32_t dv = x.t->shape.head_dim_v, lane = threadIdx.x % 32, at = lane % 4;
    const uint32_t kv = skvi_cu_row_of(j, x.t, x.first).kv;
    for (uint32_t e = threadIdx.x / 32 * 16; e < dv; e += 16 * SKVI_CU_WARPS) {
        float c[ROWS / 8][4] = {};
        for (uint32_t token = 0; token < n; token += 8) {
            float a[4], b[2];
            #pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t k = token + at + i / 2 * 4, line = e + lane / 4 + i % 2 * 8;
                const int64_t row = skvi_cu_exact_row(j.d, x.seq, position + (k < n ? k : 0));
                const int64_t from = skvi_cu_start(j.d.v.token_stride, j.d.v.head_stride,
                                                   x.t->shape.n_kv_heads, dv, row, kv);
                a[i] = k < n && line < dv ? skvi_cu_read(j.d.v.data, j.d.v.dtype, from + line) : 0;
            }
            #pragma unroll
            for (uint32_t r = 0; r < ROWS / 8; r++) {
                if (8 * r >= x.n) break;
                #pragma unroll
                for (uint32_t i = 0; i < 2; i++) {
                    const uint32_t row = 8 * r + lane / 4, k = token + at + 4 * i;
                    b[i] = k < n && row < x.n ? x.score[64 * row + k] : 0;
                }
                skvi_cu_mma_float(c[r], a, b, j.d.v.dtype == SKV_F32);
            }
        }
        #pragma unroll
        for (uint32_t r = 0; r < ROWS / 8; r++)
            #pragma unroll
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t row = 8 * r + 2 * at + i % 2, line = e + lane / 4 + i / 2 * 8;
                if (row < x.n && line < dv) x.oo[row * dv + line] += c[r][i];
            }
    }
}
#endif

/* Scores of n exact tokens: a warp a token. CPU: skvi_exact_block. */
template <uint32_t ROWS>
__device__ __forceinline__ void skvi_cu_exact_scores(const skvi_cu_job &j,
                                                     const skvi_cu_tile<ROWS> &x,
                                                     uint32_t position, uint32_t n)
{
    const uint32_t d = x.t->shape.head_dim, lane = threadIdx.x % 32;
    for (uint32_t i = threadIdx.x / 32; i < n; i += SKVI_CU_WARPS) {
        const int64_t row = skvi_cu_exact_row(j.d, x.seq, position + i);
        for (uint32_t r = 0; r < x.n; r++) {
            const float *q = j.q + ((size_t)x.seq * j.rows + x.first + r) * d;
            const int64_t at = skvi_cu_start(j.d.k.token_stride, j.d.k.head_stride,
                                             x.t->shape.n_kv_heads, d, row,
                                             skvi_cu_row_of(j, x.t, x.first + r).kv);
            float sum = 0;
            for (uint32_t c = lane; c < d; c += 32)
                sum += q[c] * skvi_cu_read(j.d.k.data, j.d.k.dtype, at + c);
            sum = skvi_cu_warp_sum(sum);
            if (!lane) x.score[64 * r + i] = sum;
        }
    }
}

/* Weighted sums of their values: a thread an element of the output. */
template <uint32_t ROWS>
__device__ __forceinline__ void skvi_cu_exact_values(const skvi_cu_job &j,
                                                     const skvi_cu_tile<ROWS> &x,
                                                     uint32_t position, uint32_t n)
{
    const uint32_t dv = x.t->shape.head_dim_v;
    for (uint32_t c = threadIdx.x; c < dv; c += SKVI_CU_BLOCK)
        for (uint32_t r = 0; r < x.n; r++) {
            const uint32_t kv = skvi_cu_row_of(j, x.t, x.first + r).kv;
            float sum = 0;
            for (uint32_t i = 0; i < n; i++) {
                const int64_t row = skvi_cu_exact_row(j.d, x.seq, position + i);
                const int64_t at = skvi_cu_start(j.d.v.token_stride, j.d.v.head_stride,
                                                 x.t->shape.n_kv_heads, dv, row, kv);
                sum += x.score[64 * r + i] * skvi_cu_read(j.d.v.data, j.d.v.dtype, at + c);
            }
            x.oo[r * dv + c] += sum;
        }
}

/* Exact tokens position .. position + n - 1. Tensor cores take rows by eights that share a KV head,
   in two or three tf32 products for one of floats. */
template <uint32_t ROWS>
__device__ __forceinline__ void skvi_cu_exact(const skvi_cu_job &j, const skvi_cu_tile<ROWS> &x,
                                              uint32_t position, uint32_t n)
{
#ifdef SKVI_CU_TF32
    if constexpr (ROWS >= 8)
        if (skvi_cu_row_of(j, x.t, x.first).kv == skvi_cu_row_of(j, x.t, x.first + x.n - 1).kv) {
            skvi_cu_exact_scores_mma(j, x, position, n);
            __syncthreads();
            skvi_cu_softmax(j, x, position, n, 0, 0, 0);
            __syncthreads();            /* what softmax scaled, other threads add to */
            skvi_cu_exact_values_mma(j, x, position, n);
            __syncthreads();
            return;
        }
#endif
    skvi_cu_exact_scores(j, x, position, n);
    __syncthreads();
    skvi_cu_softmax(j, x, position, n, 0, 0, 0);
    skvi_cu_exact_values(j, x, position, n);
    __syncthreads();
}

/* Whether the sequence can be attended as the description says. */
__device__ __forceinline__ int skvi_cu_sound(const skvi_cu_job &j, uint32_t seq)
{
    const int64_t pages = skvi_cu_page_count(j.d.pages, seq), total = j.d.tokens[seq];
    const int64_t behind = (int64_t)j.d.sinks + 64 * pages;
    const int64_t queries = skvi_cu_queries(j, seq);
    if (pages < 0 || pages > j.d.max_pages || total < queries) return 0;
    if (queries < 0 || queries > j.d.n_queries) return 0;
    return total - behind <= (int64_t)j.d.ring && (!pages || total >= behind);
}

/* Unit u of the sequence: sinks, recent tokens, then pages. */
template <uint32_t ROWS>
__device__ __forceinline__ void skvi_cu_unit(const skvi_cu_job &j, const skvi_cu_tile<ROWS> &x,
                                             uint32_t u)
{
    const uint32_t sinks = j.d.sinks < x.total ? j.d.sinks : x.total;
    uint32_t first = 64 * u, end = sinks;
    if (u >= j.sink_units + j.ring_units) {
        u -= j.sink_units + j.ring_units;
        if (u < x.n_pages) skvi_cu_one_page(j, x, u);
        return;
    }
    if (u >= j.sink_units) {
        first = j.d.sinks + 64 * (x.n_pages + u - j.sink_units);
        end = x.total;
    }
    if (first < end) skvi_cu_exact(j, x, first, end - first < 64 ? end - first : 64);
}

/* Grid: split, tile of a head group's rows, sequence. Shared: skvi_cu_attend_bytes. */
template <uint32_t ROWS>
__global__ void __launch_bounds__(SKVI_CU_BLOCK, 3) skvi_cu_attend_kernel(skvi_cu_job j)
{
    extern __shared__ uint4 skvi_cu_shared[];
    skvi_cu_tile<ROWS> x;
    x.t = (const skv_table *)j.d.tables;
    const uint32_t group = x.t->shape.n_q_heads / x.t->shape.n_kv_heads, tile = blockIdx.y;
    const uint32_t dv = x.t->shape.head_dim_v, width = 4 + j.values + dv;
    uint32_t end, i, u;
    x.seq = blockIdx.z;
    x.g = tile / j.tiles;
    x.s[0] = skvi_cu_stream(x.t, x.g);
    x.s[1] = skvi_cu_stream(x.t, x.t->n_groups + x.g);
    x.first = x.g * x.t->head_group * group * j.d.n_queries;
    end = x.first + x.s[0]->heads * group * j.d.n_queries;
    x.first += tile % j.tiles * ROWS;
    if (x.first >= end || !skvi_cu_sound(j, x.seq)) return;
    x.n = end - x.first < ROWS ? end - x.first : ROWS;
    x.queries = (uint32_t)skvi_cu_queries(j, x.seq);
    if (x.first % j.d.n_queries >= x.queries && x.first % j.d.n_queries + x.n <= j.d.n_queries)
        return;                         /* none of these rows is there */
    x.upto = ROWS < 8 ? ROWS : (x.n + 7) / 8 * 8;
    x.total = (uint32_t)j.d.tokens[x.seq];
    x.n_pages = (uint32_t)skvi_cu_page_count(j.d.pages, x.seq);
    skvi_cu_carve(j, (unsigned char *)skvi_cu_shared, x);
    skvi_cu_load_parts(x.t, (unsigned char *)x.parts);
    for (i = threadIdx.x; i < ROWS; i += SKVI_CU_BLOCK) {
        x.top[i] = SKVI_CU_NEVER;
        x.sum[i] = x.paged[i] = 0;
    }
    for (i = threadIdx.x; i < ROWS * 64; i += SKVI_CU_BLOCK) x.score[i] = 0;
    for (i = threadIdx.x; i < ROWS * j.values; i += SKVI_CU_BLOCK) x.ol[i] = 0;
    for (i = threadIdx.x; i < ROWS * dv; i += SKVI_CU_BLOCK) x.oo[i] = 0;
    __syncthreads();
    for (u = blockIdx.x * j.per; u < (blockIdx.x + 1) * j.per; u++) skvi_cu_unit(j, x, u);
    for (uint32_t r = 0; r < x.n; r++) {
        const size_t row = (size_t)x.seq * j.rows + x.first + r;
        float *to = j.part + (row * j.splits + blockIdx.x) * width;
        for (i = threadIdx.x; i < j.values; i += SKVI_CU_BLOCK) to[4 + i] = x.ol[r * j.values + i];
        for (i = threadIdx.x; i < dv; i += SKVI_CU_BLOCK) to[4 + j.values + i] = x.oo[r * dv + i];
        if (threadIdx.x) continue;
        to[0] = x.top[r];
        to[1] = x.sum[r];
        to[2] = x.paged[r];
    }
}

/* >>merge -------------------------------------------------------------------------------------
   Splits of a row, in their order, and latents back to values. Grid: row, sequence. Shared: the
   latent. CPU: skvi_tile_merge, skvi_tile_turn_back. */
__device__ __forceinline__ void skvi_cu_no_answer(const skvi_cu_job &j, const skv_table *t,
                                                  int64_t to, size_t lse)
{
    for (uint32_t i = threadIdx.x; i < t->shape.head_dim_v; i += SKVI_CU_BLOCK)
        skvi_cu_write(j.d.out.data, j.d.out.dtype, to + i, SKVI_CU_NAN);
    if (j.d.lse && !threadIdx.x) j.d.lse[lse] = SKVI_CU_NAN;
}

__global__ void __launch_bounds__(SKVI_CU_BLOCK) skvi_cu_merge_kernel(skvi_cu_job j)
{
    extern __shared__ uint4 skvi_cu_shared[];
    const skv_table *t = (const skv_table *)j.d.tables;
    const skvi_cu_row r = skvi_cu_row_of(j, t, blockIdx.x);
    const skv_table_stream *s = skvi_cu_stream(t, t->n_groups + r.g);
    const uint32_t dv = t->shape.head_dim_v, heads = t->shape.n_q_heads, width = 4 + j.values + dv;
    const int64_t token = skvi_cu_first_query(j, blockIdx.y) + r.query;
    float *part = j.part + ((size_t)blockIdx.y * j.rows + blockIdx.x) * j.splits * width;
    const int64_t to = skvi_cu_start(j.d.out.token_stride, j.d.out.head_stride, heads, dv,
                                     token, r.head);
    float *z = (float *)skvi_cu_shared, top = SKVI_CU_NEVER, sum = 0, paged = 0;
    uint32_t i, k;
    if (r.query >= skvi_cu_queries(j, blockIdx.y)) return;
    if (!skvi_cu_sound(j, blockIdx.y)) {
        skvi_cu_no_answer(j, t, to, (size_t)token * heads + r.head);
        return;
    }
    for (k = 0; k < j.splits; k++) top = fmaxf(top, part[k * width]);
    for (k = threadIdx.x; k < j.splits; k += SKVI_CU_BLOCK)     /* what each counts */
        part[k * width + 3] = expf(part[k * width] - top);
    __syncthreads();
    for (k = 0; k < j.splits; k++) {
        sum += part[k * width + 3] * part[k * width + 1];
        paged += part[k * width + 3] * part[k * width + 2];
    }
    for (i = threadIdx.x; i < j.values; i += SKVI_CU_BLOCK) {
        float x = 0;
        for (k = 0; k < j.splits; k++) x += part[k * width + 3] * part[k * width + 4 + i];
        z[i] = x;
    }
    __syncthreads();
    const float *decode = skvi_cu_at<float>(t, s->decode) + r.slice * dv;
    for (i = threadIdx.x; i < dv; i += SKVI_CU_BLOCK) {
        float x = paged * skvi_cu_at<float>(t, s->mean)[r.slice * dv + i];
        for (k = 0; paged > 0 && k < s->n; k++) x += z[k] * decode[(size_t)k * s->n + i];
        for (k = 0; k < j.splits; k++)
            x += part[k * width + 3] * part[k * width + 4 + j.values + i];
        skvi_cu_write(j.d.out.data, j.d.out.dtype, to + i, x / sum);
    }
    if (j.d.lse && !threadIdx.x) j.d.lse[(size_t)token * heads + r.head] = top + logf(sum);
}

/* >>rows --------------------------------------------------------------------------------------
   Rows of K and V to latents and back: tiles of 32 outputs by 64 tokens, 32 inputs at a time. */
#define SKVI_CU_DEEP 32u
#define SKVI_CU_PITCH 68u               /* floats from one input's 64 tokens to the next */
#define SKVI_CU_OUTS 36u                /* and from one input's 32 factors */
#define SKVI_CU_TILE_BYTES (4 * SKVI_CU_DEEP * (SKVI_CU_PITCH + SKVI_CU_OUTS))
#define SKVI_CU_LATENTS_BYTES (SKVI_CU_TILE_BYTES + 16)

/* acc[output][token] of a thread: outputs and tokens by fours, inputs in their order. */
__device__ __forceinline__ void skvi_cu_multiply(const float *x, const float *by, float acc[4][4])
{
    const float *y = by + threadIdx.x / 16 * 4;
    x += threadIdx.x % 16 * 4;
    for (uint32_t k = 0; k < SKVI_CU_DEEP; k++, x += SKVI_CU_PITCH, y += SKVI_CU_OUTS)
        #pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            #pragma unroll
            for (uint32_t t = 0; t < 4; t++) acc[i][t] += y[i] * x[t];
}

/* What RoPE makes of the mean of element i of a stream's unturned keys at a position. */
__device__ __forceinline__ float skvi_cu_turned(const skv_table *t, const skv_table_stream *s,
                                                uint32_t i, uint32_t position)
{
    const uint32_t e = i % s->dim, adjacent = t->style == SKV_ROPE_ADJACENT;
    const float *turn = skvi_cu_at<float>(t, s->turn) + (i - e);
    const uint32_t p = adjacent ? e / 2 : e % t->pairs, a = adjacent ? 2 * p : p;
    const uint32_t b = a + (adjacent ? 1 : t->pairs);
    float cosine, sine;
    if (e >= 2 * t->pairs) return 0;
    skvi_cu_turn(skvi_cu_at<uint64_t>(t, t->turns), p, position, 0, &cosine, &sine);
    return e == a ? turn[a] * cosine - turn[b] * sine : turn[a] * sine + turn[b] * cosine;
}

/* Outlier rows of a sub are counted when its tokens have been chosen. */
typedef struct skvi_cu_sub {
    uint64_t use;                       /* tokens with codes, a bit each */
    uint32_t gain, n_rows;
    uint32_t bad;                       /* 1: not finite, 2: beyond 1e9 */
    unsigned char row[SKVI_CU_ROWS_MOST];
} skvi_cu_sub;

typedef struct skvi_cu_encode_job {
    skv_cuda_encode_desc d;
    uint32_t     streams, wide;         /* wide: channels of the widest, whole quads */
    uint32_t     room;                  /* outlier rows of a sub, at most */
    float       *u;                     /* [n_pages][streams][wide][64] latents */
    uint32_t    *scale;                 /* [n_pages][streams][wide] asked for, then taken */
    skvi_cu_sub *sub;                   /* [n_pages][streams] */
} skvi_cu_encode_job;

__device__ __forceinline__ uint32_t skvi_cu_count(const uint32_t *counts, uint32_t page)
{
    const uint32_t n = counts ? counts[page] : 64;
    return n < 64 ? n : 64;
}
__device__ __forceinline__ unsigned char *skvi_cu_slot(const skvi_cu_encode_job &j, uint32_t page)
{
    return (unsigned char *)j.d.pool + (size_t)j.d.slots[page] * j.d.page_bytes;
}
__device__ __forceinline__ float *skvi_cu_latents(const skvi_cu_encode_job &j, uint32_t page,
                                                  uint32_t stream)
{
    return j.u + ((size_t)page * j.streams + stream) * j.wide * 64;
}
__device__ __forceinline__ uint32_t *skvi_cu_scales(const skvi_cu_encode_job &j, uint32_t page,
                                                    uint32_t stream)
{
    return j.scale + ((size_t)page * j.streams + stream) * j.wide;
}

/* Inputs [k0, k0 + 32) of a page's tokens without their means; 0 where there is none. Returns what
   is bad about those that this thread read. */
__device__ __forceinline__ uint32_t skvi_cu_load_rows(const skvi_cu_encode_job &j,
                                                      const skv_table *t, uint32_t stream,
                                                      uint32_t page, uint32_t k0, float *x)
{
    const skv_table_stream *s = skvi_cu_stream(t, stream);
    const uint32_t g = stream % t->n_groups, count = skvi_cu_count(j.d.counts, page);
    const skv_span from = stream < t->n_groups ? j.d.k : j.d.v;
    const float *mean = skvi_cu_at<float>(t, s->mean);
    uint32_t bad = 0;
    for (uint32_t k = threadIdx.x % SKVI_CU_DEEP, token = threadIdx.x / SKVI_CU_DEEP; token < 64;
         token += SKVI_CU_BLOCK / SKVI_CU_DEEP) {
        const uint32_t i = k0 + k;
        float y = 0;
        if (i < s->n && token < count) {
            const int64_t at = skvi_cu_start(from.token_stride, from.head_stride,
                                             t->shape.n_kv_heads, s->dim,
                                             j.d.rows[64 * page + token],
                                             g * t->head_group + i / s->dim);
            y = skvi_cu_read(from.data, from.dtype, at + i % s->dim);
            if (!(fabsf(y) < INFINITY)) bad |= 1u;
            else if (fabsf(y) > 1e9f) bad |= 2u;
            if (s->turn) y -= skvi_cu_turned(t, s, i, j.d.positions[page] + token);
            y -= mean[i];
        }
        x[k * SKVI_CU_PITCH + token] = y;
    }
    return bad;
}

/* Grid: 32 channels, stream, page. CPU: skvi_encode_latents. */
__global__ void __launch_bounds__(SKVI_CU_BLOCK) skvi_cu_latents_kernel(skvi_cu_encode_job j)
{
    extern __shared__ uint4 skvi_cu_shared[];
    const skv_table *t = (const skv_table *)j.d.tables;
    const skv_table_stream *s = skvi_cu_stream(t, blockIdx.y);
    const float *encode = skvi_cu_at<float>(t, s->encode);
    const uint32_t page = blockIdx.z, c0 = blockIdx.x * 32;
    unsigned char *at = (unsigned char *)skvi_cu_shared;
    float *x = skvi_cu_room<float>(&at, SKVI_CU_DEEP * SKVI_CU_PITCH);
    float *by = skvi_cu_room<float>(&at, SKVI_CU_DEEP * SKVI_CU_OUTS), acc[4][4] = {};
    uint32_t *bad = skvi_cu_room<uint32_t>(&at, 2), i, k;
    if (threadIdx.x < 2) bad[threadIdx.x] = 0;
    __syncthreads();
    for (uint32_t k0 = 0; k0 < s->n; k0 += SKVI_CU_DEEP) {
        const uint32_t wrong = skvi_cu_load_rows(j, t, blockIdx.y, page, k0, x);
        if (wrong & 1u) bad[0] = 1;             /* whoever writes, writes the same */
        if (wrong & 2u) bad[1] = 1;
        for (i = threadIdx.x / 32, k = threadIdx.x % 32; i < 32; i += SKVI_CU_BLOCK / 32)
            by[k * SKVI_CU_OUTS + i] =
                c0 + i < s->n && k0 + k < s->n ? encode[(size_t)(c0 + i) * s->n + k0 + k] : 0;
        __syncthreads();
        skvi_cu_multiply(x, by, acc);
        __syncthreads();
    }
    float *u = skvi_cu_latents(j, page, blockIdx.y);
    #pragma unroll
    for (i = 0; i < 4; i++) {
        const uint32_t ch = c0 + threadIdx.x / 16 * 4 + i;
        #pragma unroll
        for (k = 0; ch < j.wide && k < 4; k++) u[ch * 64 + threadIdx.x % 16 * 4 + k] = acc[i][k];
    }
    if (!blockIdx.x && !threadIdx.x)
        j.sub[(size_t)page * j.streams + blockIdx.y].bad = bad[0] ? 1 : bad[1] ? 2 : 0;
}

/* >>choose ------------------------------------------------------------------------------------
   Which tokens are outliers, and the scales that channels ask for. A thread takes a channel, then a
   token. CPU: skvi_page_scale, skvi_foresee, skvi_pick_outliers, skvi_sub_gain. */
#define SKVI_CU_CHOOSE_BYTES (65 * sizeof(float))
__device__ __forceinline__ uint32_t skvi_cu_nearest_scale(float x)
{
    if (!(x > skvi_cu_scale(0))) return 0;
    if (!(x < skvi_cu_scale(270))) return 270;
    uint32_t e = ((__float_as_uint(x) >> 23) - 95) << 2;
    while (e < 270 && x > 1.0905077f * skvi_cu_scale(e)) e++;
    return e;
}

__device__ __forceinline__ float skvi_cu_reach(const skv_table_mode &m)
{
    return m.unit * (float)(1u << m.bits) / 2;
}

/* The scale that a channel's 64 latents ask for. */
__device__ __forceinline__ uint32_t skvi_cu_page_scale(const float *u, uint64_t use,
                                                       const skv_table_mode &m)
{
    const float reach = 0.75f * skvi_cu_reach(m);
    float sum[4] = {0, 0, 0, 0}, top = 0, best = -1;
    uint32_t t, i, s, count = 0;
    #pragma unroll 4
    for (t = 0; t < 64; t += 4)
        #pragma unroll
        for (i = 0; i < 4; i++) {
            const float x = use >> (t + i) & 1u ? u[t + i] : 0;
            sum[i] += x * x;
            top = fmaxf(top, fabsf(x));
            count += (uint32_t)(use >> (t + i) & 1u);
        }
    sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    const uint32_t rms = skvi_cu_nearest_scale(count ? sqrtf(sum[0] / (float)count) : 0);
    uint32_t best_s = rms;
    if (!(top > reach * skvi_cu_scale(rms))) return rms;
    for (s = rms; s <= rms + 12 && s < 269; s++) {
        const float scale = skvi_cu_scale(s);
        float cost = 64 * m.distortion * scale * scale;
        #pragma unroll 4
        for (t = 0; t < 64; t++) {
            const float beyond = fabsf(u[t]) - reach * scale;
            cost += use >> t & 1u && beyond > 0 ? beyond * beyond : 0;
        }
        if (best >= 0 && cost >= best) break;
        best = cost;
        best_s = s;
    }
    return best_s;
}

/* Squared error to expect of a token. */
__device__ __forceinline__ float skvi_cu_foresee(const skv_table *t, const skv_table_stream *s,
                                                 const float *u, const uint32_t *scales,
                                                 uint32_t token)
{
    const uint32_t *quads = skvi_cu_at<uint32_t>(t, s->quads);
    const float *variance = skvi_cu_at<float>(t, s->variance);
    float all = 0, err = 0;
    for (uint32_t ch = 0; ch < s->n; ch++) {
        const uint32_t m = ch < s->coded ? quads[ch / 4] & 15u : 0;
        const float scale = m ? skvi_cu_scale(scales[ch]) : 0, var = variance[ch];
        const float reach = m ? skvi_cu_reach(t->mode[m]) * scale : 0;
        const float beyond = fabsf(u[64 * ch + token]) - reach;
        if (m) all += var * (t->mode[m].distortion * scale * scale);
        if (beyond > 0) err += var * (beyond * beyond);
    }
    return err + all;
}

__device__ __forceinline__ uint32_t skvi_cu_warp_least(uint32_t x)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    for (int i = 16; i; i >>= 1) x = umin(x, __shfl_xor_sync(SKVI_CU_ALL, x, i));
    return x;
#else
    return __reduce_min_sync(SKVI_CU_ALL, x);
#endif
}

/* One warp: the worst tokens become rows while that is worth their bits. Returns how many. */
__device__ __forceinline__ uint32_t skvi_cu_pick(const skv_table_stream *s, const float *err,
                                                 uint32_t room, skvi_cu_sub *sub)
{
    const uint32_t lane = threadIdx.x % 32;
    float least = 8.0f * (float)skvi_cu_row_bytes(s) * s->lambda, e[2];
    uint64_t use = sub->use;
    uint32_t i, added = 0, n = sub->n_rows;
    for (i = 0; i < 2; i++)
        e[i] = use >> (lane + 32 * i) & 1u ? err[lane + 32 * i] : SKVI_CU_NEVER;
    least = fmaxf(least, 0.25f * skvi_cu_warp_max(fmaxf(e[0], e[1])));
    for (; n + added < room; added++) {
        const float top = skvi_cu_warp_max(fmaxf(e[0], e[1]));
        if (!(top > least)) break;
        const uint32_t worst = skvi_cu_warp_least(e[0] == top ? lane
                                                              : e[1] == top ? lane + 32 : 64);
        use &= ~((uint64_t)1 << worst);
        for (i = 0; i < 2; i++)
            if (lane + 32 * i == worst) e[i] = SKVI_CU_NEVER;
        if (!lane) sub->row[n + added] = (unsigned char)worst;
    }
    __syncwarp();
    if (lane) return added;
    sub->n_rows = n + added;
    sub->use = use;
    return added;
}

/* One warp: scale 0 of a sub's nibbles. */
__device__ __forceinline__ void skvi_cu_gain(const skv_table_stream *s, const uint32_t *scales,
                                             skvi_cu_sub *sub)
{
    const uint32_t n = s->coded < s->n ? s->coded : s->n;
    uint32_t least = 255, most = 0;
    for (uint32_t ch = threadIdx.x % 32; ch < n; ch += 32) {
        const uint32_t e = scales[ch];
        most = e > most ? e : most;
        least = umin(least, e > 2 ? e - 2 : 0);
    }
    least = skvi_cu_warp_least(least);
    most = ~skvi_cu_warp_least(~most);
    if (most > least + 14) least = most - 14;
    if (!(threadIdx.x % 32)) sub->gain = umin(least, 255u);
}

/* Bytes of outlier rows that a sub may have now; credit goes up by the page's allowance. */
__device__ __forceinline__ uint32_t skvi_cu_credit(uint32_t *credit, const skv_table_stream *s)
{
    if (!credit) return 0xFFFFFFFFu;
    if (!threadIdx.x) *credit = umin(*credit + s->allowance, (1u << 24) + s->allowance);
    __syncthreads();
    return *credit;
}

/* Scales and outliers of one sub. *picked is in shared memory. */
__device__ __forceinline__ void skvi_cu_choose(const skvi_cu_encode_job &j, const skv_table *t,
                                               uint32_t page, uint32_t stream, uint32_t room,
                                               float *err, skvi_cu_sub *sub, uint32_t *picked)
{
    const skv_table_stream *s = skvi_cu_stream(t, stream);
    const uint32_t *quads = skvi_cu_at<uint32_t>(t, s->quads);
    const float *u = skvi_cu_latents(j, page, stream);
    uint32_t *scales = skvi_cu_scales(j, page, stream);
    const uint32_t count = skvi_cu_count(j.d.counts, page);
    if (!threadIdx.x) {
        sub->use = count < 64 ? ((uint64_t)1 << count) - 1 : ~(uint64_t)0;
        sub->n_rows = 0;
    }
    __syncthreads();
    for (uint32_t round = 0;; round++) {
        for (uint32_t ch = threadIdx.x; ch < s->coded; ch += SKVI_CU_BLOCK)
            scales[ch] = skvi_cu_page_scale(u + 64 * ch, sub->use, t->mode[quads[ch / 4] & 15u]);
        __syncthreads();
        if (!room || round == 3) break;
        if (threadIdx.x < 64) err[threadIdx.x] = skvi_cu_foresee(t, s, u, scales, threadIdx.x);
        __syncthreads();
        if (threadIdx.x < 32) {
            const uint32_t n = skvi_cu_pick(s, err, room, sub);
            if (!threadIdx.x) *picked = n;
        }
        __syncthreads();
        if (!*picked) break;
    }
    if (threadIdx.x < 32) skvi_cu_gain(s, scales, sub);
}

/* Grid: stream, sequence (without credits: page). */
__global__ void __launch_bounds__(SKVI_CU_BLOCK) skvi_cu_choose_kernel(skvi_cu_encode_job j)
{
    extern __shared__ uint4 skvi_cu_shared[];
    const skv_table *t = (const skv_table *)j.d.tables;
    const skv_table_stream *s = skvi_cu_stream(t, blockIdx.x);
    float *err = (float *)skvi_cu_shared;
    uint32_t *picked = (uint32_t *)(err + 64);
    uint32_t *credit = j.d.credit ? j.d.credit + (size_t)blockIdx.y * j.streams + blockIdx.x : NULL;
    const uint32_t first = credit ? j.d.first[blockIdx.y] : blockIdx.y;
    const uint32_t end = credit ? j.d.first[blockIdx.y + 1] : blockIdx.y + 1;
    for (uint32_t page = first; page < end && page < j.d.n_pages; page++) {
        skvi_cu_sub *sub = &j.sub[(size_t)page * j.streams + blockIdx.x];
        const uint32_t room = umin(skvi_cu_credit(credit, s) / skvi_cu_row_bytes(s), j.room);
        skvi_cu_choose(j, t, page, blockIdx.x, room, err, sub, picked);
        __syncthreads();
        if (credit && !threadIdx.x) *credit -= sub->n_rows * skvi_cu_row_bytes(s);
        __syncthreads();
    }
}

/* >>search ------------------------------------------------------------------------------------
   Viterbi search of the trellis: a warp a channel, 8 neighbouring states a lane, all in integers,
   the codes those of the CPU (>>search in spectral_kv.h). N paths side by side: two scales. */
#define SKVI_CU_STATES 256u
typedef struct skvi_cu_search {         /* shared memory of a warp */
    uint32_t      best[2][2][SKVI_CU_STATES / 4];   /* by turns; of both paths; bytes */
    int           x[2][64];             /* latents in fine steps, by position */
    unsigned char from[64][2][32];      /* winners of a lane */
    unsigned char state[64];            /* the path found */
    uint32_t      hidden[2];            /* costs beyond the last level */
} skvi_cu_search;

#define SKVI_CU_SEARCH_BYTES \
    (8 * SKVI_CU_STATES + SKVI_CU_WARPS * sizeof(skvi_cu_search) + 256)

typedef struct skvi_cu_trellis {        /* what a search wants to know of its mode */
    const int *level;                   /* [2][256] in fine steps, shared memory */
    uint32_t   half, twice, seam;
    int        fine, last;              /* last: beyond any level */
    float      unit;
} skvi_cu_trellis;

template <uint32_t N> struct skvi_cu_paths {
    uint32_t c[N][8], low[N], total[N];     /* costs; see skvi_search */
};

/* Winners among the 2^B neighbours of the lane's remainders: into from and best. */
template <uint32_t B>
__device__ __forceinline__ uint32_t skvi_cu_compete(const uint32_t *c, uint32_t low,
                                                    unsigned char *from, uint32_t *best)
{
    const uint32_t lane = threadIdx.x % 32, ways = B < 3 ? 1u << B : 8, groups = 8 / ways;
    const uint32_t lanes = B < 3 ? 1 : 1u << B >> 3;    /* that share a remainder */
    uint32_t won[8], who = 0, word[2] = {0, 0}, least = 255;
    #pragma unroll
    for (uint32_t g = 0; g < groups; g++) {         /* the last of equals wins */
        uint32_t key = ~0u;
        #pragma unroll
        for (uint32_t i = 0; i < ways; i++) {
            const uint32_t k = (8 * lane + ways * g + i) & ((1u << B) - 1);
            key = umin(key, c[ways * g + i] << 8 | (255 - k));
        }
        #pragma unroll
        for (uint32_t i = 1; i < lanes; i *= 2)
            key = umin(key, __shfl_xor_sync(SKVI_CU_ALL, key, i));
        won[g] = (key >> 8) - umin(key >> 8, low);
        who |= (255 - (key & 255u)) << B * g % 32;
        least = umin(least, won[g]);
        word[g / 4] |= won[g] << 8 * (g % 4);
    }
    if (B) from[lane] = (unsigned char)who;
    if (B == 0) best[2 * lane] = word[0], best[2 * lane + 1] = word[1];
    if (B == 1) best[lane] = word[0];
    if (B == 2) ((uint16_t *)best)[lane] = (uint16_t)word[0];
    if (B > 2 && lane % lanes == 0)
        ((unsigned char *)best)[8 * lane >> B] = (unsigned char)word[0];
    return least;
}

/* Costs of the states that follow, at a token's latent; none: it costs nothing. */
template <uint32_t B>
__device__ __forceinline__ void skvi_cu_follow(const uint32_t *best, const int *level, int x,
                                               int none, uint32_t twice, uint32_t *c)
{
    const uint32_t lane = threadIdx.x % 32, n = SKVI_CU_STATES >> B;
    const int most = 32768 >> twice;
    const uint32_t at = 2 * lane & (n / 4 - 1 + (n < 4));
    const uint32_t word[2] = {best[n > 4 ? at : 0], best[n > 4 ? at + 1 : 0]};
    #pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
        const uint32_t b = word[i / 4] >> 8 * (i % (n < 4 ? n : 4)) & 255u;
        const int d = min(abs(x - level[8 * lane + i]), most);
        c[i] = umin(b + (none ? 0u : (uint32_t)((d * d << twice) + 16384) >> 15), 255u);
    }
}

template <uint32_t B, uint32_t N>
__device__ __forceinline__ void skvi_cu_step(skvi_cu_search *v, const int *level, uint32_t turn,
                                             uint32_t at, int none, uint32_t twice,
                                             skvi_cu_paths<N> &p)
{
    uint32_t low[N];
    #pragma unroll
    for (uint32_t i = 0; i < N; i++)
        low[i] = skvi_cu_compete<B>(p.c[i], p.low[i], v->from[at][i], v->best[turn][i]);
    __syncwarp();
    #pragma unroll
    for (uint32_t i = 0; i < N; i++) {
        p.total[i] += p.low[i];
        p.low[i] = skvi_cu_warp_least(low[i]);
        skvi_cu_follow<B>(v->best[turn][i], level, v->x[i][at], none, twice, p.c[i]);
    }
}

/* n positions of the circle from `first` on, n even; costs begin as they are. CPU:
   skvi_search_run. */
template <uint32_t N>
__device__ __forceinline__ void skvi_cu_run(skvi_cu_search *v, const skvi_cu_trellis &m,
                                            uint64_t use, uint32_t first, uint32_t n,
                                            skvi_cu_paths<N> &p)
{
    for (uint32_t i = 0; i < N; i++) p.low[i] = p.total[i] = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t at = (first + i) % 64, token = 4 * (at % 16) + at / 16;
        const int none = !(use >> token & 1u);
        const int *level = m.level + SKVI_CU_STATES * (at & 1u);
        switch ((m.half + (at & 1u)) >> 1) {
        case 0: skvi_cu_step<0>(v, level, i & 1u, at, none, m.twice, p); break;
        case 1: skvi_cu_step<1>(v, level, i & 1u, at, none, m.twice, p); break;
        case 2: skvi_cu_step<2>(v, level, i & 1u, at, none, m.twice, p); break;
        case 3: skvi_cu_step<3>(v, level, i & 1u, at, none, m.twice, p); break;
        case 4: skvi_cu_step<4>(v, level, i & 1u, at, none, m.twice, p); break;
        case 5: skvi_cu_step<5>(v, level, i & 1u, at, none, m.twice, p); break;
        case 6: skvi_cu_step<6>(v, level, i & 1u, at, none, m.twice, p); break;
        case 7: skvi_cu_step<7>(v, level, i & 1u, at, none, m.twice, p); break;
        default: skvi_cu_step<8>(v, level, i & 1u, at, none, m.twice, p);
        }
    }
    __syncwarp();
}

/* state[] of n positions from `first` on, back from s at the last: all lanes do the same. */
__device__ __forceinline__ void skvi_cu_trace(skvi_cu_search *v, uint32_t half, uint32_t first,
                                              uint32_t n, uint32_t path, uint32_t s)
{
    for (uint32_t i = n; i-- > 0;) {
        const uint32_t at = (first + i) % 64, b = (half + (at & 1u)) >> 1;
        const uint32_t rest = (s & ((SKVI_CU_STATES >> b) - 1)) << b;
        const uint32_t beside = b < 3 ? (rest & 7u) >> b : 0;       /* winners in that byte */
        const uint32_t who = v->from[at][path][rest >> 3] >> beside * b;
        if (!(threadIdx.x % 32)) v->state[at] = (unsigned char)s;
        s = rest | (who & ((1u << b) - 1));
    }
    __syncwarp();
}

/* A channel's latents at a scale as whole numbers, a little beyond the last level at most. Returns
   what that hides, in costs. CPU: skvi_search_load. */
__device__ __forceinline__ uint32_t skvi_cu_load(const skvi_cu_trellis &m, const float *u,
                                                 uint64_t use, uint32_t e, int *x)
{
    const int end = m.last + 2 * m.fine;
    const float inv = (float)m.fine / (m.unit * skvi_cu_scale(e)), most = (float)end;
    uint32_t hidden = 0;
    for (uint32_t at = threadIdx.x % 32; at < 64; at += 32) {
        const uint32_t token = 4 * (at % 16) + at / 16;
        const float y = u[token] * inv;
        const int far = fabsf(y) < 32000.0f ? (int)fabsf(y) : 32000;
        float z = y > -most ? y : -most;                /* NaN: the left */
        z = z < most ? z : most;
        x[at] = __float2int_rn(z);
        if (use >> token & 1u && far > end)
            hidden += (uint32_t)((far - m.last) * (far - m.last) - (end - m.last) * (end - m.last))
                      >> 15 << m.twice;
    }
    for (int i = 16; i; i >>= 1) hidden += __shfl_xor_sync(SKVI_CU_ALL, hidden, i);
    return hidden;
}

/* The path of one channel, into state[]; returns the scale taken, e or the step below. CPU:
   skvi_search_free, skvi_encode_quads. */
__device__ __forceinline__ uint32_t skvi_cu_channel(skvi_cu_search *v, const skvi_cu_trellis &m,
                                                    const float *u, uint64_t use, uint32_t e)
{
    const uint32_t lane = threadIdx.x % 32, first = 64 - m.seam / 2;
    skvi_cu_paths<2> p;
    skvi_cu_paths<1> q;
    uint64_t err[2];
    uint32_t end[2], i, down;
    #pragma unroll
    for (uint32_t k = 0; k < 2; k++) {
        const uint32_t hidden = skvi_cu_load(m, u, use, e - k, v->x[k]);
        if (!lane) v->hidden[k] = hidden;
        for (i = 0; i < 8; i++) p.c[k][i] = 0;
    }
    __syncwarp();
    skvi_cu_run(v, m, use, 0, 64, p);
    #pragma unroll
    for (uint32_t k = 0; k < 2; k++) {
        uint32_t key = ~0u;
        for (i = 0; i < 8; i++) key = umin(key, p.c[k][i] << 8 | (8 * lane + i));
        key = skvi_cu_warp_least(key);
        err[k] = (uint64_t)v->hidden[k] + p.total[k] + (key >> 8);
        end[k] = key & 255u;
    }
    down = 5741 * err[1] < 8119 * err[0];
    skvi_cu_trace(v, m.half, 0, 64, down, down ? end[1] : end[0]);
    for (i = lane; down && i < 64; i += 32) v->x[0][i] = v->x[1][i];
    for (i = 0; i < 8; i++) q.c[0][i] = v->state[first - 1] == 8 * lane + i ? 0 : 255;
    end[0] = v->state[(first + m.seam - 1) % 64];
    __syncwarp();
    skvi_cu_run(v, m, use, first, m.seam, q);
    skvi_cu_trace(v, m.half, first, m.seam, 0, end[0]);
    return e - down;
}

/* Where byte i of lane l of channel b of a quad's codes lies. */
__device__ __forceinline__ uint32_t skvi_cu_place(int values, uint32_t l, uint32_t b, uint32_t i)
{
    return 16 * i + (values ? 4 * b + l : 4 * l + b);
}

/* Four threads: a path to its channel's bytes. */
__device__ __forceinline__ void skvi_cu_pack(const skvi_cu_search *v, uint32_t half, int values,
                                             uint32_t b, unsigned char *codes)
{
    const uint32_t l = threadIdx.x % 32;
    uint32_t bits = 0, have = 0, i = 0;
    if (l >= 4) return;
    for (uint32_t step = 0; step < 16; step++) {
        const uint32_t n = (half + (step & 1u)) >> 1;
        bits |= (uint32_t)v->state[16 * l + step] >> (8 - n) << have;
        for (have += n; have >= 8; have -= 8, bits >>= 8)
            codes[skvi_cu_place(values, l, b, i++)] = (unsigned char)bits;
    }
}

/* Grid: quad, stream, page. A warp takes one of the quad's channels. */
__global__ void __launch_bounds__(SKVI_CU_BLOCK, 5) skvi_cu_search_kernel(skvi_cu_encode_job j)
{
    extern __shared__ uint4 skvi_cu_shared[];
    const skv_table *t = (const skv_table *)j.d.tables;
    const skv_table_stream *s = skvi_cu_stream(t, blockIdx.y);
    const uint32_t warp = threadIdx.x / 32, ch = 4 * blockIdx.x + warp;
    const skvi_cu_sub *sub = &j.sub[(size_t)blockIdx.z * j.streams + blockIdx.y];
    if (4 * blockIdx.x >= s->coded) return;
    const uint32_t quad = skvi_cu_at<uint32_t>(t, s->quads)[blockIdx.x];
    const skv_table_mode *mode = &t->mode[quad & 15u];
    unsigned char *at = (unsigned char *)skvi_cu_shared;
    int *level = skvi_cu_room<int>(&at, 2 * SKVI_CU_STATES);
    skvi_cu_search *v = skvi_cu_room<skvi_cu_search>(&at, SKVI_CU_WARPS) + warp;
    unsigned char *codes = skvi_cu_room<unsigned char>(&at, 256);
    uint32_t e = skvi_cu_scales(j, blockIdx.z, blockIdx.y)[ch];
    const uint32_t h = mode->half;
    const skvi_cu_trellis m = {level, h, mode->twice, h <= 4 ? 64u : h <= 8 ? 48u : 24u,
                               (int)mode->fine, (int)mode->fine << (mode->bits - 1), mode->unit};
    for (uint32_t i = threadIdx.x; i < 2 * SKVI_CU_STATES; i += SKVI_CU_BLOCK) {
        const int8_t (*part)[16] = mode->part[i / SKVI_CU_STATES & h];
        level[i] = m.fine * (part[0][i & 15u] + part[1][(i >> 4 & 15u) ^ (i & 15u)]);
    }
    __syncthreads();
    e = e < sub->gain + 2 ? sub->gain + 2 : e > sub->gain + 14 ? sub->gain + 14 : e;
    e = skvi_cu_channel(v, m, skvi_cu_latents(j, blockIdx.z, blockIdx.y) + (size_t)64 * ch,
                        sub->use, e);
    skvi_cu_pack(v, h, blockIdx.y >= t->n_groups, warp, codes);
    if (!(threadIdx.x % 32)) skvi_cu_scales(j, blockIdx.z, blockIdx.y)[ch] = e;
    __syncthreads();
    unsigned char *to = skvi_cu_slot(j, blockIdx.z) + s->offset + (quad >> 4);
    for (uint32_t i = threadIdx.x; i < 16 * h; i += SKVI_CU_BLOCK) to[i] = codes[i];
}

/* >>finish ------------------------------------------------------------------------------------
   The rest of a page: nibbles, norms of what is lost, outlier rows, header. CPU: skvi_encode_error,
   skvi_store_rows, skvi_encode_finish, skvi_encode_page. */
#define SKVI_CU_FINISH_BYTES (64 * sizeof(float))
__device__ __forceinline__ void skvi_cu_put16(unsigned char *p, uint32_t x)
{
    p[0] = (unsigned char)x;
    p[1] = (unsigned char)(x >> 8);
}
__device__ __forceinline__ void skvi_cu_put32(unsigned char *p, uint32_t x)
{
    skvi_cu_put16(p, x);
    skvi_cu_put16(p + 2, x >> 16);
}

/* Level of a token of channel b of a quad. */
__device__ __forceinline__ int skvi_cu_level(const skv_table_mode &m, const unsigned char *codes,
                                             int values, uint32_t b, uint32_t token)
{
    const uint32_t l = token % 4, step = token / 4, end = (step + 1) * m.half >> 1, i = end >> 3;
    const uint32_t before = i ? codes[skvi_cu_place(values, l, b, i - 1)]
                              : codes[skvi_cu_place(values, (l + 3) & 3u, b, m.half - 1)];
    const uint32_t now = end & 7u ? codes[skvi_cu_place(values, l, b, i)] : 0;
    const uint32_t w = (before | now << 8) >> (end & 7u) & 255u;
    const int8_t (*part)[16] = m.part[step & m.half & 1u];
    return part[0][w & 15u] + part[1][(w >> 4) ^ (w & 15u)];
}

/* A latent as outlier rows hold it. */
__device__ __forceinline__ uint32_t skvi_cu_row_f16(float x)
{
    return skvi_cu_to_f16(fminf(fmaxf(x, -65504.0f), 65504.0f));
}

/* Squared error of a token's codes, or of its row. */
__device__ __forceinline__ float skvi_cu_lost(const skv_table *t, const skv_table_stream *s,
                                              const float *u, const uint32_t *scales,
                                              const unsigned char *sub, int values, uint32_t token,
                                              int is_row)
{
    const uint32_t *quads = skvi_cu_at<uint32_t>(t, s->quads);
    const float *variance = skvi_cu_at<float>(t, s->variance);
    float err = 0;
    for (uint32_t ch = 0; ch < s->n; ch++) {
        const float x = u[64 * ch + token];
        float diff = x;
        if (is_row) diff = x - skvi_cu_from_f16(skvi_cu_row_f16(x));
        else if (ch < s->coded) {
            const skv_table_mode &m = t->mode[quads[ch / 4] & 15u];
            const int level = skvi_cu_level(m, sub + (quads[ch / 4] >> 4), values, ch % 4, token);
            diff = x - (float)level * (m.unit * skvi_cu_scale(scales[ch]));
        }
        err += variance[ch] * diff * diff;
    }
    return err;
}

/* The nearest bf16 from above. */
__device__ __forceinline__ uint32_t skvi_cu_to_bf16_up(float x)
{
    return (__float_as_uint(x) + 0xFFFFu) >> 16;
}

/* One thread: the largest error and the root of the mean. */
__device__ __forceinline__ void skvi_cu_norms(const float *err, uint32_t n, unsigned char *sub)
{
    float top = 0;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += (double)err[i];
        top = err[i] > top ? err[i] : top;
    }
    skvi_cu_put16(sub, skvi_cu_to_bf16_up(sqrtf(top) * 1.0001f));
    skvi_cu_put16(sub + 2, skvi_cu_to_bf16_up((float)sqrt(sum / n)));
}

/* One thread: the page's header. */
__device__ __forceinline__ void skvi_cu_header(const skvi_cu_encode_job &j, const skv_table *t,
                                               uint32_t page, unsigned char *to)
{
    const skv_table_stream *s = skvi_cu_stream(t, 0);
    const skvi_cu_sub *sub = &j.sub[(size_t)page * j.streams];
    const uint32_t count = skvi_cu_count(j.d.counts, page);
    uint32_t bytes = t->least, rows = 0, bad = count ? 0 : 4, i;
    for (i = 0; i < j.streams; i++) {
        rows += sub[i].n_rows;
        bytes += sub[i].n_rows * skvi_cu_row_bytes(s + i);
        bad |= sub[i].bad;
    }
    to[0] = (unsigned char)(bad ? 0 : t->page_format);
    to[1] = (unsigned char)count;
    skvi_cu_put16(to + 2, rows);
    skvi_cu_put32(to + 4, bytes);
    skvi_cu_put32(to + 8, j.d.positions[page]);
    if (j.d.status)
        j.d.status[page] = bad & 4u ? SKV_ERR_ARG : bad & 1u ? SKV_ERR_NOT_FINITE
                                                             : bad ? SKV_ERR_RANGE : SKV_OK;
}

/* Grid: stream, page. */
__global__ void __launch_bounds__(SKVI_CU_BLOCK) skvi_cu_finish_kernel(skvi_cu_encode_job j)
{
    extern __shared__ uint4 skvi_cu_shared[];
    const skv_table *t = (const skv_table *)j.d.tables;
    const skv_table_stream *all = skvi_cu_stream(t, 0);
    const skv_table_stream *s = all + blockIdx.x;
    const skvi_cu_sub *subs = &j.sub[(size_t)blockIdx.y * j.streams], *sub = subs + blockIdx.x;
    const uint32_t *scales = skvi_cu_scales(j, blockIdx.y, blockIdx.x), token = threadIdx.x;
    const uint32_t count = skvi_cu_count(j.d.counts, blockIdx.y);
    const float *u = skvi_cu_latents(j, blockIdx.y, blockIdx.x);
    unsigned char *page = skvi_cu_slot(j, blockIdx.y), *to = page + s->offset;
    unsigned char *row = page + t->least;
    float *err = (float *)skvi_cu_shared;
    uint32_t i, r;
    if (token < count)
        err[token] = skvi_cu_lost(t, s, u, scales, to, blockIdx.x >= t->n_groups, token,
                                  !(sub->use >> token & 1u));
    for (i = threadIdx.x; i < s->coded / 2; i += SKVI_CU_BLOCK)
        to[SKVI_CU_SUB_HEADER + i] = (unsigned char)((scales[2 * i] - sub->gain) |
                                                     (scales[2 * i + 1] - sub->gain) << 4);
    for (i = 0; i < blockIdx.x; i++) row += subs[i].n_rows * skvi_cu_row_bytes(all + i);
    for (r = 0; r < sub->n_rows; r++, row += skvi_cu_row_bytes(s)) {
        for (i = threadIdx.x; i < s->n; i += SKVI_CU_BLOCK)
            skvi_cu_put16(row + 2 + 2 * i, skvi_cu_row_f16(u[64 * i + sub->row[r]]));
        if (threadIdx.x) continue;
        row[0] = (unsigned char)blockIdx.x;
        row[1] = (unsigned char)(sub->row[r] | blockIdx.x >> 8 << 6);
    }
    __syncthreads();
    if (threadIdx.x) return;
    to[4] = (unsigned char)sub->gain;
    if (count) skvi_cu_norms(err, count, to);
    if (!blockIdx.x) skvi_cu_header(j, t, blockIdx.y, page);
}

/* >>dense -------------------------------------------------------------------------------------
   Pages back to rows. CPU: skvi_decode_stream. */
#define SKVI_CU_DECODE_BYTES \
    (256 * SKVI_CU_LINE + 4 * SKVI_CU_STAGE + 64 * SKV_TABLE_MODES + 4 * SKVI_CU_SLAB + \
     SKVI_CU_TILE_BYTES)

typedef struct skvi_cu_dense {          /* shared memory of a block */
    uint32_t *levels, *stage;
    uint4    *parts;
    float    *step, *x, *by;
} skvi_cu_dense;

/* Latents of 32 channels of a slab of codes, `half` says which. */
__device__ __forceinline__ void skvi_cu_dense_stage(const skvi_cu_dense &m, uint32_t half,
                                                    uint32_t n, int values)
{
    for (uint32_t i = threadIdx.x; i < SKVI_CU_DEEP * 64; i += SKVI_CU_BLOCK) {
        const uint32_t token = i % 64, k = i / 64, ch = 32 * half + k;
        const uint32_t word = values ? m.levels[ch * SKVI_CU_LINE + token / 4]
                                     : m.levels[token * SKVI_CU_LINE + ch / 4];
        const int level = (int8_t)(word >> 8 * (values ? token % 4 : ch % 4));
        m.x[k * SKVI_CU_PITCH + token] = ch < n ? (float)level * m.step[ch] : 0;
    }
}

/* Outlier rows in place of codes: channels [ch, ch + 32). */
__device__ __forceinline__ void skvi_cu_dense_rows(const skv_table *t, uint32_t stream,
                                                   const unsigned char *page, uint32_t ch, float *x)
{
    const unsigned char *at = page + t->least, *end = page + skvi_cu_get32(page + 4), *row;
    const uint32_t n = skvi_cu_stream(t, stream)->n, k = threadIdx.x;
    uint32_t token;
    while ((row = skvi_cu_next_row(t, stream, end, &at, &token)) != NULL)
        if (k < SKVI_CU_DEEP && ch + k < n)
            x[k * SKVI_CU_PITCH + token] = skvi_cu_from_f16(skvi_cu_get16(row + 2 * (ch + k)));
}

/* acc += latents times what they are worth, for 32 elements from o0 on. */
__device__ __forceinline__ void skvi_cu_dense_sum(const skv_table *t, uint32_t stream,
                                                  const unsigned char *page, uint32_t o0,
                                                  const skvi_cu_dense &m, float acc[4][4])
{
    const skv_table_stream *s = skvi_cu_stream(t, stream);
    const uint32_t *quads = skvi_cu_at<uint32_t>(t, s->quads);
    const float *decode = skvi_cu_at<float>(t, s->decode);
    const int values = stream >= t->n_groups;
    for (uint32_t ch = 0; ch < s->n; ch += SKVI_CU_SLAB) {
        const uint32_t left = ch < s->coded ? s->coded - ch : 0;
        const uint32_t n = left < SKVI_CU_SLAB ? left : SKVI_CU_SLAB;
        if (n) {
            const unsigned char *sub = page + s->offset;
            const uint32_t *q = quads + ch / 4;
            skvi_cu_stage(t, sub, q, n / 4, values, m.stage);
            skvi_cu_steps(t, sub, q, ch, n / 4, m.step);
            __syncthreads();
            skvi_cu_slab(t, q, n / 4, values, m.stage, m.parts, m.levels);
            __syncthreads();
        }
        for (uint32_t half = 0; half < 2 && ch + 32 * half < s->n; half++) {
            const uint32_t first = ch + 32 * half;
            skvi_cu_dense_stage(m, half, n, values);
            for (uint32_t i = threadIdx.x; i < SKVI_CU_DEEP * 32; i += SKVI_CU_BLOCK) {
                const uint32_t k = i / 32, o = o0 + i % 32;
                m.by[k * SKVI_CU_OUTS + i % 32] =
                    first + k < s->n && o < s->n ? decode[(size_t)(first + k) * s->n + o] : 0;
            }
            __syncthreads();
            skvi_cu_dense_rows(t, stream, page, first, m.x);
            __syncthreads();
            skvi_cu_multiply(m.x, m.by, acc);
            __syncthreads();
        }
    }
}

/* Grid: 32 elements of a head group's rows, stream, page. */
__global__ void __launch_bounds__(SKVI_CU_BLOCK, 5) skvi_cu_decode_kernel(skv_cuda_decode_desc d)
{
    extern __shared__ uint4 skvi_cu_shared[];
    const skv_table *t = (const skv_table *)d.tables;
    const uint32_t stream = blockIdx.y, o0 = 32 * blockIdx.x;
    const skv_table_stream *s = skvi_cu_stream(t, stream);
    const skv_out to = stream < t->n_groups ? d.k : d.v;
    const unsigned char *page =
        (const unsigned char *)d.pool + (size_t)d.slots[blockIdx.z] * d.page_bytes;
    const int fine = skvi_cu_whole(t, page, d.page_bytes);
    const uint32_t most = skvi_cu_count(d.counts, blockIdx.z);
    const uint32_t count = fine && page[1] < most ? page[1] : most;
    unsigned char *at = (unsigned char *)skvi_cu_shared;
    float acc[4][4] = {};
    skvi_cu_dense m;
    if (o0 >= s->n || !to.data) return;
    m.levels = skvi_cu_room<uint32_t>(&at, 64 * SKVI_CU_LINE);
    m.stage = skvi_cu_room<uint32_t>(&at, SKVI_CU_STAGE);
    m.parts = skvi_cu_room<uint4>(&at, 4 * SKV_TABLE_MODES);
    m.step = skvi_cu_room<float>(&at, SKVI_CU_SLAB);
    m.x = skvi_cu_room<float>(&at, SKVI_CU_DEEP * SKVI_CU_PITCH);
    m.by = skvi_cu_room<float>(&at, SKVI_CU_DEEP * SKVI_CU_OUTS);
    skvi_cu_load_parts(t, (unsigned char *)m.parts);
    __syncthreads();
    if (fine) skvi_cu_dense_sum(t, stream, page, o0, m, acc);
    #pragma unroll
    for (uint32_t i = 0; i < 16; i++)
        m.x[(threadIdx.x / 16 * 4 + i / 4) * SKVI_CU_PITCH + threadIdx.x % 16 * 4 + i % 4] =
            acc[i / 4][i % 4];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < 32 * count; i += SKVI_CU_BLOCK) {
        const uint32_t o = o0 + i % 32, token = i / 32;
        if (o >= s->n) continue;
        const int64_t where = skvi_cu_start(to.token_stride, to.head_stride, t->shape.n_kv_heads,
                                            s->dim, d.rows[64 * blockIdx.z + token],
                                            stream % t->n_groups * t->head_group + o / s->dim);
        float x = m.x[i % 32 * SKVI_CU_PITCH + token] + skvi_cu_at<float>(t, s->mean)[o];
        if (s->turn && fine) x += skvi_cu_turned(t, s, o, skvi_cu_get32(page + 8) + token);
        skvi_cu_write(to.data, to.dtype, where + o % s->dim,
                      fine ? x : SKVI_CU_NAN);
    }
}

/* >>cold --------------------------------------------------------------------------------------
   Cold pages to rows: integers by one lane of a warp a page, since each depends on all before; then
   products by tiles. CPU: >>cold in spectral_kv.h. */
#define SKVI_CU_COLD_HEADER 20u
#define SKVI_CU_COLD_BINS 52u
#define SKVI_CU_COLD_UNARY 14u

typedef struct skvi_cu_cold_held {      /* what a slot of held rows has */
    uint32_t known, layer, position, n, crc;
} skvi_cu_cold_held;

typedef struct skvi_cu_cold_page {      /* of the layer at hand */
    int32_t  status;
    uint32_t n, position;
    int32_t  step;                      /* 64 log2 of it */
} skvi_cu_cold_page;

typedef struct skvi_cu_cold_job {
    skv_cuda_cold_desc d;
    uint32_t     slots, own, widest, values;    /* depth + 1; numbers of a row; of a stream; 0 or 1:
                                                   which streams skvi_cu_cold_rows_kernel makes */
    skvi_cu_cold_held *held;            /* [n_pages][slots] */
    float       *row;                   /* [slots][n_pages][64][width] */
    skvi_cu_cold_page *page;            /* [n_pages] */
    uint32_t    *coded;                 /* [n_pages][streams] */
    int16_t     *q;                     /* [n_pages][own][64] */
} skvi_cu_cold_job;

__device__ __forceinline__ float *skvi_cu_cold_row(const skvi_cu_cold_job &j,
                                                   const skv_cold_table *t, uint32_t layer,
                                                   uint32_t page, uint32_t token)
{
    const size_t slot = layer % j.slots;
    return j.row + ((slot * j.d.n_pages + page) * 64 + token) * t->width;
}
__device__ __forceinline__ const skv_cold_table_stream *
skvi_cu_cold_stream(const skv_cold_table *t, uint32_t i)
{
    return skvi_cu_at<skv_cold_table_stream>(t, t->stream) + i;
}
/* The range decoder and its model: one thread's. bit: p | seen << 16. */
typedef struct skvi_cu_range {
    const unsigned char *in;
    uint64_t  at, end;
    uint32_t  range, code;
    uint32_t *bit;                      /* [BINS][UNARY], shared memory */
    uint32_t *mean;                     /* [coded], shared memory */
    uint32_t  sum, expected;
} skvi_cu_range;

/* The range was cut to no less than 2^8 (16 raw bits) or 2^13 (a probability of 32 / 65536). */
__device__ __forceinline__ void skvi_cu_refill(skvi_cu_range &r)
{
    #pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        if (r.range >= 1u << 24) continue;
        r.range <<= 8;
        r.code = r.code << 8 | (r.at < r.end ? r.in[r.at] : 0u);
        r.at++;
    }
}

__device__ __forceinline__ uint32_t skvi_cu_bit(skvi_cu_range &r, uint32_t *b)
{
    const uint32_t seen = *b >> 16, rate = seen < 8 ? 5 : seen < 48 ? 6 : 7;
    uint32_t p = *b & 65535u;
    const uint32_t one = (r.range >> 16) * p, bit = r.code < one;
    r.code -= bit ? 0 : one;
    r.range = bit ? one : r.range - one;
    p = bit ? p + ((65536u - p) >> rate) : p - (p >> rate);
    *b = ((p & 65535u) < 32 ? 32 : p & 65535u) | (seen + (seen < 255)) << 16;
    skvi_cu_refill(r);
    return bit;
}

__device__ __forceinline__ uint32_t skvi_cu_raw(skvi_cu_range &r, uint32_t n)
{
    r.range >>= n;
    uint32_t x = r.code / r.range;
    if (x >> n) x = (1u << n) - 1;      /* only in damaged data */
    r.code -= x * r.range;
    skvi_cu_refill(r);
    return x;
}

/* 64 log2(x), linear between powers of two; x > 0. */
__device__ __forceinline__ int32_t skvi_cu_log64(uint32_t x)
{
    const uint32_t zeros = (uint32_t)__clz((int)x);
    return (int32_t)(31 - zeros) * 64 + (int32_t)(x << zeros >> 25 & 63u);
}

/* Average magnitude of a channel to start from; level = 64 log2(sd / step). */
__device__ __forceinline__ uint32_t skvi_cu_cold_expect(const skv_cold_table *t, int32_t level)
{
    const int32_t l = max(0, min(119, (level + 256) >> 3));
    return l < 56 ? t->mean[l] : t->mean[48 + (l & 7)] << ((l - 48) >> 3);
}

/* The next integer, of channel c. CPU: skvi_cold_decode_one. */
__device__ __forceinline__ int32_t skvi_cu_cold_one(skvi_cu_range &r, uint32_t c)
{
    const uint32_t mean = r.mean[c];
    const int32_t more = skvi_cu_log64(r.sum + 262144) - skvi_cu_log64(r.expected + 262144);
    const int32_t f = skvi_cu_log64(mean) + more * 24 / 32 - 1024;
    const uint32_t low = f >= 128 ? umin((uint32_t)(f - 64) >> 6, 12) : 0;
    const int32_t bin = max(0, min((int32_t)SKVI_CU_COLD_BINS - 1,
                                   (f - (int32_t)low * 64 + 640) >> 4));
    uint32_t *bit = r.bit + (uint32_t)bin * SKVI_CU_COLD_UNARY, a = 0;
    while (a < SKVI_CU_COLD_UNARY && skvi_cu_bit(r, bit + a)) a++;
    if (a == SKVI_CU_COLD_UNARY) {
        const uint32_t n = umin(skvi_cu_raw(r, 5), 16);
        a += n < 2 ? n : 1u << (n - 1) | skvi_cu_raw(r, n - 1);
    }
    a <<= low;
    if (low) a |= skvi_cu_raw(r, low);
    a = umin(a, 32767);                 /* more only in damaged data */
    const uint32_t x = umin(a, 2048) << 16, now = mean + (x >> 6) - (mean >> 6);
    r.sum += x - (r.sum >> 4);
    r.expected += mean - (r.expected >> 4);
    r.mean[c] = now ? now : 1;
    return a && skvi_cu_raw(r, 1) ? -(int32_t)a : (int32_t)a;
}

/* CRC-32 (IEEE 802.3, reflected). CPU: skvi_crc32. */
__device__ __forceinline__ uint32_t skvi_cu_crc(const unsigned char *p, uint64_t n)
{
    uint32_t c = 0xFFFFFFFFu;
    for (uint64_t i = 0; i < n; i++) {
        c ^= p[i];
        #pragma unroll
        for (uint32_t k = 0; k < 8; k++) c = c >> 1 ^ (0xEDB88320u & (0u - (c & 1u)));
    }
    return ~c;
}

/* Whether a page can be decoded, and what its header says. CPU: skvi_cold_check. */
__device__ __forceinline__ skv_result skvi_cu_cold_check(const skvi_cu_cold_job &j,
                                                         const skv_cold_table *t, uint32_t page,
                                                         const unsigned char *b, uint64_t bytes)
{
    const skvi_cu_cold_held *held = j.held + (size_t)page * j.slots;
    if (bytes < SKVI_CU_COLD_HEADER) return SKV_ERR_TRUNCATED;
    if (b[0] != 'C') return SKV_ERR_FORMAT;
    if (b[1] > t->page_version) return SKV_ERR_VERSION;
    if (b[1] != t->page_version || !b[2] || b[2] > 64 || b[3]) return SKV_ERR_FORMAT;
    if (skvi_cu_get32(b + 12) > bytes) return SKV_ERR_TRUNCATED;
    if (skvi_cu_get32(b + 12) < bytes || skvi_cu_get16(b + 4) != t->layer) return SKV_ERR_FORMAT;
    for (uint32_t a = 1; a <= t->depth && a <= t->layer; a++) {
        const skvi_cu_cold_held *h = held + (t->layer - a) % j.slots;
        if (!h->known || h->layer != t->layer - a || h->n != b[2] ||
            h->position != skvi_cu_get32(b + 8))
            return SKV_ERR_STATE;
    }
    uint32_t crc = skvi_cu_crc(b, 16) * 0x9E3779B1u ^ t->crc ^
                   skvi_cu_crc(b + SKVI_CU_COLD_HEADER, bytes - SKVI_CU_COLD_HEADER);
    if (t->layer && t->depth) crc ^= held[(t->layer - 1) % j.slots].crc;
    return crc != skvi_cu_get32(b + 16) ? SKV_ERR_CHECKSUM : SKV_OK;
}

/* A warp: integers of one stream; those that are not coded stay unwritten. */
__device__ __forceinline__ void skvi_cu_cold_code(const skvi_cu_cold_job &j,
                                                  const skv_cold_table *t, uint32_t page,
                                                  uint32_t stream, skvi_cu_range &r)
{
    const skv_cold_table_stream *s = skvi_cu_cold_stream(t, stream);
    const int32_t *level = skvi_cu_at<int32_t>(t, s->level), step = j.page[page].step;
    const uint32_t lane = threadIdx.x % 32;
    int16_t *q = j.q + ((size_t)page * j.own + s->at) * 64;
    uint32_t coded = 0;
    while (coded < s->n && level[coded] - step > -256) coded++;     /* levels fall */
    __syncwarp();
    for (uint32_t c = lane; c < coded; c += 32)
        r.mean[c] = skvi_cu_cold_expect(t, level[c] - step);
    __syncwarp();
    if (lane) return;
    j.coded[(size_t)page * 2 * t->n_groups + stream] = coded;
    for (uint32_t token = 0; token < j.page[page].n; token++) {
        r.sum = r.expected = 0;
        for (uint32_t c = 0; c < coded; c++) q[64 * c + token] = (int16_t)skvi_cu_cold_one(r, c);
    }
}

/* One thread: what a page's header says, and whether it can be trusted. */
__device__ __forceinline__ void skvi_cu_cold_open(const skvi_cu_cold_job &j,
                                                  const skv_cold_table *t, uint32_t page)
{
    const unsigned char *b = (const unsigned char *)j.d.pages + j.d.at[page];
    const uint64_t bytes = j.d.at[page + 1] - j.d.at[page];
    skvi_cu_cold_held *held = j.held + (size_t)page * j.slots;
    skvi_cu_cold_page *to = &j.page[page];
    for (uint32_t i = 0; !t->layer && i < j.slots; i++) held[i].known = 0;
    to->status = skvi_cu_cold_check(j, t, page, b, bytes);
    held += t->layer % j.slots;
    held->known = 0;
    if (to->status != SKV_OK) return;
    held->layer = t->layer;
    to->position = held->position = skvi_cu_get32(b + 8);
    to->n = held->n = b[2];
    held->crc = skvi_cu_get32(b + 16);
    to->step = (int32_t)skvi_cu_get16(b + 6) - 32768;
}

static size_t skvi_cu_cold_codes_bytes(uint32_t widest)
{
    const size_t words = SKVI_CU_COLD_BINS * SKVI_CU_COLD_UNARY + widest;
    return SKVI_CU_WARPS * words * sizeof(uint32_t);
}

/* Grid: pages by fours, a warp a page. Shared: per warp states of bits, averages. */
__global__ void __launch_bounds__(SKVI_CU_BLOCK) skvi_cu_cold_codes_kernel(skvi_cu_cold_job j)
{
    extern __shared__ uint4 skvi_cu_shared[];
    const skv_cold_table *t = (const skv_cold_table *)j.d.tables;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t page = SKVI_CU_WARPS * blockIdx.x + warp;
    const uint32_t bits = SKVI_CU_COLD_BINS * SKVI_CU_COLD_UNARY;
    skvi_cu_range r;
    if (page >= j.d.n_pages) return;
    if (!lane) skvi_cu_cold_open(j, t, page);
    r.bit = (uint32_t *)skvi_cu_shared + warp * (bits + j.widest);
    r.mean = r.bit + bits;
    for (uint32_t i = lane; i < bits; i += 32) {
        const uint32_t k = i % SKVI_CU_COLD_UNARY;
        r.bit[i] = 256u * t->start[i / SKVI_CU_COLD_UNARY][k < 3 ? k : 3];
    }
    __syncwarp();
    if (j.page[page].status != SKV_OK) {
        if (!lane && j.d.status) j.d.status[page] = j.page[page].status;
        return;
    }
    r.in = (const unsigned char *)j.d.pages + j.d.at[page] + SKVI_CU_COLD_HEADER;
    r.at = r.code = 0;
    r.end = j.d.at[page + 1] - j.d.at[page] - SKVI_CU_COLD_HEADER;
    for (uint32_t i = 0; i < 4; i++, r.at++)
        r.code = r.code << 8 | (r.at < r.end ? r.in[r.at] : 0u);
    r.range = 0xFFFFFFFFu;
    for (uint32_t stream = 0; stream < 2 * t->n_groups; stream++)
        skvi_cu_cold_code(j, t, page, stream, r);
    if (lane) return;
    if (r.at > r.end + 8) j.page[page].status = SKV_ERR_FORMAT;
    j.held[(size_t)page * j.slots + t->layer % j.slots].known = j.page[page].status == SKV_OK;
    if (j.d.status) j.d.status[page] = j.page[page].status;
}

/* Where number i of what a stream is predicted from lies in the held rows of token 0: own keys for
   values, then K and V of the same group of the layers before. */
__device__ __forceinline__ const float *skvi_cu_cold_ref(const skvi_cu_cold_job &j,
                                                         const skv_cold_table *t, uint32_t stream,
                                                         uint32_t page, uint32_t i)
{
    const uint32_t g = stream % t->n_groups, first = g * t->head_group;
    const skv_cold_table_stream *key = skvi_cu_cold_stream(t, g);
    if (stream >= t->n_groups) {
        if (i < key->n) return skvi_cu_cold_row(j, t, t->layer, page, 0) + key->at + i;
        i -= key->n;
    }
    for (uint32_t a = 1;; a++) {
        const skv_layer l = t->before[a - 1];
        const uint32_t left = first < l.n_kv_heads ? l.n_kv_heads - first : 0;
        const uint32_t heads = umin(left, t->head_group), keys = heads * l.head_dim;
        const float *row = skvi_cu_cold_row(j, t, t->layer - a, page, 0);
        if (i < keys) return row + first * l.head_dim + i;
        i -= keys;
        if (i < heads * l.head_dim_v)
            return row + l.n_kv_heads * l.head_dim + first * l.head_dim_v + i;
        i -= heads * l.head_dim_v;
    }
}

/* What an integer stands for. CPU: skvi_cold_restore. */
__device__ __forceinline__ float skvi_cu_cold_value(int32_t q, float step)
{
    const float a = fabsf((float)q), z = a - (a == 1 ? 0.045f : a > 0 ? -0.02f : 0.0f);
    return q < 0 ? -z * step : z * step;
}

/* Inputs [k0, k0 + 32) of a stream's tokens: references, then coefficients. */
__device__ __forceinline__ void skvi_cu_cold_load(const skvi_cu_cold_job &j,
                                                  const skv_cold_table *t, uint32_t stream,
                                                  uint32_t page, uint32_t k0, uint32_t coded,
                                                  float *x)
{
    const skv_cold_table_stream *s = skvi_cu_cold_stream(t, stream);
    const uint32_t n = j.page[page].n, i = k0 + threadIdx.x % SKVI_CU_DEEP;
    const int16_t *q = j.q + ((size_t)page * j.own + s->at) * 64;
    const float *ref = i < s->refs ? skvi_cu_cold_ref(j, t, stream, page, i) : NULL;
    const float step = exp2f((float)j.page[page].step / 64);
    for (uint32_t token = threadIdx.x / SKVI_CU_DEEP; token < 64;
         token += SKVI_CU_BLOCK / SKVI_CU_DEEP) {
        float y = 0;
        if (token < n && ref) y = ref[(size_t)token * t->width];
        else if (token < n && i - s->refs < coded)
            y = skvi_cu_cold_value(q[64 * (i - s->refs) + token], step);
        x[threadIdx.x % SKVI_CU_DEEP * SKVI_CU_PITCH + token] = y;
    }
}

/* Grid: 32 elements of a head group's rows, group, page. */
__global__ void __launch_bounds__(SKVI_CU_BLOCK) skvi_cu_cold_rows_kernel(skvi_cu_cold_job j)
{
    extern __shared__ uint4 skvi_cu_shared[];
    const skv_cold_table *t = (const skv_cold_table *)j.d.tables;
    const uint32_t stream = blockIdx.y + j.values * t->n_groups, page = blockIdx.z;
    const skv_cold_table_stream *s = skvi_cu_cold_stream(t, stream);
    const float *decode = skvi_cu_at<float>(t, s->decode);
    const float *predict = skvi_cu_at<float>(t, s->predict);
    const uint32_t o0 = 32 * blockIdx.x;
    unsigned char *room = (unsigned char *)skvi_cu_shared;
    float *x = skvi_cu_room<float>(&room, SKVI_CU_DEEP * SKVI_CU_PITCH);
    float *by = skvi_cu_room<float>(&room, SKVI_CU_DEEP * SKVI_CU_OUTS), acc[4][4] = {};
    if (o0 >= s->n || j.page[page].status != SKV_OK) return;
    const uint32_t coded = j.coded[(size_t)page * 2 * t->n_groups + stream];
    for (uint32_t k0 = 0; k0 < s->refs + coded; k0 += SKVI_CU_DEEP) {
        skvi_cu_cold_load(j, t, stream, page, k0, coded, x);
        for (uint32_t i = threadIdx.x; i < SKVI_CU_DEEP * 32; i += SKVI_CU_BLOCK) {
            const uint32_t k = k0 + i / 32, o = o0 + i % 32;
            const float *from = k < s->refs ? predict + (size_t)k * s->n
                                            : decode + (size_t)(k - s->refs) * s->n;
            by[i / 32 * SKVI_CU_OUTS + i % 32] = k < s->refs + coded && o < s->n ? from[o] : 0;
        }
        __syncthreads();
        skvi_cu_multiply(x, by, acc);
        __syncthreads();
    }
    #pragma unroll
    for (uint32_t i = 0; i < 16; i++) {
        const uint32_t o = o0 + threadIdx.x / 16 * 4 + i / 4;
        const uint32_t token = threadIdx.x % 16 * 4 + i % 4;
        if (o < s->n && token < j.page[page].n)
            skvi_cu_cold_row(j, t, t->layer, page, token)[s->at + o] = acc[i / 4][i % 4];
    }
}

/* Element e of a head of a held row with its mean, keys turned. */
__device__ __forceinline__ float skvi_cu_cold_turned(const skv_cold_table *t, const float *x,
                                                     const float *mean, uint32_t e,
                                                     uint32_t position)
{
    const uint32_t adjacent = t->style == SKV_ROPE_ADJACENT;
    const uint32_t p = adjacent ? e / 2 : e % t->pairs, a = adjacent ? 2 * p : p;
    const uint32_t b = a + (adjacent ? 1 : t->pairs);
    const float y = x[a] + mean[a], z = x[b] + mean[b];
    float cosine, sine;
    skvi_cu_turn(skvi_cu_at<uint64_t>(t, t->turns), p, position, 0, &cosine, &sine);
    return e == a ? y * cosine - z * sine : y * sine + z * cosine;
}

/* Grid: 8 tokens, stream, page. CPU: skvi_cold_out. */
__global__ void __launch_bounds__(SKVI_CU_BLOCK) skvi_cu_cold_out_kernel(skvi_cu_cold_job j)
{
    const skv_cold_table *t = (const skv_cold_table *)j.d.tables;
    const uint32_t stream = blockIdx.y, page = blockIdx.z, values = stream >= t->n_groups;
    const skv_cold_table_stream *s = skvi_cu_cold_stream(t, stream);
    const float *mean = skvi_cu_at<float>(t, s->mean);
    const skv_out to = values ? j.d.v : j.d.k;
    const skvi_cu_cold_page p = j.page[page];
    const int fine = p.status == SKV_OK;
    const uint32_t most = skvi_cu_count(j.d.counts, page), n = fine ? umin(p.n, most) : most;
    if (!to.data) return;
    for (uint32_t token = 8 * blockIdx.x; token < n && token < 8 * blockIdx.x + 8; token++)
        for (uint32_t i = threadIdx.x; i < s->n; i += SKVI_CU_BLOCK) {
            const uint32_t head = i / s->dim, e = i % s->dim;
            const int64_t at = skvi_cu_start(to.token_stride, to.head_stride, t->shape.n_kv_heads,
                                             s->dim, j.d.rows[64 * page + token],
                                             stream % t->n_groups * t->head_group + head);
            const float *x = skvi_cu_cold_row(j, t, t->layer, page, token) + s->at;
            float y = SKVI_CU_NAN;
            if (fine && !values && e < 2 * t->pairs)
                y = skvi_cu_cold_turned(t, x + (i - e), mean + (i - e), e,
                                        (j.d.positions ? j.d.positions[page] : p.position) + token);
            else if (fine) y = x[i] + mean[i];
            skvi_cu_write(to.data, to.dtype, at + e, y);
        }
}

/* >>calibrate ---------------------------------------------------------------------------------
   Sums of a passage. CPU: skvi_add_gram, skvi_add_waves, skvi_add_tile. */
typedef struct skvi_cu_profile_job {
    skv_cuda_profile_desc d;
    uint32_t count;                     /* queries of a head */
    uint32_t first;                     /* tokens before it are sinks, and counted nowhere */
    float   *v;                         /* [n_kv][n_tokens][dim_v] less their mean */
    float   *vgv;                       /* [n_q][n_tokens] |W_O v_j|^2 */
    float   *wave;                      /* [n_tokens][2 pairs] */
    double  *weight, *mass;             /* [n_q][count] a_i and sum of p_ij^2 */
} skvi_cu_profile_job;

/* Position of a query. */
__device__ __forceinline__ uint32_t skvi_cu_query_at(const skvi_cu_profile_job &j, uint32_t i)
{
    return (uint32_t)((2 * (uint64_t)i + 1) * j.d.n_tokens / (2 * (uint64_t)j.count));
}

/* Element e of a token of one of the three tensors. */
__device__ __forceinline__ float skvi_cu_element(const skv_span &x, uint32_t heads, uint32_t dim,
                                                 uint32_t token, uint32_t head, uint32_t e)
{
    return skvi_cu_read(x.data, x.dtype,
                        skvi_cu_start(x.token_stride, x.head_stride, heads, dim, token, head) + e);
}

/* Grid: KV head's values, then waves by 16 tokens. */
__global__ void __launch_bounds__(SKVI_CU_BLOCK) skvi_cu_prepare_kernel(skvi_cu_profile_job j)
{
    const skv_profiler_table *t = (const skv_profiler_table *)j.d.tables;
    const uint32_t kv = t->shape.n_kv_heads, dv = t->shape.head_dim_v, n = j.d.n_tokens;
    if (blockIdx.x < kv) {
        for (uint32_t i = threadIdx.x; i < dv; i += SKVI_CU_BLOCK) {
            double mean = 0;
            for (uint32_t token = 0; token < n; token++)
                mean += (double)skvi_cu_element(j.d.v, kv, dv, token, blockIdx.x, i) / n;
            for (uint32_t token = 0; token < n; token++)
                j.v[((size_t)blockIdx.x * n + token) * dv + i] =
                    skvi_cu_element(j.d.v, kv, dv, token, blockIdx.x, i) - (float)mean;
        }
        return;
    }
    const float *freqs = skvi_cu_at<float>(t, t->freqs);
    const uint32_t from = 16 * (blockIdx.x - kv), end = umin(from + 16, n);
    for (uint32_t i = threadIdx.x; i < 16 * t->pairs; i += SKVI_CU_BLOCK) {
        const uint32_t token = from + i / t->pairs, p = i % t->pairs;
        if (token >= end) continue;
        const double angle = (double)token * (double)freqs[p];
        j.wave[(size_t)token * 2 * t->pairs + p] = (float)cos(angle);
        j.wave[(size_t)token * 2 * t->pairs + t->pairs + p] = (float)sin(angle);
    }
}

/* A warp: v^T G v of one token. */
__device__ __forceinline__ float skvi_cu_quadratic(const float *v, const float *g, uint32_t n)
{
    float sum = 0;
    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = threadIdx.x % 32; b < n; b += 32) sum += v[a] * g[a * n + b] * v[b];
    return skvi_cu_warp_sum(sum);
}

/* Grid: tokens by 32, query head. */
__global__ void __launch_bounds__(SKVI_CU_BLOCK) skvi_cu_norms_kernel(skvi_cu_profile_job j)
{
    const skv_profiler_table *t = (const skv_profiler_table *)j.d.tables;
    const uint32_t dv = t->shape.head_dim_v, n = j.d.n_tokens, head = blockIdx.y;
    const uint32_t kv = head / (t->shape.n_q_heads / t->shape.n_kv_heads);
    const float *g = skvi_cu_at<float>(t, t->output) + (size_t)head * dv * dv;
    const uint32_t end = umin(n, 32 * blockIdx.x + 32);
    for (uint32_t token = 32 * blockIdx.x + threadIdx.x / 32; token < end; token += SKVI_CU_WARPS) {
        const float x = skvi_cu_quadratic(j.v + ((size_t)kv * n + token) * dv, g, dv);
        if (!(threadIdx.x % 32)) j.vgv[(size_t)head * n + token] = x;
    }
}

typedef struct skvi_cu_weigh {          /* shared memory of a block: one query of one head */
    float  *q, *o, *og, *part;          /* [head_dim], [dim_v] twice, [WARPS] */
    double *sum;                        /* [2][WARPS] */
    float  *score;                      /* [n_tokens], behind soft cap and mask */
} skvi_cu_weigh;
static size_t skvi_cu_weigh_bytes(uint32_t d, uint32_t dv, uint32_t n)
{
    return skvi_cu_room_bytes(4 * d) + 2 * skvi_cu_room_bytes(4 * dv) +
           skvi_cu_room_bytes(4 * SKVI_CU_WARPS) + skvi_cu_room_bytes(16 * SKVI_CU_WARPS) +
           skvi_cu_room_bytes((size_t)4 * n);
}

/* Scores of keys begin .. pos; returns the greatest. */
__device__ __forceinline__ float skvi_cu_weigh_scores(const skvi_cu_profile_job &j,
                                                      const skv_profiler_table *t,
                                                      const skvi_cu_weigh &w, uint32_t kv,
                                                      uint32_t begin, uint32_t pos)
{
    const uint32_t d = t->shape.head_dim, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float cap = t->shape.softcap;
    float top = SKVI_CU_NEVER;
    for (uint32_t i = begin + warp; i <= pos; i += SKVI_CU_WARPS) {
        float x = 0;
        for (uint32_t e = lane; e < d; e += 32)
            x += w.q[e] * skvi_cu_element(j.d.k, t->shape.n_kv_heads, d, i, kv, e);
        x = t->shape.scale * skvi_cu_warp_sum(x);
        if (cap > 0) x = cap * tanhf(x / cap);
        top = fmaxf(top, x);
        if (!lane) w.score[i] = x;
    }
    if (!lane) w.part[warp] = top;
    __syncthreads();
    for (uint32_t i = 0; i < SKVI_CU_WARPS; i++) top = fmaxf(top, w.part[i]);
    return top;
}

/* Output o of a query less the mean of values, and G o. Returns o^T G o. */
__device__ __forceinline__ float skvi_cu_weigh_output(const skvi_cu_profile_job &j,
                                                      const skv_profiler_table *t,
                                                      const skvi_cu_weigh &w, uint32_t head,
                                                      uint32_t begin, uint32_t pos, float top,
                                                      float *total)
{
    const uint32_t dv = t->shape.head_dim_v, n = j.d.n_tokens;
    const uint32_t kv = head / (t->shape.n_q_heads / t->shape.n_kv_heads);
    const float *v = j.v + (size_t)kv * n * dv;
    const float *g = skvi_cu_at<float>(t, t->output) + (size_t)head * dv * dv;
    float sum = 0, oo = 0;
    for (uint32_t i = begin; i <= pos; i++) sum += expf(w.score[i] - top);
    for (uint32_t e = threadIdx.x; e < dv; e += SKVI_CU_BLOCK) {
        float x = 0;
        for (uint32_t i = begin; i <= pos; i++)
            x += expf(w.score[i] - top) / sum * v[(size_t)i * dv + e];
        w.o[e] = x;
    }
    __syncthreads();
    for (uint32_t e = threadIdx.x; e < dv; e += SKVI_CU_BLOCK) {
        float x = 0;
        for (uint32_t i = 0; i < dv; i++) x += w.o[i] * g[(size_t)i * dv + e];
        w.og[e] = x;
    }
    __syncthreads();
    for (uint32_t i = 0; i < dv; i++) oo += w.o[i] * w.og[i];
    *total = sum;
    return oo;
}

/* Grid: query, query head. Shared: skvi_cu_weigh_bytes. What a key's error costs this query. */
__global__ void __launch_bounds__(SKVI_CU_BLOCK) skvi_cu_weigh_kernel(skvi_cu_profile_job j)
{
    extern __shared__ uint4 skvi_cu_shared[];
    const skv_profiler_table *t = (const skv_profiler_table *)j.d.tables;
    const uint32_t d = t->shape.head_dim, dv = t->shape.head_dim_v, n = j.d.n_tokens;
    const uint32_t head = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t kv = head / (t->shape.n_q_heads / t->shape.n_kv_heads);
    const uint32_t pos = skvi_cu_query_at(j, blockIdx.x), sliding = t->shape.sliding_window;
    const uint32_t begin = sliding && pos + 1 > sliding ? pos + 1 - sliding : 0;
    const float cap = t->shape.softcap;
    unsigned char *at = (unsigned char *)skvi_cu_shared;
    skvi_cu_weigh w;
    w.q = skvi_cu_room<float>(&at, d);
    w.o = skvi_cu_room<float>(&at, dv);
    w.og = skvi_cu_room<float>(&at, dv);
    w.part = skvi_cu_room<float>(&at, SKVI_CU_WARPS);
    w.sum = skvi_cu_room<double>(&at, 2 * SKVI_CU_WARPS);
    w.score = skvi_cu_room<float>(&at, n);
    for (uint32_t i = threadIdx.x; i < d; i += SKVI_CU_BLOCK)
        w.q[i] = skvi_cu_element(j.d.q, t->shape.n_q_heads, d, pos, head, i);
    __syncthreads();
    const float top = skvi_cu_weigh_scores(j, t, w, kv, begin, pos);
    float total;
    const float oo = skvi_cu_weigh_output(j, t, w, head, begin, pos, top, &total);
    double weight = 0, mass = 0;
    for (uint32_t i = max((int)begin, (int)t->sinks) + warp; i + t->window <= pos;
         i += SKVI_CU_WARPS) {
        const float p = expf(w.score[i] - top) / total, th = cap > 0 ? w.score[i] / cap : 0;
        const float x = p * (1 - th * th), *v = j.v + ((size_t)kv * n + i) * dv;
        if (p < 1e-6f) continue;
        float dot = 0;
        for (uint32_t e = lane; e < dv; e += 32) dot += w.og[e] * v[e];
        const float far = j.vgv[(size_t)head * n + i] + oo - 2 * skvi_cu_warp_sum(dot);
        if (!(far <= 0)) weight += (double)(x * x * far);
        mass += (double)(p * p);
    }
    if (!lane) w.sum[warp] = weight, w.sum[SKVI_CU_WARPS + warp] = mass;
    __syncthreads();
    if (threadIdx.x) return;
    weight = mass = 0;
    for (uint32_t i = 0; i < SKVI_CU_WARPS; i++) {
        weight += w.sum[i];
        mass += w.sum[SKVI_CU_WARPS + i];
    }
    j.weight[(size_t)head * j.count + blockIdx.x] = weight;
    j.mass[(size_t)head * j.count + blockIdx.x] = mass;
}

/* The sums of a passage, a task each: what is multiplied with what, and where it goes. */
enum { SKVI_CU_KEYS, SKVI_CU_VALUES, SKVI_CU_WAVES, SKVI_CU_QUERIES };
typedef struct skvi_cu_side {           /* numbers [n] of a token (queries: of a row) */
    uint32_t what, head, dim, n;
} skvi_cu_side;
typedef struct skvi_cu_task {
    skvi_cu_side x, y;
    uint32_t     weigh, upper;          /* rows count as their weights say; y = x */
    double      *sum, *gram;            /* sum of y, or NULL; of x y^T */
} skvi_cu_task;

__device__ __forceinline__ uint32_t skvi_cu_task_heads(const skv_profiler_table *t, uint32_t g)
{
    return umin(t->head_group, t->shape.n_kv_heads - g * t->head_group);
}

/* Task `i` of 3 n_groups (Gram and cross of K, Gram of V) + 1 (waves) + 2 n_kv (queries). Where:
   see skv_profiler_sums. */
__device__ __forceinline__ skvi_cu_task skvi_cu_task_of(const skvi_cu_profile_job &j,
                                                        const skv_profiler_table *t, uint32_t i)
{
    const uint32_t F = 2 * t->pairs, groups = t->n_groups, kv = t->shape.n_kv_heads;
    const uint32_t d = t->shape.head_dim, dv = t->shape.head_dim_v, g = i % groups;
    const size_t whole = (size_t)t->head_group * d, whole_v = (size_t)t->head_group * dv;
    const size_t last = (size_t)skvi_cu_task_heads(t, groups - 1) * d;
    const size_t last_v = (size_t)skvi_cu_task_heads(t, groups - 1) * dv;
    double *at = j.d.sums + 2, *values = at + (groups - 1) * whole * (1 + whole + F) +
                                         last * (1 + last + F);
    double *waves = values + (groups - 1) * whole_v * (1 + whole_v) + last_v * (1 + last_v);
    const skvi_cu_side wave = {SKVI_CU_WAVES, 0, F, F};
    skvi_cu_task task = {wave, wave, 0, 1, waves, waves + F};
    if (i < 2 * groups) {               /* keys with keys, then with waves */
        const uint32_t n = skvi_cu_task_heads(t, g) * d;
        at += g * whole * (1 + whole + F);
        task.x = {SKVI_CU_KEYS, g * t->head_group, d, n};
        task.y = i < groups ? task.x : wave;
        task.upper = i < groups;
        task.sum = i < groups ? at : NULL;
        task.gram = at + n + (i < groups ? 0 : (size_t)n * n);
    } else if (i < 3 * groups) {
        const uint32_t n = skvi_cu_task_heads(t, g) * dv;
        values += g * whole_v * (1 + whole_v);
        task.x = task.y = {SKVI_CU_VALUES, g * t->head_group, dv, n};
        task.sum = values;
        task.gram = values + n;
    } else if (i > 3 * groups) {
        const uint32_t head = (i - 3 * groups - 1) % kv;
        task.weigh = i - 3 * groups - 1 >= kv;
        task.x = task.y = {SKVI_CU_QUERIES, head, d, d};
        task.sum = NULL;
        task.gram = waves + F + (size_t)F * F + (size_t)(i - 3 * groups - 1) * d * d;
    }
    return task;
}

/* Number e of row r of a side. */
__device__ __forceinline__ float skvi_cu_side_at(const skvi_cu_profile_job &j,
                                                 const skv_profiler_table *t,
                                                 const skvi_cu_side &s, uint32_t r, uint32_t e)
{
    const uint32_t kv = t->shape.n_kv_heads, each = t->shape.n_q_heads / kv;
    if (s.what == SKVI_CU_WAVES) return j.wave[(size_t)(j.first + r) * s.n + e];
    if (s.what == SKVI_CU_QUERIES)
        return skvi_cu_element(j.d.q, t->shape.n_q_heads, s.dim, skvi_cu_query_at(j, r % j.count),
                               s.head * each + r / j.count, e);
    return skvi_cu_element(s.what == SKVI_CU_KEYS ? j.d.k : j.d.v, kv, s.dim, j.first + r,
                           s.head + e / s.dim, e % s.dim);
}

/* What row r of a task counts: 1, or of a query scale^2 and its weight. */
__device__ __forceinline__ float skvi_cu_task_weight(const skvi_cu_profile_job &j,
                                                     const skv_profiler_table *t,
                                                     const skvi_cu_task &task, uint32_t r)
{
    const uint32_t each = t->shape.n_q_heads / t->shape.n_kv_heads;
    const double scale = (double)t->shape.scale * t->shape.scale;
    if (task.x.what != SKVI_CU_QUERIES) return 1;
    return (float)(task.weigh ? scale * j.weight[(size_t)task.x.head * each * j.count + r] : scale);
}

/* Rows [r0, r0 + 32) of a tile of a task: 64 numbers of y, 32 of x; 0 where there is none. */
__device__ __forceinline__ void skvi_cu_task_load(const skvi_cu_profile_job &j,
                                                  const skv_profiler_table *t,
                                                  const skvi_cu_task &task, uint32_t r0,
                                                  uint32_t rows, float *y, float *x)
{
    for (uint32_t i = threadIdx.x; i < SKVI_CU_DEEP * 96; i += SKVI_CU_BLOCK) {
        const uint32_t k = i / 96, c = i % 96, r = r0 + k;
        const uint32_t e = c < 64 ? 64 * blockIdx.x + c : 32 * blockIdx.y + c - 64;
        float z = 0;
        if (r < rows && c < 64 && e < task.y.n) z = skvi_cu_side_at(j, t, task.y, r, e);
        if (r < rows && c >= 64 && e < task.x.n)
            z = skvi_cu_side_at(j, t, task.x, r, e) * skvi_cu_task_weight(j, t, task, r);
        if (c < 64) y[k * SKVI_CU_PITCH + c] = z;
        else x[k * SKVI_CU_OUTS + c - 64] = z;
    }
}

/* Grid: 64 columns, 32 rows, task. */
__global__ void __launch_bounds__(SKVI_CU_BLOCK) skvi_cu_gram_kernel(skvi_cu_profile_job j)
{
    extern __shared__ uint4 skvi_cu_shared[];
    const skv_profiler_table *t = (const skv_profiler_table *)j.d.tables;
    const skvi_cu_task task = skvi_cu_task_of(j, t, blockIdx.z);
    const uint32_t each = t->shape.n_q_heads / t->shape.n_kv_heads, i0 = 32 * blockIdx.y;
    const uint32_t rows = task.x.what == SKVI_CU_QUERIES ? each * j.count : j.d.n_tokens - j.first;
    unsigned char *at = (unsigned char *)skvi_cu_shared;
    float *y = skvi_cu_room<float>(&at, SKVI_CU_DEEP * SKVI_CU_PITCH);
    float *x = skvi_cu_room<float>(&at, SKVI_CU_DEEP * SKVI_CU_OUTS);
    double sum[4][4] = {};
    if (64 * blockIdx.x >= task.y.n || i0 >= task.x.n) return;
    if (task.upper && 64 * blockIdx.x + 63 < i0) return;
    for (uint32_t r0 = 0; r0 < rows; r0 += SKVI_CU_DEEP) {
        float acc[4][4] = {};
        skvi_cu_task_load(j, t, task, r0, rows, y, x);
        __syncthreads();
        skvi_cu_multiply(y, x, acc);
        #pragma unroll
        for (uint32_t k = 0; k < 16; k++) sum[k / 4][k % 4] += (double)acc[k / 4][k % 4];
        __syncthreads();
    }
    #pragma unroll
    for (uint32_t k = 0; k < 16; k++) {
        const uint32_t i = i0 + threadIdx.x / 16 * 4 + k / 4;
        const uint32_t c = 64 * blockIdx.x + threadIdx.x % 16 * 4 + k % 4;
        if (i < task.x.n && c < task.y.n && (!task.upper || c >= i))
            task.gram[(size_t)i * task.y.n + c] += sum[k / 4][k % 4];
    }
}

/* Grid: tasks; then one for counts and mass. */
__global__ void __launch_bounds__(SKVI_CU_BLOCK) skvi_cu_totals_kernel(skvi_cu_profile_job j)
{
    const skv_profiler_table *t = (const skv_profiler_table *)j.d.tables;
    if (blockIdx.x <= 3 * t->n_groups) {
        const skvi_cu_task task = skvi_cu_task_of(j, t, blockIdx.x);
        for (uint32_t e = threadIdx.x; task.sum && e < task.y.n; e += SKVI_CU_BLOCK) {
            double sum = 0;
            for (uint32_t r = 0; r < j.d.n_tokens - j.first; r++)
                sum += (double)skvi_cu_side_at(j, t, task.y, r, e);
            task.sum[e] += sum;
        }
        return;
    }
    double *mass = j.d.sums + t->n_sums - t->shape.n_q_heads;
    for (uint32_t h = threadIdx.x; h < t->shape.n_q_heads; h += SKVI_CU_BLOCK)
        for (uint32_t i = 0; i < j.count; i++) mass[h] += j.mass[(size_t)h * j.count + i];
    if (threadIdx.x) return;
    j.d.sums[0] += j.d.n_tokens - j.first;
    j.d.sums[1] += j.count;
}

/* >>launch ------------------------------------------------------------------------------------ */
/* Every kernel takes one struct. Shared memory above 48 KiB is asked for first. */
template <class P>
static skv_result skvi_cu_launch(void (*kernel)(P), dim3 grid, size_t shared,
                                 skv_cuda_stream stream, P p)
{
    void *args[1] = {&p};
    cudaError_t e = cudaSuccess;
    if (shared > 48 * 1024)
        e = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)shared);
    if (e == cudaSuccess)
        e = cudaLaunchKernel(kernel, grid, dim3(SKVI_CU_BLOCK), args, shared, stream);
    if (e != cudaSuccess) (void)cudaGetLastError();
    return e == cudaSuccess ? SKV_OK : SKV_ERR_DEVICE;
}

static const skv_table *skvi_cu_host(const skv_table *t)
{
    return t && t->magic == SKV_TABLE_MAGIC && t->bytes >= sizeof *t ? t : NULL;
}
static const skv_table_stream *skvi_cu_host_stream(const skv_table *t)
{
    return (const skv_table_stream *)((const unsigned char *)t + t->stream);
}

/* Whether pages of a pool fit the tables. */
static skv_result skvi_cu_pool_check(const skv_table *t, const void *pool, size_t page_bytes,
                                     const void *slots)
{
    if (!pool || !slots || (size_t)pool % 16) return SKV_ERR_ARG;
    return page_bytes % 16 || page_bytes < t->least ? SKV_ERR_SHAPE : SKV_OK;
}

/* Rows of a tile: from 4 on tensor cores take as long for 8. Prompts have 32, so that codes are
   expanded a quarter as often, where a multiprocessor's shared memory holds two such blocks. */
static uint32_t skvi_cu_rows(uint32_t rows, const skv_table *t, uint32_t values)
{
    int device = 0, most = 0;
    if (rows <= 8) return rows <= 2 ? 2 : rows <= 3 ? 4 : 8;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device) !=
        cudaSuccess)
        (void)cudaGetLastError();
    return 2 * (skvi_cu_attend_bytes(32, t, values) + 1024) <= (size_t)most ? 32 : 8;
}

/* Where things lie in the work space; returns its bytes, 0 where the description makes no sense. */
static size_t skvi_cu_attend_plan(const skv_cuda_attend_desc *d, skvi_cu_job *j)
{
    const skv_table *t = skvi_cu_host(d->host);
    const skv_table_stream *s;
    size_t n[5], at = 0, rows;
    uint32_t i, units;
    unsigned char *work = (unsigned char *)d->work;
    if (!t || !d->n_seqs || d->n_seqs > 65535 || !d->n_queries)
        return 0;
    if (d->n_queries > 65536 || d->max_pages > 0x3FFFFFFu || !d->ring || d->ring > 0x7FFFFFFFu ||
        d->sinks > 0x7FFFFFFFu || d->split > 0xFFFFu)
        return 0;
    memset(j, 0, sizeof *j);
    j->d = *d;
    s = skvi_cu_host_stream(t);
    for (i = 0; i < t->n_groups; i++) {
        if (s[i].n > j->width) j->width = s[i].n;
        if (s[t->n_groups + i].n > j->values) j->values = s[t->n_groups + i].n;
    }
    j->rows = t->shape.n_q_heads * d->n_queries;
    i = t->head_group < t->shape.n_kv_heads ? t->head_group : t->shape.n_kv_heads;
    i *= t->shape.n_q_heads / t->shape.n_kv_heads * d->n_queries;
    j->tile = skvi_cu_rows(i, t, j->values);
    j->tiles = (i + j->tile - 1) / j->tile;
    if ((uint64_t)j->tiles * t->n_groups > 65535) return 0;
    j->sink_units = (d->sinks + 63) / 64;
    j->ring_units = (d->ring + 63) / 64;
    units = j->sink_units + j->ring_units + d->max_pages;
    j->per = d->split ? d->split : 16;
    j->splits = (units + j->per - 1) / j->per;
    rows = (size_t)d->n_seqs * j->rows;
    n[0] = rows * t->shape.head_dim;
    n[1] = rows * j->width;
    n[2] = rows;
    n[3] = rows * 2 * t->pairs;
    n[4] = rows * j->splits * (4 + j->values + t->shape.head_dim_v);
    for (i = 0; i < 5; i++) {
        float **to[5] = {&j->q, &j->ql, &j->mean, &j->still, &j->part};
        if (work) *to[i] = (float *)(void *)(work + at);
        at += skvi_cu_room_bytes(n[i] * sizeof(float));
    }
    return at;
}

SKVDEF size_t skv_cuda_attend_work(const skv_cuda_attend_desc *desc)
{
    skvi_cu_job j;
    return desc ? skvi_cu_attend_plan(desc, &j) : 0;
}

static skv_result skvi_cu_attend_check(const skv_cuda_attend_desc *d, size_t work)
{
    if (!d->tables || !d->q.data || !d->out.data || !d->tokens || !d->k.data || !d->v.data ||
        !d->work || d->work_bytes < work || (size_t)d->work % 16 || (size_t)d->tables % 16)
        return SKV_ERR_ARG;
    if (d->q.dtype > SKV_BF16 || d->k.dtype > SKV_BF16 || d->v.dtype > SKV_BF16 ||
        d->out.dtype > SKV_BF16 || (!d->pages.first && !d->pages.count))
        return SKV_ERR_ARG;
    if (!d->max_pages) return SKV_OK;
    return skvi_cu_pool_check(d->host, d->pages.pool, d->pages.page_bytes, d->pages.slots);
}

SKVDEF skv_result skv_cuda_attend(const skv_cuda_attend_desc *desc, skv_cuda_stream stream)
{
    skvi_cu_job j;
    const size_t work = desc ? skvi_cu_attend_plan(desc, &j) : 0;
    skv_result r = work ? skvi_cu_attend_check(desc, work) : SKV_ERR_ARG;
    if (r != SKV_OK) return r;
    const size_t shared = skvi_cu_attend_bytes(j.tile, desc->host, j.values);
    const dim3 rows(j.rows, desc->n_seqs), grid(j.splits, j.tiles * desc->host->n_groups,
                                                desc->n_seqs);
    r = skvi_cu_launch(skvi_cu_query_kernel, rows, desc->host->shape.head_dim * sizeof(float),
                       stream, j);
    if (r == SKV_OK && j.tile == 2)
        r = skvi_cu_launch(skvi_cu_attend_kernel<2>, grid, shared, stream, j);
    else if (r == SKV_OK && j.tile == 4)
        r = skvi_cu_launch(skvi_cu_attend_kernel<4>, grid, shared, stream, j);
    else if (r == SKV_OK && j.tile == 8)
        r = skvi_cu_launch(skvi_cu_attend_kernel<8>, grid, shared, stream, j);
    else if (r == SKV_OK)
        r = skvi_cu_launch(skvi_cu_attend_kernel<32>, grid, shared, stream, j);
    if (r == SKV_OK)
        r = skvi_cu_launch(skvi_cu_merge_kernel, rows, j.values * sizeof(float), stream, j);
    return r;
}

/* As skvi_cu_attend_plan, for pages to be made. */
static size_t skvi_cu_encode_plan(const skv_cuda_encode_desc *d, skvi_cu_encode_job *j)
{
    const skv_table *t = skvi_cu_host(d->host);
    unsigned char *work = (unsigned char *)d->work;
    size_t n, at;
    if (!t || !d->n_pages || d->n_pages > 65535) return 0;
    memset(j, 0, sizeof *j);
    j->d = *d;
    j->streams = 2 * t->n_groups;
    j->room = SKVI_CU_ROWS_MOST;
    if (d->page_bytes < t->most && d->page_bytes >= t->least)
        j->room = (uint32_t)(j->room * (d->page_bytes - t->least) / (t->most - t->least));
    for (uint32_t i = 0; i < j->streams; i++) {
        const skv_table_stream *s = skvi_cu_host_stream(t) + i;
        if (s->n > j->wide) j->wide = s->n;
        if (s->coded > j->wide) j->wide = s->coded;
    }
    j->wide = (j->wide + 3) / 4 * 4;
    n = (size_t)d->n_pages * j->streams;
    j->sub = (skvi_cu_sub *)(void *)work;
    at = skvi_cu_room_bytes(n * sizeof *j->sub);
    j->scale = work ? (uint32_t *)(void *)(work + at) : NULL;
    at += skvi_cu_room_bytes(n * j->wide * sizeof *j->scale);
    j->u = work ? (float *)(void *)(work + at) : NULL;
    return at + n * j->wide * 64 * sizeof *j->u;
}

SKVDEF size_t skv_cuda_encode_work(const skv_cuda_encode_desc *desc)
{
    skvi_cu_encode_job j;
    return desc ? skvi_cu_encode_plan(desc, &j) : 0;
}

static skv_result skvi_cu_encode_check(const skv_cuda_encode_desc *d, size_t work)
{
    if (!d->tables || !d->rows || !d->positions || !d->k.data || !d->v.data || !d->work ||
        d->work_bytes < work || (size_t)d->work % 16 || (size_t)d->tables % 16)
        return SKV_ERR_ARG;
    if (d->k.dtype > SKV_BF16 || d->v.dtype > SKV_BF16) return SKV_ERR_ARG;
    if (d->credit && (!d->first || !d->n_seqs || d->n_seqs > 65535)) return SKV_ERR_ARG;
    return skvi_cu_pool_check(d->host, d->pool, d->page_bytes, d->slots);
}

SKVDEF skv_result skv_cuda_encode(const skv_cuda_encode_desc *desc, skv_cuda_stream stream)
{
    skvi_cu_encode_job j;
    const size_t work = desc ? skvi_cu_encode_plan(desc, &j) : 0;
    skv_result r = work ? skvi_cu_encode_check(desc, work) : SKV_ERR_ARG;
    if (r != SKV_OK) return r;
    const uint32_t n = desc->n_pages;
    r = skvi_cu_launch(skvi_cu_latents_kernel, dim3((j.wide + 31) / 32, j.streams, n),
                       SKVI_CU_LATENTS_BYTES, stream, j);
    if (r == SKV_OK)
        r = skvi_cu_launch(skvi_cu_choose_kernel, dim3(j.streams, desc->credit ? desc->n_seqs : n),
                           SKVI_CU_CHOOSE_BYTES, stream, j);
    if (r == SKV_OK)
        r = skvi_cu_launch(skvi_cu_search_kernel, dim3(j.wide / 4, j.streams, n),
                           SKVI_CU_SEARCH_BYTES, stream, j);
    if (r == SKV_OK)
        r = skvi_cu_launch(skvi_cu_finish_kernel, dim3(j.streams, n), SKVI_CU_FINISH_BYTES, stream,
                           j);
    return r;
}

SKVDEF skv_result skv_cuda_decode(const skv_cuda_decode_desc *desc, skv_cuda_stream stream)
{
    const skv_table *t = desc ? skvi_cu_host(desc->host) : NULL;
    uint32_t wide = 0;
    skv_result r;
    if (!t || !desc->tables || (size_t)desc->tables % 16 || !desc->rows || !desc->n_pages ||
        desc->n_pages > 65535 || desc->k.dtype > SKV_BF16 || desc->v.dtype > SKV_BF16)
        return SKV_ERR_ARG;
    r = skvi_cu_pool_check(t, desc->pool, desc->page_bytes, desc->slots);
    if (r != SKV_OK) return r;
    for (uint32_t i = 0; i < 2 * t->n_groups; i++)
        if (skvi_cu_host_stream(t)[i].n > wide) wide = skvi_cu_host_stream(t)[i].n;
    const dim3 grid((wide + 31) / 32, 2 * t->n_groups, desc->n_pages);
    return skvi_cu_launch(skvi_cu_decode_kernel, grid, SKVI_CU_DECODE_BYTES, stream,
                          *desc);
}

/* As skvi_cu_attend_plan, for cold pages; *held is the bytes kept. */
static size_t skvi_cu_cold_plan(const skv_cuda_cold_desc *d, skvi_cu_cold_job *j, size_t *held)
{
    const skv_cold_table *t = d->host;
    unsigned char *keep = (unsigned char *)d->held, *work = (unsigned char *)d->work;
    size_t n = d->n_pages, at;
    if (!t || t->magic != SKV_COLD_MAGIC || t->bytes < sizeof *t || !n || n > 65535) return 0;
    memset(j, 0, sizeof *j);
    j->d = *d;
    j->slots = t->depth + 1;
    j->own = t->shape.n_kv_heads * (t->shape.head_dim + t->shape.head_dim_v);
    for (uint32_t i = 0; i < 2 * t->n_groups; i++) {
        const skv_cold_table_stream *s =
            (const skv_cold_table_stream *)((const unsigned char *)t + t->stream) + i;
        if (s->n > j->widest) j->widest = s->n;
    }
    at = skvi_cu_room_bytes(n * j->slots * sizeof *j->held);
    *held = at + j->slots * n * 64 * t->width * sizeof *j->row;
    j->held = (skvi_cu_cold_held *)(void *)keep;
    j->row = keep ? (float *)(void *)(keep + at) : NULL;
    j->page = (skvi_cu_cold_page *)(void *)work;
    at = skvi_cu_room_bytes(n * sizeof *j->page);
    j->coded = work ? (uint32_t *)(void *)(work + at) : NULL;
    at += skvi_cu_room_bytes(n * 2 * t->n_groups * sizeof *j->coded);
    j->q = work ? (int16_t *)(void *)(work + at) : NULL;
    return at + n * j->own * 64 * sizeof *j->q;
}

SKVDEF size_t skv_cuda_cold_held(const skv_cuda_cold_desc *desc)
{
    skvi_cu_cold_job j;
    size_t held = 0;
    return desc && skvi_cu_cold_plan(desc, &j, &held) ? held : 0;
}

SKVDEF size_t skv_cuda_cold_work(const skv_cuda_cold_desc *desc)
{
    skvi_cu_cold_job j;
    size_t held;
    return desc ? skvi_cu_cold_plan(desc, &j, &held) : 0;
}

SKVDEF skv_result skv_cuda_cold_decode(const skv_cuda_cold_desc *desc, skv_cuda_stream stream)
{
    skvi_cu_cold_job j;
    size_t held = 0, work = desc ? skvi_cu_cold_plan(desc, &j, &held) : 0;
    if (!work || !desc->tables || !desc->pages || !desc->at || !desc->rows || !desc->held ||
        !desc->work || desc->held_bytes < held || desc->work_bytes < work ||
        ((size_t)desc->tables | (size_t)desc->held | (size_t)desc->work) % 16 ||
        desc->k.dtype > SKV_BF16 || desc->v.dtype > SKV_BF16)
        return SKV_ERR_ARG;
    const uint32_t n = desc->n_pages, groups = desc->host->n_groups;
    skv_result r = skvi_cu_launch(skvi_cu_cold_codes_kernel,
                                  dim3((n + SKVI_CU_WARPS - 1) / SKVI_CU_WARPS),
                                  skvi_cu_cold_codes_bytes(j.widest), stream, j);
    for (j.values = 0; r == SKV_OK && j.values < 2; j.values++)
        r = skvi_cu_launch(skvi_cu_cold_rows_kernel, dim3((j.widest + 31) / 32, groups, n),
                           SKVI_CU_TILE_BYTES, stream, j);
    if (r == SKV_OK && (desc->k.data || desc->v.data))
        r = skvi_cu_launch(skvi_cu_cold_out_kernel, dim3(8, 2 * groups, n), 0, stream, j);
    return r;
}

/* As skvi_cu_attend_plan, for a passage. */
static size_t skvi_cu_profile_plan(const skv_cuda_profile_desc *d, skvi_cu_profile_job *j)
{
    const skv_profiler_table *t = d->host;
    const size_t n = d->n_tokens;
    size_t bytes[5], at = 0;
    unsigned char *work = (unsigned char *)d->work;
    if (!t || t->magic != SKV_PROFILER_MAGIC || t->bytes < sizeof *t || !n || n > t->max_passage)
        return 0;
    memset(j, 0, sizeof *j);
    j->d = *d;
    j->count = d->n_tokens < t->max_queries ? d->n_tokens : t->max_queries;
    j->first = t->sinks < d->n_tokens ? t->sinks : d->n_tokens;
    bytes[0] = (size_t)t->shape.n_q_heads * j->count * sizeof(double);
    bytes[1] = bytes[0];
    bytes[2] = t->shape.n_kv_heads * n * t->shape.head_dim_v * sizeof(float);
    bytes[3] = t->shape.n_q_heads * n * sizeof(float);
    bytes[4] = n * 2 * t->pairs * sizeof(float);
    for (uint32_t i = 0; i < 5; i++) {
        void *to = work ? work + at : NULL;
        if (i < 2) *(i ? &j->mass : &j->weight) = (double *)to;
        else *(i == 2 ? &j->v : i == 3 ? &j->vgv : &j->wave) = (float *)to;
        at += skvi_cu_room_bytes(bytes[i]);
    }
    return at;
}

SKVDEF size_t skv_cuda_profile_work(const skv_cuda_profile_desc *desc)
{
    skvi_cu_profile_job j;
    return desc ? skvi_cu_profile_plan(desc, &j) : 0;
}

SKVDEF skv_result skv_cuda_profile(const skv_cuda_profile_desc *desc, skv_cuda_stream stream)
{
    skvi_cu_profile_job j;
    const size_t work = desc ? skvi_cu_profile_plan(desc, &j) : 0;
    if (!work || !desc->tables || !desc->q.data || !desc->k.data || !desc->v.data || !desc->sums ||
        !desc->work || desc->work_bytes < work ||
        ((size_t)desc->tables | (size_t)desc->work) % 16 || desc->q.dtype > SKV_BF16 ||
        desc->k.dtype > SKV_BF16 || desc->v.dtype > SKV_BF16)
        return SKV_ERR_ARG;
    const skv_profiler_table *t = desc->host;
    const uint32_t n = desc->n_tokens, kv = t->shape.n_kv_heads, d = t->shape.head_dim;
    const uint32_t dv = t->shape.head_dim_v, queries = t->shape.n_q_heads, F = 2 * t->pairs;
    const uint32_t heads = t->head_group < kv ? t->head_group : kv;
    uint32_t wide = heads * (d > dv ? d : dv);
    if (F > wide) wide = F;
    skv_result r = skvi_cu_launch(skvi_cu_prepare_kernel,
                                  dim3(kv + (t->pairs ? (n + 15) / 16 : 0)), 0, stream, j);
    if (r == SKV_OK)
        r = skvi_cu_launch(skvi_cu_norms_kernel, dim3((n + 31) / 32, queries), 0, stream, j);
    if (r == SKV_OK)
        r = skvi_cu_launch(skvi_cu_weigh_kernel, dim3(j.count, queries),
                           skvi_cu_weigh_bytes(d, dv, n), stream, j);
    if (r == SKV_OK)
        r = skvi_cu_launch(skvi_cu_gram_kernel, dim3((wide + 63) / 64, (wide + 31) / 32,
                                                     3 * t->n_groups + 1 + 2 * kv),
                           SKVI_CU_TILE_BYTES, stream, j);
    if (r == SKV_OK)
        r = skvi_cu_launch(skvi_cu_totals_kernel, dim3(3 * t->n_groups + 2), 0, stream, j);
    return r;
}

SKVDEF skv_result skv_cuda_copy_pages(void *to_pool, const int32_t *to, const void *from_pool,
                                      const int32_t *from, size_t n, size_t page_bytes,
                                      skv_cuda_stream stream)
{
    size_t i, run;
    if (!to_pool || !from_pool || !page_bytes || (n && (!to || !from))) return SKV_ERR_ARG;
    for (i = 0; i < n; i++)
        if (to[i] < 0 || from[i] < 0) return SKV_ERR_ARG;
    for (i = 0; i < n; i += run) {
        for (run = 1; i + run < n && to[i + run] == to[i] + (int32_t)run &&
                      from[i + run] == from[i] + (int32_t)run; run++) { }
        const cudaError_t e =
            cudaMemcpyAsync((char *)to_pool + (size_t)to[i] * page_bytes,
                            (const char *)from_pool + (size_t)from[i] * page_bytes,
                            run * page_bytes, cudaMemcpyDefault, stream);
        if (e == cudaSuccess) continue;
        (void)cudaGetLastError();
        return SKV_ERR_DEVICE;
    }
    return SKV_OK;
}

#endif /* implementation */

/*
This software is available under two licenses; choose whichever you prefer.

------------------------------------------------------------------------------
ALTERNATIVE A - MIT No Attribution (MIT-0)

Copyright (c) 2026 the authors of spectral_kv.h

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.

------------------------------------------------------------------------------
ALTERNATIVE B - Public Domain (unlicense.org)

This is free and unencumbered software released into the public domain.

Anyone is free to copy, modify, publish, use, compile, sell, or distribute
this software, either in source code form or as a compiled binary, for any
purpose, commercial or non-commercial, and by any means.

In jurisdictions that recognize copyright laws, the author or authors of this
software dedicate any and all copyright interest in the software to the public
domain. We make this dedication for the benefit of the public at large and to
the detriment of our heirs and successors. We intend this dedication to be an
overt act of relinquishment in perpetuity of all present and future rights to
this software under copyright law.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN
ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION
WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
*/
