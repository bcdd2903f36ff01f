"""Reads job definitions: YAML and XML give the same values, which have the names of the YAML format.

Rules of this file: XML with a document type is refused, since only that can define entities. Nesting is limited.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.etree import ElementTree

from waterflowd.importers.findings import Imported
from waterflowd.importers.origin import Unreadable
from waterflowd.importers.source_yaml import YamlSource, items_of, value_of
from waterflowd.model.plan import Json

_DEPTH_MAX = 30
_DOCTYPE = re.compile(r"<!(?:DOCTYPE|ENTITY)")
_COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
#: Elements of XML whose children form a list, and the name of each child.
_LISTS = {"options": "option", "sequence": "command"}


@dataclass
class Definition:
    """One job."""

    keys: dict[str, Json]
    line: int
    comments: list[str] = field(default_factory=list)


def read(text: str, path: str, imported: Imported) -> list[Definition]:
    """Return the jobs of a file; raises Unreadable."""
    if path.endswith(".xml") or text.lstrip().startswith("<"):
        return _from_xml(text)
    source = YamlSource(text, path, imported)
    found = []
    for item in items_of(source.root):
        keys = value_of(item)
        if not isinstance(keys, dict) or "name" not in keys:
            raise Unreadable(
                f"line {source.line(item)}: expected a job with a name; a file of Rundeck is a list of jobs"
            )
        found.append(Definition(keys=keys, line=source.line(item), comments=source.comments_at(item)))
    if found:
        found[-1].comments += source.left_over()
    return found


def _from_xml(text: str) -> list[Definition]:
    if _DOCTYPE.search(text):
        raise Unreadable("XML with a document type is not read; remove <!DOCTYPE ...>")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise Unreadable(f"line {error.position[0]}: invalid XML: {error.msg}") from None
    elements = [root] if root.tag == "job" else root.findall("job")
    found = [Definition(keys=_job(element), line=0) for element in elements]
    lines = [text.count("\n", 0, match.start()) + 1 for match in re.finditer(r"<job\b", text)]
    for definition, line in zip(found, lines, strict=False):
        definition.line = line
    if any("name" not in each.keys for each in found):
        raise Unreadable("a <job> has no <name>")
    if found:
        found[0].comments = [line.strip() for each in _COMMENT.findall(text) for line in each.strip().splitlines()]
    return found


def _job(element: ElementTree.Element) -> dict[str, Json]:
    value = _value(element, 0)
    keys: dict[str, Json] = value if isinstance(value, dict) else {}
    context = keys.pop("context", None)
    if isinstance(context, dict):
        keys |= context
    if isinstance(keys.get("dispatch"), dict):
        filters = keys.setdefault("nodefilters", {})
        if isinstance(filters, dict):
            filters["dispatch"] = keys.pop("dispatch")
    return keys


def _value(element: ElementTree.Element, depth: int) -> Json:
    """Return an element as a value: a text, or a mapping of attributes and children."""
    if depth > _DEPTH_MAX:
        raise Unreadable(f"the XML is nested more than {_DEPTH_MAX} levels deep")
    children = list(element)
    text = element.text or ""
    if not children and not element.attrib:
        return text if element.tag in ("script", "exec") else text.strip()
    result: dict[str, Json] = dict(element.attrib)
    if text.strip():
        result[element.tag] = text.strip()
    listed = _LISTS.get(element.tag)
    for child in children:
        value = _value(child, depth + 1)
        if child.tag == listed:
            items = result.setdefault("commands" if listed == "command" else listed, [])
            assert isinstance(items, list)
            items.append(value)
        elif child.tag in result:
            old = result[child.tag]
            result[child.tag] = [*old, value] if isinstance(old, list) else [old, value]
        else:
            result[child.tag] = value
    if element.tag == "options":
        return result.get("option", [])
    return result
