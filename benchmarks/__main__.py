"""Run one benchmark by its name, with its options; without a name those of ``make bench``."""

import argparse
import ast
import importlib
import sys
from pathlib import Path

USUAL = ("signal_bytes", "alignment", "projection", "forward_kl", "normalisation", "stages")
"""Those that ``make bench`` runs."""


def described() -> dict[str, str]:
    """The first line of each benchmark's docstring, by its name; nothing is imported."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body):
            found[path.stem] = (ast.get_docstring(module) or "").partition("\n")[0]
    return found


def main() -> None:
    """Print the tables."""
    known = described()
    width = max(map(len, known))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="\n".join(f"{name:{width}}  {text}" for name, text in known.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name", nargs="?", choices=list(known), metavar="NAME", help=f"without: {', '.join(USUAL)}"
    )
    parser.add_argument("options", nargs=argparse.REMAINDER, help="its own; see NAME --help")
    asked = parser.parse_args()
    for name in [asked.name] if asked.name else USUAL:
        sys.argv = [f"benchmarks.{name}", *asked.options]
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
