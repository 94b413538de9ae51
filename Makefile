# spectral_kv: everything is built into build/. `make help` lists the targets.
# Options: V=1 (show commands), CC, CFLAGS, LDFLAGS, BUILD=dir, WERROR=1, OPENMP= (off), LAPACKE= (off),
# TEST_CFLAGS (for tests alone), SKV_MODEL_DIR=dir, TEST_ARGS (tests/README.md), DEMO_ARGS,
# QUALITY_ARGS (tools/quality.py), CUDA=1 (skv-llm --device cuda; NVCC, NVCCFLAGS), CUDA=emulation (the
# same on the CPU, for tests).

BUILD  := build
PYTHON := python3

# $(call try,compile flags,libraries,headers) gives the flags back when a program builds with them
try = $(shell printf '$(foreach h,$3,\043include <$h>\n)int main(void){return 0;}\n' | \
        $(CC) $1 -x c - -o /dev/null $2 2>/dev/null && echo '$1 $2')

ifneq (,$(filter-out check test test-gpu fuzz nvcc model model-gemma texts clean help,\
          $(or $(MAKECMDGOALS),all)))   # the others compile nothing here
CFLAGS  := $(or $(CFLAGS),$(strip $(call try,-O3 -march=native)),-O2)
OPENMP  := $(or $(OPENMP),$(strip $(call try,-fopenmp,,omp.h)))
LAPACKE := $(or $(LAPACKE),$(strip $(call try,,-llapacke,lapacke.h)))
$(if $(OPENMP)$(filter command,$(origin OPENMP)),,\
  $(info $(CC): no OpenMP, so one thread only (Debian: libomp-dev for clang)))
endif

WARN     := -std=c99 -pedantic -Wall -Wextra -Wconversion -Wshadow $(if $(WERROR),-Werror)
CPPFLAGS += -I. -Itests -Iexamples/llm -Ibench/baselines -MMD -MP
COMPILE   = $(CC) $(CPPFLAGS) $(WARN) $(CFLAGS) $(OPENMP)
LIBS      = $(OPENMP) -lm
WITH_LAPACKE = $(if $(LAPACKE),-DSKV_HAVE_LAPACKE)     # tests and benches compare with it

# models: in SKV_MODEL_DIR when they are there, else fetched into build/models; tests see the paths
model_path = $(firstword $(wildcard $(addsuffix /$1,$(SKV_MODEL_DIR))) build/models/$1)
SMOLLM2 := $(call model_path,smollm2-135m-instruct-q4_1.gguf)
GEMMA3  := $(call model_path,gemma3-270m-q4_k_m.gguf)
ifneq (,$(wildcard $(SMOLLM2)))
export SKV_MODEL_SMOLLM2 ?= $(abspath $(SMOLLM2))
endif
ifneq (,$(wildcard $(GEMMA3)))
export SKV_MODEL_GEMMA3 ?= $(abspath $(GEMMA3))
endif

