"""The one command."""


def main() -> None:
    """Entry point; commands arrive with the parts that they start."""
    raise SystemExit("hometwin: no command is built yet")
