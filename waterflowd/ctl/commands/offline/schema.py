"""`schema`: the JSON Schema of workflow files, for editors."""

from __future__ import annotations

import click


@click.command()
@click.option(
    "--kind",
    type=click.Choice(["workflow", "step"]),
    default="workflow",
    show_default=True,
    help="Kind of file: a workflow or a composite step.",
)
def schema(kind: str) -> None:
    """Print the JSON Schema of workflow files, or of composite steps; needs no daemon."""
    from waterflowd.dsl.reference.json_schema import schema_text

    click.echo(schema_text(kind), nl=False)
