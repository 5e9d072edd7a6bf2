# train_llama: `make` builds ./train_llama, `make test` runs the tests, `make demo` trains the demo,
# `make bench` measures the CPU.
# With nvcc: `make ptxas-check`; with cuDNN: `make cudnn-check`; with a GPU: `make gpu-check`, `make gpu-bench`.
#
#   CUDA=0        no CUDA even where nvcc is found (default: nvcc where there is one)
#   ARCH="80 90"  compute capabilities to build for, with nvcc; chips later than the last take its PTX
#   SANITIZE=address,undefined   a sanitizer build, in a folder of its own
#   BLAS=openblas|mkl|blis   the matrix library; BLAS_DIR: its folder, where the linker does not look
#   NATIVE=0      for any x86-64 with AVX2 instead of for this machine
#   DEBUG=1       -O1 -g
#   FUZZ_SECONDS=60   of each fuzz target, for `make fuzz`
#   EMULATE=1     links the tests of a build with CUDA=1 so that they need no GPU; `make emulate-check` runs them
#
# `make install` and `make uninstall` take PREFIX (/usr/local) and DESTDIR.

NVCC      := $(or $(shell command -v nvcc 2>/dev/null),$(wildcard $(or $(CUDA_HOME),/usr/local/cuda)/bin/nvcc))
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
CUDA      ?= $(if $(NVCC),1,0)
ARCH      ?= 80 89 90
NATIVE    ?= 1
SANITIZE  ?=
comma     := ,

BLAS      ?= openblas
KIND  := $(if $(filter 1,$(CUDA)),cuda,cpu)$(if $(filter-out openblas,$(BLAS)),-$(BLAS))$(if $(SANITIZE),-$(subst $(comma),-,$(SANITIZE)))
BUILD ?= build/$(KIND)
BIN   := $(BUILD)$(if $(filter 1,$(EMULATE)),/emulated)

# Strict IEEE, but for errno and traps, which keep loops from vectorising. Never -ffast-math: it breaks
# the polynomial exp and isfinite.
OPTIMIZE := $(if $(DEBUG),-O1 -g,-O3) -fno-math-errno -fno-trapping-math -ffp-contract=fast \
            $(if $(filter 1,$(NATIVE)),-march=native,-march=x86-64-v3) \
            $(if $(filter x86_64,$(shell uname -m)),-mprefer-vector-width=512) \
            $(if $(SANITIZE),-g -fno-omit-frame-pointer -fsanitize=$(SANITIZE) -fno-sanitize-recover=all)
WARN     := -Wall -Wextra -Werror
INCLUDE  := -I. -Isrc -Itest
HOST     := $(OPTIMIZE) $(WARN) -fopenmp
CFLAGS   ?=
CXXFLAGS ?=

# All of them on OpenMP's threads. MKL's parts do not name each other, so that none may be left out as unneeded.
BLAS_openblas := -lopenblas
BLAS_blis     := -lblis
BLAS_mkl      := -Wl,--no-as-needed -lmkl_intel_lp64 -lmkl_gnu_thread -lmkl_core -Wl,--as-needed
BLAS_PACKAGE_blis := libblis-openmp-dev
BLAS_PACKAGE_mkl  := libmkl-dev (non-free) or Intel's oneMKL; BLAS_DIR=FOLDER where it is not in the linker's path
BLAS_LIBS := $(if $(BLAS_DIR),-L$(BLAS_DIR) -Wl$(comma)-rpath$(comma)$(BLAS_DIR)) $(BLAS_$(BLAS))
ifeq ($(BLAS_$(BLAS)),)
  $(error BLAS=$(BLAS): expected openblas, mkl or blis)
endif
ifneq ($(BLAS),openblas) # that one is installed by scripts/install_deps.sh
  BLAS_PROBE := void cblas_sgemm(void); int main(void) { cblas_sgemm(); }
  ifneq ($(shell echo '$(BLAS_PROBE)' | $(CC) -fopenmp -x c - -x none -o /dev/null $(BLAS_LIBS) -lm -ldl 2>&1),)
    $(error BLAS=$(BLAS): the linker found no $(filter -l%,$(BLAS_$(BLAS))) for it. Install $(BLAS_PACKAGE_$(BLAS)), or leave BLAS out for OpenBLAS)
  endif
