/* gguf.h: reads GGUF model files (versions 2 and 3, little endian).
 *
 * The file is mapped (read, where it cannot be); every pointer handed out lies inside it and was
 * checked against its end. A file is untrusted input: lengths, counts, offsets and types are all
 * validated, and a bad file gives a sentence, not a crash.
 */
#ifndef GGUF_H
#define GGUF_H
#include <stddef.h>
#include <stdint.h>

typedef struct gguf gguf;

typedef enum gguf_kind {            /* kinds of metadata values, numbered as in the file */
    GGUF_U8 = 0, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL,
    GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64
} gguf_kind;

typedef enum gguf_dtype {           /* tensor types that are known here, numbered as in the file */
    GGUF_T_F32 = 0, GGUF_T_F16 = 1, GGUF_T_Q4_0 = 2, GGUF_T_Q4_1 = 3, GGUF_T_Q5_0 = 6,
    GGUF_T_Q5_1 = 7, GGUF_T_Q8_0 = 8, GGUF_T_Q4_K = 12, GGUF_T_Q5_K = 13, GGUF_T_Q6_K = 14,
    GGUF_T_BF16 = 30
} gguf_dtype;

typedef struct gguf_str { const char *p; size_t n; } gguf_str;    /* not zero terminated */

typedef struct gguf_tensor {
    gguf_str    name;
    uint32_t    n_dims;
    uint64_t    ne[4];              /* ne[0] is the contiguous one; unused ones are 1 */
    gguf_dtype  type;
    const void *data;               /* row r of a matrix starts at r * row_bytes; any alignment */
    size_t      bytes;
    size_t      row_bytes;          /* bytes of ne[0] elements */
} gguf_tensor;

#define GGUF_ERR_BYTES 256          /* size of every err buffer below */

/* Both return 0, or -1 with a sentence in err. `data` must outlive the reader. */
int  gguf_open(gguf **out, const char *path, char *err);
int  gguf_open_memory(gguf **out, const void *data, size_t bytes, char *err);
void gguf_close(gguf *g);

/* Metadata. Each returns 1 when the key is present with a fitting kind, else 0 (out untouched).
 * gguf_get_u64 takes any non-negative integer kind; gguf_get_f64 any number. */
int  gguf_get_u64(const gguf *g, const char *key, uint64_t *out);
int  gguf_get_f64(const gguf *g, const char *key, double *out);
int  gguf_get_bool(const gguf *g, const char *key, int *out);
int  gguf_get_str(const gguf *g, const char *key, gguf_str *out);
/* Arrays: count and element kind; then elements by index (strings in O(1): indexed at open). */
int  gguf_get_array(const gguf *g, const char *key, gguf_kind *kind, uint64_t *count);
int  gguf_array_str(const gguf *g, const char *key, uint64_t i, gguf_str *out);
int  gguf_array_f64(const gguf *g, const char *key, uint64_t i, double *out);

/* Tensors by name; NULL when absent. */
const gguf_tensor *gguf_find(const gguf *g, const char *name);
uint64_t           gguf_n_tensors(const gguf *g);
const gguf_tensor *gguf_tensor_at(const gguf *g, uint64_t i);
const char        *gguf_dtype_name(int type);   /* "Q4_1"; "unknown" for others */
#endif
