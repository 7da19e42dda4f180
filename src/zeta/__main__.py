"""``python -m zeta`` is the ``zeta`` command."""

from zeta.command.cli import main

if __name__ == "__main__":
    main()
