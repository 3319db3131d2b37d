"""What a user finds: dir(pcsnn) shows the public names, and every module stands under its own name."""

import importlib
import pathlib
import pkgutil

from folders import ROOT

import pcsnn


def test_dir_shows_the_public_names():
    assert {name for name in dir(pcsnn) if not name.startswith("__")} == set(pcsnn.__all__)
    assert {"__version__", "__doc__", "__path__"} <= set(dir(pcsnn)) and dir(pcsnn) == sorted(dir(pcsnn))


def test_modules_that_stand_alone_are_the_operations_and_their_oracle():
    folder = pathlib.Path(pcsnn.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", "__main__", "functional", "reference"}


def hidden(package):
    """Modules below a package, without __main__, under whose name their package has something else."""
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        above, _, stem = found.name.rpartition(".")
        if stem != "__main__":
            holder = importlib.import_module(above)
            before = getattr(holder, stem, None)  # what a first import would overwrite
            module = importlib.import_module(found.name)
            if getattr(holder, stem) is not module or not (before is None or before is module):
                yield found.name


def test_nothing_hides_a_module():
    assert not list(hidden(pcsnn))


def test_a_hidden_module_is_found(tmp_path, monkeypatch):
    for folder, text in (("house", "from house.run import run"), ("house/room", "def table(): ...")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(text)
    (tmp_path / "house" / "run.py").write_text("def run(): ...")
    (tmp_path / "house" / "room" / "table.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert list(hidden(importlib.import_module("house"))) == ["house.room.table", "house.run"]


def test_the_citation_is_of_this_version():
    assert f"\nversion: {pcsnn.__version__}\n" in (ROOT / "CITATION.cff").read_text()
