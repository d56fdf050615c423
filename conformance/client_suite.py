"""Runs the official client suite against our client, judged strictly.

    python conformance/client_suite.py --sync|--async RUNNER

RUNNER is `packages/client-conformance-tests` of a checkout of the public repository
durable-streams/durable-streams, with its dependencies installed by pnpm or npm; it is not on npm
itself.

The runner forgives an error that a case did not ask for, does not look which items of a batch
failed, and leaves two cases out. So this works on a copy of it, in which such an error or a wrong
item fails a case and nothing is left out. A 400 to what no
server may accept is right in three cases; everything else has to pass.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ADAPTER = Path(__file__).resolve().parent / "client_adapter.py"
CASES = 269
# The server answers them with 400, and an error is what the client should make of that.
REFUSED = {"read-future-offset", "offset-zero-start", "sse-base64-empty-payload"}

STRICT = """
const asked = (expected: any = {}) =>
  [`errorCode`, `messageContains`, `error`, `failIndices`].some((key) => key in expected) ||
  expected.status >= 400 || [`valid`, `allSucceed`, `success`].some((key) => expected[key] === false)
const wanted = (expected: any = {}) => expected.error === true || expected.success === false
const unasked = (op: any, result: any, batch: any): string | undefined => {
  if (!result) return undefined
  const { succeedIndices = [], failIndices = [] } = batch ? (op.expect ?? {}) : {}
  if (succeedIndices.some((i: number) => !batch[i]?.success) ||
      failIndices.some((i: number) => batch[i]?.success !== false))
    return `not the items that were to fail: ${JSON.stringify(batch)}`
  if (!result.success && !asked(op.expect)) return `unasked: ${JSON.stringify(result)}`
  if (result.success && wanted(op.expect)) return `no error: ${JSON.stringify(result)}`
  return undefined
}
"""


def make_strict(runner: str) -> str:
    """The source of the runner, changed where operations are carried out and cases skipped."""
    strict, calls = re.subn(
        r"await executeOperation\(op, ctx\)",
        "await executeOperation(op, ctx).then("
        "(done: any) => ({ ...done, error: done.error ?? unasked(op, done.result, done.batch) }))",
        runner,
    )
    strict, batches = re.subn(
        r"(const allSucceeded = results\.every\(\(r\) => r\.success\)\s+return \{)",
        r"\1 batch: results,",
        strict,
    )
    strict, skips = re.subn(r"\btest\.skip\)", "test.skip && false)", strict)
    if calls < 2 or skips != 1 or batches != 1:
        raise SystemExit("this runner is unlike the one known: look at make_strict()")
    return strict + STRICT


def run(flavour: str, source: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="client-suite-") as directory:
        copy = Path(directory) / "runner"
        shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns("node_modules"))
        modules = next(
            folder / "node_modules"
            for folder in [source, *source.parents]
            if (folder / "node_modules" / ".bin" / "tsx").exists()
        )
        (copy / "node_modules").symlink_to(modules)
        runner = copy / "src" / "runner.ts"
        runner.write_text(make_strict(runner.read_text()))
        adapter = Path(directory) / "adapter.sh"
        adapter.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -W error "{ADAPTER}" {flavour} 2>/dev/null\n'
        )
        adapter.chmod(0o755)
        done = subprocess.run(
            # From where it is installed: pnpm's programs find their packages relative to their own
            # folder, which in the copy would be another.
            [modules / ".bin" / "tsx", "src/cli.ts", "--run", str(adapter)],
            cwd=copy,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    print(done.stdout)
    counts = {name: int(n) for name, n in re.findall(r"^(\w+): (\d+)", done.stdout, re.MULTILINE)}
    failed = set(re.findall(r"^  - [\w-]+/([\w-]+):", done.stdout, re.MULTILINE))
    unexpected = sorted(failed - REFUSED)
    complete = counts.get("Total", 0) >= CASES and counts.get("Skipped") == 0
    print(f"{flavour}: {counts}; rightly refused: {sorted(failed & REFUSED)}")
    if unexpected or not complete:
        print(f"failed: {unexpected}" if unexpected else "cases are missing", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the official client suite, strictly.")
    flavour = parser.add_mutually_exclusive_group(required=True)
    flavour.add_argument("--sync", dest="flavour", action="store_const", const="--sync")
    flavour.add_argument("--async", dest="flavour", action="store_const", const="--async")
    parser.add_argument("runner", type=Path, help="the runner's directory")
    options = parser.parse_args()
    return run(options.flavour, options.runner.resolve())


if __name__ == "__main__":
    sys.exit(main())