named     = $(patsubst $1/%.c,$(BUILD)/$2%,$(wildcard $1/$3.c))
ENGINE   := $(filter-out %/main.o,$(patsubst %.c,$(BUILD)/llm/%.o,\
              $(notdir $(wildcard examples/llm/*.c)))) \
            $(patsubst bench/%.c,$(BUILD)/%.o,$(wildcard bench/baselines/*.c))
ifneq (,$(filter-out 0,$(CUDA)))
NVCC      ?= nvcc
NVCCFLAGS ?= -O3 -arch=native
ENGINE    += $(BUILD)/llm/kv_cuda.o
CPPFLAGS  += -DLLM_CUDA
ifeq ($(CUDA),emulation)
COMPILE_CUDA = $(CXX) -x c++ -std=c++17 -O2 -Wno-unknown-pragmas -DSKV_CUDA_EMULATION -Itests/cuda_emulation
LINK_LLM  = $(CXX) $(CFLAGS) $(LDFLAGS)
else
COMPILE_CUDA = $(NVCC) -std=c++17 $(NVCCFLAGS)
LINK_LLM  = $(NVCC) $(NVCCFLAGS) $(addprefix -Xcompiler ,$(LDFLAGS) $(OPENMP))
endif
endif
LINK_LLM ?= $(CC) $(CFLAGS) $(LDFLAGS)
TESTS    := $(call named,tests,tests/,test_*)
FUZZERS  := $(call named,tests,tests/,fuzz_*)
BENCHES  := $(call named,bench,,bench_*)
EXAMPLES := $(call named,examples,,[0-9]*)
SKV_LLM  := $(if $(wildcard examples/llm/main.c),$(BUILD)/skv-llm)
PASSAGES := $(shell grep -v '^\#' examples/text/calibration.list)

.PHONY: all check test tests demo model model-gemma bench bench-attn bench-peers \
        bench-presets bench-quality bench-cuda profile-attn texts fuzz fuzzers nvcc test-gpu clean help
.DELETE_ON_ERROR:

all: $(SKV_LLM) $(BENCHES) $(EXAMPLES)      ## everything into build/ (the default)

check:                      ## the fast tests, under a minute
	@$(PYTHON) tests/run --check $(TEST_ARGS)

test:                       ## all tests: gcc, clang, sanitizers, build matrix, examples, fuzzing
	@$(PYTHON) tests/run $(TEST_ARGS)

demo: DEMO_ARGS := --tokens 512 --profile build/profiles/demo.skv   # half the text: in a hurry
demo: $(SKV_LLM) model      ## the same answer with the exact and with the compressed cache
	@$(PYTHON) tools/demo.py --engine $(SKV_LLM) --model $(SMOLLM2) --text $(PASSAGES) \
	  $(DEMO_ARGS)

model:                      ## fetch SmolLM2 135M Instruct (98 MB, Apache-2.0) into build/models
	@$(PYTHON) tools/fetch_model.py smollm2

model-gemma:                ## fetch Gemma 3 270M (253 MB, Gemma terms of use)
	@$(PYTHON) tools/fetch_model.py gemma3

bench_attn_ARGS := --tokens 1024,4096 --bits 2,4
bench: $(BENCHES)           ## timings, as text and as build/bench/*.json
	@mkdir -p build/bench
	@$(foreach b,$(BENCHES),echo "== $b" && \
	  $b --json build/bench/$(notdir $b).json $($(notdir $b)_ARGS) &&) :

bench-attn: $(BUILD)/bench_attn     ## attention against f16 and, with GGML_LIB_DIR=dir, ggml
	@mkdir -p build/bench
	@OMP_NUM_THREADS=1 $< --json build/bench/attn.json --csv build/bench/attn.csv $(ATTN_ARGS)

bench-peers: $(BUILD)/bench_attn    ## times of ggml's attention in ours; pip fetches it unless GGML_LIB_DIR=dir
	@mkdir -p build/bench
	@$(if $(GGML_LIB_DIR),,$(MAKE) --no-print-directory build/peers/ggml)
	@OMP_NUM_THREADS=1 $< --ggml $(or $(GGML_LIB_DIR),build/peers/ggml) --ratios --runs 7 \
	  --json build/bench/peers.json $(ATTN_ARGS)

build/peers/ggml:           # a link to the libraries in llama-cpp-python, which pip builds for this machine
	$(PYTHON) -m venv build/peers
	build/peers/bin/pip install --no-binary llama-cpp-python llama-cpp-python
	lib=$$(find $(CURDIR)/build/peers -path '*/llama_cpp/lib/libggml-base.*' | head -n 1) && \
	  [ "$$lib" ] && ln -sfn "$${lib%/*}" $@

bench-cuda:                 ## a decode step on a GPU against its bandwidth, and what torch and FlashInfer take
	@mkdir -p build/bench
	@$(or $(NVCC),nvcc) -std=c++17 -O3 -arch=native -I. -Itests bench/bench_cuda.cu -o build/bench/bench_cuda
	@build/bench/bench_cuda --json build/bench/cuda.json $(CUDA_ARGS)
	@$(PYTHON) bench/bench_cuda_peers.py --ours build/bench/cuda.json

bench-presets: $(BUILD)/bench_attn  ## quality, bytes and speed of the presets in one table
	@$(PYTHON) tools/presets.py --bench $< $(PRESETS_ARGS)

profile-attn: $(BUILD)/bench_attn   ## where the time of a decode step goes (Linux, perf)
	@perf --version >/dev/null || { echo "no perf (Debian: linux-perf)"; exit 1; }
	@mkdir -p build/bench && rm -f build/bench/perf.fifo && mkfifo build/bench/perf.fifo
	@for bits in 2 4; do echo "$$bits bits:" && OMP_NUM_THREADS=1 perf record -q -D -1 \
	  --control fifo:build/bench/perf.fifo -e cpu-clock -F 2000 -o build/bench/perf.data \
	  $< --profile build/bench/perf.fifo --shape SmolLM2-135M --tokens 16384 --bits $$bits \
	  $(ATTN_ARGS) >/dev/null && perf report -i build/bench/perf.data --stdio --percent-limit 0.5 \
	  -F overhead,symbol 2>/dev/null | grep '%' || exit 1; done

bench-quality: $(SKV_LLM) model texts       ## KL, top-1 and bytes on four kinds of text
	@$(PYTHON) tools/quality.py --engine $(SKV_LLM) --model $(SMOLLM2) --text $(PASSAGES) \
	  $(QUALITY_ARGS)

texts:                      ## the texts that bench-quality judges on, into build/texts
	@$(PYTHON) tools/judge_texts.py

fuzz:                       ## fuzz every reader of bytes, FUZZ_SECONDS (60) each
	@$(PYTHON) tests/run --group fuzz $(TEST_ARGS)

nvcc:                       ## compile the headers with nvcc
	@$(PYTHON) tests/build_matrix --only nvcc

test-gpu:                   ## the tests of the CUDA kernels on a device, also under compute-sanitizer
	@mkdir -p build/gpu
	@for t in attend pages cold profile; do $(or $(NVCC),nvcc) -x cu -std=c++17 -O2 -lineinfo -arch=native -I. -Itests \
	  tests/test_cuda_$$t.cpp -o build/gpu/test_cuda_$$t && build/gpu/test_cuda_$$t || exit 1; \
	  for tool in memcheck racecheck synccheck; do echo "-- $$tool" && SKV_SANITIZED=1 \
	  compute-sanitizer --tool $$tool --error-exitcode 1 build/gpu/test_cuda_$$t || exit 1; done; done

clean:                      ## remove build/ but keep the fetched models
	@for d in build/*; do [ "$$d" = build/models ] || rm -rf "$$d"; done

help:                       ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' Makefile

# rewritten when the flags change, which rebuilds everything
FLAGS := $(BUILD)/flags
$(if $(CFLAGS),$(shell mkdir -p $(BUILD); echo '$(COMPILE) $(COMPILE_CUDA) $(LDFLAGS) $(LAPACKE)' >$(FLAGS).new; \
    cmp -s $(FLAGS).new $(FLAGS) || cp $(FLAGS).new $(FLAGS); rm $(FLAGS).new))

tests: $(TESTS)             # built only; tests/run runs them
fuzzers: $(FUZZERS)

$(BUILD)/llm/%.o: examples/llm/%.c $(FLAGS)
	@mkdir -p $(@D)
	@echo '  CC $<'
	$(COMPILE) -c $< -o $@

$(BUILD)/llm/%.o: examples/llm/%.cu spectral_kv_cuda.cuh spectral_kv.h $(FLAGS)
	@mkdir -p $(@D)
	@echo '  CUDA $<'
	$(COMPILE_CUDA) -I. -Iexamples/llm -c $< -o $@

$(BUILD)/baselines/%.o: bench/baselines/%.c $(FLAGS)
	@mkdir -p $(@D)
	@echo '  CC $<'
	$(COMPILE) -c $< -o $@

$(BUILD)/libllm.a: $(ENGINE)        # an archive, so that a test links only what it uses
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/skv-llm: $(BUILD)/llm/main.o $(BUILD)/libllm.a
	@echo '  LD $@'
	$(LINK_LLM) $^ -o $@ $(if $(findstring nvcc,$(LINK_LLM)),-lm,$(LIBS))

$(filter $(BUILD)/tests/test_llm_% $(BUILD)/tests/fuzz_%,$(TESTS) $(FUZZERS)): $(BUILD)/libllm.a
$(TESTS) $(FUZZERS): $(BUILD)/tests/%: tests/%.c $(FLAGS)
	@mkdir -p $(@D)
	$(COMPILE) $(TEST_CFLAGS) $(WITH_LAPACKE) -MF $@.d $(LDFLAGS) $(filter %.c %.a,$^) -o $@ \
	  $(LAPACKE) $(LIBS)

$(BUILD)/bench_attn: LIBS += -ldl     # looks for ggml when it runs
$(BENCHES): $(BUILD)/%: bench/%.c $(FLAGS)
	@mkdir -p $(@D)
	@echo '  CC $<'
	$(COMPILE) $(WITH_LAPACKE) -MF $@.d $(LDFLAGS) $< -o $@ $(LAPACKE) $(LIBS)

$(EXAMPLES): $(BUILD)/%: examples/%.c $(FLAGS)
	@mkdir -p $(@D)
	@echo '  CC $<'
	$(COMPILE) -MF $@.d $(LDFLAGS) $< -o $@ $(LIBS)

# quiet: a line a file; V=1 shows the commands
ifndef V
.SILENT:
endif

-include $(wildcard $(BUILD)/*.d $(BUILD)/*/*.d)
