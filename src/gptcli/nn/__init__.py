"""The parts of the network: tensors and plain numbers. Knows no disk, no config object and no tokenizer."""
