"""Comparisons of gptcli with other programs, in turn and in one run: `python scripts/bench --help`."""
