"""The command line: one file a verb, each a few lines that parse, call one function below, and print."""
