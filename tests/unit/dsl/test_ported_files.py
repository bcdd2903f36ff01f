"""Files of GitHub: what is accepted as it is, mistakes that are found, and the wording and place of errors."""

from __future__ import annotations

import pytest

from tests.unit.dsl.conftest import Language
from waterflowd.model import matrix
from waterflowd.model.plan import ALL_VARIABLES


def with_step(step: str, job: str = "", top: str = "") -> str:
    return f"{top}\njobs:\n  j: {{runs-on: g, {job} steps: [{step}]}}\n"


# Accepted as it is --------------------------------------------------------------------------------------------------------


def test_names_of_variables_may_have_hyphens_and_points(language: Language) -> None:
    """Programs can read them, though a shell cannot."""
    (step,) = language.steps("{run: x, env: {log.level: debug, a-b: x}}")
    assert step.env == {"log.level": "debug", "a-b": "x"}


def test_a_matrix_key_that_no_instance_has_is_null(language: Language) -> None:
    """It is empty, as on GitHub, and a warning suggests the name that was probably meant."""
    (warning,) = language.warnings(
        with_step("{run: 'echo ${{ matrix.vresion }}'}", "strategy: {matrix: {version: [1]}},")
    )
    assert (warning.code, warning.suggestion) == ("WF138", 'did you mean "version"?')


def test_a_property_that_no_value_of_the_matrix_has_is_reported(language: Language) -> None:
    """The values are in the file."""
    job = "strategy: {matrix: {os: [{name: a}, {name: b}]}},"
    (warning,) = language.warnings(with_step("{run: 'echo ${{ matrix.os.nme }} ${{ matrix.os.name }}'}", job))
    assert (warning.code, warning.message) == (
        "WF138",
        "no instance of the matrix has os.nme, so it is always null",
    )


def test_the_matrix_of_a_job_without_one_is_null(language: Language) -> None:
    """As on GitHub, in every key that may use a matrix; it is a mistake, so there is a warning."""
    (warning,) = language.warnings(with_step("{run: x, if: \"matrix.os == ''\"}"))
    assert (warning.code, warning.message) == (
        "WF138",
        "this job has no strategy.matrix, so matrix.os is always null",
    )
    assert [found.code for found in language.warnings(with_step("{run: x}", "name: 'a ${{ matrix.os }}',"))] == [
        "WF138"
    ]
    assert not language.warnings(with_step("{run: 'echo ${{ strategy.job-index }} of ${{ strategy.job-total }}'}"))
    assert not language.warnings(with_step("{run: 'echo \"${{ toJSON(matrix) }}\"'}"))


def test_composite_steps_see_the_matrix_of_their_job(language: Language) -> None:
    """As on GitHub. The file is compiled without its callers, so the values are not known."""
    files = {"a/step.yml": "steps: [{run: 'echo ${{ matrix.os }} ${{ strategy.job-index }}'}]"}
    (step,) = language.plan(with_step("{uses: ./a}"), files).jobs[0].steps[0].blocks[0].steps
    # A position has only digits; a value of the matrix may come from anywhere.
    assert step.params["run"] == "echo ${WF_EXPR_1} ${{ strategy.job-index }}"
    assert not language.warnings(with_step("{uses: ./a}"), files)


def test_strategy_without_a_matrix_has_no_effect(language: Language) -> None:
    """It is a warning, since GitHub accepts it."""
    (warning,) = language.warnings(with_step("{run: x}", "strategy: {fail-fast: false},"))
    assert warning.code == "WF139"


def test_an_input_may_have_the_type_of_an_environment(language: Language) -> None:
    """It is text."""
    plan = language.plan("on: {workflow_dispatch: {inputs: {where: {type: environment}}}}" + with_step("{run: x}"))
    assert plan.inputs[0].type.value == "string"


def test_the_root_of_the_repository_may_be_a_composite_step(language: Language) -> None:
    """Repositories of an action use it in their own tests."""
    files = {"action.yml": "runs: {using: composite, steps: [{run: echo root}]}"}
    plan = language.plan(with_step("{uses: ./}"), files)
    assert plan.jobs[0].steps[0].blocks[0].steps[0].params["run"] == "echo root"


