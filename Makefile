# mqttc: the whole build. `make help` lists what can be asked of it.
# All output goes to build/; BUILD=build/asan SAN=address,undefined is a second
# tree beside it.

VERSION := 0.1.0
PREFIX	?= /usr/local
BUILD	?= build
PYTHON	:= /usr/bin/python3

CC	?= gcc
OPT	?= -O2
WARN	:= -Wall -Wextra -Wshadow -Wswitch-enum -Wmissing-prototypes -Wvla
CFLAGS	+= -std=c11 -g $(OPT) $(WARN) $(if $(WERROR),-Werror)
CPPFLAGS += -D_GNU_SOURCE -DMQTTC_VERSION='"$(VERSION)"' -DPB_ENABLE_MALLOC \
	    -DXXH_INLINE_ALL -Ilib -I$(BUILD)/gen -I/usr/include/nanopb
ifneq ($(FAULTS),)
CPPFLAGS += -DFAULTS
endif
ifneq ($(SAN),)
CFLAGS	+= -fsanitize=$(SAN) -fno-omit-frame-pointer
LDFLAGS	+= -fsanitize=$(SAN)
endif

# --- Rooms -----------------------------------------------------------------
# One line each: what a room may include (always rooms above it in this list;
# `make lint` prints what goes the other way) and the libraries it brings.

MODULES	:= base log metric conf fault topic mqtt window session fib rib \
	   proto shm report bus net proc

DEPS_base    :=
DEPS_log     := base
DEPS_metric  := base
DEPS_conf    := base
DEPS_fault   := base
DEPS_topic   := base
DEPS_mqtt    := base topic
DEPS_window  := base
DEPS_session := base mqtt topic window
DEPS_fib     := base
DEPS_rib     := base fib
DEPS_proto   := base
DEPS_shm     := base
DEPS_report  := base
DEPS_bus     := base log metric conf proto
DEPS_net     := base log
DEPS_proc    := base log metric conf proto shm

LIBS_conf    := -linih
LIBS_report  := -ljansson
LIBS_bus     := -lzmq -lev
LIBS_net     := -lev
LIBS_proc    := -lev
LIBS_proto   := -lprotobuf-nanopb

PROGRAMS := $(notdir $(patsubst %/,%,$(dir $(wildcard cmd/*/main.c))))

# --- Objects ---------------------------------------------------------------

PROTOS	:= $(wildcard lib/proto/*.proto)
GEN_H	:= $(PROTOS:lib/proto/%.proto=$(BUILD)/gen/proto/%.pb.h)
GEN_O	:= $(PROTOS:lib/proto/%.proto=$(BUILD)/gen/proto/%.pb.o)

lib_o	 = $(patsubst %.c,$(BUILD)/%.o,$(wildcard lib/$(1)/*.c))
LIBS_A	:= $(foreach m,$(MODULES),$(if $(wildcard lib/$(m)/*.c),$(BUILD)/lib/lib$(m).a))
BINS	:= $(PROGRAMS:%=$(BUILD)/bin/%)

# Everything a room needs, transitively, for linking its test alone.
closure	 = $(1) $(foreach d,$(DEPS_$(1)),$(call closure,$(d)))
uniq	 = $(if $(1),$(firstword $(1)) $(call uniq,$(filter-out $(firstword $(1)),$(1))))
LINK_ALL := -Wl,--start-group $(LIBS_A) -Wl,--end-group -lprotobuf-nanopb \
	    -lzmq -lev -linih -ljansson -lm -lpthread

.PHONY: all help clean setup
all: $(BINS)

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## all            build every program into build/bin (the default)
## clean          remove build/
clean:
	rm -rf build

$(BUILD)/gen/proto/%.pb.c $(BUILD)/gen/proto/%.pb.h: lib/proto/%.proto $(wildcard lib/proto/*.options)
	@mkdir -p $(@D)
	$(PYTHON) /usr/bin/nanopb_generator.py -q -I lib -D $(BUILD)/gen $<

$(BUILD)/gen/%.pb.o: $(BUILD)/gen/%.pb.c
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/%.o: %.c | $(GEN_H)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

define library
$(BUILD)/lib/lib$(1).a: $(call lib_o,$(1)) $(if $(filter proto,$(1)),$(GEN_O))
	@mkdir -p $$(@D)
	@rm -f $$@
	$(AR) crs $$@ $$^
endef
$(foreach m,$(MODULES),$(eval $(call library,$(m))))

define program
$(BUILD)/bin/$(1): $(patsubst %.c,$(BUILD)/%.o,$(wildcard cmd/$(1)/*.c)) $(LIBS_A)
	@mkdir -p $$(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $$@ $$(filter %.o,$$^) $(LINK_ALL)
endef
$(foreach p,$(PROGRAMS),$(eval $(call program,$(p))))

# --- Tests -----------------------------------------------------------------

UNIT	:= $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/unit/test_*.c))

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(LIBS_A)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(LINK_ALL) -lcmocka

## unit           build and run the unit tests (T=name for one)
.PHONY: unit
unit: $(if $(T),$(BUILD)/tests/unit/test_$(T),$(UNIT))
	@for t in $^; do echo "== $$t"; $$t || exit 1; done

# A fuzz target is linked with replay.c here, with libFuzzer by `make fuzz`.
FUZZ	:= $(patsubst tests/fuzz/%.c,$(BUILD)/tests/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))

$(FUZZ): %: %.o $(BUILD)/tests/fuzz/replay.o $(LIBS_A)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LINK_ALL)

## replay         run every fuzz target over its corpus, no fuzzer needed
.PHONY: replay
replay: $(FUZZ)
	@for t in $^; do c=tests/fuzz/corpus/$${t##*/fuzz_}; echo "== $$c"; \
	    find $$c -type f -exec $$t {} + >/dev/null || exit 1; done

## fuzz           look for new failures with libFuzzer: T=name SECONDS=60
SECONDS	?= 60
.PHONY: fuzz
fuzz:
	@[ -n "$(T)" ] || { echo "make fuzz T=name, one of:" \
	    $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c)); exit 2; }
	$(MAKE) BUILD=build/fuzz CC=clang SAN=address,undefined,fuzzer-no-link \
	    build/fuzz/fuzzer_$(T)
	@mkdir -p build/fuzz/found/$(T)
	build/fuzz/fuzzer_$(T) -max_total_time=$(SECONDS) -timeout=10 \
	    -artifact_prefix=build/fuzz/found/$(T)/ build/fuzz/found/$(T) \
	    tests/fuzz/corpus/$(T)

$(BUILD)/fuzzer_%: $(BUILD)/tests/fuzz/fuzz_%.o $(LIBS_A)
	$(CC) $(CFLAGS) -fsanitize=fuzzer,address,undefined -o $@ $< $(LINK_ALL)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
.SECONDARY:
