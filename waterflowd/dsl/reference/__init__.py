"""The reference of the language, rendered from the models: the pages under docs/reference/, and the JSON Schema for editors.

Rules of this package: it describes nothing itself. The models (`dsl.models`), the records of the nodes
(`waterflow_agent.nodes.schema`), the contexts (`dsl.models.expression_scopes`) and the functions (`waterflowd.expr`) carry
their own descriptions and examples; only the examples of error codes are here. Tests compile every example, and try every
context in every key.

    models, records ─annotated_schema─▶ definitions ─┬─ json_schema ──▶ *.schema.json
                                                     └─ entries, pages ─▶ *.md
"""
