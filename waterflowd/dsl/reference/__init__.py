"""The reference of the language: what people say about keys, nodes, contexts, functions and codes.

Rules of this package: the models (`schema` and its neighbours) say which keys there are, which values they take and what
holds when they are missing; what no model can say stands here, once. The JSON Schema, editors, and the pages under
`docs/reference/` are made of both. A test asks for an entry about everything that exists, compiles every example, and
tries every context in every key.

Texts: `workflow`, `triggers`, `jobs`, `steps`, `nodes`, `expressions`, `diagnostics`. `pages` makes the pages of them.
"""

from __future__ import annotations

from waterflowd.dsl.reference import jobs, steps, triggers, workflow
from waterflowd.dsl.reference.entries import Key, Section

#: What is said about each concept, by the name of its model.
SECTIONS: dict[str, Section] = {**workflow.SECTIONS, **triggers.SECTIONS, **jobs.SECTIONS, **steps.SECTIONS}

__all__ = ["SECTIONS", "Key", "Section"]
