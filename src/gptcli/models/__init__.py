"""The assembled GPT, its config, its initialisation and its estimates. `config` and `estimate` need no torch."""
