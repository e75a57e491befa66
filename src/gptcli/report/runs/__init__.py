"""`gptcli runs`: what runs have recorded, read without opening a model."""
