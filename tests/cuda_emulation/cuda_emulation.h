/* cuda_emulation.h: enough of CUDA to run the kernels of spectral_kv_cuda.cuh on the CPU, in tests.
 *
 *     g++ -std=c++17 -DSKV_CUDA_EMULATION -Itests/cuda_emulation -I. ...
 *
 * Blocks run one after the other; the threads of a block are fibers (on x86-64 a switch of a few
 * instructions, elsewhere ucontext). A fiber runs until it meets a barrier or a warp operation, in
 * an order that a seed permutes anew each round: lanes are never in step by chance. Shared memory
 * and cudaMalloc's are filled with numbers of the seed before use. So what depends on a missing
 * barrier, or on memory nobody wrote, changes with the seed, and tests compare bytes over seeds.
 * Threads that wait at different barriers, lanes missing from a warp operation and threads that
 * left before a barrier are faults: the launch fails, emu::faults counts them, emu::message says
 * what happened.
 *
 * Why not an emulator from a registry: pip, apt and npm have none for CUDA C++ (HIP-CPU is neither
 * packaged nor does it permute orders), and this is small.
 *
 * Not here: atomics, textures, streams that run beside each other, more than one shared array. And
 * a shuffle orders memory here, which on a device only __syncwarp and __syncthreads do: a missing
 * __syncwarp beside a shuffle does not show.
 */
#ifndef SKV_CUDA_EMULATION_H
#define SKV_CUDA_EMULATION_H
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>
#if !defined(__x86_64__) || defined(__CET__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define EMU_HIDE(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define EMU_SHOW(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define EMU_HIDE(p, n) ((void)(p), (void)(n))
#define EMU_SHOW(p, n) ((void)(p), (void)(n))
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__
#define __launch_bounds__(...)

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct float2 { float x, y; };
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    uint4 v = {x, y, z, w};
    return v;
}
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;

#define EMU_SHARED (227u * 1024)
uint4 skvi_cu_shared[EMU_SHARED / 16];

