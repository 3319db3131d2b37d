"""What throughput.py prints: tables of time and memory, and the figures to reach."""

MEANING = (
    "pcsnn, collapsed: the quantized network evaluated through spike counts, one synaptic operation per layer "
    "whatever T. packed: the paper's form, every synapse T times. serial IF: T passes."
)
MODEL, IMAGE_SIZE, BATCH, TIMESTEPS = "resnet34", 224, 8, 32  # the setting of the figures to reach
INT8_THAN_SERIAL, INT8_MEMORY = 100, 0.4
OPTIMISED = (
    ("int8", BATCH, 2.5),
    ("int8", 1, 2.0),
    ("bfloat16", BATCH, 1.4),
)  # form, batch, times as fast as the ReLU network
FASTER_THAN_SERIAL, TIME_OF_RELU, MEMORY_OF_RELU, MEMORY_TIMESTEPS = 32, 1.05, 1.1, 64
MEBI = 2**20


def table(cells, left):
    """Lines of text: a header and rows of strings; columns in `left` are left-aligned."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return [
        "  ".join(
            text.ljust(width) if i in left else text.rjust(width) for i, (text, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in cells
    ]


def remark(row):
    """What the table says of the result of a form."""
    return f"WRONG RESULT: {row['remark']}" if row["right"] is False else row["remark"]


def time_table(rows):
    cells = [["form", "batch", "T", "ms/image", "images/s", "over serial", "of ReLU", "result"]]
    for row in rows:
        setting = [row["label"], str(row["batch"]), str(row["timesteps"])]
        if row["seconds"] is None:
            cells.append([*setting, "-", "-", "-", "-", remark(row)])
            continue
        speedup = f"{row['speedup']:.1f}x" if row["speedup"] else ""
        of_network = f"{row['of_network']:.3f}" if row["of_network"] else ""
        cells.append(
            [
                *setting,
                f"{row['milliseconds']:.4g}",
                f"{row['batch'] / row['seconds']:.4g}",
                speedup,
                of_network,
                row["remark"],
            ]
        )
    return table(cells, (0, 7))


def memory_table(rows):
    own = {row["timesteps"]: row for row in rows if row["form"] == "relu" and row["bytes"] is not None}
    cells = [["peak memory of a forward", "batch", "T", "MiB", "of ReLU", "tensors, MiB", "of ReLU", ""]]
    for row in rows:
        cells.append([row["label"], str(row["batch"]), str(row["timesteps"] or "-")])
        if row["bytes"] is None:
            cells[-1] += ["-"] * 4 + [row["remark"]]
            continue
        for key in ("bytes", "tensor_bytes"):
            share = f"{row[key] / own[row['timesteps']][key]:.3f}" if row["timesteps"] in own else ""
            cells[-1] += [f"{row[key] / MEBI:.1f}", share]
        cells[-1].append("")
    return table(cells, (0, 7))


def figures(result):
    """The figures that the project set itself for ResNet-34, 224x224, batch 8, beside what was measured."""
    if (result["options"]["model"], result["options"]["image_size"] or IMAGE_SIZE) != (MODEL, IMAGE_SIZE):
        return []
    at = {row["form"]: row for row in result["rows"] if (row["batch"], row["timesteps"]) == (BATCH, TIMESTEPS)}
    at_peak = [row for row in result["memory"] if (row["batch"], row["timesteps"]) == (BATCH, MEMORY_TIMESTEPS)]
    taken = {row["form"]: row["bytes"] for row in at_peak}
    tensors = {row["form"]: row["tensor_bytes"] for row in at_peak}
    own = at.get("pcsnn", {})
    found = []
    if own.get("speedup"):
        found.append(
            (
                f"against serial IF, T = {TIMESTEPS}: {own['speedup']:.1f} times faster",
                f"{FASTER_THAN_SERIAL} times",
                own["speedup"] >= FASTER_THAN_SERIAL,
            )
        )
    if own.get("of_network"):
        found.append(
            (
                f"against the ReLU network itself: {own['of_network']:.3f} of its time",
                f"at most {TIME_OF_RELU}",
                own["of_network"] <= TIME_OF_RELU,
            )
        )
    if taken.get("pcsnn") and taken.get("relu"):
        share = taken["pcsnn"] / taken["relu"]
        found.append(
            (
                f"peak memory of a forward, T = {MEMORY_TIMESTEPS}: {share:.3f} of the ReLU network's",
                f"at most {MEMORY_OF_RELU}",
                share <= MEMORY_OF_RELU,
            )
        )
    found += _optimised(result, tensors)
    return [f"  {'reached' if reached else 'MISSED '}  {what} (to reach: {goal})" for what, goal, reached in found]


def _optimised(result, tensors):
    """Of pcsnn.optimize: (what, goal, whether it is reached)."""
    at = {
        (row["form"], row["batch"]): row
        for row in result["rows"]
        if row["timesteps"] == TIMESTEPS and row["of_network"]
    }
    found = []
    int8 = at.get(("int8", BATCH), {})
    if int8.get("speedup"):
        found.append(
            (
                f"int8 against serial IF: {int8['speedup']:.1f} times faster",
                f"{INT8_THAN_SERIAL} times",
                int8["speedup"] >= INT8_THAN_SERIAL,
            )
        )
    for form, batch, goal in OPTIMISED:
        if (form, batch) in at:
            float32 = min(at[name, batch]["of_network"] for name in ("relu", "relu-compiled") if (name, batch) in at)
            faster = float32 / at[form, batch]["of_network"]
            found.append(
                (
                    f"{form} against the faster float32 ReLU network, batch {batch}: {faster:.2f} times faster",
                    f"{goal} times",
                    faster >= goal,
                )
            )
    if ("float32", BATCH) in at and ("pcsnn", BATCH) in at:
        share = at["float32", BATCH]["of_network"] / at["pcsnn", BATCH]["of_network"]
        found.append((f"float32 against the network unfused: {share:.3f} of its time", "at most 1", share <= 1))
    if tensors.get("int8") and tensors.get("relu"):
        share = tensors["int8"] / tensors["relu"]
        found.append(
            (
                f"peak activation memory of int8 (tensors): {share:.3f} of the ReLU network's",
                f"at most {INT8_MEMORY}",
                share <= INT8_MEMORY,
            )
        )
    return found


def comparison(results):
    """A table of all networks: times relative to the float32 ReLU network, and over serial IF, of each form."""
    labels = list(dict.fromkeys(row["label"] for result in results for row in result["rows"] if row["form"] != "relu"))
    lines = []
    for key, words, format in (
        ("of_network", "time relative to the ReLU network", "{:.3f}"),
        ("speedup", "times faster than serial IF", "{:.1f}"),
    ):
        cells = [[words, "batch", "T", *labels]]
        for result in results:
            settings = list(dict.fromkeys((row["batch"], row["timesteps"]) for row in result["rows"]))
            for setting in settings:
                found = {
                    row["label"]: row[key] for row in result["rows"] if (row["batch"], row["timesteps"]) == setting
                }
                cells.append(
                    [
                        result["options"]["model"],
                        *map(str, setting),
                        *(format.format(found[label]) if found.get(label) else "-" for label in labels),
                    ]
                )
        if any(cell != "-" for row in cells[1:] for cell in row[3:]):
            lines += [*table(cells, (0,)), ""]
    return lines


def title(result):
    """What was measured on what, in a line."""
    options = result["options"]
    size = f" {options['image_size']}x{options['image_size']}" if options["image_size"] else ""
    device = result["processor"] if result["device"] == "cpu" else result["device"]
    threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
    return f"{options['model']}{size}, float32, {device}, {threads}, torch {result['torch']}"


def report(result):
    """All lines that are printed of a run."""
    kind = "real weights and images" if result["real_weights"] else "random weights and images: classes mean nothing"
    load = f"load average {result['load']} at first, {result['load_at_end']} at the end"
    lines = [f"{title(result)}; {kind}; {load}", MEANING, "", *time_table(result["rows"])]
    if result["memory"]:
        lines += ["", *memory_table(result["memory"])]
    reached = figures(result)
    return lines + (["", f"{MODEL}, {IMAGE_SIZE}x{IMAGE_SIZE}, batch {BATCH}:", *reached] if reached else [])
