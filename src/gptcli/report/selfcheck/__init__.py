"""`gptcli selfcheck`: whether this machine, its libraries and gptcli compute what they should."""
