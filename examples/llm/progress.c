/* progress.c: see progress.h. */
#define _POSIX_C_SOURCE 200809L
#include "progress.h"
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { WIDTH = 30 };

double llm_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void llm_progress_begin(llm_progress *p, const char *label, double total)
{
    p->label = label;
    p->total = total > 0 ? total : 1;
    p->start = p->shown = llm_seconds();
    p->visible = isatty(2);
    p->drawn = 0;
}

void llm_progress_at(llm_progress *p, double done)
{
    double now = llm_seconds(), part = done / p->total;
    int i, full;
    if (!p->visible || now - p->start < 2 || now - p->shown < 0.2) return;
    if (part > 1) part = 1;
    full = (int)(part * WIDTH);
    fprintf(stderr, "\r%-24.24s [", p->label);
    for (i = 0; i < WIDTH; i++) fputc(i < full ? '#' : '.', stderr);
    fprintf(stderr, "] %3.0f %%  %.0f s", 100 * part, now - p->start);
    fflush(stderr);
    p->shown = now;
    p->drawn = 1;
}

void llm_progress_name(llm_progress *p, const char *label)
{
    llm_progress_begin(p, label, 1);
    if (!p->visible) return;
    fprintf(stderr, "\r%s ...", label);
    fflush(stderr);
    p->drawn = 1;
}

void llm_progress_end(llm_progress *p)
{
    if (p->drawn) fprintf(stderr, "\r%*s\r", WIDTH + 50, "");
    p->drawn = 0;
}
