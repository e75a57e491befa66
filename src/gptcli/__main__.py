"""`python -m gptcli`: the same command as `gptcli`.

Python puts the working directory first on the path of imports for `-m`. It is taken off before anything else is
imported. What Python itself imports before this file, `python -P -m gptcli` and `gptcli` take from elsewhere.
"""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]
    from gptcli.cli.app import main

    main()
