"""Personal data in captions, found by rules: telephone, identity card, e-mail, car plate, bank card, names.

No model is used: a name is found by the title after it (王老师, 李小明先生) or the label before it (姓名：...).

Names of public figures are not distinguished; names without title or label are not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import ClassVar, Literal

from bimo.curation.filters.segmentation import cut, is_han, words
from bimo.curation.steps import CaptionStep, Verdict

#: The tag that replaces each kind.
TAGS = {
    "identity": "<身份证号>",
    "card": "<银行卡号>",
    "mobile": "<手机号>",
    "landline": "<电话号码>",
    "email": "<邮箱>",
    "plate": "<车牌号>",
    "name": "<人名>",
}
#: First two digits of an identity card: the provinces of GB/T 2260, and 81 to 83 of residence permits.
REGIONS = frozenset(
    map(
        str,
        (*range(11, 16), 21, 22, 23, *range(31, 38), *range(41, 47), *range(50, 55), *range(61, 66), 71, 81, 82, 83),
    )
)
#: Weights of the 17 digits and the characters for the remainders 0 to 10: ISO 7064, MOD 11-2, as in GB 11643.
WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
CHECKS = "10X98765432"

# Full-width to half-width, character by character, so that offsets stay.
_HALF = (
    {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20} | dict.fromkeys(map(ord, "‐‑‒–—−"), 0x2D)
)

_IDENTITY = re.compile(r"(?<![0-9A-Za-z])[1-8]\d{5}[ -]?(?:19|20)\d{6}[ -]?\d{3}[\dXx](?![0-9A-Za-z])", re.ASCII)
_CARD = re.compile(r"(?<![0-9A-Za-z.])\d{4}(?:[ -]?\d{4}){3}(?:[ -]?\d{1,3})?(?![0-9A-Za-z])", re.ASCII)
# The series in use: 13x, 145-149, 150-153 and so on (numbering plan of the ministry, as of 2020).
_MOBILE = re.compile(
    r"(?<![0-9A-Za-z_.])(?:(?:\+|00)?86[ -]?)?1(?:3\d|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9[0-35-9])"
    r"(?:[ -]?\d{4}){2}(?![0-9A-Za-z_])",
    re.ASCII,
)
_AREA = r"0(?:10|2[0-9]|[3-9]\d\d)"
_LANDLINE = re.compile(
    rf"(?<![0-9-])(?:(?:\+86[ -]?)?(?:{_AREA}[ -]|\({_AREA}\) ?)[2-8]\d{{6,7}}(?:(?:-|转)\d{{1,5}})?|"
    r"[48]00[ -]?\d{3}[ -]?\d{4})(?![0-9-])|(?<=电话[: ])[2-8]\d{6,7}(?!\d)|(?<=热线[: ])[2-8]\d{6,7}(?!\d)",
    re.ASCII,
)
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,10}(?![A-Za-z0-9])",
    re.ASCII,
)
# GA 36-2018: a province, a letter, five signs of which at most two are letters; six with D or F for new energy.
_PLATE = re.compile(
    "[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-HJ-NP-Z][·•. -]?"
    "(?:[DF][A-HJ-NP-Z0-9]\\d{4}|\\d{5}[DF]|[A-HJ-NP-Z0-9]{5}|[A-HJ-NP-Z0-9]{4}[挂学警港澳])(?![A-Za-z0-9])",
    re.ASCII,
)
# Numbers that are labelled as something else.
_OTHER_NUMBER = re.compile(
    r"(?:订单|单号|编号|货号|款号|型号|序列号|流水号|条码|条形码|批号|商品|快递|运单|(?<![a-z])(?:isbn|sn|no|id))"
    r"\.?号?码?[:# ]{0,3}$",
    re.IGNORECASE,
)
_CARD_LABEL = re.compile(r"(?:银行卡|信用卡|储蓄卡|卡号|账号|帐号|账户)号?码?[: ]{0,3}$")

#: The hundred most frequent surnames, and double ones.
SURNAMES = frozenset(
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林郑谢罗梁宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范"
    "金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤"
)
DOUBLE_SURNAMES = frozenset(
    (
        *(
            "欧阳",
            "司马",
            "上官",
            "诸葛",
            "东方",
            "皇甫",
            "尉迟",
            "公孙",
            "慕容",
            "令狐",
            "司徒",
            "夏侯",
            "端木",
            "长孙",
        ),
        *("宇文", "轩辕", "南宫", "西门", "独孤"),
    )
)
#: Surnames that are also common words: before a word of two characters they are not surnames (白衣, 高个子, 黄金时代).
WORDS_TOO = frozenset("黄马高林白金石方江龙万钱向于汤毛夏武严任田叶丁段雷熊余史陶顾莫许何程")
#: Words before a title that has no name: 向老师问好.
TOWARDS = frozenset("向")
_TITLE = re.compile(
    "先生|女士|小姐|太太|老师|同学|教授|医生|大夫|护士|师傅|律师|警官|主任|经理|董事长|校长|院长|局长|处长|科长|书记|博士|导演|记者|阿姨"
)
_LABEL = re.compile(
    "(?:姓名|联系人|收件人|收货人|寄件人|户名|持卡人|法定代表人|法人代表|监护人|患者|当事人|考生)[:：] ?"
    "(?P<name>[\u4e00-\u9fff]{1,8}·[\u4e00-\u9fff]{1,8}|[\u4e00-\u9fff]{2,4})(?![\u4e00-\u9fff])"
)
#: Characters before a title that are searched for a name.
REACH = 12


@dataclass(frozen=True, kw_only=True)
class Pii(CaptionStep):
    """Masks personal data with a tag such as <手机号>, or drops the caption.

    ``kinds`` are those of ``TAGS``. Verdicts name the kinds alone, never the data itself.
    """

    says: ClassVar[tuple[str, str]] = ("含个人信息", "gives away personal data")

    do: Literal["mask", "drop"] = "mask"
    kinds: tuple[Literal["identity", "card", "mobile", "landline", "email", "plate", "name"], ...] = (
        *("identity", "card", "mobile", "landline", "email", "plate", "name"),
    )

    def caption(self, text: str) -> str | Verdict:
        """The caption with tags, or a verdict with the kinds that it holds."""
        hits = [hit for hit in private(text) if hit[2] in self.kinds]
        if not hits:
            return text
        if self.do == "drop":
            return Verdict(" ".join(sorted({kind for _, _, kind in hits})), "none")
        pieces: list[str] = []
        at = 0
        for start, end, kind in hits:
            pieces += text[at:start], TAGS[kind]
            at = end
        return "".join(pieces) + text[at:]


def private(text: str) -> list[tuple[int, int, str]]:
    """(start, end, kind) of personal data, in order and without overlaps."""
    half = text.translate(_HALF)
    hits: list[tuple[int, int, str]] = []
    while True:
        before = len(hits)
        covered = bytearray(len(text))
        for kind, spans in _FINDERS:
            for start, end in spans(half):
                if not any(covered[start:end]):
                    covered[start:end] = b"\1" * (end - start)
                    hits.append((start, end, kind))
        if len(hits) == before:
            return sorted(hits)
        # A match separates its neighbours as its tag will: in 姓名：李小明京A12345 the name ends before the plate.
        signs = list(half)
        for start, end, _ in hits[before:]:
            signs[start:end] = "<" * (end - start - 1) + ">"
        half = "".join(signs)


def check_of(digits: str) -> str:
    """The eighteenth character of an identity card for its first seventeen."""
    return CHECKS[sum(weight * int(digit) for weight, digit in zip(WEIGHTS, digits, strict=True)) % 11]


def passes_luhn(digits: str) -> bool:
    """Whether a bank card's last digit fits the others (ISO/IEC 7812, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def _identities(half: str) -> Iterator[tuple[int, int]]:
    for match in _IDENTITY.finditer(half):
        digits = re.sub("[ -]", "", match[0]).upper()
        if digits[:2] in REGIONS and digits[17] == check_of(digits[:17]) and _is_date(digits[6:14]):
            yield match.span()


