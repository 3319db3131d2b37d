"""Network files: a safetensors file with the graph as JSON, docs/files.md."""

from pcsnn.storage.network_file import load, save

__all__ = ["load", "save"]
