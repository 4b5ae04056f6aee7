# mqttc: the whole build. `make help` lists what can be asked of it.
# All output goes to build/; BUILD=build/asan SAN=address,undefined is a second
# tree beside it.

VERSION := 0.1.0
PREFIX	?= /usr/local
SYSCONFDIR ?= $(if $(filter /usr,$(PREFIX)),/etc,$(PREFIX)/etc)
UNITDIR	?= $(PREFIX)/lib/systemd/system
BUILD	?= build
PYTHON	:= /usr/bin/python3
JOBS	?= 2
PORT	?= 1883
SUBMAKE	= $(MAKE) $(if $(V),,-s) --no-print-directory -j$(JOBS)

CC	?= gcc
OPT	?= -O2
# V=1 shows the commands.
Q	:= $(if $(V),,@)
tell	 = $(if $(V),:,printf '  %-3s %s\n' $(1) $@)

WARN	:= -Wall -Wextra -Wshadow -Wswitch-enum -Wmissing-prototypes -Wvla
CFLAGS	+= -std=c11 -g $(OPT) $(WARN) $(if $(WERROR),-Werror)
CPPFLAGS += -D_GNU_SOURCE -DMQTTC_VERSION='"$(VERSION)"' -DPB_ENABLE_MALLOC \
	    -DXXH_INLINE_ALL -Ilib -I$(BUILD)/gen -I/usr/include/nanopb
ifneq ($(FAULTS),)
CPPFLAGS += -DFAULTS
endif
ifneq ($(SAN),)
OPT	= -O1
CFLAGS	+= -fsanitize=$(SAN) -fno-omit-frame-pointer
LDFLAGS	+= -fsanitize=$(SAN)
endif

# --- Rooms -----------------------------------------------------------------
# One line each: what a room may include (always rooms above it in this list;
# `make lint` prints what goes the other way) and the libraries it brings.

MODULES	:= base log metric conf fault topic share mqtt window session retain \
	   fib rib rlog ledger registrar move load proto member dump shm store \
	   journal report bus secret mesh kv keep proc route

DEPS_base    :=
DEPS_log     := base
DEPS_metric  := base
DEPS_conf    := base
DEPS_fault   := base
DEPS_topic   := base
DEPS_share   := base topic
DEPS_mqtt    := base topic
DEPS_window  := base
DEPS_session := base mqtt topic window
DEPS_retain  := base topic
DEPS_fib     := base topic
DEPS_rib     := base topic fib
DEPS_rlog    := base
DEPS_registrar := base
DEPS_ledger  := base
DEPS_move    := base
DEPS_load    := base
DEPS_member  := base fault proto
DEPS_proto   := base registrar move
DEPS_dump    := base mqtt topic proto
DEPS_store   := base mqtt topic session proto
DEPS_shm     := base fault
DEPS_journal := base fault
DEPS_report  := base
DEPS_bus     := base log metric conf proto
DEPS_secret  := base log conf
DEPS_mesh    := base log metric proto secret conf
DEPS_kv      := base fault
DEPS_keep    := base
DEPS_proc    := base log metric conf fault proto shm
DEPS_route   := base log metric topic share fib proto shm bus proc

LIBS_conf    := -linih
LIBS_report  := -ljansson
LIBS_dump    := -ljansson
LIBS_bus     := -lzmq -lev
LIBS_secret  := -lzmq -lcrypto
LIBS_mesh    := -lzmq -lev
LIBS_kv      := -ltokyocabinet -lev -lpthread
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
	    -lzmq -lev -linih -ljansson -lm -lpthread -Wl,--as-needed \
	    -ltokyocabinet -lcrypto -Wl,--no-as-needed

.PHONY: all help clean setup run demo
all: $(BINS)

help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

## all            build every program into build/bin (the default)
## run            install what is missing, build, start a node on PORT=1883
## demo           a cluster of three nodes on this machine, and what to try
## check          the same set-up, then every test; ends with a count
## clean          remove build/
## setup          install what building needs
setup:
	@scripts/setup build

run: setup
	@$(SUBMAKE) all
	@PORT=$(PORT) scripts/run

demo: setup
	@$(SUBMAKE) all
	@PORT=$(PORT) scripts/demo

clean:
	rm -rf build

