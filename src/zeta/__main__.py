"""``python -m zeta`` is the ``zeta`` command."""

from zeta.cli import main

if __name__ == "__main__":
    main()
