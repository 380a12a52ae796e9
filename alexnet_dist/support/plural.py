"""Numbers of things, for messages to people."""


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """`1 step`, `2 steps`; with `nouns` where the plural isn't the noun and an s: `2 classes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {nouns or f'{noun}s'}"


def share(count: int, parts: int, noun: str) -> str:
    """How many things each of so many has, where they are divided as evenly as possible: `42 or 43 images`."""
    least, more = divmod(count, parts)
    return f"{least} or {plural(least + 1, noun)}" if more else plural(least, noun)
