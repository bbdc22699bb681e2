# SPDX-License-Identifier: MIT
"""Counts the tests of JUnit files: summary.py ALLOWED-SKIPS FILE...

The last line printed is "N passed, N failed, N skipped". The exit status is 0 only if nothing
failed, every skipped test is in the list of what may be skipped, and there were tests at all.
"""

import fnmatch
import pathlib
import sys
import xml.etree.ElementTree as xml


def main(allowed_file, *files):
    allowed = [line for line in pathlib.Path(allowed_file).read_text().splitlines()
               if line and not line.startswith("#")]
    passed, failed, skipped = 0, [], []
    for file in files:
        for case in xml.parse(file).iter("testcase"):
            name = f'{case.get("classname") or ""}.{case.get("name")}'.lstrip(".")
            kinds = {child.tag for child in case}
            if kinds & {"failure", "error"}:
                failed.append(name)
            elif "skipped" in kinds:
                skipped.append((name, case.find("skipped").get("message") or ""))
            else:
                passed += 1
    wrong = [s for s in skipped if not any(fnmatch.fnmatch(s[0], p) for p in allowed)]
    for name in failed:
        print(f"FAILED {name}")
    for name, reason in skipped:
        print(f"SKIPPED {name}: {reason}")
    for name, _ in wrong:
        print(f"not allowed to be skipped: {name}")
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed or wrong or not passed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
