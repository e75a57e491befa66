"""`gptcli bench`: this machine's limits, and ours against other programs, in turn and in one run."""
