/* spectral_kv_cuda.cuh - v0.2.0 - the CUDA companion of spectral_kv.h. One file, C, C++ or nvcc.
   MIT-0 or public domain, at your choice; the text is at the end of this file.

   WHAT THIS VERSION DOES
     Nothing on a GPU. It holds no kernel and no function: only SKV_CUDA_AVAILABLE, which is 0, so
     that a program can choose at compile time, and the include of spectral_kv.h, whose types and
     stored formats the kernels will share. Attention, append and calibration run on the CPU.

   HOW TO INCLUDE IT
     By itself, or by defining SPECTRAL_KV_CUDA before spectral_kv.h; before or after it, any number
     of times. It needs no CUDA toolkit. It has no implementation part of its own yet;
     SPECTRAL_KV_IMPLEMENTATION works through it as it does for spectral_kv.h.

       #include "spectral_kv_cuda.cuh"
       #if SKV_CUDA_AVAILABLE
       ...                                  // device caches: a later version
       #else
       ...                                  // skv_append, skv_attend
       #endif

   WHAT WILL BE SHARED
     The page format (skv_encode describes it), skv_profile, skv_span for tensors in device memory,
     and skv_result. They are declared in spectral_kv.h and only there.
*/
#ifndef SPECTRAL_KV_CUDA_H
#define SPECTRAL_KV_CUDA_H

#include "spectral_kv.h"

#define SKV_CUDA_VERSION_MAJOR 0
#define SKV_CUDA_VERSION_MINOR 2
#define SKV_CUDA_VERSION_PATCH 0

#if SKV_CUDA_VERSION_MAJOR != SKV_VERSION_MAJOR || SKV_CUDA_VERSION_MINOR != SKV_VERSION_MINOR
#error "spectral_kv_cuda.cuh and spectral_kv.h differ in version: take both from one release"
#endif

#define SKV_CUDA_AVAILABLE 0    /* 1 in the version that has kernels and an nvcc to compile them */

#endif /* SPECTRAL_KV_CUDA_H */

/*
This software is available under two licenses; choose whichever you prefer.

------------------------------------------------------------------------------
ALTERNATIVE A - MIT No Attribution (MIT-0)

Copyright (c) 2026 the authors of spectral_kv.h

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.

------------------------------------------------------------------------------
ALTERNATIVE B - Public Domain (unlicense.org)

This is free and unencumbered software released into the public domain.

Anyone is free to copy, modify, publish, use, compile, sell, or distribute
this software, either in source code form or as a compiled binary, for any
purpose, commercial or non-commercial, and by any means.

In jurisdictions that recognize copyright laws, the author or authors of this
software dedicate any and all copyright interest in the software to the public
domain. We make this dedication for the benefit of the public at large and to
the detriment of our heirs and successors. We intend this dedication to be an
overt act of relinquishment in perpetuity of all present and future rights to
this software under copyright law.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN
ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION
WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
*/