def test_paths_may_have_github_s_prefix_for_the_own_repository(language: Language) -> None:
    """`$/` is the repository at the run's commit, as `./` is here: for workflows, and for composite steps inside each other."""
    files = {
        "ci/called.yml": "on: workflow_call\njobs: {c: {runs-on: g, steps: [{run: called}]}}",
        "steps/a/action.yml": "runs: {using: composite, steps: [{uses: $/steps/b}]}",
        "steps/b/action.yml": "runs: {using: composite, steps: [{run: inner}]}",
        "action.yml": "runs: {using: composite, steps: [{run: root}]}",
    }
    text = "jobs: {a: {uses: $/ci/called.yml}, b: {runs-on: g, steps: [{uses: $/./steps/a}, {uses: $/}]}}"
    called, own = language.plan(text, files).jobs
    assert called.call is not None
    assert called.call.path == "ci/called.yml"
    assert own.steps[0].blocks[0].steps[0].blocks[0].steps[0].params["run"] == "inner"
    assert own.steps[1].blocks[0].steps[0].params["run"] == "root"

    error = language.error("jobs: {b: {runs-on: g, steps: [{uses: $/../x}]}}", files)
    assert (error.code, "not a path inside the repository" in error.message) == ("WF135", True)


@pytest.mark.parametrize(("queue", "meaning"), [("max", "fifo"), ("single", "latest"), ("reject", "reject")])
def test_the_words_of_github_for_a_queue_are_known(language: Language, queue: str, meaning: str) -> None:
    """Those who wait are kept in order, or only the newest of them."""
    concurrency = language.job(f"runs-on: g, concurrency: {{group: x, queue: {queue}}}").concurrency
    assert concurrency is not None
    assert concurrency.queue.value == meaning


def test_the_key_deployment_of_an_environment_has_no_effect(language: Language) -> None:
    """No deployments are recorded; its expression is checked."""
    job = language.job("runs-on: g, environment: {name: x, deployment: '${{ github.ref_name == 1 }}'}")
    assert job.environment == language.job("runs-on: g, environment: x").environment
    assert language.error(with_step("{run: x}", "environment: {name: x, deployment: '${{ nope }}'},")).code == "WF122"


def test_the_default_of_a_composite_step_s_input_may_be_an_expression(language: Language) -> None:
    """It is evaluated where the step is used, with what composite steps see; a value that is given wins."""
    inputs = "where: {required: true, default: '${{ github.workspace }}'}, tag: {default: 'v${{ github.run_number }}'}"
    files = {"a/action.yml": f"inputs: {{{inputs}}}\nsteps: [{{run: 'x ${{{{ inputs.tag }}}}', if: inputs.tag}}]"}
    first, second = language.plan(with_step("{uses: ./a}, {uses: ./a, with: {tag: x}}"), files).jobs[0].steps
    assert first.params == {"where": "${{ github.workspace }}", "tag": "v${{ github.run_number }}"}
    assert second.params == {"where": "${{ github.workspace }}", "tag": "x"}

    for wrong, code in (("inputs.where", "WF129"), ("steps.a.outputs.b", "WF129"), ("github.token", "WF113")):
        changed = {"a/action.yml": files["a/action.yml"].replace("github.run_number", wrong)}
        assert language.error(with_step("{uses: ./a}"), changed).code == code
    computing = {"a/action.yml": files["a/action.yml"].replace("if: inputs.tag", "if: inputs.where")}
    assert language.error(with_step("{uses: ./a}"), computing).code == "WF136"


def test_names_of_secrets_may_have_hyphens(language: Language) -> None:
    """Those that a called workflow declares often have; sources do not tell - and _ apart."""
    called = (
        "on: {workflow_call: {secrets: {registry-password: {required: true}}}}\n"
        "jobs: {c: {runs-on: g, steps: [{run: x, env: {A: '${{ secrets.registry-password }}'}}]}}"
    )
    text = "jobs: {a: {uses: ./c.yml, secrets: {registry-password: '${{ secrets.PASSWORD }}'}}}"
    call = language.plan(text, {"c.yml": called}).jobs[0].call
    assert call is not None
    assert (call.secrets, call.jobs[0].steps[0].secrets) == ({"registry-password": "PASSWORD"}, ("registry-password",))


