"""setup.sh, setup.ps1 and setup.py of a project, with a Python, a pip and a uv that only record their calls."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phi_scaffold.new import derive, generate
from phi_scaffold.new.answers import Answers
from tests.zygote import default_interrupt

pytestmark = pytest.mark.skipif(os.name == "nt", reason="shell scripts replace Python and uv")


class Setup:
    """The setup of a project in a folder, whose .venv has an interpreter that records its calls."""

    def __init__(self, root: Path, tools: Path) -> None:
        self.root, self.tools, self.calls = root, tools, root / "calls"
        tools.mkdir()
        python = self.script(root / ".venv" / "bin" / "python", "")
        self.packages = python.parents[1] / "lib" / "python3.11" / "site-packages"
        self.packages.mkdir(parents=True)

    def script(self, path: Path, body: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "{path.name} $@" >> "{self.calls}"\n{body}\n')
        path.chmod(0o755)
        return path

    def __call__(self, *arguments: str) -> tuple[int, str, list[str]]:
        """Its exit code, its output, and the calls of Python and uv."""
        self.calls.write_text("")
        command = [sys.executable, "-I", "-S", "setup/setup.py", *arguments]
        done = subprocess.run(
            command,
            cwd=self.root,
            env={"PATH": f"{self.tools}:/bin"},
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=default_interrupt,
        )
        return done.returncode, done.stdout + done.stderr, self.calls.read_text().splitlines()


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate.new(tmp_path_factory.mktemp("emitted") / "p", Answers("smollm2-135m")).folder


@pytest.fixture
def setup(emitted: Path, tmp_path: Path) -> Setup:
    return Setup(Path(shutil.copytree(emitted, tmp_path / "p")), tmp_path / "tools")


def installs(calls: list[str]) -> list[str]:
    return [call for call in calls if " install " in call]


def test_setup_installs_extras_once_and_keeps_them(setup: Setup) -> None:
    code, _, calls = setup()
    assert (code, "requirements-web" in str(calls)) == (0, False)
    said = setup()
    assert said[:2] == (0, "setup: .venv is up to date\n")
    (trusted,) = said[2]
    assert trusted.endswith("trust(Path.cwd(), 'setup')")
    assert "requirements-web.txt" in str(setup("--with", "web"))
    calls = setup("--with", "serve,sweep")[2]
    assert all(f"requirements-{extra}.txt" in str(calls) for extra in ("web", "serve", "sweep"))
    for arguments in ((), ("--with", "web"), ("--with", "serve,web")):
        assert setup(*arguments)[:2] == (0, "setup: .venv is up to date\n")
    assert all("--force-reinstall" in call for call in installs(setup("--force")[2]) if "requirements-sweep" in call)


def test_setup_installs_again_after_a_kill_while_it_wrote_what_is_installed(setup: Setup) -> None:
    assert setup()[0] == 0
    (setup.root / ".venv" / "setup.json").write_text('{"device": "cp')
    code, _, calls = setup()
    assert (code, bool(installs(calls))) == (0, True)
    assert setup()[:2] == (0, "setup: .venv is up to date\n")
    assert setup("--with", "wep")[0] == 2


def test_pip_takes_wheels_with_a_known_hash_and_no_other_index(setup: Setup) -> None:
    *pinned, own = sorted(installs(setup()[2]), key=lambda call: "phi-scaffold" in call)
    assert len(pinned) == 3, "pip, torch, the runtime"
    assert all("--no-deps" in call and "--only-binary :all:" in call for call in pinned)
    assert all("--require-hashes" in call or "torch-cpu.txt" in call for call in pinned)
    assert "--hash=sha256:" in (setup.root / "setup" / "torch-cpu.txt").read_text()
    assert "phi-scaffold" in own
    assert "--extra-index-url" not in str(pinned)


def test_pip_is_updated_before_it_installs(setup: Setup) -> None:
    assert "requirements-pip.txt" in installs(setup()[2])[0]


def test_uv_is_used_if_it_is_there_and_pip_is_not_asked_for(setup: Setup) -> None:
    setup.script(setup.tools / "uv", "")
    calls = installs(setup()[2])
    assert calls
    assert all(call.startswith("uv pip install --python .venv/bin/python") for call in calls)
    assert not any(call.startswith("uv") for call in setup("--pip", "--force")[2])


def test_torch_comes_from_its_own_index_where_the_configured_one_does_not_have_it(setup: Setup) -> None:
    setup.script(setup.tools / "uv", 'case "$*" in *default-index*) ;; *torch-cpu*) exit 1 ;; esac')
    code, _, calls = setup()
    tries = [call for call in calls if "torch-cpu.txt" in call]
    assert code == 0
    assert ["--default-index https://download.pytorch.org/whl/cpu" in call for call in tries] == [False, True]


def test_a_failed_installation_says_how_to_continue_and_is_not_taken_for_done(setup: Setup) -> None:
    setup.script(setup.tools / "uv", 'case "$*" in *requirements.txt*) exit 2 ;; esac')
    code, said, _ = setup()
    assert code == 1
    assert "setup: error: uv failed (exit code 2)\n  help: " in said
    assert "--pip" in said
    setup.script(setup.tools / "uv", "")
    assert "requirements.txt" in str(installs(setup()[2])), "it continues"


def test_ctrl_c_ends_setup_without_a_traceback(setup: Setup) -> None:
    setup.script(setup.tools / "uv", 'case "$*" in *requirements.txt*) kill -INT $PPID; /bin/sleep 1 ;; esac')
    code, said, _ = setup()
    assert code == 130
    assert said.endswith("setup: interrupted; run setup again to continue\n")


def test_a_package_whose_installation_was_interrupted_is_installed_again(setup: Setup) -> None:
    for name, size in (("complete", 3), ("partial", 4)):
        info = setup.packages / f"{name}-1.dist-info"
        info.mkdir()
        (setup.packages / f"{name}.py").write_text("abc")
        (info / "RECORD").write_text(f'{name}.py,sha256=x,{size}\n"{name}-1.dist-info/RECORD",,\n')
    (setup.packages / "unrecorded-1.dist-info").mkdir()
    said = setup()[1]
    assert [folder.name for folder in setup.packages.glob("*.dist-info")] == ["complete-1.dist-info"]
    assert said.count("is incomplete and is installed again") == 2


def test_an_environment_whose_python_may_not_be_executed_is_created_again(setup: Setup) -> None:
    assert setup()[0] == 0
    python = setup.root / ".venv" / "bin" / "python"
    python.chmod(0o644)
    setup.script(setup.tools / "uv", f'mkdir -p "{python.parent}"; cp "{setup.tools}/made" "{python}"')
    setup.script(setup.tools / "made", "")
    code, output, calls = setup()
    assert (code, "creating .venv" in output) == (0, True), output
    assert any(call.startswith("uv --quiet venv") for call in calls)


def test_a_library_that_cannot_be_imported_is_named_with_the_reason_and_a_fix(setup: Setup) -> None:
    fails = 'case "$*" in *importlib*) echo torch; echo peft; echo "ImportError: no x" >&2; exit 1 ;; esac'
    setup.script(setup.root / ".venv" / "bin" / "python", fails)
    code, said, _ = setup()
    assert code == 5
    assert "setup: error: `peft` cannot be imported: ImportError: no x\n  help: run setup again with --force" in said
    assert not (setup.root / ".venv" / "setup.json").exists()


def test_the_device_is_kept_and_another_one_gets_a_new_environment(setup: Setup) -> None:
    setup.script(setup.tools / "uv", f'case "$*" in *venv*) /bin/cp -r "{setup.tools}/venv" .venv;; esac')
    shutil.copytree(setup.root / ".venv", setup.tools / "venv")
    assert setup()[0] == 0
    left = setup.packages / "of_the_cpu.py"
    left.touch()
    code, said, calls = setup("--device", "cuda")
    assert (code, "again, for another device" in said, left.exists()) == (0, True, False)
    assert "requirements-cuda.txt" in str(calls)
    assert "torch-cpu.txt" not in str(calls)
    assert setup()[:2] == (0, "setup: .venv is up to date\n")
    assert json.loads((setup.root / ".venv" / "setup.json").read_text())["device"] == "cuda"


def test_devices_that_do_not_exist_here_are_refused(setup: Setup) -> None:
    code, said, _ = setup("--device", "directml")
    assert (code, "directml" in said) == (5, True)
    assert setup("--device", "tpu")[0] == 2


@pytest.mark.parametrize(("target", "reason"), [("cuda", "no NVIDIA driver"), ("directml", "Windows")])
def test_a_device_that_is_missing_here_becomes_cpu_with_the_reason(tmp_path: Path, target: str, reason: str) -> None:
    if target == "cuda" and shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU")
    project = generate.new(tmp_path / "p", Answers("smollm2-135m", target=target)).folder
    code, said, calls = Setup(project, tmp_path / "tools")()
    assert code == 0
    assert reason in said
    assert "requirements-cpu.txt" in str(calls)


def test_the_checkout_that_made_the_project_is_installed_where_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "a checkout"
    checkout.mkdir()
    monkeypatch.setattr(derive, "local_requirement", lambda: f"-e {checkout.as_uri()}")
    setup = Setup(generate.new(tmp_path / "p", Answers("smollm2-135m")).folder, tmp_path / "tools")
    assert "phi-scaffold.local.txt" in str(setup()[2])
    checkout.rmdir()
    assert "setup/phi-scaffold.txt" in str(setup()[2])


def test_setup_without_python_says_so_and_exits_with_5(setup: Setup) -> None:
    (setup.tools / "dirname").symlink_to(shutil.which("dirname") or "dirname")
    bash = shutil.which("bash") or "bash"
    command = [bash, "setup/setup.sh"]
    done = subprocess.run(command, cwd=setup.root, env={"PATH": str(setup.tools)}, capture_output=True, text=True)
    assert done.returncode == 5
    assert "no Python 3.11 to 3.14" in done.stderr
    assert "command not found" not in done.stderr


def test_without_python_uv_brings_one(setup: Setup) -> None:
    setup.script(setup.tools / "uv", "")
    (setup.tools / "dirname").symlink_to(shutil.which("dirname") or "dirname")
    setup.calls.write_text("")
    command = [shutil.which("bash") or "bash", "setup/setup.sh", "--device", "cpu"]
    done = subprocess.run(command, cwd=setup.root, env={"PATH": str(setup.tools)}, capture_output=True, text=True)
    assert (done.returncode, setup.calls.read_text()) == (
        0,
        "uv run --no-project --python >=3.11,<3.15 setup/setup.py --device cpu\n",
    )


def test_the_powershell_script_parses_and_passes_every_option(setup: Setup) -> None:
    """A parser takes the place of PowerShell, which is no package of a registry that tests can use."""
    grammar = pytest.importorskip("tree_sitter_powershell")
    tree_sitter = pytest.importorskip("tree_sitter")
    script = (setup.root / "setup" / "setup.ps1").read_bytes()
    tree = tree_sitter.Parser(tree_sitter.Language(grammar.language())).parse(script)
    assert not tree.root_node.has_error
    broken = tree_sitter.Parser(tree_sitter.Language(grammar.language())).parse(script.replace(b")", b"", 1))
    assert broken.root_node.has_error
    options = set(re.findall(r"--(\w+)", setup("--help")[1])) - {"help"}
    assert options == {"device", "with", "pip", "force"}
    assert options == set(re.findall(r'"--(device|with|pip|force)"', script.decode()))
