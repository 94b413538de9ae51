/* progress.h: a bar on standard error for steps over two seconds; silent where that is no terminal.
 */
#ifndef LLM_PROGRESS_H
#define LLM_PROGRESS_H

typedef struct llm_progress {
    const char *label;
    double total, start, shown;     /* shown: seconds when last drawn */
    int visible, drawn;
} llm_progress;

void   llm_progress_begin(llm_progress *p, const char *label, double total);
void   llm_progress_at(llm_progress *p, double done);
void   llm_progress_end(llm_progress *p);
/* For a step of unknown length: only its name, until llm_progress_end. */
void   llm_progress_name(llm_progress *p, const char *label);
double llm_seconds(void);           /* a clock that only goes forward */
#endif
