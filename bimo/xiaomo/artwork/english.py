"""English grammar for captions: articles and plurals of the words in the table."""

from __future__ import annotations

MASS = frozenset(
    [
        "rice",
        "water",
        "fire",
        "lightning",
        "thunder",
        "grass",
        "wheat",
        "corn",
        "maize",
        "bread",
        "toast",
        "cheese",
        "meat",
        "steak",
        "beef",
        "butter",
        "salt",
        "curry",
        "pasta",
        "spaghetti",
        "ramen",
        "sushi",
        "chocolate",
        "honey",
        "milk",
        "coffee",
        "tea",
        "sake",
        "champagne",
        "wine",
        "beer",
        "juice",
        "soda",
        "cola",
        "coke",
        "ice",
        "money",
        "blood",
        "soap",
        "yarn",
        "thread",
        "music",
        "mahjong",
        "chess",
        "rain",
        "snow",
        "wood",
        "coral",
        "garlic",
        "lettuce",
        "broccoli",
        "custard",
        "pudding",
        "tempura",
        "stew",
        "toilet",
        "paper",
        "luggage",
        "medicine",
        "fishing",
        "tennis",
        "bowling",
        "badminton",
        "boxing",
        "soccer",
        "hockey",
        "archery",
        "yoga",
        "meditation",
        "surfing",
        "swimming",
        "cycling",
        "confetti",
        "popcorn",
        "bacon",
        "boba",
        "takeout",
        "santa",
        "lavender",
        "dna",
        "cutlery",
        "applause",
        "rage",
        "thinking",
        "vomiting",
        "sleeping",
        "crying",
        "angry",
        "sick",
        "fever",
        "camping",
        "lotion",
        "earth",
        "saturn",
    ]
)
IRREGULAR = {
    "mouse": "mice", "goose": "geese", "sheep": "sheep", "fish": "fish", "deer": "deer", "ox": "oxen",
    "child": "children", "person": "people", "man": "men", "woman": "women", "foot": "feet", "tooth": "teeth",
    "leaf": "leaves",
    "knife": "knives", "wolf": "wolves", "calf": "calves", "die": "dice", "dice": "dice", "shrimp": "shrimp",
    "squid": "squid", "goldfish": "goldfish", "clownfish": "clownfish", "jellyfish": "jellyfish", "elf": "elves",
    "pufferfish": "pufferfish", "blowfish": "blowfish", "aircraft": "aircraft", "cattle": "cattle", "thief": "thieves",
    "buffalo": "buffaloes", "bison": "bison", "potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes",
    "cactus": "cactuses", "octopus": "octopuses", "bus": "buses", "glass": "glasses", "shelf": "shelves",
    "lens": "lenses", "loaf": "loaves", "hero": "heroes", "policeman": "policemen", "fireman": "firemen",
    "spaceman": "spacemen", "snowman": "snowmen", "tuxedo": "tuxedos", "walrus": "walruses", "virus": "viruses",
    "lotus": "lotuses", "hibiscus": "hibiscuses",
}  # fmt: skip


def article(word: str) -> str:
    """'a' or 'an' for a word."""
    first = word[:1].lower()
    if word.lower().startswith(("uni", "ufo", "eu", "one", "use")):
        return "a"
    return "an" if first in set("aeiou") or word.lower().startswith(("hour", "x-ray", "mri", "suv")) else "a"


def with_article(words: str) -> str:
    """The words with an indefinite article, except mass nouns and plurals."""
    last = words.split()[-1]
    if last in MASS or words in MASS or (last.endswith("s") and last not in IRREGULAR and not last.endswith("ss")):
        return words
    return f"{article(words)} {words}"


def plural(words: str) -> str:
    """The plural of the last noun; in 'X of Y' and 'X with Y' that of X; mass nouns and plurals are unchanged."""
    for joint in (" of ", " with ", " in ", " and "):
        head, found, tail = words.partition(joint)
        if found:
            return f"{plural(head)}{joint}{tail}"
    head, _, last = words.rpartition(" ")
    lead = f"{head} " if head else ""
    if last in IRREGULAR:
        return lead + IRREGULAR[last]
    if last in MASS or (last.endswith("s") and not last.endswith("ss")):
        return words
    if last.endswith(("s", "x", "ch", "sh")):
        return f"{words}es"
    if last.endswith("y") and last[-2:-1] not in "aeiou":
        return f"{words[:-1]}ies"
    return f"{words}s"
