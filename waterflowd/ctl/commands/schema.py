"""`schema`: the JSON Schema of workflow files for editors; no daemon is asked."""

from __future__ import annotations

import click


@click.command()
@click.option(
    "--kind",
    type=click.Choice(["workflow", "step"]),
    default="workflow",
    help="A workflow, or a composite step's file.",
)
def schema(kind: str) -> None:
    """Print the JSON Schema of workflow files, or of the files of composite steps."""
    from waterflowd.dsl.reference.json_schema import schema_text

    click.echo(schema_text(kind), nl=False)
