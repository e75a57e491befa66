"""`python -m gptcli`: the same command as `gptcli`."""

from gptcli.cli.app import main

if __name__ == "__main__":
    main()
