/* spectral_kv_cuda.cuh - v0.2.0 - the CUDA companion of spectral_kv.h, in one file.
   MIT-0 or public domain, at your choice; the text is at the end of this file.

   Do this in ONE .cu file of your project:

       #define SPECTRAL_KV_CUDA_IMPLEMENTATION
       #include "spectral_kv_cuda.cuh"

   and include it without the define wherever else you need it, in C, C++ or CUDA; or define
   SPECTRAL_KV_CUDA before spectral_kv.h, which then includes it, and whose
   SPECTRAL_KV_IMPLEMENTATION in a .cu file brings the kernels too. Declarations need no CUDA
   header; the implementation needs nvcc (CUDA 12 or 13) and nothing else.

   OUTLINE (search for the tag)
     In the API             >>pages  >>attend  >>encode  >>decode
     In the implementation  >>device  >>expand  >>product  >>query  >>attention  >>merge
                            >>encoder  >>decoder  >>launch
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
   A pool of pages of one layer in device memory: slots of page_bytes each, a multiple of 16 and at
   least skv_table.most, the pool itself at a multiple of 16. Page i of sequence s lies in slot
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

/* >>encode ------------------------------------------------------------------------------------
   K and V rows become pages, as skv_encode makes them: searched in the same integers, so equal
   latents get equal codes; latents themselves are float sums in another order. */
typedef struct skv_cuda_encode_desc {
    const skv_table *host;          /* the layer's tables (skv_codec_tables, skv_cache_tables) */
    const void      *tables;        /* the same bytes in device memory, at a multiple of 16 */
    uint32_t         n_pages;       /* to encode */
    const int32_t   *slots;         /* [n_pages] where they go */
    const int32_t   *rows;          /* [n_pages] first row of each in k and v; NULL: 64 a page */
    const int32_t   *lengths;       /* [n_pages] tokens, 1 to 64; NULL: 64 each */
    const uint32_t  *positions;     /* [n_pages] of the first token */
    skv_span         k, v;          /* device memory, [rows][n_kv_heads][head_dim, head_dim_v] */
    void            *pool;          /* as in skv_cuda_pages */
    size_t           page_bytes;
    const uint32_t  *credit;        /* [n_pages][2 n_groups] bytes that outlier rows may take, or
                                       NULL: as many as a page by itself may have */
    uint32_t        *bad;           /* NULL or one number, raised by 1 for every page that held NaN,
                                       infinity or values beyond 1e9: its slot is not written */
    void            *work;
    size_t           work_bytes;
} skv_cuda_encode_desc;

SKVDEF size_t     skv_cuda_encode_work(const skv_table *host, uint32_t n_pages);
SKVDEF skv_result skv_cuda_encode(const skv_cuda_encode_desc *desc, skv_cuda_stream stream);
#ifdef __cplusplus
}
#endif
#endif /* SPECTRAL_KV_CUDA_H */

#if (defined(SPECTRAL_KV_CUDA_IMPLEMENTATION) || defined(SPECTRAL_KV_IMPLEMENTATION)) && \
    defined(__CUDACC__) && !defined(SPECTRAL_KV_CUDA_IMPLEMENTATION_DONE)
#define SPECTRAL_KV_CUDA_IMPLEMENTATION_DONE
#include <cuda_runtime.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>

/* >>device ------------------------------------------------------------------------------------
   Blocks have BLOCK threads. Shared memory is one array, carved up by skvi_cu_room. */
#define SKVI_CU_BLOCK 128u
#define SKVI_CU_WARPS (SKVI_CU_BLOCK / 32)
#define SKVI_CU_ALL 0xFFFFFFFFu
#define SKVI_CU_SUB_HEADER 5u           /* of a page's sub: two norms and the gain */
#define SKVI_CU_PAGE_HEADER 12u
#define SKVI_CU_TOKENS 64u
#define SKVI_CU_ROWS_MOST 8u            /* outlier rows of one sub */

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
template <class T>
__device__ __forceinline__ const T *skvi_cu_at(const skv_table *t, uint32_t offset)
{
    return (const T *)((const unsigned char *)t + offset);
}
__device__ __forceinline__ const skv_table_stream *skvi_cu_stream(const skv_table *t, int kind,
                                                                  uint32_t g)
{
    return skvi_cu_at<skv_table_stream>(t, t->stream) + (kind ? t->n_groups : 0) + g;
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

/* >>launch ------------------------------------------------------------------------------------ */
/* Every kernel takes one struct. Shared memory above 48 KiB is asked for first. */
template <class P>
static skv_result skvi_cu_launch(void (*kernel)(P), dim3 grid, size_t shared, skv_cuda_stream stream,
                                 P p)
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
