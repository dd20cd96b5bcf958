"""Build HTML as a tree, so that every text and attribute is escaped by the library that writes it."""

import re
from collections.abc import Iterable
from xml.etree import ElementTree

Element = ElementTree.Element
Content = str | Element | Iterable["Content"] | None
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|[\ud800-\udfff]")
"""What a page must not hold: the terminal's control characters, and halves of characters."""


def tag(kind: str, /, *content: Content, **attributes: object) -> Element:
    """Return an element. `class_` is class, `data_x` is data-x; True is an attribute without value, None and False are none."""
    element = Element(kind)
    for key, value in attributes.items():
        if value is not None and value is not False:
            element.set(key.rstrip("_").replace("_", "-"), "" if value is True else clean(str(value)))
    _add(element, content)
    return element


def clean(text: str) -> str:
    """Return the text without characters that no page may hold."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def to_html(element: Element) -> str:
    """Return the page as text. Script and style are written as they are: they must be our own."""
    return "<!DOCTYPE html>\n" + ElementTree.tostring(element, encoding="unicode", method="html") + "\n"


def _add(element: Element, content: Content) -> None:
    if isinstance(content, str):
        last = element[-1] if len(element) else None
        if last is None:
            element.text = (element.text or "") + clean(content)
        else:
            last.tail = (last.tail or "") + clean(content)
    elif isinstance(content, Element):
        element.append(content)
    elif content is not None:
        for each in content:
            _add(element, each)
