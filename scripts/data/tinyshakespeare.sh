#!/usr/bin/env bash
# Fetches tinyshakespeare and makes token shards of it; --help says more.
set -euo pipefail
name=tinyshakespeare
about="tinyshakespeare: 40,000 lines of Shakespeare's plays, from github.com/karpathy/char-rnn.
Size: 1.1 MB. Licence: the text is in the public domain (the repository is under the MIT licence)."
# shellcheck source=scripts/data/common.sh
source "$(dirname "$0")/common.sh"
begin "$@"

text=$out/raw/tinyshakespeare.txt
fetch https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt "$text"
sha=86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed
found=$(sha256sum "$text")
[[ ${found%% *} == "$sha" ]] || reject "$text" "its SHA-256 is ${found%% *}, not $sha"
# a document is what lies between blank lines: a speech
finish --input "$text" --split blank --val-fraction 0.1