def test_the_keys_of_a_matrix_ignore_case(language: Language) -> None:
    """As all names in expressions: `exclude` and `include` find the dimension."""
    strategy = "matrix: {OS: [a, b], exclude: [{os: b}], include: [{Os: a, more: x}]}"
    plan = language.job(f"runs-on: g, strategy: {{{strategy}}}").strategy
    assert plan is not None
    assert plan.matrix is not None
    values = matrix.instances(plan.matrix.dimensions, plan.matrix.include, plan.matrix.exclude)
    assert values == [{"OS": "a", "more": "x"}]


def test_the_shell_may_be_a_value_of_the_matrix(language: Language) -> None:
    """A script without other expressions is the same for all of them."""
    job = "strategy: {matrix: {shell: [bash, python]}},"
    plan = language.plan(with_step("{run: 'echo ${{ matrix.shell }}', shell: '${{ matrix.shell }}'}", job))
    assert plan.jobs[0].steps[0].params["shell"] == "${{ matrix.shell }}"

    text = with_step("{run: 'echo ${{ git.branch }}', shell: '${{ matrix.shell }}'}", job)
    assert language.error(text).code == "WF128"


@pytest.mark.parametrize("where", ["workflow", "job"])
def test_the_default_shell_may_be_an_expression(language: Language, where: str) -> None:
    """Of the workflow's names, and in a job also of its matrix; a step's own shell wins."""
    value = "defaults: {run: {shell: '${{ inputs.shell }}'}}"
    job, top = ("", f"{value}\n") if where == "workflow" else (f"{value},", "")
    steps = "{run: 'echo a'}, {run: 'print(1)', shell: python}"
    first, second = (
        language.plan("on: {workflow_dispatch: {inputs: {shell: }}}\n" + with_step(steps, job, top)).jobs[0].steps
    )
    assert (first.params["shell"], second.params["shell"]) == ("${{ inputs.shell }}", "python")


def test_a_script_may_have_expressions_where_all_its_shells_read_them_alike(language: Language) -> None:
    """As with `shell: bash -el {0}` on some systems; an expression without a value is the default shell."""
    job = (
        "strategy: {matrix: {include: [{os: a, shell: 'bash -el {0}'}, {os: b, shell: sh}, {os: c}]}},"
        " defaults: {run: {shell: '${{ matrix.shell }}'}},"
    )
    (step,) = language.plan(with_step("{run: 'echo ${{ git.branch }}'}", job)).jobs[0].steps
    assert (step.params["run"], step.env) == ("echo ${WF_EXPR_1}", {"WF_EXPR_1": "${{ git.branch }}"})

    text = with_step("{run: 'echo ${{ git.branch }}'}", job.replace("shell: sh", "shell: pwsh"))
    assert language.error(text).code == "WF128"


@pytest.mark.parametrize(
    ("job", "step"),
    [
        ("defaults: {run: {shell: fish}},", "{run: x}, {run: y}"),
        ("strategy: {matrix: {s: [sh, fish]}}, defaults: {run: {shell: '${{ matrix.s }}'}},", "{run: x}, {run: y}"),
        ("strategy: {matrix: {s: [sh, fish]}},", "{run: x, shell: '${{ matrix.s }}'}"),
    ],
)
def test_an_unknown_shell_is_reported_where_it_is_chosen(language: Language, job: str, step: str) -> None:
    """Once, however many scripts it runs."""
    text = with_step(step, job)
    error = language.error(text)
    assert (error.code, error.message[:24]) == ("WF106", 'shell: "fish" is unknown')
    found = text.splitlines()[error.line - 1][error.column - 1 :]
    assert found.startswith(("fish", "'${{ matrix.s }}'"))


def test_the_default_shell_sees_neither_steps_nor_secrets(language: Language) -> None:
    """It belongs to the job, as on GitHub."""
    for value, code in (
        ("${{ steps.a.outputs.b }}", "WF129"),
        ("${{ secrets.A }}", "WF129"),
    ):
        assert language.error(with_step("{run: x}", f"defaults: {{run: {{shell: '{value}'}}}},")).code == code


