/* test.h: the smallest harness that serves. A test is a function; CHECK counts a failure, goes on.
 *
 *   TEST(adds) { CHECK(1 + 1 == 2); CHECK_NEAR(x, 2.0, 1e-6); }
 *   int main(int argc, char **argv) { TEST_BEGIN(argc, argv); RUN(adds); return TEST_END(); }
 *
 * Arguments: --seed N, --only WORD (tests whose name contains it), --slow (long variants).
 * The last line of the output is `PROGRAM: N passed, N failed, N skipped`; tests/run adds those up.
 */
#ifndef SKV_TEST_H
#define SKV_TEST_H
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    const char *program, *only, *skip_reason;
    int passed, failed, skipped, failures_here, slow;
    uint64_t seed, state;
} test_;

#define TEST(name) static void name(void)
#define RUN(name) test_run(#name, name)
#define CHECK(cond) \
    do { if (!(cond)) test_fail(__FILE__, __LINE__, #cond); } while (0)
#define CHECK_NEAR(a, b, tol) \
    test_near((double)(a), (double)(b), (double)(tol), __FILE__, __LINE__, #a " ~ " #b)
#define SKIP(why) do { test_.skip_reason = (why); return; } while (0)
#define TEST_BEGIN(argc, argv) test_begin(argc, argv)
#define TEST_END() test_end()

static inline void test_fail(const char *file, int line, const char *what)
{
    if (test_.failures_here++ < 10) printf("    %s:%d: %s\n", file, line, what);
    if (getenv("SKV_STOP")) exit(1);            /* one is enough to know: mutants */
}

static inline void test_near(double a, double b, double tol, const char *file, int line,
                             const char *what)
{
    char text[320];
    if (fabs(a - b) <= tol) return;             /* a NaN fails too */
    snprintf(text, sizeof text, "%.200s: %.9g against %.9g, tolerance %.3g", what, a, b, tol);
    test_fail(file, line, text);
}

static inline void test_run(const char *name, void (*fn)(void))
{
    if (test_.only && !strstr(name, test_.only)) return;
    test_.failures_here = 0;
    test_.skip_reason = NULL;
    test_.state = test_.seed;
    fn();
    if (test_.failures_here) {
        test_.failed++;
        printf("  FAIL %s (%d checks)\n", name, test_.failures_here);
    } else if (test_.skip_reason) {
        test_.skipped++;
        printf("  skip %s: %s\n", name, test_.skip_reason);
    } else {
        test_.passed++;
        printf("  ok   %s\n", name);
    }
    fflush(stdout);
}

static inline void test_begin(int argc, char **argv)
{
    int i;
    const char *slash = strrchr(argv[0], '/');
    test_.program = slash ? slash + 1 : argv[0];
    test_.seed = 1;
    for (i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--seed") && i + 1 < argc) test_.seed = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--only") && i + 1 < argc) test_.only = argv[++i];
        else if (!strcmp(argv[i], "--slow")) test_.slow = 1;
    }
}

static inline int test_end(void)
{
    if (!test_.passed && !test_.failed && !test_.skipped) {
        printf("%s: no test ran\n", test_.program);
        test_.failed++;
    }
    printf("%s: %d passed, %d failed, %d skipped\n", test_.program, test_.passed, test_.failed,
           test_.skipped);
    return test_.failed ? 1 : 0;
}

/* splitmix64; every test starts from the seed again, so one test never disturbs another */
static inline uint64_t test_u64(void)
{
    uint64_t z = (test_.state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
static inline double test_uniform(void) { return (double)(test_u64() >> 11) / 9007199254740992.0; }
static inline double test_normal(void)
{
    double u = test_uniform(), v = test_uniform();
    return sqrt(-2.0 * log(u + 1e-300)) * cos(6.283185307179586 * v);
}
#endif
