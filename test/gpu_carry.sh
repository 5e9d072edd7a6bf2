#!/usr/bin/env bash
# Packs what `make gpu-check` and `make gpu-bench` need on a machine with a GPU that has no network, no packages
# of ours and perhaps no compiler: the tests, the program and the benchmark, built for one kind of chip, and the
# shared libraries that they load. Run it on a machine with nvcc and the packages of scripts/install_deps.sh:
#
#   test/gpu_carry.sh [ARCH]        (default 90: H100, H200)
#
# It writes build/gpu-carry.tar.xz, some 20 MB. Take it along with the same sources; there,
#
#   test/gpu_check.sh               unpacks it, runs everything, writes bench/results/gpu-check-*.json
#   test/gpu_check.sh test_flash    runs that test alone, and writes no results
#   bench/gpu_bench.sh              measures, and writes bench/results/gpu-bench-*.json
#
# What was packed is used only where the sources are the same, byte for byte; else those scripts build, which
# takes make, nvcc and all packages.
set -eu -o pipefail
cd "$(dirname "$0")/.."
source test/gpu_common.sh
arch=${1:-90}

# AVX2, not this machine's own instructions: the other one may not have them
"$make" -j"$(nproc)" CUDA=1 ARCH="$arch" NATIVE=0 BUILD=$build tests $build/gpu_bench

rm -rf $carried
mkdir -p $carried/lib
programs=()
for program in "$build"/{train_llama,train_llama_faulty,tokenize,gpu_bench,test_*}; do
  if [[ -x $program && ! -d $program ]]; then programs+=("$program"); fi
done
# the libraries of packages, not those that every system with a compiler has
ldd "${programs[@]}" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
  grep -Ev '/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s)\.so' |
  while read -r library; do cp -L "$library" $carried/lib; done
sources_hash >$carried/sources
echo "$arch" >$carried/arch
commit_of_sources >$carried/commit

# programs share most of their bytes, which a dictionary that holds several of them finds
stripped=$(mktemp -d)
trap 'rm -rf "$stripped"' EXIT
mkdir -p "$stripped/$build"
cp -r $carried "$stripped/$build"
for program in "${programs[@]}"; do strip -o "$stripped/$program" "$program"; done
tar -C "$stripped" -c $build | xz -T1 --lzma2=preset=3,dict=64MiB >build/gpu-carry.tar.xz
echo "build/gpu-carry.tar.xz: $(du -h build/gpu-carry.tar.xz | cut -f1), ${#programs[@]} programs for sm_$arch"
