"""`gptcli plan`: estimates of a training's memory, time, communication and cost. It loads no torch."""
