/* reference.h: reads tests/data/reference_MODEL.txt, shared by the tokenizer and the model tests.
 *
 * Lines, in this order: `# comment`, `model NAME`, then per passage: `case`, `text ...` (one line;
 * \n, \t, \\ and a last space as \s are escaped, the rest is UTF-8), `ids N` and N numbers over
 * some lines, `mean_nll X` (over the N - 1 tokens after the first), `logits POS LOGSUMEXP K` and K
 * pairs `ID LOGIT`, as often as there are positions, then perhaps `with_bos ID MEAN_NLL K` and K
 * pairs (the same passage with BOS first: the mean over all N tokens, and the logits after the
 * last), and `end`.
 *
 * The directory is tests/data, or what the environment variable SKV_TEST_DATA says.
 */
#ifndef SKV_REFERENCE_H
#define SKV_REFERENCE_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REFERENCE_TOP 16            /* most pairs kept at one position */
#define REFERENCE_AT 32             /* most positions */
#define REFERENCE_CASES 8

typedef struct reference_top {
    int    pos, n;                  /* n pairs, largest logit first */
    double logsumexp;
    int    id[REFERENCE_TOP];
    double logit[REFERENCE_TOP];
} reference_top;

typedef struct reference_case {
    char  *text;                    /* zero terminated */
    size_t text_bytes;
    int   *ids, n_ids;
    double mean_nll;
    reference_top at[REFERENCE_AT];
    int    n_at;
    int    bos;                     /* -1: the case has no results with BOS */
    double bos_mean_nll;
    reference_top bos_last;         /* pos and logsumexp unused */
} reference_case;

typedef struct reference {
    char model[32];
    reference_case cases[REFERENCE_CASES];
    int n_cases;
} reference;

static inline void reference_free(reference *r)
{
    int i;
    for (i = 0; r && i < REFERENCE_CASES; i++) {
        free(r->cases[i].text);
        free(r->cases[i].ids);
    }
    free(r);
}

static inline int reference_read_text(FILE *f, reference_case *c)
{
    size_t room = 256;
    int ch = fgetc(f);                          /* the space after the word */
    c->text = (char *)malloc(room);
    while (c->text && (ch = fgetc(f)) != EOF && ch != '\n') {
        if (ch == '\\') {
            ch = fgetc(f);
            ch = ch == 'n' ? '\n' : ch == 't' ? '\t' : ch == 's' ? ' ' : ch;
        }
        if (c->text_bytes + 2 > room) {
            char *more = (char *)realloc(c->text, room *= 2);
            if (!more) return -1;
            c->text = more;
        }
        c->text[c->text_bytes++] = (char)ch;
    }
    if (!c->text) return -1;
    c->text[c->text_bytes] = 0;
    return 0;
}

static inline int reference_read_ids(FILE *f, reference_case *c)
{
    int i, n;
    if (fscanf(f, "%d", &n) != 1 || n < 1 || n > 1 << 20) return -1;
    c->ids = (int *)malloc((size_t)n * sizeof *c->ids);
    for (i = 0; c->ids && i < n; i++)
        if (fscanf(f, "%d", &c->ids[i]) != 1) return -1;
    c->n_ids = n;
    return c->ids ? 0 : -1;
}

static inline int reference_read_top(FILE *f, reference_top *t)
{
    int i;
    if (fscanf(f, "%d", &t->n) != 1 || t->n < 1 || t->n > REFERENCE_TOP) return -1;
    for (i = 0; i < t->n; i++)
        if (fscanf(f, "%d %lf", &t->id[i], &t->logit[i]) != 2) return -1;
    return 0;
}

static inline int reference_read_case(FILE *f, reference_case *c)
{
    char word[16];
    c->bos = -1;
    while (fscanf(f, "%15s", word) == 1 && strcmp(word, "end")) {
        int bad = 1;
        if (!strcmp(word, "text") && !c->text) {
            bad = reference_read_text(f, c);
        } else if (!strcmp(word, "ids") && !c->ids) {
            bad = reference_read_ids(f, c);
        } else if (!strcmp(word, "mean_nll")) {
            bad = fscanf(f, "%lf", &c->mean_nll) != 1;
        } else if (!strcmp(word, "logits") && c->n_at < REFERENCE_AT) {
            reference_top *t = &c->at[c->n_at++];
            bad = fscanf(f, "%d %lf", &t->pos, &t->logsumexp) != 2 || reference_read_top(f, t);
        } else if (!strcmp(word, "with_bos")) {
            bad = fscanf(f, "%d %lf", &c->bos, &c->bos_mean_nll) != 2
                  || reference_read_top(f, &c->bos_last);
        }
        if (bad) return -1;
    }
    return c->text && c->ids && c->n_at && !strcmp(word, "end") ? 0 : -1;
}

/* The reference of a model ("smollm2", "gemma3"), or NULL with a line on stdout saying why. */
static inline reference *reference_open(const char *model)
{
    const char *dir = getenv("SKV_TEST_DATA");
    char path[1024], word[16];
    reference *r = (reference *)calloc(1, sizeof *r);
    FILE *f;
    int bad = !r, found;
    snprintf(path, sizeof path, "%.900s/reference_%.64s.txt", dir ? dir : "tests/data", model);
    f = fopen(path, "rb");
    found = f != NULL;
    while (found && !bad && fscanf(f, "%15s", word) == 1) {
        if (word[0] == '#') {
            int ch;
            while ((ch = fgetc(f)) != EOF && ch != '\n') { }
        } else if (!strcmp(word, "model")) {
            bad = fscanf(f, "%31s", r->model) != 1;
        } else {
            bad = strcmp(word, "case") || r->n_cases == REFERENCE_CASES
                  || reference_read_case(f, &r->cases[r->n_cases++]);
        }
    }
    if (f) fclose(f);
    if (found && !bad && r->n_cases && !strcmp(r->model, model)) return r;
    printf("    %s: %s\n", path, found ? "is damaged" : "not found; run from the repository root "
                                                        "or set SKV_TEST_DATA");
    reference_free(r);
    return NULL;
}
#endif
