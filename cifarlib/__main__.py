"""``python -m cifarlib COMMAND``: see cli.py."""

from cifarlib.cli import main

if __name__ == "__main__":
    main()
