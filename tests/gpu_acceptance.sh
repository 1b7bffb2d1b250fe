#!/usr/bin/env bash
# Everything that needs a CUDA device, on a machine that has one, in under 8 minutes and without a network: golden
# vectors, parity with the CPU, every 16-bit pattern, 4 GiB tensors, files, PyTorch and CuPy, then speed. One table.
#
#     tests/gpu_acceptance.sh [WHEELS]
#
# PYTHON (default: python3) must have what pyproject.toml lists, numba-cuda and pytest; torch and cupy are tried where
# they are installed. Wheels of what it lacks, its own of qdq not among them, may lie in the folder WHEELS: they are
# unpacked into a temporary folder. Exit code 0: all tests passed; 5: there is no device. Speed has goals, no verdict.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
wheels=${1:+$(cd "$1" && pwd)}
python=${PYTHON:-python3}
work=$(mktemp -d "${TMPDIR:-/tmp}/qdq-gpu.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$root"
export PYTHONDONTWRITEBYTECODE=1 QDQ_CACHE_DIR="$work/kernels" PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
table=$work/table
: >"$table"
failed=0

if [[ -n $wheels ]]; then
    "$python" -m pip install -q --no-index --no-deps --target "$work/site" "$wheels"/*.whl || exit 2
    PYTHONPATH="$work/site:$PYTHONPATH"
fi

"$python" - <<'PYTHON' || exit 2
from importlib.util import find_spec
import sys

needed = {"click": "click", "hypothesis": "hypothesis", "ml_dtypes": "ml-dtypes", "numba": "numba", "numpy": "numpy",
          "numba_cuda": "numba-cuda", "pytest": "pytest", "rich": "rich", "safetensors": "safetensors"}
missing = [package for module, package in needed.items() if find_spec(module) is None]
if missing:
    sys.exit(f"missing: {', '.join(missing)}; install them, or give a folder of their wheels")
PYTHON

"$python" - <<'PYTHON' || exit 5
from qdqcli.op.backend import missing_for_cuda
import sys

sys.exit(missing_for_cuda())
PYTHON
"$python" -m qdqcli info | tee "$work/info"

printf '\n== tests\n'
timeout -k 5 330 "$python" -m pytest -v -p no:cacheprovider -m "gpu or not slow" --junitxml "$work/tests.xml" tests/gpu
code=$?
if ((code)); then failed=1; fi
if ((code == 124)); then printf 'tests: not done in 330 s\n' >>"$table"; fi

# A line for each test function, with all its cases: skipped ones are no proof.
[[ -f $work/tests.xml ]] && "$python" - "$work/tests.xml" >>"$table" <<'PYTHON'
import sys
import xml.etree.ElementTree as xml
from collections import defaultdict

rows = defaultdict(lambda: defaultdict(float))
for case in xml.parse(sys.argv[1]).iter("testcase"):
    name = case.get("name").split("[")[0].removeprefix("test_").replace("_", " ")
    outcome = next((c.tag for c in case if c.tag in ("failure", "error", "skipped")), "passed")
    rows[name][outcome] += 1
    rows[name]["seconds"] += float(case.get("time"))
for name, row in rows.items():
    word = "FAILED" if row["failure"] or row["error"] else "skipped" if not row["passed"] else "passed"
    counts = ", ".join(f"{int(row[k])} {k}" for k in ("passed", "failure", "error", "skipped") if row[k])
    print(f"{name:<52} {word:<8} {row['seconds']:6.1f} s  {counts}")
PYTHON

printf '\n== speed\n'
timeout -k 5 100 "$python" tests/benchmarks/cuda.py | tee "$work/speed"
if ((PIPESTATUS[0])); then failed=1; printf 'speed: FAILED or not done in 100 s\n' >>"$work/speed"; fi

printf '\n==================== result\n'
grep '^cuda ' "$work/info"
cat "$table" "$work/speed"
printf '%d s in all\n' "$SECONDS"
exit "$failed"
