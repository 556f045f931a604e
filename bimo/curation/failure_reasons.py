"""Why a row of a source fails: the codes that readers and steps store, as messages."""

from __future__ import annotations

from bimo.core.messages import Both, Message

#: Code, which is the English text -> its message.
REASONS = {
    message.text: message
    for message in (
        Message("empty"),
        Message("not a picture"),
        Message("not a format that is read"),
        Message("range unknown"),
        Message("several pictures"),
        Message("no picture"),
        Message("too large"),
        Message("too many bytes"),
        Message("truncated"),
        Message("damaged"),
        Message("cut off"),
        Message("missing"),
        Message("unreadable"),
        Message("not a file"),
        Message("outside the folder"),
        Message("not fetched"),
        Message("no caption"),
        Message("caption too long"),
        Message("line too long"),
        Message("not text"),
        Message("not json"),
        Message("not an object"),
        Message("not base64"),
        Message("open quote"),
        Message("wrong number of columns"),
        Message("damaged table"),
        Message("damaged archive"),
        Message("compressed archive"),
        Message("too slow"),
        Message("no answer"),
        Message("too many redirects"),
        Message("opted out"),
        Message("address not allowed"),
        Message("worker killed"),
        Message("changed since it was measured"),
    )
}


def reason_message(code: str) -> Message:
    """The message of a stored reason; a code that is neither known nor names what failed stands for itself."""
    if code in REASONS:
        return REASONS[code]
    phase, _, name = code.partition(" ")
    failed_in = {
        "measure": Message("measure {name}", name=name),
        "judge": Message("judge {name}", name=name),
        "caption": Message("caption {name}", name=name),
        "ask": Message("ask {name}", name=name),
        "decode:": Message("decode: {name}", name=name),
    }
    return failed_in.get(phase) or Both(code, code)
