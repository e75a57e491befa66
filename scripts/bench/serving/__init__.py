"""The comparison of servers: `python scripts/bench serve load` and `serve speed`."""