def test_one_expression_may_yield_all_variables(language: Language) -> None:
    """The names are known in the run; the expressions in the script see the values."""
    job = "strategy: {matrix: {include: [{env: {A: '1'}}]}}, env: '${{ matrix.env }}',"
    plan = language.plan(with_step("{run: 'echo ${{ env.A }} $GITHUB_A', env: '${{ matrix.env }}'}", job))
    assert plan.jobs[0].env == {ALL_VARIABLES: "${{ matrix.env }}"}
    assert plan.jobs[0].steps[0].env == {ALL_VARIABLES: "${{ matrix.env }}", "WF_EXPR_1": "${{ env.A }}"}

    error = language.error(with_step("{run: x, env: 'A=1'}"))
    assert (error.code, error.message) == ("WF106", 'env: expected a mapping of names to text, not "A=1"')


@pytest.mark.parametrize(
    "script",
    ["apt-get install gawk ${{ git.branch }}", "command -v awk ${{ git.branch }}", "which awk ${{ git.branch }}"],
)
def test_a_program_that_is_only_named_runs_no_code(language: Language, script: str) -> None:
    """The value is an argument of another program."""
    assert language.steps(f"{{run: '{script}'}}")


def test_a_program_behind_a_launcher_still_runs_code(language: Language) -> None:
    """Its first operand is its program."""
    assert language.error(with_step("{run: 'kubectl exec web -- awk ${{ git.branch }}'}")).code == "WF128"


CALLER = "jobs: {a: {uses: ./lib.yml}}"
CALLED = "on: workflow_call\nconcurrency: %s\njobs: {j: {runs-on: g, steps: [{run: x}]}}\n"


def test_the_concurrency_of_a_called_workflow_applies_to_the_call(language: Language) -> None:
    """Its expressions mean the same there."""
    plan = language.plan(CALLER, {"lib.yml": CALLED % "'deploy-${{ github.ref }}'"})
    assert plan.jobs[0].concurrency is not None
    assert plan.jobs[0].concurrency.group == "deploy-${{ github.ref }}"


def test_the_concurrency_of_a_called_workflow_cannot_use_its_inputs(language: Language) -> None:
    """The calling job has others."""
    files = {
        "lib.yml": CALLED.replace("on: workflow_call", "on: {workflow_call: {inputs: {x: {}}}}") % "'${{ inputs.x }}'"
    }
    error = language.error(CALLER, files)
    assert (error.code, error.path) == ("WF135", "lib.yml")


# Checkout -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        "",
        ", with: {fetch-depth: 1, persist-credentials: false, token: '${{ secrets.T }}'}",
        ", with: {ref: '${{ github.sha }}', repository: '${{ github.repository }}', path: ., submodules: false}",
    ],
)
def test_a_checkout_of_what_the_job_has_is_accepted(language: Language, parameters: str) -> None:
    """The step reports the commit, as the action does."""
    used = f"{{id: c, uses: actions/checkout@v4{parameters}}}, {{run: 'echo ${{{{ steps.c.outputs.commit }}}}'}}"
    step = language.steps(used)[0]
    assert (step.node, step.params["outputs"]["commit"], step.secrets) == ("set-outputs", "${{ github.sha }}", ())


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ("fetch-depth: '${{ github.run_number }}'", "known before the run"),
        ("submodules: '${{ github.ref }}'", "known before the run"),
        ("lfs: '${{ github.ref }}'", "Git LFS"),
        ("path: '${{ github.ref_name }}'", "known before the run"),
    ],
)
def test_a_checkout_of_other_files_is_an_error_with_one_sentence(
    language: Language, parameter: str, words: str
) -> None:
    """The scripts after it would not find what they need."""
    error = language.error(with_step(f"{{uses: actions/checkout@v4, with: {{{parameter}}}}}"))
    assert (error.code, words in error.message, bool(error.suggestion)) == ("WF113", True, True)


