"""Run the command line with ``python -m panmodal``."""

from panmodal.cli import main

if __name__ == "__main__":
    main()
