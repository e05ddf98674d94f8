"""python -m maskcli, and where the installed command starts."""

import sys


def main() -> None:
    """Start the command line; an interrupt while its libraries are imported ends it in a sentence too."""
    try:
        from maskcli.cli import main as start

        start()
    except KeyboardInterrupt:
        sys.stderr.write("maskcli: interrupted.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
