/* files.c: see files.h. */
#include "files.h"
#include "gguf.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(char *err, const char *what, const char *path)
{
    snprintf(err, GGUF_ERR_BYTES, "%s %.120s: %s", what, path,
             errno ? strerror(errno) : "unknown error");
    return -1;
}

int llm_read_file(const char *path, void **data, size_t *bytes, char *err)
{
    FILE *f;
    char *buf = NULL, *more;
    size_t cap = 0, n = 0, got;
    errno = 0;
    f = fopen(path, "rb");
    if (!f) return fail(err, "cannot open", path);
    do {
        if (cap - n < 65536) {
            cap = cap ? 2 * cap : 1 << 20;
            more = realloc(buf, cap);
            if (!more) break;
            buf = more;
        }
        got = fread(buf + n, 1, cap - n - 1, f);
        n += got;
    } while (got);
    if (ferror(f) || !buf || !feof(f)) {
        fclose(f);
        free(buf);
        return fail(err, "cannot read", path);
    }
    fclose(f);
    buf[n] = 0;
    *data = buf;
    *bytes = n;
    return 0;
}

int llm_write_file(const char *path, const void *data, size_t bytes, char *err)
{
    char *tmp = malloc(strlen(path) + 5);
    FILE *f;
    int bad;
    if (!tmp) {
        errno = ENOMEM;
        return fail(err, "cannot write", path);
    }
    sprintf(tmp, "%s.new", path);
    errno = 0;
    f = fopen(tmp, "wb");
    if (!f) {
        free(tmp);
        return fail(err, "cannot write", path);
    }
    bad = fwrite(data, 1, bytes, f) != bytes;
    bad |= fclose(f) != 0;
    if (!bad) bad = rename(tmp, path) != 0;
    if (bad) {
        fail(err, "cannot write", path);
        remove(tmp);
    }
    free(tmp);
    return bad ? -1 : 0;
}
