# Targets for people and for CI; CI calls only these.
# Everything a target needs beyond Go and a C compiler it fetches itself and says so.

GO          ?= go
DATA        ?= data
SEED        ?= 1
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build run demo check vet unit peers test interop-full fuzz bench clean

build: ## build/theseus, the one binary
	$(GO) build -o build/theseus ./cmd/theseus

run: build ## one member on loopback, data in ./data
	./build/theseus serve --data-dir $(DATA)

demo: build peers ## a real etcd 3.4 cluster of three goes to Theseus: reviewed, planned, rehearsed, applied, one member back and forth
	$(GO) run ./test/demo

vet:
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

unit: ## every room's own tests, with the race detector and the costly assertions
	THESEUS_REQUIRE_PEERS=$(CI) $(GO) test -race -tags invariants -timeout 30m $$($(GO) list ./... | grep -v /test/)

check: build vet unit

peers: ## real etcd 3.3 to 3.7, built from their Go modules and Debian packages
	./test/interop/peers/build.sh

test: peers check ## all of it: rooms, clusters of processes, real etcd beside ours
	THESEUS_REQUIRE_PEERS=$(CI) $(GO) test -p 1 -timeout 40m ./test/...

interop-full: peers build ## the whole matrix of mixed clusters, which is too long for CI
	THESEUS_FULL=1 $(GO) test -timeout 60m ./ctl
	THESEUS_FULL=1 THESEUS_REQUIRE_PEERS=1 $(GO) test -timeout 60m -parallel 2 -v ./test/interop
	THESEUS_FULL=1 THESEUS_REQUIRE_PEERS=1 $(GO) test -timeout 60m -v -run TestOnePass ./test/faults

fuzz: ## every fuzzer for half a minute
	./test/fuzz.sh 30s

bench: build peers ## ours against real etcd 3.5 and 3.7, side by side, in one run
	@command -v h2load >/dev/null || { echo "bench: installing h2load (Debian's nghttp2-client)"; \
		as=$$([ "$$(id -u)" = 0 ] || echo sudo); $$as apt-get update -qq && $$as apt-get install -y -q nghttp2-client; }
	./build/theseus bench --peers build/peers

clean:
	rm -rf build