endif

LDLIBS   := $(BLAS_LIBS) -lcjson -lpcre2-8 -lutf8proc -lm -ldl

ifeq ($(CUDA),1)
  LATEST   := $(lastword $(ARCH))
  GENCODE  := $(foreach a,$(ARCH),-gencode arch=compute_$(a),code=sm_$(a)) \
              -gencode arch=compute_$(LATEST),code=compute_$(LATEST)
  # the compiler looks in /usr/include by itself, and at the right moment
  INCLUDE  += $(if $(filter-out /usr,$(CUDA_HOME)),-isystem $(CUDA_HOME)/include)
  # nvcc hands the host half to g++; --diag-suppress would hide, so nothing is suppressed
  NVCCFLAGS := -std=c++17 -O3 $(GENCODE) $(INCLUDE) -Werror all-warnings \
               $(foreach f,$(HOST),-Xcompiler $(subst $(comma),\$(comma),$(f)))
  COMPILE_CU = $(NVCC) -x cu $(NVCCFLAGS) -MMD -MP -c $< -o $@
  CUDART   := -L$(CUDA_HOME)/lib64 -L$(CUDA_HOME)/lib -lcudart_static -lrt -lpthread
  LDLIBS   += $(if $(filter 1,$(EMULATE)),-Wl$(comma)-rpath$(comma)'$$ORIGIN',$(CUDART))
else
  COMPILE_CU = $(CXX) -x c++ -std=c++17 $(HOST) -Wno-unknown-pragmas $(INCLUDE) $(CXXFLAGS) -MMD -MP -c $< -o $@
endif
# V=1 shows the commands
Q := $(if $(V),,@)
SAY = $(if $(V),@:,@echo "  $(1)  $@")

COMPILE_C = $(CC) -std=gnu11 $(HOST) $(INCLUDE) $(CFLAGS) -MMD -MP -c $< -o $@
LINK      = mkdir -p $(@D) && $(CXX) $(HOST) $^ $(LDLIBS) -o $@

