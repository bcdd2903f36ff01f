"""What the API takes and answers: one msgspec Struct per JSON object, one module per resource.

Rules of this package:

- A Struct is the only definition of its JSON object: routes encode it, and `/openapi.json` describes it with
  `msgspec.json.schema_components`. There is no second description that could differ.
- A class method makes each Struct from the objects of the other packages. Nothing else turns those into JSON.
- Every field is always present; a missing value is null. Times are RFC 3339 in UTC with milliseconds. Hashes of secrets are
  never part of an answer. Fields may be added, never renamed.
- The OpenAPI document uses the class names without the ending `Schema`, and the docstrings as descriptions.
"""
