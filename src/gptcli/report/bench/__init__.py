"""`gptcli bench`: the machine's limits, and gptcli's speed against them.

`scripts/bench` measures other programs in the same rounds, by the same functions.
"""
