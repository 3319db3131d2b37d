"""The rooms of the house import what CONTRIBUTING.md's table says they may, no more and no less."""

import ast
import re

from folders import ROOT

ROW = re.compile(r"\| `((?:pcsnn/|kernels/|csrc/)[\w./]*)` \| [^|]+ \|([^|]*)\|")
WALLS = {  # rooms that a room must never know, whatever the table says
    "kernels": {"cpu"},
    "nn": {"reference", "cpu", "kernels"},
    "network": {"calibration"},
    "calibration": {"conversion", "fusion"},
    "analysis": {"calibration"},
    **{room: {"operators", "cpu", "kernels", "csrc"} for room in ("graph", "conversion", "fusion")},
}


def room_of(path):
    """tensors of pcsnn/tensors/checks.py, kernels of kernels/rates.py, pcsnn of pcsnn/__init__.py, the public face."""
    first = path.removeprefix("pcsnn/").removesuffix(".py").split("/")[0]
    return "pcsnn" if first == "__init__" else first


def rows():
    """{room: (CONTRIBUTING.md:line, its path, rooms that it may import, None: anything above)}, from the top."""
    found = {}
    for number, line in enumerate((ROOT / "CONTRIBUTING.md").read_text().splitlines(), 1):
        if match := ROW.match(line):
            path, cell = match.groups()
            allowed = None if cell.strip() == "anything above" else re.findall(r"\w+", cell)
            found[room_of(path)] = (f"CONTRIBUTING.md:{number}", path, allowed)
    return found


def files():
    """Python files of pcsnn and kernels, to which pcsnn/kernels is a link in a checkout."""
    found = [str(path.relative_to(ROOT)) for folder in ("pcsnn", "kernels") for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if not path.startswith("pcsnn/kernels/"))


def imported(node):
    """Full names that an import statement asks for."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: a relative import; write pcsnn.ROOM"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def imports():
    """(file:line, its room, imported room) of every import of another room, but those under `if TYPE_CHECKING`."""
    known = {room_of(path) for path in files()}
    for path in files():
        nodes = list(ast.walk(ast.parse((ROOT / path).read_text())))
        unused = [n for n in nodes if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
        hidden = {inner for block in unused for statement in block.body for inner in ast.walk(statement)}
        for node in (node for node in nodes if node not in hidden):
            for package, first, *_ in (f"{name}.".split(".") for name in imported(node)):
                if package == "pcsnn" and not first.startswith("__"):  # such as __version__, a fact and no room
                    other = "csrc" if first == "_C" else first if first in known else "pcsnn"
                    if other != room_of(path):
                        yield f"{path}:{node.lineno}", room_of(path), other


def test_every_room_has_a_row_and_every_row_a_room():
    rooms, table = {room_of(path): path for path in files()}, rows()
    wrong = [f"{path}: CONTRIBUTING.md has no row for {room}" for room, path in rooms.items() if room not in table]
    wrong += [f"{at}: there is no {path}" for at, path, _ in table.values() if not (ROOT / path).exists()]
    assert not wrong, "\n".join(wrong)


def test_rooms_import_what_the_table_allows():
    table, wrong = rows(), []
    for at, room, other in imports():
        row, _, allowed = table.get(room, ("", "", None))
        if allowed is not None and other not in allowed:
            wrong.append(f"{at}: {room} imports {other}, which {row} does not allow")
    assert not wrong, "\n".join(wrong)


def test_walls_stand():
    wrong = [f"{at}: {room} must not know {other}" for at, room, other in imports() if other in WALLS.get(room, ())]
    assert not wrong, "\n".join(wrong)


def test_the_table_allows_only_what_is_used_and_arrows_point_up_it():
    used, above, wrong = {(room, other) for _, room, other in imports()}, [], []
    for room, (row, _, allowed) in rows().items():
        imported_by_it = {other for one, other in used if one == room}
        wrong += [f"{row}: no file of {room} imports {other}" for other in allowed or () if other not in imported_by_it]
        wrong += [f"{row}: {room} imports {other}, which is not above it" for other in imported_by_it - set(above)]
        above.append(room)
    assert not wrong, "\n".join(wrong)