namespace emu {
#if defined(__x86_64__) && !defined(__CET__)
/* Keeps what a callee must, in `from`, and goes on as `to` left off. */
struct context { void *sp; };
extern "C" void emu_switch(context *from, const context *to);
asm(".text\n.type emu_switch,@function\nemu_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov (%rsi),%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
    ".size emu_switch,.-emu_switch\n.section .note.GNU-stack,\"\",@progbits\n.text\n");
static inline void switch_to(context *from, context *to) { emu_switch(from, to); }
static inline void begin(context *c, char *stack, size_t n, void (*entry)())
{
    void **top = (void **)(((size_t)stack + n) & ~(size_t)63);
    *--top = NULL;                      /* where entry, which never returns, would return to */
    *--top = (void *)entry;
    for (int i = 0; i < 6; i++) *--top = NULL;
    c->sp = top;
}
#else
typedef ucontext_t context;
static inline void switch_to(context *from, context *to) { swapcontext(from, to); }
static inline void begin(context *c, char *stack, size_t n, void (*entry)())
{
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = n;
    c->uc_link = NULL;
    makecontext(c, entry, 0);
}
#endif

enum state { RUN, BLOCK, WARP, DONE };
struct fiber {
    emu::context context;
    std::vector<char> stack;
    state      is = DONE;
    int        line = 0;            /* where it waits */
    uint32_t   mask = 0, count = 0; /* of the warp operation; warp operations so far */
    uint32_t   given[2] = {0, 0};   /* to the others, by turns */
};
static std::vector<fiber> fibers;
static context home;
static uint32_t me, n_threads, faults, copies;
static uint64_t random_state = 1;
static char message[200];
static void (*body)(const void *);
static const void *argument;
static size_t optin;                /* bytes of shared memory that were asked for */

static inline uint64_t random()
{
    uint64_t z = (random_state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
static inline void seed(uint64_t s) { random_state = s * 0xD1342543DE82EF95u + 1; }
static inline void fill(void *p, size_t n)
{
    for (size_t i = 0; i < n; i++) ((unsigned char *)p)[i] = (unsigned char)(random() >> 20);
}

static inline void fault(const char *what)
{
    faults++;
    snprintf(message, sizeof message, "%s: block %u %u %u, thread %u, line %d", what, blockIdx.x,
             blockIdx.y, blockIdx.z, me, fibers[me].line);
}

static inline void wait(state s, int line)
{
    fibers[me].is = s;
    fibers[me].line = line;
    switch_to(&fibers[me].context, &home);
}

/* A lane's word for the others of its warp; afterwards word(lane) tells theirs. */
static inline void meet(uint32_t mask, uint32_t x, int line)
{
    fiber &f = fibers[me];
    f.given[++f.count & 1u] = x;
    f.mask = mask;
    wait(WARP, line);
}
static inline uint32_t word(uint32_t lane)
{
    return fibers[me / 32 * 32 + lane].given[fibers[me].count & 1u];
}
template <class T> T shuffle(uint32_t mask, T x, uint32_t lane, int line)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    meet(mask, u, line);
    u = word(lane & 31u);
    memcpy(&x, &u, 4);
    return x;
}

/* The least word of a warp's lanes, all of them there. */
static inline uint32_t least(uint32_t x, int line)
{
    meet(0xFFFFFFFFu, x, line);
    for (uint32_t i = 0; i < 32; i++) x = word(i) < x ? word(i) : x;
    return x;
}

static void entry()
{
    body(argument);
    fibers[me].is = DONE;
    switch_to(&fibers[me].context, &home);
}

/* In every other block warps go in step; else each goes as far as it can, in an order of their own,
   as a warp on a device may run far ahead of others. */
static uint32_t turn[32], n_turns;      /* warps by their turn; 0: in step */
static inline void take_turns()
{
    const uint32_t n = (n_threads + 31) / 32;
    n_turns = random() >> 63 ? n : 0;
    for (uint32_t i = 0; i < n_turns; i++) {
        const uint32_t k = (uint32_t)((random() >> 32) * (i + 1) >> 32);
        turn[i] = turn[k];
        turn[k] = i;
    }
}

/* The threads that may go on now, [first, end): of the first warp that is not at a barrier. */
static inline void whose_turn(uint32_t *first, uint32_t *end)
{
    *first = 0;
    *end = n_threads;
    for (uint32_t w = 0; w < n_turns; w++)
        for (uint32_t i = 32 * turn[w]; i < 32 * turn[w] + 32 && i < n_threads; i++)
            if (fibers[i].is == RUN || fibers[i].is == WARP) {
                *first = 32 * turn[w];
                *end = *first + 32 < n_threads ? *first + 32 : n_threads;
                return;
            }
}

/* All fibers that can, in a new order. 0: none could. */
static inline int round()
{
    static uint32_t order[1024];
    uint32_t n = 0, first, end;
    whose_turn(&first, &end);
    for (uint32_t i = first; i < end; i++) {
        if (fibers[i].is != RUN) continue;
        const uint32_t k = (uint32_t)((random() >> 32) * (n + 1) >> 32);
        order[n++] = order[k];
        order[k] = i;
    }
    for (uint32_t o = 0; o < n; o++) {
        const uint32_t i = order[o];
        me = i;
        threadIdx = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
        switch_to(&home, &fibers[i].context);
    }
    return n > 0;
}

/* Lets warps go on whose lanes have all met. -1: fault. */
static inline int release_warps()
{
    int any = 0;
    uint32_t first, end;
    whose_turn(&first, &end);
    for (uint32_t w = first; w < end; w += 32)
        for (uint32_t i = w; i < w + 32 && i < n_threads; i++) {
            const fiber &f = fibers[i];
            const uint32_t mask = f.mask;
            if (f.is != WARP) continue;
            for (uint32_t l = 0; l < 32; l++) {
                if (!(mask >> l & 1u)) continue;
                const fiber &o = fibers[w + l];
                if (w + l < n_threads && o.is == WARP && o.line == f.line && o.mask == mask)
                    continue;
                me = i;
                fault("a lane is missing from a warp operation");
                return -1;
            }
            for (uint32_t l = 0; l < 32; l++)
                if (mask >> l & 1u) fibers[w + l].is = RUN;
            any = 1;
        }
    return any;
}

/* Lets the block go on. 1: it does; 0: all are done; -1: fault. */
static inline int release_block()
{
    uint32_t first = n_threads, done = 0;
    for (uint32_t i = 0; i < n_threads; i++) {
        if (fibers[i].is == DONE) done++;
        else if (first == n_threads) first = i;
    }
    if (done == n_threads) return 0;
    for (uint32_t i = 0; i < n_threads; i++) {
        me = i;
        if (fibers[i].is == DONE) fault("a thread has left before a barrier");
        else if (fibers[i].line != fibers[first].line) fault("threads wait at different barriers");
        else continue;
        return -1;
    }
    for (uint32_t i = 0; i < n_threads; i++) fibers[i].is = RUN;
    return 1;
}

static inline int run_block(size_t shared)
{
    int go = 1;
    EMU_SHOW(skvi_cu_shared, EMU_SHARED);
    fill(skvi_cu_shared, shared);
    take_turns();
    EMU_HIDE((char *)skvi_cu_shared + shared, EMU_SHARED - shared);
    for (uint32_t i = 0; i < n_threads; i++) {
        fiber &f = fibers[i];
        f.stack.resize(256 * 1024);
        f.is = RUN;
        f.count = 0;
        begin(&f.context, f.stack.data(), f.stack.size(), entry);
    }
    while (go > 0) {
        while (round()) { }
        go = release_warps();
        if (!go) go = release_block();
    }
    return go;
}
} /* namespace emu */

#define __syncthreads() emu::wait(emu::BLOCK, __LINE__)
#define __syncwarp() emu::meet(0xFFFFFFFFu, 0, __LINE__)
#define __shfl_sync(mask, x, lane) emu::shuffle(mask, x, (uint32_t)(lane), __LINE__)
#define __shfl_xor_sync(mask, x, by) \
    emu::shuffle(mask, x, (emu::me ^ (uint32_t)(by)) & 31u, __LINE__)

#define __reduce_min_sync(mask, x) emu::least(x, __LINE__)

static inline unsigned umin(unsigned a, unsigned b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 32; i += 8) c += (int8_t)((unsigned)a >> i) * (int8_t)((unsigned)b >> i);
    return c;
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s)
{
    const uint64_t both = (uint64_t)y << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) r |= (unsigned)(both >> 8 * (s >> 4 * i & 7u) & 255u) << 8 * i;
    return r;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by)
{
    return (unsigned)(((uint64_t)high << 32 | low) >> (by & 31u));
}
static inline unsigned __float_as_uint(float x)
{
    unsigned u;
    memcpy(&u, &x, 4);
    return u;
}
static inline float __uint_as_float(unsigned u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}
static inline int __float2int_rn(float x) { return (int)lrintf(x); }
static inline void sincospif(float x, float *s, float *c)
{
    *s = (float)sin(3.14159265358979323846 * (double)x);
    *c = (float)cos(3.14159265358979323846 * (double)x);
}