$(BUILD)/gen/proto/%.pb.c $(BUILD)/gen/proto/%.pb.h: lib/proto/%.proto $(wildcard lib/proto/*.options)
	@mkdir -p $(@D)
	@$(call tell,GEN)
	$(Q)$(PYTHON) /usr/bin/nanopb_generator.py -q -I lib -D $(BUILD)/gen $<

$(BUILD)/gen/%.pb.o: $(BUILD)/gen/%.pb.c
	@$(call tell,CC)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/%.o: %.c | $(GEN_H)
	@mkdir -p $(@D)
	@$(call tell,CC)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

define library
$(BUILD)/lib/lib$(1).a: $(call lib_o,$(1)) $(if $(filter proto,$(1)),$(GEN_O))
	@mkdir -p $$(@D)
	@rm -f $$@
	$$(Q)$(AR) crs $$@ $$^
endef
$(foreach m,$(MODULES),$(eval $(call library,$(m))))

define program
$(BUILD)/bin/$(1): $(patsubst %.c,$(BUILD)/%.o,$(wildcard cmd/$(1)/*.c)) $(LIBS_A)
	@mkdir -p $$(@D)
	@$$(call tell,LD)
	$$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $$@ $$(filter %.o,$$^) $(LINK_ALL)
endef
$(foreach p,$(PROGRAMS),$(eval $(call program,$(p))))

# --- Tests -----------------------------------------------------------------

UNIT	:= $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/unit/test_*.c))
FUZZ	:= $(patsubst tests/fuzz/%.c,$(BUILD)/tests/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
BENCH	:= $(patsubst tests/bench/%.c,$(BUILD)/tests/bench/%,$(wildcard tests/bench/bench_*.c))

$(BUILD)/tests/unit/%: $(BUILD)/tests/unit/%.o $(LIBS_A)
	@$(call tell,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LINK_ALL) -lcmocka

# The desk of a store, with all its files; it includes main.c.
$(BUILD)/tests/unit/test_desk: $(patsubst %.c,$(BUILD)/%.o,$(filter-out \
    %/main.c,$(wildcard cmd/mqttc-session-store/*.c)))

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(LIBS_A)
	@$(call tell,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(LINK_ALL)

# A fuzz target is linked with replay.c here, with libFuzzer by `make fuzz`.
$(FUZZ): %: %.o $(BUILD)/tests/fuzz/replay.o $(LIBS_A)
	@$(call tell,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LINK_ALL)

$(BUILD)/fuzzer_%: $(BUILD)/tests/fuzz/fuzz_%.o $(LIBS_A)
	@$(call tell,LD)
	$(Q)$(CC) $(CFLAGS) -fsanitize=fuzzer,address,undefined -o $@ $< $(LINK_ALL)

.PHONY: unit unit-build replay replay-build bench-build docs-tool
unit-build: $(UNIT)
replay-build: $(FUZZ)
bench-build: $(BENCH)
docs-tool: $(BUILD)/tests/support/confdoc

## unit           build and run the unit tests (T=name for one)
unit: $(if $(T),$(BUILD)/tests/unit/test_$(T),$(UNIT))
	@for t in $^; do echo "== $$t"; $$t || exit 1; done

## replay         run every fuzz target over its corpus, no fuzzer needed
replay: $(FUZZ)
	@for t in $^; do c=tests/fuzz/corpus/$${t##*/fuzz_}; echo "== $$c"; \
	    find $$c -type f -exec $$t {} + >/dev/null || exit 1; done

.PHONY: check check-asan check-fault check-integration asan ubsan tsan fuzz
check:
	@scripts/setup check
	@scripts/check --jobs $(JOBS) unit replay integration docs

## check-integration  the integration tests alone (T=words for pytest -k)
check-integration:
	@scripts/setup check
	@scripts/check --jobs $(JOBS) $(if $(T),--pytest=-k --pytest='$(T)') integration

## check-asan     the integration tests against programs built with sanitizers
check-asan: asan
	@scripts/setup check
	@TEST_START_DEADLINE=120 TEST_STOP_DEADLINE=120 \
	    scripts/check --jobs $(JOBS) --bin build/asan/bin integration

## check-fault    clusters with something broken on purpose, fault points in
check-fault:
	@scripts/setup check
	@$(SUBMAKE) BUILD=build/faults FAULTS=1 all
	@scripts/check --jobs $(JOBS) --bin build/faults/bin fault

