"""`python -m sidebench` is the `sidebench` command."""

from .cli import main

main()