TOKENIZER := $(wildcard tokenizer/*.c)
# *_cuda.* need CUDA's headers, whatever compiles them
SOURCES := $(wildcard src/*/*.c src/*/*.cu) $(TOKENIZER)
ifneq ($(CUDA),1)
  SOURCES := $(filter-out %_cuda.c %_cuda.cu,$(SOURCES))
endif
OBJECTS := $(patsubst %,$(BUILD)/%.o,$(SOURCES))
TESTS   := $(patsubst test/%,$(BIN)/%,$(basename $(wildcard test/test_*.c test/test_*.cu)))

# In the places of CUDA's runtime, cublasLt and cuDNN, where there is no GPU. Libraries, so that no --wrap reaches them.
ifeq ($(EMULATE),1)
  ifneq ($(CUDA),1)
    $(error EMULATE=1 needs nvcc: it is CUDA that is emulated)
  endif
  RUNTIME  := $(BIN)/libcudart_emulated.so
  CUBLASLT := $(BIN)/libcublasLt.so.$(shell sed -n 's/^.define CUBLAS_VER_MAJOR //p' $(CUDA_HOME)/include/cublas_api.h)
  CUDNN    := $(BIN)/libcudnn.so.9
  OBJECTS  += $(RUNTIME)
endif

.PHONY: all test tsan valgrind demo clean format format-check train_llama tokenize
all: train_llama tokenize

# phony: the one that is here may come from another build
train_llama: $(BUILD)/train_llama
	@cmp -s $< $@ || cp -f $< $@
$(BIN)/train_llama: $(BUILD)/train_llama.cu.o $(OBJECTS)
	$(call SAY,link)
	$(Q)$(LINK)

# ./tokenize: an archive gives it what it calls, and nothing of the trainer
tokenize: $(BUILD)/tokenize
	@cmp -s $< $@ || cp -f $< $@
$(BUILD)/tokenize_parts.a: $(patsubst %,$(BUILD)/%.o,$(TOKENIZER) $(wildcard src/base/*.c src/io/*.c src/cli/*.c tokenizer/tool/*.c))
	@rm -f $@
	$(Q)ar rcs $@ $^
$(BIN)/tokenize: LDLIBS = -lcjson -lpcre2-8 -lutf8proc -lm
$(BIN)/tokenize: $(BUILD)/tokenizer/tool/tokenize.c.o $(BUILD)/tokenize_parts.a
	$(call SAY,link)
	$(Q)$(LINK)

$(BUILD)/%.c.o: %.c
	@mkdir -p $(@D)
	$(call SAY,$(CC))
	$(Q)$(COMPILE_C)
$(BUILD)/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(call SAY,$(if $(filter 1,$(CUDA)),nvcc,$(CXX)))
	$(Q)$(COMPILE_CU)

$(BIN)/test_%: LDLIBS += -lcmocka
$(BIN)/test_%: $(BUILD)/test/test_%.c.o $(OBJECTS)
	$(call SAY,link)
	$(Q)$(LINK)
$(BIN)/test_%: $(BUILD)/test/test_%.cu.o $(OBJECTS)
	$(call SAY,link)
	$(Q)$(LINK)

# sees the program's own allocations, not those inside libraries
$(BIN)/test_memory: LDLIBS += $(foreach f,malloc calloc realloc aligned_alloc posix_memalign mmap cudaMalloc,-Wl,--wrap=$(f))

# copies beside the device's work are made as late as they may be
$(BIN)/test_modes: LDLIBS += $(foreach f,device_copy_async device_operations_wait device_synchronize,-Wl,--wrap=$(f))

# ./tokenize with a disk that fails, for test_tokenize
$(BIN)/tokenize_faulty: LDLIBS = -lcjson -lpcre2-8 -lutf8proc -lm $(foreach f,write fsync rename,-Wl,--wrap=$(f))
$(BIN)/tokenize_faulty: $(BUILD)/tokenizer/tool/tokenize.c.o $(BUILD)/test/fault_io.c.o $(BUILD)/tokenize_parts.a
	$(call SAY,link)
	$(Q)$(LINK)

# cuDNN's place is taken by a stand-in where there is no GPU
$(BIN)/test_attention_cudnn: LDLIBS += -Wl,--wrap=cudnn_open

# lists of documents are made where no attention reads them, too
$(BIN)/test_packing: LDLIBS += -Wl,--wrap=attention_list_bytes

# the program with a disk that fails, for test_faults
$(BIN)/train_llama_faulty: LDLIBS += $(foreach f,write fsync rename,-Wl,--wrap=$(f))
$(BIN)/train_llama_faulty: $(BUILD)/train_llama.cu.o $(BUILD)/test/fault_io.c.o $(OBJECTS)
	$(call SAY,link)
	$(Q)$(LINK)

$(BIN)/gpu_bench $(BIN)/cpu_ops $(BIN)/cpu_chunks: $(BIN)/%: $(BUILD)/bench/%.cu.o $(OBJECTS)
	$(call SAY,link)
	$(Q)$(LINK)

ifeq ($(EMULATE),1)
# PTX says itself which products and sums are fused
$(BUILD)/test/emulator/%.c.o: override CFLAGS += -fPIC -ffp-contract=off
$(RUNTIME): $(patsubst %,$(BUILD)/%.o,$(filter-out %/cublaslt.c,$(wildcard test/emulator/*.c)))
	@mkdir -p $(@D)
	$(call SAY,link)
	$(Q)$(CC) $(HOST) -shared -Wl,-Bsymbolic,-soname,$(@F) $^ -lzstd -lm -o $@
$(CUBLASLT): $(BUILD)/test/emulator/cublaslt.c.o $(RUNTIME)
	$(call SAY,link)
	$(Q)$(CC) $(HOST) -shared -Wl,-Bsymbolic,-soname,$(@F),-rpath,'$$ORIGIN' $^ $(BLAS_LIBS) -o $@
$(BUILD)/test/emulator/cudnn.cu.o: NVCCFLAGS += -Xcompiler -fPIC
$(CUDNN): $(BUILD)/test/emulator/cudnn.cu.o src/base/error.c $(RUNTIME)
	$(call SAY,link)
	$(Q)$(CC) $(HOST) $(INCLUDE) -shared -fPIC -Wl,-Bsymbolic,-soname,$(@F),-rpath,'$$ORIGIN' $^ -lstdc++ -lm -o $@
endif

clean:
	rm -rf build train_llama tokenize

-include $(shell find $(BUILD) build/fuzz -name '*.d' 2>/dev/null)

# What people type. Dependencies are installed before anything is built, so the building is a make of its own.
PARALLEL := $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc))
FORMATTED = $(wildcard $(foreach d,. src/* test test/fuzz test/emulator bench tokenizer tokenizer/tool,$(addprefix $(d)/*.,c h cu cuh)))
CLANG_FORMAT = $(firstword $(foreach f,clang-format-14 clang-format,$(shell command -v $(f) 2>/dev/null)))

.PHONY: tests
tests: $(addprefix $(BIN)/,train_llama train_llama_faulty tokenize tokenize_faulty $(if $(filter 1,$(CUDA)),gpu_bench)) \
       $(CUBLASLT) $(CUDNN) $(filter-out $(LEAVE_OUT:%=$(BIN)/%),$(TESTS))
.PRECIOUS: $(BUILD)/%.c.o $(BUILD)/%.cu.o # keeps the tests' object files

test:
	@scripts/install_deps.sh --test
	@$(MAKE) --no-print-directory $(PARALLEL) tests
	@BUILD=$(BIN) test/run_tests.sh $(TESTS)

# Registers and spills of the kernels against test/ptxas_table.txt; UPDATE=1 writes it anew.
.PHONY: ptxas-check cudnn-check gpu-check gpu-bench
ptxas-check:
	@NVCC="$(NVCC)" NVCCFLAGS="-std=c++17 -O3 $(GENCODE) $(INCLUDE) -Werror all-warnings" test/ptxas_check.sh $(if $(UPDATE),--update)
# cuDNN's plans for every attention of the presets on every chip that is described; needs cuDNN, not a GPU.
cudnn-check: $(BUILD)/test_cudnn_plans
	@CUDNN_PLANS=all $<
# Blocks of CUDA threads, emulated on the CPU, under the thread sanitizer. It would take what OpenMP's threads do
# for races, since OpenMP's runtime is not built for it: there is one such thread.
THREADED := $(addprefix build/cpu-thread/,test_block test_flash test_attention_cached)
OPERATIONS := $(filter-out %_cuda.c %_cuda.cu,$(wildcard $(foreach room,base device ops,src/$(room)/*.c src/$(room)/*.cu)))
.PHONY: thread-check
thread-check:
	@$(MAKE) --no-print-directory $(PARALLEL) CUDA=0 SANITIZE=thread BUILD=build/cpu-thread SOURCES="$(OPERATIONS)" $(THREADED)
	@OMP_NUM_THREADS=1 BUILD=build/cpu-thread test/run_tests.sh $(THREADED)
# The tests of operations and models on CUDA, without a GPU: kernels are run from their PTX (test/emulator/), slowly.
# NAMES: only these of them.
NAMES ?= $(basename $(notdir $(wildcard test/test_*.cu)))
.PHONY: emulated-tests emulate-check
emulated-tests:
	@$(MAKE) --no-print-directory $(PARALLEL) EMULATE=1 tests
emulate-check:
	@scripts/install_deps.sh --test
	@$(MAKE) --no-print-directory emulated-tests
	@TEST_DEVICE=cuda TEST_EMULATED=$${TEST_EMULATED:-1} TEST_JOBS=$${TEST_JOBS:-2} TEST_LIMIT_S=$${TEST_LIMIT_S:-7200} BUILD=$(BUILD)/emulated \
	  test/run_tests.sh $(NAMES:%=$(BUILD)/emulated/%)
# Whether the compiler vectorises the loops that have to be, on processors with AVX2 and with AVX-512.
.PHONY: vector-check
vector-check:
	@test/vector_check.py $(CXX) -std=c++17 $(filter-out -march=%,$(OPTIMIZE)) -fopenmp $(INCLUDE)
# Speed on the CPU against its roofs and against transformers, in less than 5 minutes (docs/results.md).
.PHONY: bench
bench:
	@$(MAKE) --no-print-directory $(PARALLEL) $(BUILD)/train_llama $(BUILD)/cpu_ops $(BUILD)/cpu_chunks
	@bench/cpu_bench.sh $(BUILD)
# On a machine with a GPU; without one they say so and succeed.
gpu-check:
	@MAKE="$(MAKE)" test/gpu_check.sh
gpu-bench:
	@MAKE="$(MAKE)" bench/gpu_bench.sh

# The reading thread under the thread sanitizer: what it takes part in and no more, since the runtimes of
# OpenMP are not built for that sanitizer.
TSAN_SOURCES := test/test_prefetch.c $(addprefix src/,io/dataloader.c io/source.c io/shards.c io/shard_writer.c \
                io/watched_file.c io/shuffle.c io/file.c base/worker.c base/error.c)
build/tsan/test_prefetch: $(TSAN_SOURCES) $(wildcard *.h src/io/*.h src/base/*.h test/*.h)
	@mkdir -p $(@D)
	$(call SAY,$(CC))
	$(Q)$(CC) -std=gnu11 -O1 -g -fsanitize=thread $(WARN) $(INCLUDE) $(TSAN_SOURCES) -lcmocka -lm -o $@

tsan: build/tsan/test_prefetch
	TSAN_OPTIONS=halt_on_error=1 $<

# Short runs under valgrind, which does not know the instructions of every machine.
valgrind:
	@$(MAKE) --no-print-directory $(PARALLEL) CUDA=0 NATIVE=0 BUILD=build/plain build/plain/train_llama
	@test/valgrind.sh build/plain/train_llama

# Fuzzing: each target runs for FUZZ_SECONDS from its corpus. A crash is put into the corpus, so that it fails
# `make test` until it is mended; inputs that reach new code go to $(FUZZ)/found, and `make fuzz-merge` takes
# as few of them as cover what the corpus does not.
FUZZ         := build/fuzz
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := $(patsubst test/fuzz/fuzz_%.c,%,$(wildcard test/fuzz/fuzz_*.c))
FUZZ_FLAGS   := -O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all
FUZZ_HOST    := $(patsubst %,$(FUZZ)/%.o,$(filter-out %_cuda.c %/device_cpu.c,$(wildcard src/*/*.c)) $(TOKENIZER))
FUZZ_OPTIONS := -max_len=4096 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 -print_final_stats=1
CLANG        ?= clang

