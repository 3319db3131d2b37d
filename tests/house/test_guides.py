"""The lines of the guide, of the questions and of the migration page run as they stand there."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
from folders import ROOT

SPIKINGJELLY = all(importlib.util.find_spec(name) for name in ("spikingjelly", "loguru", "requests"))


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)


def run(lines, folder):
    """A process of its own, as activations stay registered."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    (folder / "lines.py").write_text("\n".join(lines))
    done = subprocess.run([sys.executable, "lines.py"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("page", ["guide.md", "faq.md"])
@pytest.mark.quick(0)
def test_the_lines_of_a_page_run(page, tmp_path):
    assert len(blocks(page, "python")) >= 1
    run(blocks(page, "python"), tmp_path)


def fewer_images(lines):
    """The data of the migration page, 32 images to calibrate and 16 to classify."""
    assert all(text in lines for text in ("[:1024]", "[1024:1524]", '"benchmarks"'))
    lines = lines.replace("[:1024]", "[:32]").replace("[1024:1524]", "[1024:1040]")
    return lines.replace('"benchmarks"', repr(str(ROOT / "benchmarks")))


def test_the_lines_after_migration_run(tmp_path):
    after, setting = blocks("migration.md", "python")
    hits = "print(int((classes == labels).sum()))"
    assert int(run([fewer_images(setting), after, hits], tmp_path)) >= 12


@pytest.mark.skipif(not SPIKINGJELLY, reason="SpikingJelly, loguru and requests are not installed")
def test_the_lines_before_migration_run_and_what_they_make_is_read(tmp_path):
    before, read = blocks("migration.md", "py")
    _, setting = blocks("migration.md", "python")
    lines = [fewer_images(setting), before, "print(tuple(classes.shape))", "import pcsnn\nconverted = snn", read]
    out = run([*lines, "print((snn(images).argmax(1) == labels).sum().item())"], tmp_path)
    shape, hits = out.splitlines()[-2:]
    assert shape == "(16,)" and int(hits) >= 8
