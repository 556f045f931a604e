"""Updates the Chinese catalogue from the messages in the code, and compiles it: ``make messages``.

New messages get an empty translation, which is then written by hand; messages that are no longer used are removed.
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
#: A fixed date, so that the file only depends on the messages.
DATE = datetime(2026, 1, 1)


def messages_in(source: str) -> Iterator[str]:
    """The messages of a module: the first argument of every call in CALLS. Babel's own extractor does not find calls
    nested in the arguments of others.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args:
            first = node.args[0]
            called = ast.unparse(node.func).rpartition(".")[2] in CALLS
            if called and isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value:
                yield first.value


def main() -> int:
    """Writes the catalogue and its compiled form; the status is 1 if translations are missing."""
    known = {message.id: message.string for message in read_po(PO.open("rb"))} if PO.exists() else {}
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "bimo").rglob("*.py"))
    sentences = sorted({sentence for source in sources for sentence in messages_in(source)})
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
