"""README, tutorials, guides and concepts run as printed; figures come from records; commands exist."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import stepwell
from benchmarks import plots, render
from stepwell.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)]
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    """Return (line, text) of each fenced block of a language."""
    text = page.read_text()
    found = FENCE.finditer(text)
    return [(text.count("\n", 0, m.start(2)), m.group(2)) for m in found if m.group(1) == language]


def name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_the_python_of_a_page_runs_as_printed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEPWELL_PROGRESS", "0")
    names = {"__name__": "page"}
    for line, text in blocks(page, "python"):
        exec(compile("\n" * line + text, str(page), "exec"), names)
    assert names


COMMANDS = [
    (page, words[1:])
    for page in PAGES
    for _, text in blocks(page, "console")
    for line in text.replace("\\\n", " ").splitlines()
    if (words := shlex.split(line.removeprefix("$ "), comments=True)) and words[0] == "stepwell"
]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{name(p)}-{w[0]}" for p, w in COMMANDS])
def test_the_commands_of_a_page_exist_with_their_options(page, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([words[0], "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for word in words:
        if word.startswith("--"):
            assert word in text, f"{name(page)} uses {word}, which stepwell {words[0]} does not have"


def test_every_make_target_of_a_page_exists():
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {
        word for page in PAGES for _, text in blocks(page, "console") for word in re.findall(r"make ([a-z]+)", text)
    }
    assert used <= known


def test_the_figures_of_readme_and_docs_are_those_of_the_records(capsys):
    assert render.main(["--check"]) == 0, "run `make figures`"


def test_the_drawn_figures_are_those_of_the_records(capsys):
    pytest.importorskip("matplotlib", reason="figures are drawn with the extra bench")
    assert plots.main(["--check"]) == 0, "run `make figures`"


def test_every_concepts_page_ends_with_what_it_does_not_do():
    for page in (ROOT / "docs" / "concepts").glob("*.md"):
        if page.stem not in ("index", "papers"):
            headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
            assert headings[-1:] == ["What it does not do"], name(page)


def test_every_package_has_a_concepts_page():
    packages = {p.parent.name for p in (ROOT / "src" / "stepwell").glob("*/__init__.py")}
    pages = {page.stem for page in (ROOT / "docs" / "concepts").glob("*.md")}
    assert packages - pages <= {"recipes", "datasets", "testing"}


def test_every_name_at_the_front_door_is_in_the_reference():
    text = (ROOT / "docs" / "reference" / "stepwell.md").read_text()
    assert [one for one in stepwell.__all__ if f"`{one}`" not in text] == []


def test_every_extra_that_an_error_names_can_be_installed():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    named = set(re.findall(r"MissingExtraError\([^)]*\"(\w+)\"\s*\)", text))
    assert named
    assert named <= set(extras)


def test_every_dependency_is_pinned_among_the_tested_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    apart = {"mlflow", "valentine"}  # hold others back: pyarrow below 26, dateutil below 3
    names = {re.split(r"[<>=\[]", one)[0].lower().replace("_", "-") for one in wanted} - {"stepwell"} - apart
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    assert names <= pinned


def test_importing_a_page_needs_no_network():
    code = "import socket; socket.socket.connect = None; import stepwell; stepwell.Pipeline; stepwell.TGN"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