def test_a_sparse_checkout_has_all_files(language: Language) -> None:
    """Scripts find at least what they find on GitHub; a warning says how to leave files out."""
    keys = "{sparse-checkout: docs, sparse-checkout-cone-mode: false}"
    (warning,) = language.warnings(with_step(f"{{uses: actions/checkout@v4, with: {keys}}}"))
    assert (warning.code, "under checkout of the job" in warning.suggestion) == ("WF139", True)
    assert language.steps("{uses: actions/checkout@v4, with: {sparse-checkout: false}}")


def test_an_unknown_parameter_of_checkout_is_an_error(language: Language) -> None:
    """GitHub only warns of it."""
    error = language.error(with_step("{uses: actions/checkout@v4, with: {fetch-dept: 1}}"))
    assert (error.code, error.suggestion) == ("WF115", 'did you mean "fetch-depth"?')


@pytest.mark.parametrize(
    ("used", "node"),
    [
        ("{uses: actions/upload-artifact@v4, with: {name: a, path: dist, retention-days: 5}}", "artifact/upload"),
        (
            "{uses: actions/upload-artifact@65c4c4a1ddee5b72f698fdd19549f0f0fb45cf08, with: {path: dist}}",
            "artifact/upload",
        ),
        ("{uses: actions/download-artifact@v4, with: {pattern: 'a-*', merge-multiple: true}}", "artifact/download"),
        ("{uses: actions/download-artifact@v5}", "artifact/download"),
    ],
)
def test_the_actions_for_artifacts_are_nodes(language: Language, used: str, node: str) -> None:
    """In any version; their parameters mean the same."""
    (step,) = language.steps(used)
    assert step.node == node


def test_artifacts_of_other_runs_are_an_error(language: Language) -> None:
    """A step may read only those of its own run."""
    error = language.error(with_step("{uses: actions/download-artifact@v4, with: {name: a, run-id: 12}}"))
    assert (error.code, "same run" in error.suggestion) == ("WF115", True)


def test_an_action_of_github_is_not_taken_for_a_node(language: Language) -> None:
    """A name that looks a little like that of a node is still an action."""
    error = language.error(with_step("{uses: docker/login-action@v3}"))
    assert (error.code, "docker/stop" in error.suggestion) == ("WF113", False)


# Mistakes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "code", "hint"),
    [
        ("format('{0} {1}', 1)", "WF126", ""),
        ("format('{', 1)", "WF126", ""),
        ("fromJSON('{')", "WF126", ""),
        ("inputs.flag == 'true'", "WF139", "write inputs.flag, or compare with true without quotes"),
        ("'false' != inputs.FLAG", "WF139", "write inputs.flag, or compare with true without quotes"),
        ("github.event.inputs.flag == true", "WF139", "write inputs.flag"),
        ("steps.s.outcome == 'failed'", "WF139", "write 'failure'"),
        ("steps.s.conclusion != 'sucess'", "WF139", 'did you mean "success"?'),
        ("job.status == 'canceled'", "WF139", "write 'cancelled'"),
    ],
)
def test_an_expression_that_is_wrong_in_every_run_is_reported(
    language: Language, expression: str, code: str, hint: str
) -> None:
    """The file alone shows it."""
    step = f'{{id: s, run: x}}, {{run: x, if: "{expression}"}}'
    (warning,) = language.warnings(with_step(step, top="inputs: {flag: {type: boolean}}"))
    assert (warning.code, warning.suggestion) == (code, hint)


@pytest.mark.parametrize(
    "expression",
    [
        "format('{0}', 1)",
        "format(git.ref, 1)",
        "fromJSON('[1]')",
        "inputs.flag == true",
        "github.event.inputs.flag == 'true'",
        "steps.s.outcome == 'Failure'",
        "steps.s.outputs.result == 'failed'",
    ],
)
def test_what_may_be_intended_is_not_reported(language: Language, expression: str) -> None:
    """Comparisons ignore case, and outputs may be any text."""
    step = f'{{id: s, run: x}}, {{run: x, if: "{expression}"}}'
    assert language.warnings(with_step(step, top="inputs: {flag: {type: boolean}}")) == []


