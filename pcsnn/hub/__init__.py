"""Converted networks on the Hugging Face Hub, and as folders of that form."""

from pcsnn.hub.repository import from_pretrained, hub_network, push_to_hub, save_pretrained

__all__ = ["from_pretrained", "hub_network", "push_to_hub", "save_pretrained"]