def _is_date(digits: str) -> bool:
    try:
        date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return False
    return True


def _cards(half: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(half):
        digits = re.sub("[ -]", "", match[0])
        # UnionPay has 16 to 19 digits, Visa and Mastercard 16; other lengths count only where they are labelled as a
        # card.
        issued = digits.startswith("62") or (len(digits) == 16 and re.match("4|5[1-5]", digits))
        before = half[max(0, match.start() - 12) : match.start()]
        if passes_luhn(digits) and not _OTHER_NUMBER.search(before) and (issued or _CARD_LABEL.search(before)):
            yield match.span()


def _mobiles(half: str) -> Iterator[tuple[int, int]]:
    for match in _MOBILE.finditer(half):
        if not _OTHER_NUMBER.search(half[max(0, match.start() - 12) : match.start()]):
            yield match.span()


def _landlines(half: str) -> Iterator[tuple[int, int]]:
    for match in _LANDLINE.finditer(half):
        if not _OTHER_NUMBER.search(half[max(0, match.start() - 12) : match.start()]):
            yield match.span()


def _emails(half: str) -> Iterator[tuple[int, int]]:
    if "@" in half:
        yield from (match.span() for match in _EMAIL.finditer(half))


def _plates(half: str) -> Iterator[tuple[int, int]]:
    for match in _PLATE.finditer(half):
        if sum(map(str.isdigit, match[0])) >= 3:
            yield match.span()


def _names(half: str) -> Iterator[tuple[int, int]]:
    for match in _LABEL.finditer(half):
        name = match["name"]
        if "·" in name or name[0] in SURNAMES or name[:2] in DOUBLE_SURNAMES:
            yield match.span("name")
    for title in _TITLE.finditer(half):
        start = title.start()
        while start > max(0, title.start() - REACH) and is_han(half[start - 1]):
            start -= 1
        end = title.end()
        while end < min(len(half), title.end() + 4) and is_han(half[end]):
            end += 1
        length = _name_before(half[start:end], title.start() - start, title[0])
        if length:
            yield title.start() - length, title.start()


@lru_cache(4096)
def _name_before(run: str, at: int, title: str) -> int:
    """The number of characters of a person's name before the title at ``at`` of a run of Chinese characters."""
    before: list[str] = []
    place = 0
    for word in cut(run):
        if place >= at:
            break
        before.append(word)
        place += len(word)
    if not before:
        return 0
    last = before[-1]
    if place != at:
        # Some names are in the dictionary with their title: 王老师.
        return 1 if last[1:] == title and last[0] in SURNAMES - TOWARDS else 0
    if last in SURNAMES - TOWARDS or last in DOUBLE_SURNAMES:
        return len(last)
    if len(last) == 2 and last[0] in "老小阿" and last[1] in SURNAMES:
        return 2
    if 2 <= len(last) <= 4 and last in words()[1] and (last[0] in SURNAMES or last[:2] in DOUBLE_SURNAMES):
        return len(last)
    # A given name is one word, or two characters that are not a word together; the surname is the word before it.
    for given_name in (before[-2:], before[-1:]):
        family = before[-len(given_name) - 1] if len(before) > len(given_name) else ""
        length = sum(map(len, given_name))
        if length > 2 or (len(given_name) == 2 and length != 2):
            continue
        common = family in WORDS_TOO and len(given_name) == 1
        if family in DOUBLE_SURNAMES or (family in SURNAMES and not common):
            return len(family) + length
    return 0


#: By priority where several match. URLs come first: they may contain a number of any kind, and the rest would remain a
#: URL.
_FINDERS = (
    *(("email", _emails), ("identity", _identities), ("card", _cards), ("mobile", _mobiles)),
    *(("landline", _landlines), ("plate", _plates), ("name", _names)),
)