def test_a_result_that_no_job_has_is_reported(language: Language) -> None:
    """The words of other systems are translated."""
    text = "jobs:\n  a: {runs-on: g, steps: [{run: x}]}\n  b:\n    needs: a\n    if: needs.a.result == 'failed'\n"
    (warning,) = language.warnings(text + "    runs-on: g\n    steps: [{run: x}]\n")
    assert (warning.code, warning.line, warning.suggestion) == ("WF139", 5, "write 'failure'")


def test_duplicates_are_reported(language: Language) -> None:
    """In `needs`, and in a dimension of a matrix; 1 and true are different."""
    job = "needs: [a, a], strategy: {matrix: {x: [1, true, 1]}}"
    text = f"jobs:\n  a: {{runs-on: g, steps: [{{run: x}}]}}\n  b: {{{job}, runs-on: g, steps: [{{run: x}}]}}"
    assert [warning.code for warning in language.warnings(text)] == ["WF139", "WF139"]


@pytest.mark.parametrize(
    ("patterns", "hint"),
    [
        ("branches: [refs/heads/main]", "write main"),
        ("tags: ['refs/tags/v*']", "write v*"),
        ("branches: ['a[b']", r"add ], or write \[ for the character"),
        ("branches: ['+x']", "write * for any text"),
        ("branches: ['a b']", "remove it"),
        ("branches-ignore: [feature/]", "remove it, or write /** for everything below"),
        ("paths: ['./src/**']", "write src/**"),
        ("paths: ['!/src']", "write src"),
        ("paths-ignore: [docs/]", "write docs/** for everything below"),
        ("paths: ['../x']", "write the path from the root of the repository"),
    ],
)
def test_a_pattern_that_matches_nothing_is_reported(language: Language, patterns: str, hint: str) -> None:
    """The workflow would never start, or always."""
    others = ", paths: [src]" if patterns.startswith("paths: ['!") else ""
    text = f"on: {{push: {{{patterns.replace(': [', ': [x, ') if others else patterns}}}}}" + with_step("{run: x}")
    (warning,) = language.warnings(text)
    assert (warning.code, warning.suggestion) == ("WF139", hint)


@pytest.mark.parametrize(
    "patterns",
    [
        "branches: [main, 'releases/**', '[a-z]+', 'v[0-9].x']",
        "paths: ['**/*.js', 'docs/a b.md', '!src/x']",
        "tags: ['v?1']",
    ],
)
def test_usual_patterns_are_not_reported(language: Language, patterns: str) -> None:
    """Those of GitHub's documentation."""
    assert language.warnings(f"on: {{push: {{{patterns}}}}}" + with_step("{run: x}")) == []


# Errors -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("on: true" + with_step("{run: x}"), "1:5", "on: expected an event such as push, a list of events, or"),
        (
            with_step("{run: x}", "needs: {a: x},"),
            "3:26",
            "needs: expected the id of a job or a list of ids, not a mapping",
        ),
        (with_step("echo a"), "3:28", 'steps[0]: expected a mapping, not "echo a"'),
        (with_step("{run: x, shell: fish}"), "3:44", 'shell: "fish" is unknown'),
        ("jobs:\n  j:\n    runs-on: ${{ vars.NOPE }}\n    steps: [{run: x}]\n", "3:23", 'unknown variable "NOPE"'),
        (
            "jobs:\n  j:\n    runs-on: g\n    if: >-\n      true &&\n      foo.x\n    steps: [{run: x}]\n",
            "6:7",
            'unknown context "foo"',
        ),
        (
            "jobs:\n  j:\n    runs-on: g\n    if: true &&\n      foo.x\n    steps: [{run: x}]\n",
            "5:7",
            'unknown context "foo"',
        ),
    ],
)
def test_an_error_says_what_is_expected_at_its_place(language: Language, text: str, place: str, words: str) -> None:
    """Also in text that YAML folds."""
    error = language.error(text)
    assert f"{error.line}:{error.column}" == place
    assert error.message.startswith(words)


def test_a_command_in_place_of_a_step_is_shown_as_one(language: Language) -> None:
    """The mistake is a missing `run`."""
    assert language.error(with_step("echo a")).suggestion == "write it as - run: echo a"
