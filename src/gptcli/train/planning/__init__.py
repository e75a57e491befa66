"""What decides a training before its first step: the rules that choose its settings, its estimates, its plan."""
