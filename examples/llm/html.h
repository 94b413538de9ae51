/* html.h: rate against KL of judged modes as one HTML file: a chart in SVG and a table. */
#ifndef LLM_HTML_H
#define LLM_HTML_H
#include <stddef.h>
#include <stdio.h>

enum { LLM_PLOT_ROWS = 256 };

typedef struct llm_plot_row {
    char   mode[48];
    int    texts;                   /* the figures are means over so many */
    double bpe, bpe_pages, kl_mean, kl_p99, top1, ppl_change;   /* the last: ppl / exact - 1 */
} llm_plot_row;

typedef struct llm_plot {
    char model[256], text[1024];    /* for the title; several with commas between */
    int  ctx, start, sinks, window; /* 0 = not known */
    int  n;
    llm_plot_row rows[LLM_PLOT_ROWS];
} llm_plot;

/* Adds a judged text to the row of that mode, as a running mean. 0, or -1: no room. */
int llm_plot_add(llm_plot *p, const llm_plot_row *row);
/* Adds a name to model or text, once. What does not fit is left out. */
void llm_plot_name(char *list, size_t capacity, const char *name);

/* Adds rows as `judge --json` writes them, an object a line. 0, or -1 with a sentence in err
 * (GGUF_ERR_BYTES). */
int llm_plot_read(llm_plot *p, const char *path, char *err);

/* XHTML without scripts or references. Modes without a rate or with KL 0 are in the table alone.
 * 0, or -1 when out of memory or not written. */
int llm_plot_write(FILE *f, const llm_plot *p);
#endif
