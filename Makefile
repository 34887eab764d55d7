# A short front to meson and ninja. `make help` lists the targets; the work is done by meson.build and tools/.
MODE ?=
BUILD := build$(if $(MODE),-$(MODE))
JOBS ?= $(shell nproc)

OPTIONS_ := --buildtype=debugoptimized
OPTIONS_rel := --buildtype=release
OPTIONS_asan := --buildtype=debugoptimized -Db_sanitize=address,undefined
OPTIONS_tsan := --buildtype=debugoptimized -Db_sanitize=thread
OPTIONS_fuzz := --buildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false -Dfuzz=true
CC_fuzz := CC=clang-14
ifeq ($(origin OPTIONS_$(MODE)),undefined)
$(error MODE=$(MODE) is unknown: use rel, asan, tsan or fuzz, or leave it away)
endif

all: $(BUILD)/build.ninja
	ninja -j$(JOBS) -C $(BUILD)

$(BUILD)/build.ninja:
	@tools/deps build $(if $(filter fuzz,$(MODE)),fuzz)
	$(CC_$(MODE)) meson setup $(OPTIONS_$(MODE)) $(BUILD)

run: # build, prepare a Debian guest, boot it on this terminal
	@tools/run $(BUILD) $(RUN_ARGS)

check: # every test; the last line is the summary
	@tools/deps build run work check oci
	@tools/check -j $(JOBS)

bench: # speed beside QEMU TCG and the bare machine, in one run (docs/bench.md)
	@tools/deps build run work bench oci
	@tools/qemu-for-bench
	@$(MAKE) --no-print-directory MODE=rel all
	@bench/run build-rel $(BENCH_ARGS)
	@bench/oci build-rel
	@bench/life build-rel

fuzz: # each fuzzer for FUZZ_SECONDS (60)
	@tools/deps build fuzz
	@$(MAKE) --no-print-directory MODE= all
	@$(MAKE) --no-print-directory MODE=fuzz all
	@tools/fuzz build-fuzz

soak: # real loads, kills, saves and random disk operations at full length, then other tests for SOAK_MINUTES (60)
	@tools/deps build run work check
	@$(MAKE) --no-print-directory all
	@$(MAKE) --no-print-directory MODE=asan all
	@tools/soak $(BUILD) build-asan

lint: # slow static analysis: cppcheck and clang-tidy
	@tools/deps build check lint
	@$(MAKE) --no-print-directory all
	@tools/lint $(BUILD)

format: # clang-format all of our C
	@tools/check-format --fix

install: all
	meson install -C $(BUILD) --no-rebuild

clean:
	rm -rf build build-rel build-asan build-tsan build-fuzz

help:
	@sed -n 's/^\([a-z]*\):.*# \(.*\)/make \1\t\2/p' Makefile

.PHONY: all run check bench fuzz soak lint format install clean help
