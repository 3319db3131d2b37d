"""Time and memory of a spiking network in its different forms, on the same weights and images, interleaved.

    python benchmarks/throughput.py --model resnet34 --batch 1 8 --timesteps 4 8 16 32
    python benchmarks/throughput.py --model resnet20-fashion-mnist --batch 1 32 --rows relu serial packed pcsnn
    python benchmarks/throughput.py --model vgg16_bn resnet18 resnet34 mobilenet_v2 --batch 8 --timesteps 32 \
        --rows relu pcsnn int8

What the times mean: pcsnn is timed in its collapsed form, which is the quantized network evaluated through spike
counts: one synaptic operation per layer, whatever T. "packed" is the paper's own form, T steps in the batch and every
synapse computed T times; "serial IF" is what is usually simulated, T passes over the network. All batch norms are
folded, all convolutions are channels-last. Each result is compared before its time counts: a form whose result is wrong
gets "WRONG RESULT" in place of a time, and the exit code is 1. Ratios are medians over the rounds in which both ran.
"""

import argparse
import json
import pathlib
import sys

import peak_memory
import torch
from lib import checks, competitors, throughput_report, timing, workloads
from tqdm import tqdm

import pcsnn
from pcsnn.tensors.checks import MAX_TIMESTEPS

MEMORY_PROCESSES = 5  # for forms whose work does not grow with T


def prepare(name, load, snn):
    """A competitor's function without arguments, warmed up, and the verdict on its result; or None, and why not."""
    form = competitors.FORMS[name]
    try:
        run = form.build(load, snn)
        verdict = form.check(run, load, snn)
    except competitors.Unavailable as error:
        return None, checks.Verdict(None, f"not run: {error}")
    images = load.images
    return (lambda: run(images)) if verdict.right else None, verdict


def measure(load, snn, timesteps, forms, prepared, args, bar):
    """The rows of one batch size at one T; forms that cannot run or are wrong get a row without a time.

    prepared: {name: what `prepare` returned} of forms that do not depend on T, kept from one T to the next.
    """
    pcsnn.set_timesteps(snn, timesteps)
    rows, calls = {}, {}
    for name in forms:
        form = competitors.FORMS[name]
        bar.set_description(f"batch {len(load.images)}, T = {timesteps}: {form.label}")
        call, verdict = prepared.get(name) or prepare(name, load, snn)
        if not form.timesteps:
            prepared[name] = call, verdict
        rows[name] = {
            "form": name,
            "label": form.label,
            "batch": len(load.images),
            "timesteps": timesteps,
            "right": verdict.right,
            "remark": verdict.words,
            "seconds": None,
            "milliseconds": None,
            "speedup": None,
            "of_network": None,
            "rounds": [],
        }
        if call:
            calls[name] = call
        bar.update(1 if call else 1 + passes(form, args))
    bar.set_description(f"batch {len(load.images)}, T = {timesteps}: timing")
    slow = {name for name in calls if competitors.FORMS[name].every_step}
    seconds = timing.interleaved(calls, args.repeats, slow, args.slow_repeats, args.device, lambda name: bar.update())
    for name, taken in seconds.items():
        row = rows[name]
        row["seconds"] = timing.median(taken)
        row["milliseconds"] = 1000 * row["seconds"] / row["batch"]
        row["rounds"] = [taken[turn] for turn in sorted(taken)]
        if "serial" in seconds:
            row["speedup"] = timing.ratio(seconds["serial"], taken)
        if "relu" in seconds:
            row["of_network"] = timing.ratio(taken, seconds["relu"])
    return list(rows.values())


def passes(form, args):
    """How often a form runs for its time."""
    return len(timing.rounds_of(args.slow_repeats, args.repeats)) if form.every_step else args.repeats


