"""``python -m dml_platform.cli``."""

from dml_platform.cli.app import main

if __name__ == "__main__":
    main()
