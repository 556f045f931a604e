"""Brings the Chinese catalogue up to date with the sentences in the code, and compiles it: ``make messages``.

New sentences come in with an empty Chinese, which is then written by hand; those that nothing says any more go.
"""

import ast
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parent.parent
PO = ROOT / "bimo" / "core" / "locale" / "zh" / "LC_MESSAGES" / "bimo.po"
CALLS = {"say", "Message", "BimoError", "RequestError", "RecipeError", "WeightsError", "DataError", "TrainingError"}
HEADER = "# Chinese sentences of bimo, by the English ones in the code.\n#"
WIDTH = 110
#: A date that stays, so that the same sentences are the same file.
DATE = datetime(2026, 1, 1)


def said(source: str) -> Iterator[str]:
    """The sentences of a module: of each call that says something the first argument, wherever the call stands. Babel's
    own reader sees no call within the arguments of another.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args:
            first = node.args[0]
            called = ast.unparse(node.func).rpartition(".")[2] in CALLS
            if called and isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value:
                yield first.value


def main() -> int:
    """Writes the catalogue and its compiled form; the status is 1 where sentences lack their Chinese."""
    known = {message.id: message.string for message in read_po(PO.open("rb"))} if PO.exists() else {}
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "bimo").rglob("*.py"))
    sentences = sorted({sentence for source in sources for sentence in said(source)})
    catalogue = Catalog(
        locale="zh",
        domain="bimo",
        project="bimo",
        header_comment=HEADER,
        fuzzy=False,
        creation_date=DATE,
        revision_date=DATE,
    )
    for sentence in sentences:
        catalogue.add(sentence, known.get(sentence, ""))
    with PO.open("wb") as file:
        write_po(file, catalogue, width=WIDTH)
    with PO.with_suffix(".mo").open("wb") as file:
        write_mo(file, read_po(PO.open("rb")))
    empty = [sentence for sentence in sentences if not known.get(sentence)]
    print(f"{len(sentences)} sentences", *(f"without Chinese: {sentence}" for sentence in empty), sep="\n")
    return bool(empty)


if __name__ == "__main__":
    sys.exit(main())
