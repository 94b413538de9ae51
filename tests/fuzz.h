/* fuzz.h: the main() of a fuzz target where libFuzzer is absent.
 *
 * A target tests/fuzz_NAME.c defines LLVMFuzzerTestOneInput and includes this file. tests/run
 * builds it with clang -fsanitize=fuzzer and -DSKV_LIBFUZZER, and then nothing is defined here;
 * else this main mutates the files of tests/data/fuzz_NAME/ blindly (no coverage) and hands every
 * input over in a block of its exact size, so that an address sanitizer sees the first byte too
 * many.
 *
 *   fuzz_NAME [SECONDS = 1] [SEED = 1] [FILE or FOLDER]...
 */
#ifndef SKV_FUZZ_H
#define SKV_FUZZ_H
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifndef SKV_LIBFUZZER
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FUZZ_FILES 256
#define FUZZ_BYTES (1u << 20)       /* longest input */

static struct { uint8_t *data; size_t size; } fuzz_file[FUZZ_FILES];
static size_t   fuzz_n_files;
static uint64_t fuzz_state;

static uint64_t fuzz_u64(void)      /* splitmix64 */
{
    uint64_t z = (fuzz_state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static size_t fuzz_below(size_t n) { return n ? (size_t)(fuzz_u64() % n) : 0; }

static void fuzz_load(const char *path)
{
    FILE *f = fuzz_n_files < FUZZ_FILES ? fopen(path, "rb") : NULL;
    uint8_t *data = f ? (uint8_t *)malloc(FUZZ_BYTES) : NULL;
    if (data) {
        fuzz_file[fuzz_n_files].size = fread(data, 1, FUZZ_BYTES, f);
        fuzz_file[fuzz_n_files++].data = data;
    }
    if (f) fclose(f);
}

static void fuzz_load_all(const char *path)
{
    char name[1024];
    struct dirent *entry;
    DIR *d = opendir(path);
    if (!d) {
        fuzz_load(path);
        return;
    }
    while ((entry = readdir(d)) != NULL)
        if (entry->d_name[0] != '.'
            && (size_t)snprintf(name, sizeof name, "%s/%s", path, entry->d_name) < sizeof name)
            fuzz_load(name);
    closedir(d);
}

/* One change of buf[0..n): a bit, a byte, an integer of 2 to 8 bytes, a copy, a cut, growth. */
static size_t fuzz_mutate(uint8_t *buf, size_t n)
{
    static const uint64_t edge[] = {0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000u,
                                    0xFFFFFFFFu, 0x100000000u, 0x7FFFFFFFFFFFFFFF, ~(uint64_t)0};
    size_t at = fuzz_below(n), len, i;
    uint64_t v = edge[fuzz_below(sizeof edge / sizeof edge[0])] + fuzz_below(5) - 2;
    switch (fuzz_below(6)) {
    case 0: if (n) buf[at] = (uint8_t)(buf[at] ^ (1u << fuzz_below(8))); break;
    case 1: if (n) buf[at] = (uint8_t)fuzz_u64(); break;
    case 2:
        len = (size_t)2 << fuzz_below(3);
        for (i = 0; i < len && at + i < n; i++, v >>= 8) buf[at + i] = (uint8_t)v;
        break;
    case 3:
        len = fuzz_below(n - at < 64 ? n - at + 1 : 64);
        memmove(buf + fuzz_below(n - len + 1), buf + at, len);
        break;
    case 4: return at;
    default:
        len = fuzz_below(32);
        for (i = 0; i < len && n < FUZZ_BYTES; i++) buf[n++] = (uint8_t)fuzz_u64();
    }
    return n;
}

static void fuzz_once(uint8_t *buf)
{
    size_t n = 0, i, changes = fuzz_below(8), pick = fuzz_below(fuzz_n_files);
    uint8_t *exact;
    if (fuzz_n_files) memcpy(buf, fuzz_file[pick].data, n = fuzz_file[pick].size);
    else for (n = fuzz_below(512), i = 0; i < n; i++) buf[i] = (uint8_t)fuzz_u64();
    for (i = 0; i < changes; i++) n = fuzz_mutate(buf, n);
    exact = (uint8_t *)malloc(n ? n : 1);
    if (!exact) return;
    memcpy(exact, buf, n);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
}

int main(int argc, char **argv)
{
    uint8_t *buf = (uint8_t *)malloc(FUZZ_BYTES);
    unsigned long count = 0;
    double seconds = argc > 1 ? atof(argv[1]) : 1.0;
    time_t start = time(NULL);
    int i;
    fuzz_state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    for (i = 3; i < argc; i++) fuzz_load_all(argv[i]);
    while (buf && difftime(time(NULL), start) < seconds) {
        for (i = 0; i < 16; i++) fuzz_once(buf);
        count += 16;
    }
    while (fuzz_n_files) free(fuzz_file[--fuzz_n_files].data);
    free(buf);
    printf("executed %lu inputs\n", count);
    return count ? 0 : 1;
}
#endif
#endif
