/* cuda_device.h: what the tests of kernels need so that they run on emulated CUDA and, compiled by
 * nvcc (`make test-gpu`), on a device alike: memory that both sides see, and waiting.
 *
 * On a device `new`, and with it every std::vector, gives managed memory; data of synthetic.h does
 * too (include this file first). Include before spectral_kv.h.
 */
#ifndef SKV_CUDA_DEVICE_H
#define SKV_CUDA_DEVICE_H
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <new>

#ifdef SKV_CUDA_EMULATION
static inline int emulated() { return 1; }
static inline void finish() { }
static inline void device_needed() { }
#else
namespace emu {                         /* what only the emulation can tell */
static unsigned faults, copies;
static inline void seed(unsigned long long) { }
static inline void fill(void *p, size_t n) { memset(p, 0xA5, n); }
}
static inline int emulated() { return 0; }

/* Kernels have ended, and none of them failed. */
static inline void finish()
{
    const cudaError_t e = cudaDeviceSynchronize();
    if (e == cudaSuccess) return;
    fprintf(stderr, "the device says: %s\n", cudaGetErrorString(e));
    exit(1);
}
static inline void device_needed()
{
    int n = 0;
    if (cudaGetDeviceCount(&n) == cudaSuccess && n) return;
    printf("no CUDA device here: nothing tested\n");
    exit(2);
}

static inline void *managed(size_t n)
{
    void *p = NULL;
    if (cudaMallocManaged(&p, n ? n : 1) == cudaSuccess) return p;
    fprintf(stderr, "no managed memory\n");
    abort();
}
#pragma nv_diag_suppress 20011, 20014   /* nvcc takes operator new for a device function too */
void *operator new(size_t n) { return managed(n); }
void *operator new[](size_t n) { return managed(n); }
void operator delete(void *p) noexcept { cudaFree(p); }
void operator delete[](void *p) noexcept { cudaFree(p); }
void operator delete(void *p, size_t) noexcept { cudaFree(p); }
void operator delete[](void *p, size_t) noexcept { cudaFree(p); }
#endif
#endif
