"""Converted networks as repositories of the Hugging Face Hub, or as folders of that form.

A repository holds the network's file (`pcsnn.save`), config.json and a model card made from the conversion report.
Needs the package huggingface_hub, which `import pcsnn` does not load.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch

from pcsnn import __version__
from pcsnn.network import SpikingNetwork
from pcsnn.network.network import check_converted
from pcsnn.network.report import KINDS
from pcsnn.storage import load, save

try:
    import huggingface_hub  # type: ignore[import-not-found]
    from huggingface_hub import constants  # type: ignore[import-not-found]
except ImportError as error:
    raise ImportError("pcsnn.hub needs the package huggingface_hub: pip install huggingface_hub") from error

__all__ = ["HubNetwork", "from_pretrained", "push_to_hub", "save_pretrained"]

_CARD = """---
{{ card_data }}
---

# {{ title }}

A spiking network at {{ steps }}, converted without training by [pcsnn](https://pypi.org/project/pcsnn/) {{ version }}
(method {{ method }}): {{ counted }} layers, {{ parameters }} weights.
{{ description }}

    from pcsnn import hub

    snn = hub.from_pretrained("{{ title }}")   # a SpikingNetwork; no code of the repository runs

## Layers

```
{{ report }}
```
"""


class HubNetwork(  # type: ignore[call-arg]  # of the mixin's, which mypy does not see where it is not installed
    torch.nn.Module,
    huggingface_hub.PyTorchModelHubMixin,
    library_name="pcsnn",
    tags=["spiking-neural-network"],
    model_card_template=_CARD,
):
    """A SpikingNetwork with `save_pretrained`, `push_to_hub` and `from_pretrained` of huggingface_hub.

    Attributes:
        snn: the SpikingNetwork. Inputs and outputs are its.

    Raises:
        TypeError: not a SpikingNetwork.
    """

    def __init__(self, snn: SpikingNetwork) -> None:
        check_converted(snn)
        super().__init__()
        self.snn = snn
        self._hub_mixin_config = {}  # what stands in it comes from the network when it is saved

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        return self.snn(*inputs, **named_inputs)

    def _save_pretrained(self, save_directory: Path) -> None:
        save(self.snn, save_directory / constants.SAFETENSORS_SINGLE_FILE)
        report = self.snn.report
        config = {"timesteps": report.timesteps, "spike_levels": report.spike_levels, "method": report.method}
        (save_directory / constants.CONFIG_NAME).write_text(json.dumps({"pcsnn": config}, indent=2) + "\n")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str | torch.device = "cpu",
        strict: bool = True,
    ) -> "HubNetwork":
        """Loads the network's file and nothing else; strict is of the mixin and says nothing here."""
        path = os.path.join(model_id, constants.SAFETENSORS_SINGLE_FILE)
        if not os.path.isdir(model_id):
            path = huggingface_hub.hf_hub_download(
                repo_id=model_id,
                filename=constants.SAFETENSORS_SINGLE_FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                token=token,
                local_files_only=local_files_only,
            )
        return cls(load(path)).to(map_location)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> huggingface_hub.ModelCard:
        """The card: title, T and D, how to load, the report. Keywords: `title`, `description`, and others of a card."""
        report = self.snn.report
        counted = ((sum(row.kind == kind for row in report.rows), kind) for kind in KINDS)
        words = dict(
            title="a converted network",
            description="",
            steps=report.steps,
            method=report.method,
            version=__version__,
            counted=", ".join(f"{count} {kind}" for count, kind in counted if count),
            parameters=f"{sum(part.numel() for part in self.snn.parameters()):,}",
            report=str(report),
        )
        return super().generate_model_card(*args, **(words | kwargs))


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
    """
    words = {"title": title or Path(folder).resolve().name, "description": description}
    HubNetwork(snn).save_pretrained(folder, model_card_kwargs=words)


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
    words = {"title": repo_id, "description": description}
    return str(HubNetwork(snn).push_to_hub(repo_id, model_card_kwargs=words, **options))


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
    return HubNetwork.from_pretrained(os.fspath(name), **options).snn
