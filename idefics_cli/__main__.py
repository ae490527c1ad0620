"""`python -m idefics_cli` is `idefics`."""

from .cli.app import main

if __name__ == "__main__":
    main()
