"""Networks of gpu.py: pcsnn's forms against the ReLU network in the same precision, and against serial IF."""

from lib import timing
from lib.gpu_forms import LARGEST, forms_of
from lib.gpu_rows import OTHER, OURS, Prepared, Row, all_right, faster, time_of_other

MIDDLE = 32
THROUGHPUT_ALONE = ("resnet50",)  # unless it is asked for by name


def _pair(model, ours, other, batch, figure):
    def build(setting):
        forms, size = forms_of(model, setting), setting.small(batch, min(batch, 2))
        (call, verdict), (beside, its_verdict) = forms.form(ours, size), forms.form(other, size)

        def times(seconds):
            return ", ".join(f"{1000 * timing.median(seconds[name]):.3g}" for name in (OURS, OTHER)) + " ms"

        return Prepared(all_right(verdict, its_verdict), {OURS: call, OTHER: beside}, figure, times)

    return build


def _throughput(model, batch):
    def build(setting):
        size = setting.small(batch, 2)
        call, verdict = forms_of(model, setting).form("int8", size)
        return Prepared(
            verdict,
            {OURS: call},
            lambda seconds: size / timing.median(seconds[OURS]),
            lambda seconds: f"{1000 * timing.median(seconds[OURS]):.3g} ms",
        )

    return build


def _rows(model):
    compiled = "bfloat16 ReLU network, torch.compile"
    yield Row(
        f"{model} int8, batch {LARGEST} / {compiled}",
        "times as fast",
        _pair(model, "int8", "compiled", LARGEST, faster),
    )
    yield Row(
        f"{model} bfloat16, batch {LARGEST} / {compiled}",
        "times as fast",
        _pair(model, "bfloat16", "compiled", LARGEST, faster),
    )
    for dtype in ("float32", "tf32", "bfloat16"):
        yield Row(
            f"{model} collapsed {dtype}, batch {LARGEST} / eager ReLU network",
            "of its time",
            _pair(model, f"collapsed-{dtype}", f"relu-{dtype}", LARGEST, time_of_other),
            True,
        )
    yield Row(
        f"{model} int8, batch 1 / {compiled}, both graphs",
        "of its time",
        _pair(model, "int8-graph", "compiled-graph", 1, time_of_other),
        True,
    )
    yield Row(
        f"{model} int8, batch {MIDDLE}, graph / serial IF",
        "times as fast",
        _pair(model, "int8-graph", "serial", MIDDLE, faster),
    )


def rows(setting, models):
    """models: names of workloads.py; None: ResNet-34 in all forms, and ResNet-50's images a second."""
    made = []
    for model in models or ("resnet34", *THROUGHPUT_ALONE):
        if models or model not in THROUGHPUT_ALONE:
            made += _rows(model)
        made.append(Row(f"{model} int8, batch {LARGEST}", "images/s", _throughput(model, LARGEST)))
    return made
