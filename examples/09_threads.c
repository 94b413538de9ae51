/* 09_threads.c - attention and encoding on threads of your own.

   Shows: skv_parallel twice, as an OpenMP loop and as a pool of pthreads, and that neither changes
   a bit of the answer: work is cut by head groups and ranges of tokens, never by threads.
   Leaves out: pinning, spinning, sharing one pool with the rest of an engine (any will do).
   Build in the repository's root, then run ./a.out; with -fopenmp too, OpenMP gets threads:
       cc -O2 examples/09_threads.c -lm -lpthread
   Prints what each way took of memory, how often and for how many tasks it was called, and whether
   its outputs are those of the plain loop. */
#define _POSIX_C_SOURCE 200112L
#define SPECTRAL_KV_IMPLEMENTATION
#include "../spectral_kv.h"
#include "capture.h"
#include <pthread.h>
#include <stdlib.h>

#define THREADS 4u
#define REPEAT 12u                  /* the capture so often in a row: enough pages to share out */
#define STEPS 8u                    /* of decoding, whose outputs are compared */

static capture cap;
static unsigned long calls, tasks;

static void need(skv_result r, const char *what)
{
    if (r >= SKV_OK) return;
    fprintf(stderr, "%s: %s\n", what, skv_result_text(r));
    exit(1);
}

/* With OpenMP. */
static void openmp_run(void *user, size_t n, void (*task)(void *arg, size_t i), void *arg)
{
    long i;
    (void)user;
    calls++;
    tasks += (unsigned long)n;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1) num_threads(THREADS)
#endif
    for (i = 0; i < (long)n; i++) task(arg, (size_t)i);
}

/* With pthreads: workers that wait for a call and take its tasks one by one. */
typedef struct pool {
    pthread_t       thread[THREADS];
    pthread_mutex_t lock;
    pthread_cond_t  wake, done;
    void          (*task)(void *arg, size_t i);
    void           *arg;
    size_t          next, n, running;   /* tasks handed out, in all, at work */
    int             stop;
} pool;

/* Tasks until none is left; the lock is held before and after. */
static void pool_work(pool *p)
{
    while (p->next < p->n) {
        size_t i = p->next++;
        p->running++;
        pthread_mutex_unlock(&p->lock);
        p->task(p->arg, i);
        pthread_mutex_lock(&p->lock);
        p->running--;
    }
    if (!p->running) pthread_cond_signal(&p->done);
}

static void *pool_thread(void *self)
{
    pool *p = (pool *)self;
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        pool_work(p);
        pthread_cond_wait(&p->wake, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void pool_run(void *user, size_t n, void (*task)(void *arg, size_t i), void *arg)
{
    pool *p = (pool *)user;
    calls++;
    tasks += (unsigned long)n;
    pthread_mutex_lock(&p->lock);
    p->task = task;
    p->arg = arg;
    p->next = 0;
    p->n = n;
    pthread_cond_broadcast(&p->wake);
    pool_work(p);                   /* the caller is a worker, too */
    while (p->running) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static void generate(const skv_profile *profile, const skv_parallel *parallel, float *out)
{
    skv_cache_desc d = SKV_ZERO;
    skv_cache *cache = NULL;
    skv_usage use;
    size_t i, row = (size_t)cap.n_q_heads * cap.head_dim;
    d.profile = profile;
    d.target.bpe = 3.0f;
    d.max_tokens = REPEAT * cap.n_tokens + STEPS;
    if (parallel) d.parallel = *parallel;
    need(skv_cache_init(&cache, &d), "cache");
    for (i = 0; i < REPEAT + STEPS; i++) {
        size_t n = i < REPEAT ? cap.n_tokens : 1;
        capture_rows x = capture_at(&cap, 0, i < REPEAT ? 0 : i);
        skv_out o = skv_out_f32(out + (i < REPEAT ? 0 : i - REPEAT) * row);
        need(skv_append(cache, 0, &x.k, &x.v, n), "append");
        if (i >= REPEAT) need(skv_attend(cache, 0, &x.q, 1, &o, NULL), "attend");
    }
    need(skv_cache_usage(cache, &use), "usage");
    printf("%lu tokens, %7lu bytes of work space, %3lu calls, %4lu tasks; ",
           (unsigned long)use.tokens, (unsigned long)use.work_bytes, calls, tasks);
    calls = tasks = 0;
    skv_cache_free(cache);
}

int main(int argc, char **argv)
{
    static float out[3][STEPS * 8192];
    static pool p;
    skv_parallel openmp = {NULL, openmp_run, THREADS}, threads = {&p, pool_run, THREADS};
    skv_profile *profile = NULL;
    size_t i;
    if (capture_read(&cap, argc > 1 ? argv[1] : CAPTURE_DEFAULT)) return 1;
    need(capture_calibrate(&cap, 16, &profile), "calibrate");
    pthread_mutex_init(&p.lock, NULL);
    pthread_cond_init(&p.wake, NULL);
    pthread_cond_init(&p.done, NULL);
    for (i = 1; i < THREADS; i++)
        if (pthread_create(&p.thread[i], NULL, pool_thread, &p)) return 1;
    generate(profile, NULL, out[0]);
    printf("plain loop\n");
    generate(profile, &openmp, out[1]);
    printf("OpenMP: %s\n", memcmp(out[0], out[1], sizeof out[0]) ? "different" : "identical");
    generate(profile, &threads, out[2]);
    printf("pthreads: %s\n", memcmp(out[0], out[2], sizeof out[0]) ? "different" : "identical");
    pthread_mutex_lock(&p.lock);
    p.stop = 1;
    pthread_cond_broadcast(&p.wake);
    pthread_mutex_unlock(&p.lock);
    for (i = 1; i < THREADS; i++) pthread_join(p.thread[i], NULL);
    skv_profile_free(profile);
    return memcmp(out[0], out[1], sizeof out[0]) || memcmp(out[0], out[2], sizeof out[0]);
}