## asan           programs with address and undefined sanitizers: build/asan
asan:
	@$(SUBMAKE) BUILD=build/asan SAN=address,undefined all

## ubsan          programs with the undefined sanitizer alone: build/ubsan
ubsan:
	@$(SUBMAKE) BUILD=build/ubsan SAN=undefined all

## tsan           the unit tests under the thread sanitizer
tsan:
	@scripts/setup check
	@scripts/check --jobs $(JOBS) --san thread --san-dir build/tsan unit

## fuzz           look for new failures with libFuzzer: T=name FUZZ_S=60
FUZZ_S	?= 60
fuzz:
	@[ -n "$(T)" ] || { echo "make fuzz T=name, one of:" \
	    $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c)); exit 2; }
	@scripts/setup lint
	@$(SUBMAKE) BUILD=build/fuzz CC=clang SAN=address,undefined,fuzzer-no-link \
	    build/fuzz/fuzzer_$(T)
	@mkdir -p build/fuzz/found/$(T)
	build/fuzz/fuzzer_$(T) -max_total_time=$(FUZZ_S) -timeout=10 \
	    -artifact_prefix=build/fuzz/found/$(T)/ build/fuzz/found/$(T) \
	    tests/fuzz/corpus/$(T)

## bench          measure against mosquitto, a quarter of an hour: ROWS=short,
##                ROWS=all or names of rows; ROUNDS=3
ROWS	?= all
ROUNDS	?= 3
.PHONY: bench
bench:
	@scripts/setup bench
	@$(SUBMAKE) all bench-build
	@tests/bench/run --rows $(ROWS) --rounds $(ROUNDS)

## bench-sessions a million stored sessions, and as many retained messages:
##                memory, restart, how fast clients are back
.PHONY: bench-sessions
bench-sessions:
	@$(SUBMAKE) all bench-build
	@tests/bench/sessions

## bench-nodes    what it costs that publisher and subscriber are at two nodes
.PHONY: bench-nodes
bench-nodes:
	@scripts/setup check
	@$(SUBMAKE) all
	@tests/bench/nodes

## bench-million  a million idle clients and light traffic, or what fits
.PHONY: bench-million
bench-million:
	@scripts/setup check
	@$(SUBMAKE) all
	@tests/bench/million

# --- Care --------------------------------------------------------------------

## docs           make etc/mqttc.conf and the key list of mqttc.conf(5) anew
.PHONY: docs lint cover compdb install
docs: docs-tool
	@scripts/docs $(BUILD)

## lint           layout, clang-tidy, cppcheck, pages, include direction
lint:
	@$(SUBMAKE) all docs-tool
	@scripts/lint

## cover          which lines the unit and integration tests reach
cover:
	@scripts/setup check
	@$(SUBMAKE) BUILD=build/cover OPT='-O0 --coverage' all unit-build
	@scripts/cover build/cover

## compdb         compile_commands.json, by bear
compdb:
	bear -- $(MAKE) -B -j$(JOBS) all unit-build replay-build

## install        programs, pages, sample, systemd unit: DESTDIR= PREFIX=
# What has a page in section 8 is a daemon and goes to sbin.
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin \
	    $(DESTDIR)$(SYSCONFDIR)
	for p in $(PROGRAMS); do \
	    if [ -e man/$$p.1 ]; then d=bin; else d=sbin; fi; \
	    install -m 755 $(BUILD)/bin/$$p $(DESTDIR)$(PREFIX)/$$d/ || exit 1; done
	for s in 1 5 7 8; do d=$(DESTDIR)$(PREFIX)/share/man/man$$s; \
	    for m in man/*.$$s; do [ -e $$m ] || continue; install -d $$d && \
	    install -m 644 $$m $$d/ || exit 1; done; done
	[ -e $(DESTDIR)$(SYSCONFDIR)/mqttc.conf ] || \
	    install -m 644 etc/mqttc.conf $(DESTDIR)$(SYSCONFDIR)/mqttc.conf
	install -d $(DESTDIR)$(UNITDIR)
	sed -e 's|/usr/local/sbin|$(PREFIX)/sbin|g' \
	    -e 's|/usr/local/etc|$(SYSCONFDIR)|g' contrib/mqttc.service \
	    > $(DESTDIR)$(UNITDIR)/mqttc.service
	chmod 644 $(DESTDIR)$(UNITDIR)/mqttc.service

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
.SECONDARY:
