#!/usr/bin/env bash
# The first hour with a GPU: what only a GPU can show, in at most 25 minutes. Not yet run on a GPU.
#
#     bash benchmarks/gpu.sh [FOLDER]            FOLDER for what each part prints; by default a new one
#
# It needs no network and no peft, only this repository and its requirements. Each part has a limit of time and prints
# one JSON document: its name, seconds, exit code, what it printed as JSON, and the last lines where it failed. A part
# that fails stops no other. The exit code is the number of parts that failed.
set -u
cd "$(dirname "$0")/.."
out=${1:-$(mktemp -d)}
mkdir -p "$out"
export PYTHONPATH="$PWD/src:$PWD/benchmarks:$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
python=${PYTHON:-python3}
failed=0

part() { # name, limit in seconds, command
    local name=$1 limit=$2 began code
    shift 2
    began=$(date +%s)
    timeout "$limit" "$@" >"$out/$name.out" 2>"$out/$name.err"
    code=$?
    [ "$code" -eq 0 ] || failed=$((failed + 1))
    "$python" - "$name" "$code" "$(($(date +%s) - began))" "$out/$name" <<'EOF'
import json, sys
from pathlib import Path

name, code, seconds, path = sys.argv[1:]
printed, errors = (Path(path + end).read_text("utf8", "replace").splitlines() for end in (".out", ".err"))
found = {}
for line in printed:
    if line.startswith("{"):
        try:
            found |= json.loads(line)
        except ValueError:
            pass
document = {"part": name, "seconds": int(seconds), "exit": int(code), "found": found, "printed": printed[-25:]}
if int(code):
    document["failed"] = "out of time" if code == "124" else errors[-25:]
print(json.dumps(document), flush=True)
EOF
}

part machine 60 "$python" -c '
import json, torch, transformers
free, total = torch.cuda.mem_get_info()
print(json.dumps({"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "transformers": transformers.__version__,
                  "capability": torch.cuda.get_device_capability(), "free": free, "total": total}))'
part equality 180 "$python" benchmarks/gpu_parts.py equality
part no_waiting 120 "$python" benchmarks/gpu_parts.py waiting
part fleet_135m 240 "$python" benchmarks/gpu_parts.py fleet --base smollm2
part fleet_135m_dropout 240 "$python" benchmarks/gpu_parts.py fleet --base smollm2 --dropout 0.05
part fleet_7b 300 "$python" benchmarks/gpu_parts.py fleet --base 7b
part fleet_7b_dropout 300 "$python" benchmarks/gpu_parts.py fleet --base 7b --dropout 0.05
part serving 150 "$python" benchmarks/gpu_parts.py serving
echo "What was printed lies in $out" >&2
exit "$failed"
