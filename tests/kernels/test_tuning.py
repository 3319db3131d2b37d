"""Tiles that were timed: which are chosen, how they are kept, what a damaged file does. Nothing here needs a GPU."""

import json
import warnings

import pytest
import torch

import pcsnn
from pcsnn.kernels import products, tiles, tuning

TILES = tiles.TILES[1][64]


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tuning.cache_path("NVIDIA H200/SXM")


def timed(fastest, seen):
    def timer(tile):
        seen.append(tile)
        return 1.0 if tile == fastest else 2.0

    return timer


def choose(chosen, kind, timer):
    return tuning.choose(chosen, kind, TILES, lambda tile: tile, timer)


def test_each_kind_is_timed_once_and_found_by_later_processes(path):
    seen, chosen = [], tuning.Choices(path)
    for kind, fastest in (("a", TILES[2]), ("b", TILES[0])):
        for _ in range(2):
            assert choose(chosen, kind, timed(fastest, seen)) == fastest
    assert seen == 2 * list(TILES)
    later = tuning.Choices(path)
    assert (
        choose(later, "a", None) == TILES[2]
        and choose(later, "b", None) == TILES[0]
        and choose(later, "c", None) is None
    )
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_choices_of_two_processes_are_joined(path):
    first, second = tuning.Choices(path), tuning.Choices(path)
    choose(first, "a", timed(TILES[1], []))
    choose(second, "b", timed(TILES[2], []))
    assert tuning.Choices(path).tiles == {"a": TILES[1], "b": TILES[2]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"tiles": 1}',
        '{"tiles": {"a": 3}}',
        '{"tiles": {"a": [1, 2]}}',
        '{"tiles": {"a": [4096, 64, 64, 128, 4]}}',
        '{"tiles": {"a": ["128", 64, 64, 128, 4]}}',
        '{"tiles": {"a": [[128], 64, 64, 128, 4]}}',
        "\udce9",
    ],
)
def test_a_damaged_file_is_ignored_with_a_warning(path, text):
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.warns(RuntimeWarning, match="is not used"):
        chosen = tuning.Choices(path)
    assert chosen.tiles == {}
    with pytest.warns(RuntimeWarning, match="is not used"):
        assert choose(chosen, "a", timed(TILES[1], [])) == TILES[1]
    assert json.loads(path.read_text())["tiles"] == {"a": list(TILES[1])}


def test_a_tile_that_does_not_fit_is_not_used(path):
    chosen = tuning.Choices(path)
    chosen.keep("a", tiles.TILES[1][128][0])
    assert choose(chosen, "a", None) is None
    assert choose(chosen, "a", timed(TILES[1], [])) == TILES[1]


@pytest.mark.filterwarnings("ignore:.*is not used:RuntimeWarning")
def test_a_folder_that_cannot_be_written_warns(tmp_path):
    (tmp_path / "file").write_text("")
    chosen = tuning.Choices(tmp_path / "file" / "choices.json")
    with pytest.warns(RuntimeWarning, match="is not written"):
        chosen.keep("a", TILES[1])
    assert choose(chosen, "a", None) == TILES[1]


def test_names_of_kinds():
    def kind(batch, weight=(64, 32, 3, 3), stride=(1, 1), dtype=torch.int8):
        counts, out = (torch.empty(batch, channels, 8, 8, device="meta") for channels in (weight[1], weight[0]))
        return products.Kind(
            out, counts, torch.empty(weight, dtype=dtype, device="meta"), stride, (1, 1), (1, 1), 1
        ).name()

    assert kind(5) == kind(8) != kind(9)  # rows up to a power of two
    assert len({kind(8), kind(8, (64, 32, 3, 1)), kind(8, stride=(2, 2)), kind(8, dtype=torch.float16)}) == 4


def test_nothing_is_timed_outside():
    assert tuning.timer() is None and tuning.state(torch.device("cpu")) is None
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        with tuning.timing():
            assert tuning.timer() is tuning.milliseconds
            patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            assert tuning.timer() is None
    assert tuning.timer() is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tune_without_a_gpu():
    with pytest.raises(RuntimeError, match="expected a GPU"), pcsnn.tune():
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")
def test_tune_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tuning, "_choices", {})
    counts = torch.randint(9, (4, 64, 14, 14), device="cuda").to(torch.uint8)
    weight = torch.randint(-128, 128, (64, 64, 3, 3), device="cuda").to(torch.int8)
    levels = torch.arange(0, 8000, 1000, dtype=torch.int32, device="cuda")
    due = pcsnn.functional.conv2d_fire(counts, weight, levels, padding=1, timesteps=8)
    with pcsnn.tune():
        assert torch.equal(pcsnn.functional.conv2d_fire(counts, weight, levels, padding=1, timesteps=8), due)
    assert len(tuning.choices(counts.device).tiles) == 1 and len(list(tmp_path.glob("pcsnn/*.json"))) == 1
    assert torch.equal(pcsnn.functional.conv2d_fire(counts, weight, levels, padding=1, timesteps=8), due)