struct __half { unsigned short bits; };
static inline __half __ushort_as_half(unsigned short u) { return __half{u}; }
static inline unsigned short __half_as_ushort(__half h) { return h.bits; }
static inline float __half2float(__half h)
{
    const int e = h.bits >> 10 & 31, m = h.bits & 1023;
    float x = e == 31 ? (m ? NAN : INFINITY) : e ? ldexpf((float)(1024 + m), e - 25)
                                                 : ldexpf((float)m, -24);
    return h.bits >> 15 ? -x : x;
}
static inline __half __float2half_rn(float x)
{
    const unsigned sign = __float_as_uint(x) >> 16 & 0x8000u;
    const float y = fabsf(x);
    unsigned u;
    int e;
    if (isnan(x)) return __half{(unsigned short)(sign | 0x7FFFu)};
    if (y >= 65520.0f) return __half{(unsigned short)(sign | 0x7C00u)};
    (void)frexpf(y, &e);
    e = e < -13 ? -13 : e;
    u = (unsigned)lrintf(ldexpf(y, 11 - e));                /* 1024 to 2048: its exponent carries */
    return __half{(unsigned short)(sign | (u + (unsigned)((e + 13) << 10)))};
}

/* The host's side. */
typedef int cudaError_t;
typedef struct CUstream_st *cudaStream_t;
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9,
       cudaErrorLaunchFailure = 719 };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum { cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81 };