def measure_memory(model, forms, failed, args, bar):
    """The peak memory of each form at the largest batch, dicts for JSON; those that cannot run say why.

    failed: {name: why} of forms that gave no time, and are not tried again.
    """
    rows, batch = [], max(args.batch)
    for name in forms:
        form = competitors.FORMS[name]
        bar.set_description(f"peak memory: {form.label}")
        if name in failed:
            result = {"peaks": {}, "tensors": {}, "unavailable": failed[name]}
        else:
            result = peak_memory.measure(
                name,
                model,
                batch,
                args.image_size,
                args.memory_timesteps,
                args.threads,
                args.device,
                args.seed,
                1 if form.every_step else MEMORY_PROCESSES,
            )
        row = {"form": name, "label": form.label, "batch": batch}
        rows += [
            {**row, "timesteps": timesteps, "bytes": taken, "tensor_bytes": result["tensors"].get(timesteps)}
            for timesteps, taken in result["peaks"].items()
        ]
        if result["unavailable"]:
            rows.append({**row, "timesteps": None, "bytes": None, "remark": result["unavailable"]})
        bar.update()
    return rows


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        nargs="+",
        choices=workloads.NAMES,
        default=["resnet34"],
        metavar="MODEL",
        help=f"one or several of {', '.join(workloads.NAMES)}; the ...-fashion-mnist ones have real weights and "
        "images, the others random ones",
    )
    parser.add_argument("--timesteps", type=int, nargs="+", default=[4, 8, 16, 32], metavar="T")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], metavar="N")
    parser.add_argument("--image-size", type=int, help="default: what the network is made for")
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=list(competitors.FORMS),
        metavar="FORM",
        help=f"which to compare, of {', '.join(competitors.FORMS)}; default: all",
    )
    parser.add_argument("--repeats", type=int, default=15, help="rounds")
    parser.add_argument(
        "--slow-repeats", type=int, default=3, help="of these, rounds in which forms run whose work grows with T"
    )
    parser.add_argument(
        "--memory-timesteps",
        type=int,
        nargs="*",
        metavar="T",
        default=[8, throughput_report.MEMORY_TIMESTEPS],
        help="T at which peak memory is measured, at the largest batch; none: not at all",
    )
    parser.add_argument(
        "--memory-rows", nargs="+", choices=list(competitors.FORMS), metavar="FORM", help="default: as --rows"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("results"), help="folder for the JSON and the picture"
    )
    parser.add_argument("--no-plot", action="store_true")
    args = parser.parse_args(arguments)
    args.batch, args.timesteps = sorted(set(args.batch)), sorted(set(args.timesteps))
    for option in ("batch", "repeats", "slow_repeats", "threads", "image_size"):
        values = getattr(args, option)
        if any(value is not None and value < 1 for value in (values if isinstance(values, list) else [values])):
            parser.error(f"--{option.replace('_', '-')}: expected values of at least 1")
    if not all(1 <= timesteps <= MAX_TIMESTEPS for timesteps in args.timesteps + args.memory_timesteps):
        parser.error(f"time-steps: expected values in 1..{MAX_TIMESTEPS}")
    return args


@torch.no_grad()
def run(model, args):
    """Everything measured on one network, as a dict for JSON."""
    begun = timing.circumstances(args.device)
    try:
        load = workloads.load(model, max(args.batch), args.image_size, args.device, args.seed)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None
    forms = [name for name in args.rows or competitors.FORMS if name != "qcfs" or args.rows or load.quantized]
    memory_forms = (args.memory_rows or forms) if args.memory_timesteps else []
    snn = load.convert(args.timesteps[0])
    each = sum(1 + passes(competitors.FORMS[name], args) for name in forms)
    rows, everything = [], load.images
    with tqdm(total=each * len(args.batch) * len(args.timesteps) + len(memory_forms), leave=False) as bar:
        for batch in args.batch:
            load.images, prepared = everything[:batch], {}
            for timesteps in args.timesteps:
                rows += measure(load, snn, timesteps, forms, prepared, args, bar)
        failed = {row["form"]: throughput_report.remark(row) for row in rows if not row["right"]}
        memory = measure_memory(model, memory_forms, failed, args, bar)
    chosen = {key: str(value) if isinstance(value, pathlib.Path) else value for key, value in vars(args).items()}
    return {
        **begun,
        "load_at_end": timing.load(),
        "spikingjelly": competitors.spikingjelly_version(),
        "options": chosen | {"model": model},
        "meaning": throughput_report.MEANING,
        "real_weights": model in workloads.SHIPPED,
        "rows": rows,
        "memory": memory,
    }


def write(result, folder, plot):
    """The result as JSON, and its picture if wanted and there is one; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"throughput-{result['options']['model']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    written = [path]
    if plot and any(row["seconds"] for row in result["rows"]):
        from lib import throughput_plot

        written.append(path.with_suffix(".png"))
        throughput_plot.draw(
            [row for row in result["rows"] if row["seconds"]],
            [row for row in result["memory"] if row["bytes"]],
            throughput_report.title(result),
            throughput_report.MEANING,
            written[-1],
        )
    return written


def main(arguments=None):
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    results = []
    for model in args.model:
        results.append(run(model, args))
        print("\n".join(throughput_report.report(results[-1])))
        written = write(results[-1], args.output, not args.no_plot)
        print(f"\nwrote {' and '.join(map(str, written))}\n")
    if len(results) > 1:
        print("\n".join(throughput_report.comparison(results)))
    wrong = {row["label"] for result in results for row in result["rows"] if row["right"] is False}
    if wrong:
        print(f"wrong results: {', '.join(sorted(wrong))}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
