"""Prints how many tests passed and failed, from the reports that a run of nox left behind.

    python3 .ci/count.py DIRECTORY

The last line stands alone, `N passed, N failed, N skipped`. Exits with 1 when a test failed or
none ran.
"""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET


def count_pytest(report: Path) -> tuple[int, int, int]:
    total = failed = skipped = 0
    for suite in ET.parse(report).iter("testsuite"):  # noqa: S314 (our own pytest wrote it)
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return total - failed - skipped, failed, skipped


def count_vitest(report: Path) -> tuple[int, int, int]:
    result = json.loads(report.read_text())
    skipped = result["numPendingTests"] + result["numTodoTests"]
    return result["numPassedTests"], result["numFailedTests"], skipped


def main(directory: str) -> int:
    sums = (0, 0, 0)
    for report in sorted(Path(directory).glob("*")):
        count = {".xml": count_pytest, ".json": count_vitest}.get(report.suffix)
        if count is None:
            continue
        passed, failed, skipped = counted = count(report)
        print(f"{report.stem}: {passed} passed, {failed} failed, {skipped} skipped")
        sums = (sums[0] + counted[0], sums[1] + counted[1], sums[2] + counted[2])
    passed, failed, skipped = sums
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
