"""Lowering: every offer of an attempt contains the same task, and what may be stored of it contains no secret."""

from __future__ import annotations

from waterflow_agent.wire import messages
from waterflowd.access.policy import Origin
from waterflowd.dispatch import lowering
from waterflowd.engine import commands, outstanding
from waterflowd.model.codec import ValueCodec
from waterflowd.model.ids import JobId, StepId
from waterflowd.testing.host import stored_fill
from waterflowd.testing.scenario import Scenario


def task(step: str, script: str = "", *, start: str = "start", instance: str = "i") -> messages.Task:
    """Returns the task of the open attempt of a workflow with this one step."""
    workflow = f"""
env: {{A: workflow, B: workflow}}
on: {{workflow_dispatch: {{inputs: {{dir: {{type: string, default: ""}}}}}}}}
jobs:
  a:
    runs-on: web
    timeout-minutes: 10
    env: {{B: job}}
    steps:
      - {step}
"""
    scenario = Scenario(workflow)
    scenario.play(f"connect web-1 web\n{start}\n{script}")
    (send,) = [command for command in outstanding(scenario.run) if isinstance(command, commands.SendTask)]
    return stored_fill(lowering.draft(scenario.run, send), instance)


def test_the_same_attempt_is_the_same_task() -> None:
    """Only the session's instance differs between two offers."""
    first, second = task("run: work"), task("run: work", instance="j")
    assert (first.instance, second.instance) == ("i", "j")
    assert first.params == second.params
    assert first.key == second.key


def test_environments_override_each_other() -> None:
    """The step's values override the job's, and these the workflow's."""
    assert task("{run: work, env: {C: step}}").env == {"A": "workflow", "B": "job", "C": "step"}


def test_the_timeout_is_the_smaller_of_the_steps_and_the_rest_of_the_jobs() -> None:
    """The agent enforces both alone when the link is down."""
    assert task("{run: work, timeout-minutes: 2}").timeout_ms == 120_000
    assert task("{run: work, timeout-minutes: 60}").timeout_ms == 600_000
    assert task("run: work").timeout_ms == 600_000


def test_an_empty_rendered_directory_is_the_job_s_directory() -> None:
    """An expression that yields nothing means the job's directory, never its own source text."""
    step = "{run: work, working-directory: '${{ inputs.dir }}'}"
    assert task(step, start="start dir=sub").working_directory == "sub"
    assert task(step).working_directory in (None, "")


def test_a_cancel_has_the_same_attempt_identity_as_its_offer() -> None:
    """An attempt has one identity, for its offer and its cancel."""
    scenario = Scenario("jobs: {a: {runs-on: web, steps: [{run: x}]}}")
    scenario.play("connect web-1 web\nstart\ncancel")
    expected_state = list(outstanding(scenario.run))
    (send,) = [command for command in expected_state if isinstance(command, commands.SendTask)]
    (cancel,) = [command for command in expected_state if isinstance(command, commands.CancelTask)]
    assert lowering.cancel(scenario.run, cancel).key == lowering.draft(scenario.run, send).task.key


def lowered(step: str, **values: str) -> messages.Task:
    """Returns the task of the open attempt of a workflow with this one step, where these secrets have a value."""
    scenario = Scenario(f"jobs: {{a: {{runs-on: web, steps: [{step}]}}}}")
    scenario.play("connect web-1 web\nstart")
    (send,) = [command for command in outstanding(scenario.run) if isinstance(command, commands.SendTask)]
    return stored_fill(lowering.draft(scenario.run, send), "i", lambda _, name: values.get(name))


def test_secrets_are_filled_in_and_listed() -> None:
    """Secrets within longer texts are filled in too; the agent masks the values in `secrets` and gets no others."""
    step = "{run: work, env: {A: 'Bearer ${{ secrets.TOKEN }}', B: '${{ secrets.OTHER }}', C: plain}}"

    found = lowered(step, TOKEN="s3cret", OTHER="value", THIRD="third")

    assert found.env == {"A": "Bearer s3cret", "B": "value", "C": "plain"}
    assert found.secrets == ["s3cret", "value"]


def test_a_step_without_secrets_has_none() -> None:
    """Empty values are left out too: they would mask nothing."""
    assert lowered("run: work", TOKEN="s3cret").secrets == []
    assert lowered("{run: work, env: {A: '${{ secrets.TOKEN }}'}}", TOKEN="").secrets == []


def test_a_secret_in_a_script_is_an_environment_variable() -> None:
    """The script is a file on the server and contains no value."""
    for step in (
        """{run: 'curl -H "${{ secrets.TOKEN }}"'}""",
        """{uses: shell, with: {run: 'curl -H "${{ secrets.TOKEN }}"'}}""",
    ):
        found = lowered(step, TOKEN="s3cret")
        assert "s3cret" not in str(found.params)
        assert "s3cret" in found.env.values()
        assert found.secrets == ["s3cret"]


CALLED = """
on: {workflow_call: {secrets: {KEY: {}, REST: {}}}}
jobs: {b: {runs-on: web, environment: prod, steps: [{run: work, env: {A: "${{ secrets.KEY }}", B: "${{ secrets.REST }}"}}]}}
"""


