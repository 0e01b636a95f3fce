# Holdfast. `make demo` shows the main job; `make test` is what CI runs.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
# The commit's time, not the clock: two builds of one commit are identical bytes.
BUILT   ?= $(shell git log -1 --format=%cI 2>/dev/null || echo 2026-01-01T00:00:00Z)
# Asked once: all that one make builds is of one version, whatever is edited meanwhile.
VERSION := $(VERSION)
COMMIT  := $(COMMIT)
BUILT   := $(BUILT)
# Whose releases `holdfast update` takes where /etc/holdfast/release.pub does not say: minisign public keys, with commas.
RELEASE_KEYS ?=
LDFLAGS  = -s -w $(foreach v,version=$(VERSION) commit=$(COMMIT) buildTime=$(BUILT),-X holdfast/systemd/program.$(v)) $(if $(RELEASE_KEYS),-X holdfast/agent/update.builtIn=$(RELEASE_KEYS))
BUILD    = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
# A module of its own: its 60 dependencies are not ours.
SBOM        = $(GO) tool -modfile=.ci/tools/go.mod cyclonedx-gomod
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: all build demo test test-race test-386 test-arm soak suites fuzz cross reproducible release deb test-deb image test-image test-board test-board-small test-board-long bench bench-cluster lint clean
all: build

build:
	$(BUILD) -o bin/holdfast ./agent/cmd/holdfast
	$(BUILD) -o bin/holdfast-broker ./broker/cmd/holdfast-broker

demo: build
	$(BUILD) -o bin/demo ./agent/cmd/demo
	NODES=$(NODES) bin/demo

# What the tests need besides Go is installed by .ci/need (or named, where it may not).
test:
	.ci/need test
	.ci/trees dist/trees
	$(MAKE) test-race test-386 test-arm test-board-small

test-race:
	$(GO) test -race -shuffle=on -timeout 30m ./...

# 32-bit arithmetic: Badger and the wire format on a 32-bit int, natively.
PORTABLE = ./buffer/ ./uplink/... ./devices/... ./boards/ ./boards/fdt/
test-386:
	CGO_ENABLED=0 GOARCH=386 $(GO) test -shuffle=on -timeout 30m $(PORTABLE) ./agent/

# ARMv6 as on a Pi Zero, emulated (5-8 times slower): the parts that carry bytes, without the long loops.
# Not TestPortSettings: it reads odd speeds back by TCGETS2 (ioctl 0x802c542a), which qemu-user 7.2
# answers with ENOSYS; every ARM kernel has it.
test-arm:
	CGO_ENABLED=0 GOARCH=arm GOARM=6 $(GO) test -short -timeout 30m -exec 'qemu-arm-static -cpu arm1176' -skip TestPortSettings ./uplink/wire/ ./buffer/ ./devices/... ./boards/

# The full counts of what CI runs in small: 200 kills, 300 seeds of faults in a cluster, long loops. Hours are fine.
soak:
	.ci/need test
	.ci/trees dist/trees
	HOLDFAST_SOAK=1 $(GO) test -count=1 -shuffle=on -timeout 6h -p 1 ./...
	HOLDFAST_SOAK=1 .ci/test-board
	HOLDFAST_SOAK=1 .ci/test-board long

# Suites that others wrote, against our broker; docs/conformance.md has the last result.
suites:
	.ci/suites

# Every fuzz target, FUZZTIME each.
FUZZTIME ?= 30s
fuzz:
	.ci/fuzz $(FUZZTIME)

.PHONY: program
# What one platform has, into a folder: make program OUT=dist/x/linux_arm64 GOENV=GOARCH=arm64
program:
	env GOOS=linux $(GOENV) $(BUILD) -o $(OUT)/holdfast ./agent/cmd/holdfast
	case "$(GOENV)" in *GOARM*) ;; *) env GOOS=linux $(GOENV) $(BUILD) -o $(OUT)/holdfast-broker ./broker/cmd/holdfast-broker;; esac

# Every platform of the contract, with a bill of materials (CycloneDX) beside each program, and checksums.
cross:
	rm -rf dist/linux_*
	for p in linux_amd64 linux_arm64 linux_armv6 linux_armv7; do \
	  case $$p in linux_armv*) e="GOARCH=arm GOARM=$${p#linux_armv}";; *) e="GOARCH=$${p#linux_}";; esac; \
	  env GOOS=linux $$e $(BUILD) -o dist/$$p/holdfast ./agent/cmd/holdfast || exit 1; \
	  case $$p in *amd64|*arm64) env GOOS=linux $$e $(BUILD) -o dist/$$p/holdfast-broker ./broker/cmd/holdfast-broker || exit 1;; esac; \
	done
	for f in dist/linux_*/*; do \
	  $(SBOM) bin -json -noserial -notimestamp -std -version $(VERSION) -output $$f.cdx.json $$f 2>dist/sbom.log || { cat dist/sbom.log >&2; exit 1; }; \
	done; rm dist/sbom.log
	cd dist && sha256sum linux_*/* >SHA256SUMS
	ls -l dist/linux_*/

# Two builds of this commit, in two folders, are the same bytes: programs, bills of materials and packages.
reproducible:
	.ci/reproducible

# dist/holdfast-*.release for `holdfast update`, signed with minisign's secret key KEY=FILE. docs/UPDATE.md
release: cross
	$(GO) run ./agent/cmd/release -dist dist -version '$(VERSION)' -commit '$(COMMIT)' -built '$(BUILT)' -key '$(KEY)'

# dist/*.deb, with the programs' own manual pages and completion.
deb: build cross
	.ci/deb $(VERSION)

# What the packages promise from installation to purge, in a Debian of their own; root only. lintian has its say as well.
test-deb: deb
	.ci/deb-test
	.ci/provision-test
	lintian dist/*.deb

# The agent in QEMU guests on Debian's kernels, arm64 and armhf; test-board-small: what CI runs of it; test-board-long: what needs longer. docs/board-tests.md
test-board:
	.ci/test-board
test-board-small:
	.ci/test-board small
test-board-long:
	.ci/test-board long

# A card's image: make image BOARD=rpi4 CONFIG=agent.toml. docs/IMAGE.md
image:
	.ci/image -n "$(BOARD)" "$(CONFIG)"
	$(MAKE) deb
	.ci/image "$(BOARD)" "$(CONFIG)"

# Makes one for each board, looks into it, and boots that of the Raspberry Pi 3 in QEMU.
test-image: deb
	.ci/test-image

# All benchmarks; bench-cluster: the broker's as real programs, against its peers, in twelve minutes.
bench:
	.ci/need test
	.ci/need bench
	.ci/bench

bench-cluster:
	.ci/need bench
	.ci/bench cluster

# What runs on somebody's board, and what makes it.
SHELL_OF_THE_CARD = boards/provision.sh boards/image/root/usr/lib/holdfast/* .ci/image .ci/image-base .ci/test-image .ci/provision-test
lint:
	@u=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$u" ] || { echo "gofmt -l:"; echo "$$u"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags guest ./boards/guest
	$(GO) vet -tags image ./boards/image
	shellcheck $(SHELL_OF_THE_CARD)
	CGO_ENABLED=0 GOARCH=386 $(GO) vet $$($(GO) list ./... | grep -v holdfast/broker)
	$(GO) run $(STATICCHECK) ./...
	$(GO) test -count=1 -run TestHouse .
	.ci/vuln $(GOVULNCHECK)

clean:
	rm -rf bin dist
