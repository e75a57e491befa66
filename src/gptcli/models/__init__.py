"""The assembled GPT, its config, its initialisation and its estimates. `config` and `estimate` import no torch."""