$(FUZZ)/%.c.o: %.c
	@mkdir -p $(@D)
	$(call SAY,$(CLANG))
	$(Q)$(CLANG) -std=gnu11 $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link,address,undefined $(WARN) $(INCLUDE) -MMD -MP -c $< -o $@
# an archive: a target takes what it calls, and nothing that needs a device
$(FUZZ)/host.a: $(FUZZ_HOST)
	@rm -f $@
	$(Q)ar rcs $@ $^
$(FUZZ)/fuzz_%: $(FUZZ)/test/fuzz/fuzz_%.c.o $(FUZZ)/host.a
	$(call SAY,link)
	$(Q)$(CLANG) $(FUZZ_FLAGS) -fsanitize=fuzzer,address,undefined $^ -lcjson -lpcre2-8 -lutf8proc -lm -o $@

.PHONY: fuzz fuzz-merge $(FUZZ_TARGETS:%=fuzz-run-%) $(FUZZ_TARGETS:%=fuzz-merge-%)
fuzz: $(FUZZ_TARGETS:%=fuzz-run-%)
fuzz-merge: $(FUZZ_TARGETS:%=fuzz-merge-%)
ifeq ($(shell command -v $(CLANG) 2>/dev/null),)
$(FUZZ_TARGETS:%=fuzz-run-%) $(FUZZ_TARGETS:%=fuzz-merge-%):
	@echo "make fuzz: found no $(CLANG), expected clang with libFuzzer: install clang and its libclang-rt, or" \
	  "give CLANG=clang-N." >&2; exit 2
