/* bench.h: what the benches share. Define _POSIX_C_SOURCE 200809L before the first include. */
#ifndef BENCH_H
#define BENCH_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BENCH_MAX_RUNS 99

/* CPU time of the process in ns. */
static inline double bench_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static inline int bench_ascending(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* Sorts the times of runs: the median is then [n / 2], the minimum [0]. */
static inline void bench_sort(double *times, size_t n)
{
    qsort(times, n, sizeof *times, bench_ascending);
}

/* [--json FILE] [--runs N]: 0, or -1 after a message. *json and *runs keep what is not given. */
static inline int bench_arguments(const char *name, int argc, char **argv, const char **json,
                                  size_t *runs)
{
    int k, bad = 0;
    for (k = 1; k < argc; k++) {
        if (!strcmp(argv[k], "--json") && k + 1 < argc) *json = argv[++k];
        else if (!strcmp(argv[k], "--runs") && k + 1 < argc) *runs = strtoul(argv[++k], NULL, 10);
        else bad = 1;
    }
    if (!bad && *runs >= 1 && *runs <= BENCH_MAX_RUNS) return 0;
    fprintf(stderr, "usage: %s [--json FILE] [--runs 1..%d]\n", name, BENCH_MAX_RUNS);
    return -1;
}

#endif
