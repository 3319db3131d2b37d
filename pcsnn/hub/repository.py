"""Converted networks as repositories of the Hugging Face Hub, or as folders of that form.

A repository holds the network's file (`pcsnn.save`), config.json and a model card made from the conversion report.
Needs the package huggingface_hub, which is imported when it is used.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any

import torch

from pcsnn.network import SpikingNetwork
from pcsnn.network.network import check_converted
from pcsnn.network.report import KINDS
from pcsnn.storage import load, save

WEIGHTS, CONFIG = "model.safetensors", "config.json"  # as the Hub names them
_CARD = """---
{{ card_data }}
---

# {{ title }}

A spiking network at {{ steps }}, converted by pcsnn {{ version }} (method {{ method }}): {{ counted }} layers,
{{ parameters }} weights.
{{ description }}

    import pcsnn

    snn = pcsnn.hub.from_pretrained("{{ place }}")   # a SpikingNetwork; no code of the repository runs

## Layers

```
{{ report }}
```
"""


def _package() -> Any:
    try:
        import huggingface_hub  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError("hub needs the package huggingface_hub: pip install huggingface_hub jinja2") from error
    return huggingface_hub


@functools.cache
def hub_network() -> Any:
    """The class HubNetwork: a module around a SpikingNetwork, `snn`, with huggingface_hub's `save_pretrained`,
    `push_to_hub` and `from_pretrained`.

    Raises:
        ImportError: huggingface_hub is not installed.
    """
    package = _package()

    class HubNetwork(  # type: ignore[call-arg]  # arguments of the mixin, which mypy does not see
        torch.nn.Module,
        package.PyTorchModelHubMixin,  # type: ignore[name-defined]
        library_name="pcsnn",
        tags=["spiking-neural-network"],
        model_card_template=_CARD,
    ):
        """A SpikingNetwork, `snn`, as a model of the Hub. Inputs and outputs are its."""

        def __init__(self, snn):
            check_converted(snn)
            super().__init__()
            self.snn = snn
            self._hub_mixin_config = {}  # config.json is written with the network

        def forward(self, *inputs, **named_inputs):
            return self.snn(*inputs, **named_inputs)

        def _save_pretrained(self, save_directory):
            save(self.snn, save_directory / WEIGHTS)
            report = self.snn.report
            config = {"timesteps": report.timesteps, "spike_levels": report.spike_levels, "method": report.method}
            (save_directory / CONFIG).write_text(json.dumps({"pcsnn": config}, indent=2) + "\n")

        @classmethod
        def _from_pretrained(cls, *, model_id, map_location="cpu", strict=True, **options):
            """Loads the network's file and nothing else; strict is the mixin's and says nothing here."""
            path = os.path.join(model_id, WEIGHTS)
            if not os.path.isdir(model_id):
                path = package.hf_hub_download(model_id, WEIGHTS, **options)
            return cls(load(path)).to(map_location)

        def generate_model_card(self, *args, **kwargs):
            return super().generate_model_card(*args, **(_words(self.snn) | kwargs))

    return HubNetwork


def _words(snn):
    """What a model card says of a network."""
    from pcsnn import __version__  # which `import pcsnn` sets once all rooms are there

    report = snn.report
    counted = ((sum(row.kind == kind for row in report.rows), kind) for kind in KINDS)
    return dict(
        title="a converted network",
        place="FOLDER",
        description="",
        steps=report.steps,
        method=report.method,
        version=__version__,
        counted=", ".join(f"{count} {kind}" for count, kind in counted if count),
        parameters=f"{sum(part.numel() for part in snn.parameters()):,}",
        report=str(report),
    )


def save_pretrained(
    snn: SpikingNetwork, folder: str | os.PathLike[str], *, title: str | None = None, description: str = ""
) -> None:
    """Write a network to a folder as a repository of the Hub: model.safetensors, config.json, README.md.

    Args:
        snn: a SpikingNetwork.
        folder: made where it is not there. A README.md in it stays as it is, as huggingface_hub has it.
        title: of the model card; None: the folder's name. description: a paragraph of it.

    Raises:
        TypeError, ValueError, OSError: as `pcsnn.save`.
        ImportError: huggingface_hub is not installed.
    """
    check_converted(snn)
    name = Path(folder).resolve().name
    words = {"title": title or name, "place": name, "description": description}
    hub_network()(snn).save_pretrained(folder, model_card_kwargs=words)


def push_to_hub(snn: SpikingNetwork, repo_id: str, *, description: str = "", **options: Any) -> str:
    """Upload what `save_pretrained` writes to the repository "user/name".

    Args:
        snn: a SpikingNetwork. repo_id: the repository, made where it is not there.
        description: a paragraph of the model card.
        options: of huggingface_hub's push_to_hub: `private`, `token`, `commit_message`, `branch`, ...

    Returns:
        The address of the commit.

    Raises:
        TypeError, ValueError: as `pcsnn.save`; errors of huggingface_hub where it does not get through.
    """
    words = {"title": repo_id, "place": repo_id, "description": description}
    return str(hub_network()(snn).push_to_hub(repo_id, model_card_kwargs=words, **options))


def from_pretrained(name: str | os.PathLike[str], **options: Any) -> SpikingNetwork:
    """The network of a folder that `save_pretrained` wrote, or of the repository "user/name".

    As with `pcsnn.load`, no code of the file runs and nothing is unpickled.

    Args:
        name: folder or repository.
        options: of huggingface_hub's from_pretrained: `revision`, `token`, `cache_dir`, `local_files_only`, ...; and
            `map_location`, the device (the CPU).

    Raises:
        FileNotFoundError, ValueError: as `pcsnn.load`; errors of huggingface_hub where there is no such repository.
    """
    return hub_network().from_pretrained(os.fspath(name), **options).snn
