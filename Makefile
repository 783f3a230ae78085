# The one door. PGXS builds the module, CMake the engine and the trainer, scripts/ does the rest.
#   make demo     set everything up and train a model    make check    run every test
#   make help     the other targets
# Works as root (the server then runs as user postgres) and as an ordinary user, and from a read-only checkout.

SHELL := /bin/bash
ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
export ROOT
BUILD := $(shell bash $(ROOT)/scripts/environment.sh BUILD)
export BUILD
# Found anew by each recipe, because `make deps` may have brought it.
PG_CONFIG_FOUND = $(shell bash $(ROOT)/scripts/environment.sh PG_CONFIG)
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
export JOBS
DESTDIR ?=
# V=1 shows the commands.
QUIET := $(if $(V),,-s)
export V

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := all
.PHONY: all help deps tools module engine tests install demo demo-finetune check check-interop check-newest fuzz bench cluster cluster-stop psql clean

help:
	@sed -n 's/^## //p' $(ROOT)/Makefile

## deps          install the Debian or Ubuntu packages that are missing, those of the tests too
deps:
	@bash $(ROOT)/scripts/deps.sh tests
	@bash $(ROOT)/scripts/test_python.sh prepare

## all           build module, engine and trainer
all: module engine

# Each that builds asks first, so that a new machine is told about `make deps` and not about a compiler.
tools:
	@bash $(ROOT)/scripts/tools.sh

module: tools
	@mkdir -p $(BUILD)/module
	@$(MAKE) $(QUIET) -C $(BUILD)/module -f $(ROOT)/src/pg/Makefile -j$(JOBS) all PG_CONFIG=$(PG_CONFIG_FOUND)

$(BUILD)/cmake/build.ninja: | tools
	@mkdir -p $(BUILD)/cmake
	@cmake -S $(ROOT) -B $(BUILD)/cmake -G Ninja

engine: $(BUILD)/cmake/build.ninja
	@bash $(ROOT)/scripts/cmake_build.sh programs

tests: $(BUILD)/cmake/build.ninja
	@bash $(ROOT)/scripts/cmake_build.sh all

## install       install into PostgreSQL (DESTDIR is honoured); as root
install: all
	@$(MAKE) $(QUIET) -C $(BUILD)/module -f $(ROOT)/src/pg/Makefile install PG_CONFIG=$(PG_CONFIG_FOUND) DESTDIR=$(DESTDIR)
	@bash $(ROOT)/scripts/install_programs.sh "$(DESTDIR)"

## demo          from nothing to a trained model (TEXT=file trains on your text)
demo:
	@bash $(ROOT)/scripts/demo.sh

## demo-finetune imports a real language model and fine-tunes it (MODEL=file tunes yours)
demo-finetune:
	@bash $(ROOT)/scripts/demo_finetune.sh

## check         build and run every test; the last line counts them
check:
	@bash $(ROOT)/scripts/check.sh

## fuzz          every fuzz target for SECONDS (60) each, ONLY="records gguf" picks; needs clang
fuzz:
	@bash $(ROOT)/scripts/fuzz.sh $(if $(SECONDS),$(SECONDS),60)

## check-interop only the tests beside other people's packages, and llama.cpp, which is built first (minutes)
check-interop: deps
	@bash $(ROOT)/scripts/test_python.sh build
	@SUITES=cmake TESTS=_interop bash $(ROOT)/scripts/check.sh

## check-newest  the same with the newest packages and vLLM, which are fetched first (6 GB)
check-newest: deps
	@bash $(ROOT)/scripts/test_python.sh newest
	@SUITES=cmake TESTS=_interop PGTRAIN_TEST_PYTHON=$(BUILD)/python-newest/bin/python bash $(ROOT)/scripts/check.sh
	@$(BUILD)/python-newest/bin/python $(ROOT)/test/interop/check_finetune.py $(BUILD)/cmake/bin/finetune_interop finetune_vllm

## bench         the measured claims, each beside its peer
bench: all
	@bash $(ROOT)/bench/run.sh

## cluster       start or reuse a throwaway server with the extension; the last line is its connection string
cluster: all
	@bash $(ROOT)/scripts/cluster.sh start

## psql          a shell on that server
psql: all
	@bash $(ROOT)/scripts/cluster.sh psql

## cluster-stop  stop that server
cluster-stop:
	@bash $(ROOT)/scripts/cluster.sh stop

## clean         stop the server and remove everything that was built
clean: cluster-stop
	@bash $(ROOT)/scripts/clean.sh
