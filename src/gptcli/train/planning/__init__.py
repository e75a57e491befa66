"""The plan of a training: the rules that choose its settings, and the estimates of time and memory."""
