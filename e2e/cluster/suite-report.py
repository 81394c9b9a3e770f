#!/usr/bin/env python3
"""Compares what came of Kubernetes' own tests with what is known of them: suite-report.py JUNIT.xml suite-known.txt

The status is 0 when the specs that failed are those known to fail, of the ones that ran, and at least one passed.
"""

import sys
import xml.etree.ElementTree as xml


def known(path):
    with open(path, encoding="utf-8") as file:
        lines = (line.strip() for line in file)
        return {line for line in lines if line and not line.startswith("#")}


def main(report, expected):
    names = known(expected)
    passed, failed = set(), set()
    for case in xml.parse(report).getroot().iter("testcase"):
        # Nodes that are no specs ([ReportAfterSuite] …) fail the run as well, and are no passes.
        name, spec = case.get("name", ""), case.get("name", "").startswith("[It]")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.add(name)
        elif case.find("skipped") is None and spec:
            passed.add(name)

    def of(name):
        return next((one for one in names if one in name), None)

    new = {name for name in failed if of(name) is None}
    mended = {name for name in passed if of(name) is not None}
    print(f"suite: {len(passed)} passed, {len(failed)} failed, {len(failed - new)} of them known to fail")
    for text, specs in (("FAILED", new), ("known to fail, and passed", mended)):
        for name in sorted(specs):
            print(f"suite: {text}: {name}")
    return 1 if new or mended or not passed else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
