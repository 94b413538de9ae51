/* skv.c: the one file of the engine that holds the implementation of spectral_kv.h. */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
