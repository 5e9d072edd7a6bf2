# What test/gpu_carry.sh, test/gpu_check.sh and bench/gpu_bench.sh share; they source it at the root of the
# repository.
# shellcheck shell=bash disable=SC2034  # of the variables that only those scripts use

build=build/gpu-check
carried=$build/carry
make=${MAKE:-make}
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin # nvcc, compute-sanitizer

# query PROPERTY: of the first GPU
query() { nvidia-smi --query-gpu="$1" --format=csv,noheader -i 0 2>/dev/null; }

# One hash of everything that programs are built from.
sources_hash() {
  find Makefile ./*.cu ./*.cuh ./*.h src test tokenizer bench \
    \( -name Makefile -o -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}

# What git says of the sources, "unknown" without git.
commit_of_sources() {
  local commit
  commit=$(git rev-parse HEAD 2>/dev/null) || commit=unknown
  [[ -z $(git status --porcelain --untracked-files=no 2>/dev/null) ]] || commit+=", with changes"
  echo "$commit"
}

# The same of what was built or unpacked.
commit_of_programs() { if [[ -e $carried/commit ]]; then cat $carried/commit; else commit_of_sources; fi; }

# A file of what was carried along.
carried_file() { tar -xJOf build/gpu-carry.tar.xz "$carried/$1"; }

# make_programs ARCH TARGET...: unpacks them if they were carried here, for that chip and from these sources;
# builds them else.
make_programs() {
  local arch=$1
  shift
  if [[ -e build/gpu-carry.tar.xz ]]; then
    if [[ $(carried_file sources) == "$(sources_hash)" && $(carried_file arch) == "$arch" ]]; then
      rm -rf $build
      tar -xJf build/gpu-carry.tar.xz && echo "unpacked build/gpu-carry.tar.xz, built from $(<$carried/commit)"
      return
    fi
    echo "build/gpu-carry.tar.xz is of other sources, or for another chip than sm_$arch: building"
    rm -f $carried/commit
  fi
  "$make" -j"$(nproc)" CUDA=1 ARCH="$arch" BUILD=$build "$@"
}

# Runs one of our programs, with the libraries that came along if any did. They are kept from python3.
ours() { LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$PWD/$carried/lib "$@"; }

# pip's CUDA libraries, cuDNN among them, are looked for in the environment of the python3 that is found first.
if [[ -z ${VIRTUAL_ENV:-} ]] && command -v python3 >/dev/null; then
  VIRTUAL_ENV=$(python3 -c 'import sys; print(sys.prefix)') && export VIRTUAL_ENV
fi