else
$(FUZZ_TARGETS:%=fuzz-run-%): fuzz-run-%: $(FUZZ)/fuzz_%
	@mkdir -p $(FUZZ)/found/$* test/fuzz/corpus/$*
	$< $(FUZZ_OPTIONS) -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=test/fuzz/corpus/$*/ \
	  $(addprefix -dict=,$(wildcard test/fuzz/$*.dict)) $(FUZZ)/found/$* test/fuzz/corpus/$*
$(FUZZ_TARGETS:%=fuzz-merge-%): fuzz-merge-%: $(FUZZ)/fuzz_%
	@mkdir -p $(FUZZ)/found/$*
	$< $(FUZZ_OPTIONS) -set_cover_merge=1 -use_counters=0 test/fuzz/corpus/$* $(FUZZ)/found/$*
endif

demo:
	@scripts/install_deps.sh
	@$(MAKE) --no-print-directory $(PARALLEL) train_llama
	rm -rf out/demo
	./train_llama --out out/demo
	scripts/plot_run.py out/demo -o out/demo/loss.png

# Only version 14 formats as .clang-format means it.
FORMAT_14 = $(if $(CLANG_FORMAT),$(shell $(CLANG_FORMAT) --version | grep -o 'version 14'))
format:
	@$(if $(FORMAT_14),,echo "make format: clang-format 14 is not here; nothing was formatted."; exit 1;) \
	  $(CLANG_FORMAT) -i $(FORMATTED)
