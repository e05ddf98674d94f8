"""python -m maskcli."""

from maskcli.cli import main

if __name__ == "__main__":
    main()