def test_a_draft_says_whose_secrets_it_needs() -> None:
    """That is all that the place which fills it in has to know: names in the sources, and what the right to read them needs."""
    caller = "jobs: {a: {uses: ./workflows/called.yml, secrets: {KEY: '${{ secrets.TOKEN }}'}}}"
    scenario = Scenario(caller, {"workflows/called.yml": CALLED})
    scenario.play("connect web-1 web\nstart")
    (send,) = [command for command in outstanding(scenario.run) if isinstance(command, commands.SendTask)]

    found = lowering.draft(scenario.run, send)

    assert found.secrets == lowering.SecretRequest(
        names={"KEY": "TOKEN", "REST": None}, origin=Origin(environments=("prod",)), group="web"
    )
    assert found.task.secrets == []


def test_a_stored_draft_contains_no_secret() -> None:
    """Its bytes contain the references; the values are only in the task that is made of them, wherever a step uses them."""
    codec, value = ValueCodec("draft", lowering.Draft), "s3cret-value"
    steps = (
        "{run: work, env: {A: 'Bearer ${{ secrets.TOKEN }}'}}",
        """{run: 'curl -H "${{ secrets.TOKEN }}"'}""",
        "{uses: log, with: {message: 'x ${{ secrets.TOKEN }}'}}",
    )
    for step in steps:
        scenario = Scenario(f"jobs: {{a: {{runs-on: web, steps: [{step}]}}}}")
        scenario.play("connect web-1 web\nstart")
        (send,) = [command for command in outstanding(scenario.run) if isinstance(command, commands.SendTask)]

        body = codec.encode(lowering.draft(scenario.run, send))
        task = lowering.fill(codec.decode(codec.schema, body), "i", lambda *_: value)

        assert value.encode() not in body
        assert b"TOKEN" in body
        assert value in str((task.params, task.env))
        assert task == lowering.fill(lowering.draft(scenario.run, send), "i", lambda *_: value)


def test_a_secret_in_a_process_list_is_refused() -> None:
    """Everybody on the server can read arguments: the step fails with the reason and runs nothing."""
    found = lowered("{uses: shell, with: {run: work, args: ['${{ secrets.TOKEN }}']}}", TOKEN="s3cret")

    assert (found.node, found.env, found.secrets) == ("fail", {}, [])
    assert "WF624" in found.params["message"]
    assert "s3cret" not in str(found.params)


def test_a_secret_may_be_a_parameter_of_a_node_inside_the_agent() -> None:
    """Its output is masked there."""
    found = lowered("{uses: log, with: {message: 'x ${{ secrets.TOKEN }}'}}", TOKEN="s3cret")
    assert (found.params, found.secrets) == ({"message": "x s3cret"}, ["s3cret"])


def test_a_secret_that_has_lost_its_value_fails_the_step() -> None:
    """This happens between dispatch and offer; the run continues by its own rules."""
    found = lowered("{run: work, env: {A: '${{ secrets.TOKEN }}'}}")
    assert (found.node, found.env, found.secrets) == ("fail", {}, [])
    assert "TOKEN no longer has a value" in found.params["message"]
    assert "WF623" in found.params["message"]


def test_text_that_looks_like_a_reference_is_not_filled_in() -> None:
    """Only the names in the step's own plan are filled in."""
    step = "{run: work, env: {A: '${{ secrets.TOKEN }}', B: '\\ue0f0OTHER\\ue0f1'}}"
    assert "value" not in lowered(step.encode().decode("unicode_escape"), TOKEN="s3cret", OTHER="value").env["B"]


def test_secrets_that_are_too_large_fail_the_step() -> None:
    """A single large secret and a hundred copies of one both exceed the limit of a message."""
    step = "{run: work, env: {A: '${{ secrets.A }}', B: '${{ secrets.B }}', C: '${{ secrets.C }}'}}"
    large = "x" * (48 << 10)
    assert "WF625" in lowered(step, A=large, B=large, C=large).params["message"]
    assert lowered(step, A=large, B=large, C="").node == "shell"
    many = ", ".join(f"V{number}: '${{{{ secrets.A }}}}'" for number in range(100))
    assert "WF625" in lowered(f"{{run: work, env: {{{many}}}}}", A=large).params["message"]


WITH_CONTAINER = """
jobs:
  a:
    runs-on: web
    container: ${{ vars.image }}
    steps:
      - {if: always(), run: work}
vars: {image: IMAGE}
"""


def _second_task(end: str) -> messages.Task:
    scenario = Scenario(WITH_CONTAINER)
    scenario.play(f"connect web-1 web\nstart\n{end}")
    if end.endswith("success"):
        scenario.run.jobs_by_id[JobId("a")].steps_by_id[StepId("0")].attempts[-1].outputs["container"] = {
            "id": "c0ffee",
            "network": "n",
        }
    (send,) = [command for command in outstanding(scenario.run) if isinstance(command, commands.SendTask)]
    return lowering.draft(scenario.run, send).task


def test_a_script_runs_in_the_container_that_the_first_step_has_reported() -> None:
    """The task names the container."""
    found = _second_task("finish a/0 success")
    assert (found.node, found.container) == ("shell", "c0ffee")


def test_a_script_whose_container_was_not_started_fails_and_never_runs_on_the_server() -> None:
    """This also applies to a step with `always()`."""
    found = _second_task("finish a/0 failure")
    assert (found.node, found.container) == ("fail", "")
    assert "container was not started" in found.params["message"]
