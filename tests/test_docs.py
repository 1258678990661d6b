"""What the documents show works: every configuration in them is read, every command exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cloud.config import load_config as load_cloud
from cloud.trials.plan import read_plan
from core.patient import Patient
from edge.config import load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
BLOCKS = re.findall(r"```toml\n(.*?)```", CONFIGURATION, re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def test_every_documented_configuration_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    hubs = clouds = patients = 0
    for block in BLOCKS:
        path.write_text(block)
        if "hub_id" in block:
            load_config(path, {})
            hubs += 1
        elif "[database]" in block:
            load_cloud(path)
            clouds += 1
        else:
            Patient.from_toml(block)
            patients += 1
    assert (hubs, clouds, patients) == (2, 1, 1)


def test_the_example_trial_is_a_plan() -> None:
    plan, _ = read_plan(ROOT / "docs" / "examples" / "TRIAL.toml")
    assert len(plan.arms) == 2


def test_every_command_that_the_readme_names_exists() -> None:
    helped = subprocess.run(
        [sys.executable, "-m", "hometwin", "--help"], capture_output=True, text=True, timeout=60
    )
    offered = set(re.findall(r"^\W*(\w+) ", helped.stdout, re.MULTILINE))
    fences = "".join(re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
    named = set(re.findall(r"bin/hometwin (\w+)", fences))
    assert named
    assert named <= offered, named - offered


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_our_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_everything_that_the_security_page_points_to_exists() -> None:
    """A claim without its test is a wish: each pointer names a file, and a test in it when it names one."""
    page = (ROOT / "docs" / "security.md").read_text()
    files = set(re.findall(r"`((?:tests|edge|sync|cloud)/[\w/]+(?:\.py|/))", page))
    assert len(files) > 20
    assert [name for name in files if not (ROOT / name).exists()] == []
    short = set(re.findall(r"\| `(test_\w+\.py)` \|", page))
    assert {p.name for p in (ROOT / "tests/system/faults").glob("test_*.py")} - {"test_secrets.py"} == short
    named, file = 0, ""
    for path, test in re.findall(r"`((?:tests/[\w/]+\.py)?)(?:::(\w+))?`", page):
        file = path or file
        if test:
            assert re.search(rf"def {test}\b", (ROOT / file).read_text()), f"{file} has no {test}"
            named += 1
    assert named > 15
