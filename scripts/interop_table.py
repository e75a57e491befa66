"""Print the table of docs/interop.md from a report of pytest.

pytest tests/interop/test_huggingface.py -o junit_family=legacy --junitxml=interop.xml
python scripts/interop_table.py interop.xml
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict

TESTS = {
    "test_transformers_computes_the_same_logits": "written",
    "test_models_of_transformers_compute_the_same_here": "read",
    "test_greedy_text_through_both_caches_is_the_same": "greedy",
    "test_round_trip_keeps_every_bit": "kept",
}
"""Each case of these tests is one model, named `family, variant`."""


def main(path: str) -> None:
    passed: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    differences: dict[str, list[float]] = defaultdict(list)
    for case in ElementTree.parse(path).iter("testcase"):
        test, _, model = case.get("name", "").rstrip("]").partition("[")
        if test in TESTS:
            family = model.replace(",", "").split()[0]
            passed[family][TESTS[test]].append(case.find("failure") is None and case.find("error") is None)
            differences[family] += [float(found.get("value", "nan")) for found in case.iter("property")]
    print("| family | models | largest difference of a logit | 64 greedy tokens through the cache | round trip |")
    print("| --- | --- | --- | --- | --- |")
    for family, tests in sorted(passed.items()):
        models = len(tests["written"]) + len(tests["read"])
        largest = f"{max(differences[family]):.1e}"
        print(f"| {family} | {models} | {largest} | {count(tests['greedy'])} | {count(tests['kept'])} |")


def count(passed: list[bool]) -> str:
    return f"{sum(passed)} of {len(passed)} the same"


if __name__ == "__main__":
    main(sys.argv[1])
