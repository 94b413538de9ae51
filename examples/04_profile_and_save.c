/* 04_profile_and_save.c - calibrate once, keep the profile in a file, use it at any rate.

   Shows: fit, save, load with a check of the model, and what one profile promises at several rates,
   asked for as bits, as kept energy or as expected error.
   Leaves out: calibration on much text (06), compressing with the profile (01, 03).
   Build in the repository's root, then run ./a.out, or ./a.out CAPTURE PROFILE to keep the file:
       cc -O2 examples/04_profile_and_save.c -lm
   Prints the library's summary, a line per target, and how a wrong model and a damaged file are
   refused. Expected error: squared error of a token's attention output, summed over the layers. */
#define SPECTRAL_KV_IMPLEMENTATION
#include "../spectral_kv.h"
#include "capture.h"
#include <stdlib.h>

static capture cap;

static void need(skv_result r, const char *what)
{
    if (r >= SKV_OK) return;        /* above zero: a warning, the result is usable */
    fprintf(stderr, "%s: %s\n", what, skv_result_text(r));
    exit(1);
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static skv_profile *calibrate(const skv_model *model)
{
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *profiler = NULL;
    skv_profile *profile = NULL;
    skv_target usual = SKV_ZERO;
    uint32_t layer;
    d.model = *model;
    d.window = 16;
    need(skv_profiler_init(&profiler, &d), "profiler");
    for (layer = 0; layer < cap.n_layers; layer++) {
        capture_rows x = capture_at(&cap, layer, 0);
        need(skv_profiler_add(profiler, layer, &x.q, &x.k, &x.v, cap.n_tokens), "calibrate");
    }
    usual.bpe = 3.0f;               /* kept in the profile, for caches that name no target */
    need(skv_profiler_fit(profiler, &usual, &profile), "fit");
    skv_profiler_free(profiler);
    return profile;
}

/* The whole file in memory; the library reads and writes blobs, files are yours. */
static unsigned char *save(const skv_profile *profile, const char *path, size_t *bytes)
{
    unsigned char *blob;
    FILE *f;
    need(skv_profile_save(profile, NULL, 0, bytes), "size of the blob");
    blob = malloc(*bytes);
    if (!blob) fail("malloc");
    need(skv_profile_save(profile, blob, *bytes, bytes), "save");
    f = fopen(path, "wb");
    if (!f || fwrite(blob, 1, *bytes, f) != *bytes || fclose(f)) fail(path);
    return blob;
}

static void load(unsigned char *blob, size_t bytes, const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f || fread(blob, 1, bytes, f) != bytes || fclose(f)) fail(path);
}

static void try_load(const char *what, const unsigned char *blob, size_t bytes,
                     const skv_model *model)
{
    skv_profile *profile = NULL;
    skv_result r = skv_profile_load(&profile, blob, bytes, model, NULL);
    printf("%-16s %s: %s\n", what, skv_result_name(r), skv_result_text(r));
    skv_profile_free(profile);      /* NULL unless it was loaded */
}

static void outlook(const skv_profile *profile, const char *what, float bpe, float energy,
                    float error)
{
    skv_target t = SKV_ZERO;
    skv_outlook o;
    t.bpe = bpe;
    t.energy = energy;
    t.error = error;
    need(skv_profile_outlook(profile, &t, &o), what);
    printf("%-16s %5.2f  %5.1fx %8.2f %8.2f %13.2f %% %16.4f\n", what, o.bpe, o.ratio, o.bpe_k,
           o.bpe_v, 100 * o.energy_mean, o.error);
}

int main(int argc, char **argv)
{
    const char *path = argc > 2 ? argv[2] : "example.skv";
    char text[2048];
    unsigned char *blob;
    size_t bytes = 0;
    skv_profile *profile, *loaded = NULL;
    skv_model model, other;
    if (capture_read(&cap, argc > 1 ? argv[1] : CAPTURE_DEFAULT)) return 1;
    model = capture_model(&cap);
    model.fingerprint = 0x5EED0135; /* an engine hashes its weights and its RoPE convention */
    profile = calibrate(&model);
    blob = save(profile, path, &bytes);
    skv_profile_free(profile);
    load(blob, bytes, path);
    need(skv_profile_load(&loaded, blob, bytes, &model, NULL), "load");
    need(skv_profile_summary(loaded, NULL, text, sizeof text, NULL), "summary");
    printf("%s: %lu bytes\n\n%s\n", path, (unsigned long)bytes, text);

    printf("one profile       bits   ratio  of keys  of values    energy kept  expected error\n");
    outlook(loaded, "6 bits", 6, 0, 0);
    outlook(loaded, "4 bits", 4, 0, 0);
    outlook(loaded, "2 bits", 2, 0, 0);
    outlook(loaded, "1 bit", 1, 0, 0);
    outlook(loaded, "99 % energy", 0, 0.99f, 0);
    outlook(loaded, "error 0.05", 0, 0, 0.05f);

    printf("\nloaded for\n");
    other = model;
    other.fingerprint++;
    try_load("its model", blob, bytes, &model);
    try_load("other weights", blob, bytes, &other);
    blob[bytes / 2] ^= 1;
    try_load("one bit flipped", blob, bytes, &model);
    try_load("half the file", blob, bytes / 2, &model);
    skv_profile_free(loaded);
    free(blob);
    if (argc <= 2) remove(path);
    return 0;
}
