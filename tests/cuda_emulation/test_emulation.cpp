/* test_emulation.cpp: the emulation itself. Faults that it is there to find are made on purpose.
 *
 *     g++ -std=c++17 -O1 -DSKV_CUDA_EMULATION -Itests/cuda_emulation -I. -Itests \
 *         tests/cuda_emulation/test_emulation.cpp -o test_emulation
 */
#include "cuda_emulation.h"
#define SKV_NO_SIMD
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"

enum { FINE, NO_BARRIER, NO_WARP_BARRIER, WRONG_LANE, LEFT_EARLY, TWO_BARRIERS, NO_LANE, UNSET,
       FAR_AHEAD };
struct job {
    int what;
    const uint32_t *in;
    uint32_t *out;
};

/* Sums in[0 .. 127] of each block: by warps, then of the warps. */
static __global__ void sum_kernel(job j)
{
    extern __shared__ uint4 skvi_cu_shared[];
    uint32_t *part = (uint32_t *)skvi_cu_shared, *pair = part + 4, *far = pair + 128;
    const uint32_t i = threadIdx.x;
    uint32_t x = j.in[128 * blockIdx.x + i];
    if (j.what == LEFT_EARLY && i == 5) return;
    if (j.what == TWO_BARRIERS && i < 64) __syncthreads();
    if (j.what == NO_LANE && i == 40) __syncwarp();
    if (j.what == FAR_AHEAD) {                  /* a warp that is late undoes what was written */
        far[i] = 0;
        __syncwarp();
        far[(i + 32) % 128] = x;
        __syncthreads();
        x = far[i];
    }
    pair[i] = x;                                /* half of the sum by way of memory */
    if (j.what != NO_WARP_BARRIER) __syncwarp();
    x += pair[i ^ 1u];
    for (int by = 16; by > 1; by >>= 1) x += __shfl_xor_sync(0xFFFFFFFFu, x, by);
    if (j.what == WRONG_LANE) x = __shfl_sync(0xFFFFFFFFu, j.in[128 * blockIdx.x + i], 1);
    if (i % 32 == 0 && !(j.what == UNSET && i == 32)) part[i / 32] = x;
    if (j.what != NO_BARRIER) __syncthreads();
    if (i == 0) j.out[blockIdx.x] = part[0] + part[1] + part[2] + part[3];
}

/* How many of 10 seeds give the sums; -1: a launch failed. */
static int right(int what)
{
    uint32_t in[3 * 128], out[3], want[3] = {0, 0, 0};
    int n = 0;
    for (uint32_t i = 0; i < 3 * 128; i++) want[i / 128] += in[i] = i * i + 7;
    for (uint64_t seed = 0; seed < 10; seed++) {
        job j = {what, in, out};
        void *args[1] = {&j};
        emu::seed(seed);
        if (cudaLaunchKernel(sum_kernel, dim3(3), dim3(128), args, 260 * 4, NULL)) return -1;
        n += !memcmp(out, want, sizeof want);
    }
    return n;
}

TEST(sums_are_right) { CHECK(right(FINE) == 10 && !emu::faults); }

TEST(what_is_missing_shows)
{
    CHECK(right(NO_BARRIER) < 10);
    CHECK(right(NO_WARP_BARRIER) < 10);
    CHECK(right(FAR_AHEAD) < 10);
    CHECK(right(WRONG_LANE) == 0);
    CHECK(right(UNSET) == 0);
    CHECK(!emu::faults);
}

TEST(faults_are_told)
{
    const struct { int what; const char *says; } f[] = {
        {LEFT_EARLY, "missing"}, {TWO_BARRIERS, "barrier"}, {NO_LANE, "missing"}
    };
    for (size_t i = 0; i < sizeof f / sizeof *f; i++) {
        emu::faults = 0;
        CHECK(right(f[i].what) == -1 && emu::faults == 1);
        CHECK(strstr(emu::message, f[i].says) != NULL);
    }
    emu::faults = 0;
    CHECK(right(FINE) == 10);                   /* and it goes on */
}

TEST(launches_are_checked)
{
    job j = {FINE, NULL, NULL};
    void *args[1] = {&j};
    CHECK(cudaLaunchKernel(sum_kernel, dim3(0), dim3(128), args, 0, NULL) != cudaSuccess);
    CHECK(cudaLaunchKernel(sum_kernel, dim3(1), dim3(2048), args, 0, NULL) != cudaSuccess);
    CHECK(cudaLaunchKernel(sum_kernel, dim3(1), dim3(128), args, 64 * 1024, NULL) != cudaSuccess);
}

TEST(halves_are_those_of_the_header)
{
    for (uint32_t h = 0; h < 65536; h++) {
        const float x = __half2float(__ushort_as_half((unsigned short)h));
        const float y = skvi_from_f16((uint16_t)h);
        CHECK(x != x ? y != y : memcmp(&x, &y, 4) == 0);
    }
    for (int i = 0; i < 200000; i++) {
        const float x = __uint_as_float((uint32_t)test_u64());
        const uint32_t u = __half_as_ushort(__float2half_rn(x)), v = skvi_to_f16(x);
        CHECK(u == v || x != x);
    }
}

TEST(bytes_and_bits)
{
    for (int i = 0; i < 20000; i++) {
        const uint64_t r = test_u64();
        const uint32_t a = (uint32_t)r, b = (uint32_t)(r >> 32), s = (uint32_t)test_u64();
        unsigned char in[8], out[4];
        uint32_t perm = __byte_perm(a, b, s);
        int sum = 3;
        memcpy(in, &a, 4);
        memcpy(in + 4, &b, 4);
        memcpy(out, &perm, 4);
        for (int k = 0; k < 4; k++) {
            CHECK(out[k] == in[s >> 4 * k & 7u]);
            sum += (signed char)in[k] * (signed char)in[4 + k];
        }
        CHECK(__dp4a((int)a, (int)b, 3) == sum);
        CHECK(__funnelshift_r(a, b, s & 31u) == (uint32_t)(r >> (s & 31u)));
    }
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(sums_are_right);
    RUN(what_is_missing_shows);
    RUN(faults_are_told);
    RUN(launches_are_checked);
    RUN(halves_are_those_of_the_header);
    RUN(bytes_and_bits);
    return TEST_END();
}
