"""`gptcli plan`: what a training will take: memory, time, talk between ranks, money. Arithmetic; loads no torch."""
