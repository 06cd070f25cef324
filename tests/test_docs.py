# SPDX-License-Identifier: GPL-2.0-only
"""What README and docs show is what happens."""

import ast
import doctest
import json
import re
import shlex
from pathlib import Path

import pytest

from mmref import cli
from mmref.explore import invariants
from mmref.view.scenarios import scenario_table

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "pycon")], ids=lambda page: page.name)
def test_examples_run(page):
    globs = {"__name__": "docs"}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    report = []
    for number, block in enumerate(blocks(page, "pycon")):
        test = doctest.DocTestParser().get_doctest(block, globs, f"{page.name} block {number + 1}", str(page), 0)
        assert test.examples
        runner.run(test, out=report.append, clear_globs=False)
        globs = test.globs
    assert runner.failures == 0, "".join(report)


LONG = {"mmref race --all --jobs 2 --markdown matrix.md", "mmref museum"}
"""Commands that take minutes: explore/test_matrix_page.py and explore/test_museum.py hold what they write."""


def commands():
    for page in PAGES:
        if page.name == "matrix.md":
            continue  # explore/test_matrix_page.py replays its schedules
        for line in page.read_text().splitlines():
            if line.strip() in LONG:
                continue
            if re.match(r"(    |\$ )mmref (race|scenarios|strategies|replay|museum)", line):
                yield pytest.param(line.strip("$ ").partition("#")[0], id=f"{page.name}: {line.strip()}")


@pytest.mark.parametrize("line", list(commands()))
def test_commands_work(line, capsys):
    assert cli.main(shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out


def test_the_readme_shows_what_is_printed(capsys):
    shown = blocks(ROOT / "README.md", "text")
    assert shown
    cli.main(["race", "seek-data", "--json"])
    cells = json.loads(capsys.readouterr().out)
    assert cells[0]["ladder"] + "\n" in shown


def test_findings_show_what_is_printed(capsys):
    shown = blocks(ROOT / "docs" / "findings.md", "text")
    printed = []
    for scenario, strategy, layout in (
        ("seek-hole", "lock-and-insert-late", "DDDD"),
        ("file-truncate", "upstream-6.12", "DD"),
        ("file-open", "upstream-6.12", "DD|dD"),
        ("punch+read", "upstream-6.12", "DD"),
    ):
        cli.main(["race", scenario, "--strategy", strategy, "--layout", layout, "--json"])
        printed.append(json.loads(capsys.readouterr().out)[0]["ladder"] + "\n")
    assert shown == printed


def test_every_watched_invariant_is_on_its_page():
    text = (ROOT / "docs" / "invariants.md").read_text()
    listed = set(re.findall(r"^\| ([AQL]\d+) \|", text, flags=re.MULTILINE))
    assert set(invariants()) <= listed
    for key, what in invariants().items():
        assert re.search(rf"^\| {key} \|", text, flags=re.MULTILINE), f"{key}: {what}"


def test_the_page_of_the_scenarios_is_the_catalogue():
    assert (ROOT / "docs" / "scenarios.md").read_text().endswith("\n\n" + scenario_table() + "\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def undocumented(body, path):
    for one in body:
        if isinstance(one, ast.FunctionDef | ast.ClassDef) and not one.name.startswith("_"):
            names = {getattr(decorator, "id", getattr(decorator, "attr", "")) for decorator in one.decorator_list}
            if not ast.get_docstring(one) and not names & {"override", "overload", "setter"}:
                yield f"{path.relative_to(ROOT)}:{one.lineno} {one.name}"
            if isinstance(one, ast.ClassDef):
                yield from undocumented(one.body, path)


def test_every_public_name_is_documented_where_it_is_introduced():
    # What overrides a method has its documentation: that of the method, and of its own class.
    paths = sorted(ROOT.glob("mmref/**/*.py"))
    assert [one for path in paths for one in undocumented(ast.parse(path.read_text()).body, path)] == []


def test_every_source_file_says_its_licence():
    for path in [*ROOT.glob("mmref/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        assert "# SPDX-License-Identifier: GPL-2.0-only" in path.read_text().splitlines()[:2], path
