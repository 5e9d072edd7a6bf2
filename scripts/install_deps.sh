#!/usr/bin/env bash
# Installs what train_llama needs that is missing, on Debian and Ubuntu.
#
#   scripts/install_deps.sh [--test] [--lint]
#
#   --test   also what `make test` and scripts/data/ need
#   --lint   also what checks format and scripts in continuous integration
#
# As root (or with a sudo that asks for no password) it runs apt-get; else it prints the command and ends with
# status 2. It does nothing where nothing is missing.
set -u

test=0 lint=0
for argument in "$@"; do
  case $argument in
  --test) test=1 ;;
  --lint) lint=1 ;;
  *)
    echo "install_deps.sh: found \"$argument\", expected --test, --lint or nothing." >&2
    exit 2
    ;;
  esac
done

# package | what for | how to see that it is there without it (a command that succeeds), or nothing
table='build-essential|the C and C++ compilers and make|gcc --version && g++ --version && make --version
libopenblas-openmp-dev|matrix products on the CPU|
libcjson-dev|reads JSON: config.json, safetensors headers|
libxxhash-dev|the checksums of token shards|
libpcre2-dev|the regular expressions of tokenizers|
libutf8proc-dev|the normal forms of Unicode for tokenizers|
gnuplot-nox|draws the curves of runs|command -v gnuplot
python3|runs the scripts that draw and report|command -v python3'
if ((test)); then
  table+='
libcmocka-dev|the unit tests|
libzstd-dev|the emulated GPU of the tests, which reads what nvcc packed|
groff-base|formats the manual page in a test|command -v groff
curl|the scripts that fetch data, in their tests too|command -v curl
jq|makes JSONL of what they fetch|command -v jq'
fi
if ((lint)); then
  table+='
valgrind|looks over short runs|command -v valgrind
clang-format-14|checks the format of the sources|clang-format --version | grep "version 14"
shellcheck|checks the shell scripts|command -v shellcheck'
fi

# Not Debian: the libraries may be there all the same; a program that uses them tells.
if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  program='#include <cblas.h>
#include <cjson/cJSON.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>
int main(void) { return openblas_get_parallel() == 0 && cJSON_Parse("0") == 0 &&
                         pcre2_config(PCRE2_CONFIG_JIT, 0) == 0 && utf8proc_version() == 0; }'
  libraries=(-lopenblas -lcjson -lpcre2-8 -lutf8proc)
  if ((test)); then libraries+=(-lcmocka); fi
  if g++ -x c -fopenmp - -x none -o /dev/null "${libraries[@]}" <<<"$program" 2>/dev/null; then exit 0; fi
  echo "This is no Debian or Ubuntu, so nothing is installed here. Needed, under the names they have there:" >&2
  while IFS='|' read -r package why _; do echo "  $package: $why" >&2; done <<<"$table"
  echo "OpenBLAS must be the OpenMP build. Install them with your system's package manager, then run make." >&2
  exit 2
fi

has_package() { [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

missing=()
while IFS='|' read -r package why check; do
  if has_package "$package" || { [[ -n $check ]] && bash -c "set -o pipefail; $check" >/dev/null 2>&1; }; then
    continue
  fi
  ((${#missing[@]})) || echo "Missing, to be installed:"
  echo "  $package: $why"
  missing+=("$package")
done <<<"$table"

# With both builds of OpenBLAS there, the loader may take the one that fights with OpenMP for the cores.
if has_package libopenblas0-pthread; then
  name=libopenblas.so.0-$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")
  path=/usr/lib/${name#libopenblas.so.0-}/openblas-openmp/libopenblas.so.0
  if ! update-alternatives --query "$name" 2>/dev/null | grep -q "^Value: .*openblas-openmp"; then
    echo "Warning: libopenblas0-pthread is installed and would be loaded; it is up to 3 times slower here. Choose"
    echo "the OpenMP build with: sudo update-alternatives --set $name $path"
  fi
fi

((${#missing[@]})) || exit 0

install=(apt-get install -y --no-install-recommends "${missing[@]}")
if ((EUID == 0)); then
  as_root=(env DEBIAN_FRONTEND=noninteractive)
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
  as_root=(sudo -n env DEBIAN_FRONTEND=noninteractive)
else
  echo "Only root can install them. Run this, then the same make again:" >&2
  echo "  sudo ${install[*]}" >&2
  exit 2
fi

# Lists that cannot be renewed may still be good enough to install from.
"${as_root[@]}" apt-get update -q || echo "Warning: apt-get update failed; trying with the lists that are there."
if ! "${as_root[@]}" "${install[@]}"; then
  echo "install_deps.sh: apt-get could not install them (see above). Try: sudo ${install[*]}" >&2
  exit 2
fi
