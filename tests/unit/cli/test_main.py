"""The command as a whole: its help is light, its output keeps the contract, its exit codes are those written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from hubdist import errors
from hubdist.cli import exits
from hubdist.cli.exits import Exit, exit_code, hint
from hubdist.cli.main import hubdist_command


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands(hubdist_command))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(os.urandom(3000))
    return folder


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "hubdist", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(hubdist_command, list(arguments))


@pytest.mark.parametrize("path", [(), *ALL], ids=" ".join)
def test_help_loads_nothing_heavy(path: tuple[str, ...]) -> None:
    heavy = "{'ray', 'tensorflow', 'gcsfs', 'fsspec', 'numpy', 'pydantic', 'rich', 'yaml', 'requests'}"
    code = (
        "import sys\nfrom hubdist.cli.main import hubdist_command\n"
        f"try:\n    hubdist_command({[*path, '--help']!r})\n"
        f"except SystemExit as end:\n    assert not end.code\n"
        f"print('loaded:', sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "Usage: " in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize("path", [path for path, command in ALL.items() if not isinstance(command, click.Group)])
def test_every_command_has_a_help_and_examples(path: tuple[str, ...]) -> None:
    shown = invoke(*path, "--help").output
    assert "Examples:" in shown
    for example in ALL[path].examples:  # type: ignore[attr-defined]  # a `Command`
        assert f"hubdist {' '.join(path)}" in example
        assert example in shown
    assert all(option in shown for option in ("--format", "--json", "--quiet", "--verbose"))


def test_the_path_is_the_last_line_and_all_else_goes_elsewhere(model: Path, tmp_path: Path) -> None:
    done = run("resolve", str(model), "--address", "local", "--set", f"store={tmp_path / 'store'}")
    assert done.returncode == Exit.OK, done.stderr
    assert (Path(done.stdout.splitlines()[-1]) / "weights.bin").read_bytes() == (model / "weights.bin").read_bytes()
    assert done.stderr == ""
    quiet = run("prefetch", "-q", str(model), "--address", "local", "--set", f"store={tmp_path / 'store'}")
    assert quiet.stdout == done.stdout
    assert quiet.stderr == ""


def test_json_is_one_document(model: Path, tmp_path: Path) -> None:
    store = f"store={tmp_path / 'store'}"
    done = run("prefetch", "--json", str(model), "--address", "local", "--set", store)
    found = json.loads(done.stdout)
    assert found["pins"][0]["total_bytes"] == 3000
    assert Path(found["paths"][0], "weights.bin").exists()
    planned = json.loads(run("plan", "--format", "json", str(model), "--address", "local", "--set", store).stdout)
    assert planned["handle"] == str(model)


def test_an_error_names_what_to_do_and_has_its_code(tmp_path: Path) -> None:
    done = run("resolve", str(tmp_path / "none"), "--address", "local", "--set", f"store={tmp_path / 'store'}")
    assert done.returncode == Exit.NOT_FOUND
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == f"error: {tmp_path / 'none'} does not exist on the coordinator's node"
    assert lines[-1].startswith("hint: `hubdist plan HANDLE`")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["resolve"],
        ["no-such-command"],
        ["resolve", "/m", "--no-such-option"],
        ["resolve", "/m", "--address", "local", "--set", "no_such_key=1"],
        ["resolve", "/m", "--address", "local", "--set", "store"],
        ["resolve", "/m", "--address", "local", "--config", "/no/such/file"],
        ["resolve", "gs://", "--address", "local"],
        ["prefetch", "--address", "local"],
        ["plan", "/m", "--address", "local", "--link", "1Gbit/s"],
        ["status", "--address", "local"],
    ],
    ids=" ".join,
)
def test_wrong_use_has_a_code_of_its_own(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == Exit.WRONG_USE, done.stderr
    assert done.stdout == ""
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_a_setting_of_a_command_line_is_named_by_its_place(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("stall_timeout_s: soon\n")
    done = run("resolve", "/m", "--address", "local", "--config", str(settings))
    assert str(settings) in done.stderr
    assert "stall_timeout_s" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: str) -> None:
    script = run("completion", shell)
    assert (script.returncode, script.stderr) == (0, "")
    assert f"_HUBDIST_COMPLETE={shell}_complete" in script.stdout
    fish = {"COMP_WORDS": "hubdist pre", "COMP_CWORD": "pre" if shell == "fish" else "1"}
    done = run(_HUBDIST_COMPLETE=f"{shell}_complete", **fish)
    assert "prefetch" in done.stdout
    assert "resolve" not in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="this machine has no bash")
def test_bash_reads_its_script() -> None:
    script = run("completion", "bash").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=20)


def kinds(base: type[errors.HubdistError] = errors.HubdistError) -> Iterator[type[errors.HubdistError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


def bare(kind: type[errors.HubdistError]) -> errors.HubdistError:
    error = kind.__new__(kind)  # what else it knows does not matter here
    error.advice = None
    return error


@pytest.mark.parametrize("kind", [*kinds()])
def test_every_kind_of_error_has_a_code(kind: type[errors.HubdistError]) -> None:
    assert exit_code(bare(kind)) not in (Exit.OK, Exit.INTERRUPTED)


def test_the_codes_tell_the_kinds_apart() -> None:
    codes = {
        errors.ConfigError: 2,
        errors.HandleError: 2,
        errors.ModelNotFoundError: 3,
        errors.AccessDeniedError: 4,
        errors.DigestMismatchError: 5,
        errors.StoreFullError: 6,
        errors.DeliveryError: 7,
        errors.TransferTimeoutError: 8,
        errors.TravelError: 1,
        errors.SignatureError: 1,
    }
    assert {kind: int(exit_code(bare(kind))) for kind in codes} == codes


@pytest.mark.parametrize("kind", [*kinds()])
def test_hints_name_commands_that_are_there(kind: type[errors.HubdistError]) -> None:
    text = hint(bare(kind)) or ""
    for quoted in text.split("`")[1::2]:
        if quoted.startswith("hubdist "):
            name, *options = quoted.split()[1:]
            command: click.Command = hubdist_command.commands[name]
            if isinstance(command, click.Group):
                command = command.commands[options.pop(0)]
            known = {option for parameter in command.params for option in (*parameter.opts, "--help")}
            assert all(option in known for option in options if option.startswith("--")), quoted


def test_every_code_is_described() -> None:
    described = exits.__doc__
    assert described is not None
    source = Path(exits.__file__).read_text(encoding="utf-8")
    assert all(f'{code.name} = {code.value}\n    """' in source for code in Exit)
