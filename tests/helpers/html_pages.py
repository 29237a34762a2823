"""HTML pages taken apart by the standard library's parser."""

from __future__ import annotations

from html.parser import HTMLParser

_EMPTY = {"meta", "link", "img", "input", "br", "hr", "rect"}


class Parsed(HTMLParser):
    """Elements and words of a page; raises where elements are not closed in their order.

    Attributes:
        elements: name and attributes of every element, in order.
        words: text by the innermost element around it, without that of style and script.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[tuple[str, str]] = []
        self.raw: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        inner = self._open[-1] if self._open else ""
        if inner in ("style", "script"):
            self.raw[inner] = self.raw.get(inner, "") + data
        elif data.strip():
            self.words.append((inner, data))

    @property
    def text(self) -> str:
        """All words that a reader sees."""
        return "".join(data for _, data in self.words)

    def all(self, tag: str) -> list[dict[str, str]]:
        """Attributes of every element of one name."""
        return [attributes for name, attributes in self.elements if name == tag]


def assert_sound(text: str) -> Parsed:
    """The page, if it needs no other file and no script but its own, and every link leads somewhere."""
    page = Parsed(text)
    assert len(text.encode()) <= 3_000_000
    assert {name for name, _ in page.elements} <= _KNOWN
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for name, attributes in page.elements:
        assert not [one for one in attributes if one.startswith("on") or one == "style"]
        for key in ("href", "src", "action", "srcset", "data"):
            address = attributes.get(key, "#found")
            assert address.startswith(("#", "data:image/png;base64,")) or address == "data:,", (name, address)
            assert not address.startswith("#") or address[1:] in ids, f"{address} leads nowhere"
        for key in ("aria-labelledby", "for"):
            assert attributes.get(key, "found") in ids
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert all(one.get("alt") for one in page.all("img"))
    assert all(one.get("scope") in ("col", "row") for one in page.all("th"))
    return page


_KNOWN = {
    "html", "head", "meta", "link", "title", "style", "body", "a", "header", "p", "h1", "h2", "nav", "ul",
    "li", "main", "section", "label", "input", "details", "summary", "div", "table", "caption", "thead",
    "tbody", "tr", "th", "td", "button", "span", "svg", "rect", "code", "figure", "img", "figcaption", "dl",
    "dt", "dd", "pre", "footer", "script", "strong", "em",
}  # fmt: skip