static inline cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}
static inline cudaError_t cudaDeviceGetAttribute(int *value, int, int)
{
    *value = EMU_SHARED;
    return cudaSuccess;
}
static inline cudaError_t cudaGetLastError() { return cudaSuccess; }
static inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
static inline cudaError_t cudaFuncSetAttribute(const void *, int, int bytes)
{
    if (bytes < 0 || (unsigned)bytes > EMU_SHARED) return cudaErrorInvalidValue;
    emu::optin = (size_t)bytes;
    return cudaSuccess;
}
static inline cudaError_t cudaMalloc(void **p, size_t n)
{
    *p = malloc(n ? n : 1);
    if (*p) emu::fill(*p, n);
    return *p ? cudaSuccess : 2;
}
static inline cudaError_t cudaMallocManaged(void **p, size_t n) { return cudaMalloc(p, n); }
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDefault = 4
};
static inline cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind)
{
    memcpy(to, from, n);
    return cudaSuccess;
}
static inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind,
                                          cudaStream_t)
{
    emu::copies++;
    memcpy(to, from, n);
    return cudaSuccess;
}
static inline cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}
static inline cudaError_t cudaFree(void *p)
{
    free(p);
    return cudaSuccess;
}

/* Kernels that were launched, a line each, to the end of the file that SKV_EMULATED names: as the
   linker knows them, where a program is linked with -rdynamic. */
static inline void emu_note(void *kernel)
{
    static std::vector<void *> known;
    const char *name = getenv("SKV_EMULATED");
    Dl_info info;
    for (size_t i = 0; i < known.size(); i++)
        if (known[i] == kernel) return;
    known.push_back(kernel);
    FILE *f = name && dladdr(kernel, &info) && info.dli_sname ? fopen(name, "a") : NULL;
    if (!f) return;
    fprintf(f, "%s\n", info.dli_sname);
    fclose(f);
}

template <class P>
cudaError_t cudaLaunchKernel(void (*kernel)(P), dim3 grid, dim3 block, void **args, size_t shared,
                             cudaStream_t)
{
    static void (*call)(P);
    const uint32_t n = block.x * block.y * block.z;
    int fine = 1;
    call = kernel;
    emu_note((void *)kernel);
    if (shared > EMU_SHARED || (shared > 48 * 1024 && shared > emu::optin))
        return cudaErrorInvalidValue;
    if (!n || n > 1024 || !grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535)
        return cudaErrorInvalidConfiguration;
    emu::body = [](const void *p) { call(*(const P *)p); };
    emu::argument = args[0];
    emu::n_threads = n;
    if (emu::fibers.size() < n) emu::fibers.resize(n);
    blockDim = block;
    gridDim = grid;
    for (uint32_t i = 0; fine && i < grid.x * grid.y * grid.z; i++) {
        blockIdx = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
        fine = emu::run_block(shared) == 0;
    }
    return fine ? cudaSuccess : cudaErrorLaunchFailure;
}
#endif
