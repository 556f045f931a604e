"""``python -m bimo``: what launchers start in each process."""

from bimo.cli.main import main

if __name__ == "__main__":
    main()
