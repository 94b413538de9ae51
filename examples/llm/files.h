/* files.h: whole files in and out. */
#ifndef LLM_FILES_H
#define LLM_FILES_H
#include <stddef.h>

/* Both return 0, or -1 with a sentence in err (GGUF_ERR_BYTES). A read buffer ends with an extra
 * zero byte and is the caller's to free. A write goes to a temporary name first. */
int llm_read_file(const char *path, void **data, size_t *bytes, char *err);
int llm_write_file(const char *path, const void *data, size_t bytes, char *err);
#endif