format-check:
	@$(if $(FORMAT_14),$(CLANG_FORMAT) --dry-run -Werror $(FORMATTED) && echo "format-check: all files are formatted.",\
	  echo "SKIPPED format-check: clang-format 14 is not here.")

# Installs ./train_llama and ./tokenize as they were built last: nothing is compiled again, as another user or with
# other settings.
PREFIX  ?= /usr/local
DESTDIR ?=
PROGRAMS ?= train_llama tokenize
ROOT    := $(DESTDIR)$(PREFIX)
MAN_DIR  := $(ROOT)/share/man/man1
BASH_DIR := $(ROOT)/share/bash-completion/completions
ZSH_DIR  := $(ROOT)/share/zsh/site-functions
DOC_DIR  := $(ROOT)/share/doc/train_llama

.PHONY: install uninstall
install:
	@for program in $(PROGRAMS); do test -x "$$program" || $(MAKE) --no-print-directory $(PARALLEL) "$$program" || exit; done
	@umask 022; set -e; \
	  install -d "$(ROOT)/bin" "$(MAN_DIR)" "$(BASH_DIR)" "$(ZSH_DIR)" "$(DOC_DIR)/docs"; \
	  for program in $(PROGRAMS); do \
	    name=$${program##*/}; \
	    install -m 755 "$$program" "$(ROOT)/bin/$$name"; \
	    "$(ROOT)/bin/$$name" --man >"$(MAN_DIR)/$$name.1"; \
	    "$(ROOT)/bin/$$name" --completion bash >"$(BASH_DIR)/$$name"; \
	    "$(ROOT)/bin/$$name" --completion zsh >"$(ZSH_DIR)/_$$name"; \
	  done; \
	  install -m 644 README.md LICENSE "$(DOC_DIR)"; \
	  install -m 644 docs/*.* "$(DOC_DIR)/docs"
	@echo "installed in $(ROOT): $(notdir $(PROGRAMS)), their manual pages, completion for bash and zsh, documents"
uninstall:
	for name in $(notdir $(PROGRAMS)); do \
	  rm -f "$(ROOT)/bin/$$name" "$(MAN_DIR)/$$name.1" "$(BASH_DIR)/$$name" "$(ZSH_DIR)/_$$name"; \
	done
	rm -rf "$(DOC_DIR)"
