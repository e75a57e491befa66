"""`python -m gptcli`, the same command as `gptcli`.

Python puts the working directory first on the import path for `-m`. It is removed here before anything else is
imported; modules that Python itself imports earlier can still come from it. `python -P -m gptcli` and `gptcli` do not
have this gap.
"""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]
    from gptcli.cli.app import main

    main()
