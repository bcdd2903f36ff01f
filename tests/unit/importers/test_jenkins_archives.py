"""Archives of Jenkins: names of artifacts are unique in a run, so each archive has a name of its own."""

from __future__ import annotations

import re

from tests.unit.importers.golden import import_text

ARCHIVE = "steps { sh 'make'\n archiveArtifacts 'out/*' }"


def names_of(stages: str) -> list[str]:
    """The names of the artifacts of a pipeline with these stages."""
    (file,) = import_text("jenkins", "Jenkinsfile", f"pipeline {{ agent any\n stages {{ {stages} }} }}\n").files
    return re.findall(r"name: '?(archive-[^'\n]*)", file.content)


def test_stages_of_one_name_have_archives_of_their_own() -> None:
    """Branches of a pipeline often have stages of the same names."""
    nested = f"stages {{ stage('Pack') {{ {ARCHIVE} }} }}"
    assert names_of(f"stage('Linux') {{ {nested} }}\n stage('Mac') {{ {nested} }}") == [
        "archive-Pack",
        "archive-Pack-2",
    ]


def test_instances_of_a_matrix_have_archives_of_their_own() -> None:
    """All of them run the same step."""
    axes = "axes { axis { name 'OS'\n values 'a', 'b' } }"
    stages = f"stage('All') {{ matrix {{ {axes}\n stages {{ stage('Pack') {{ {ARCHIVE} }} }} }} }}"
    assert names_of(stages) == ["archive-Pack-${{ strategy.job-index }}"]
