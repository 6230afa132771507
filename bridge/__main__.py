"""``python -m bridge`` is ``ciliary``."""

from bridge.cli import main

main()
