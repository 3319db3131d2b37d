"""Buffers that a cast to half precision leaves in float32: what neurons compare with must not be rounded."""

import torch


class FullPrecisionBuffers(torch.nn.Module):
    """A module whose buffers follow .to(device) and .double(), but stay float32 under .half() and .bfloat16()."""

    def _apply(self, fn, recurse=True):
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            after = self._buffers[name]
            if after.dtype in (torch.float16, torch.bfloat16) and before.dtype != after.dtype:
                self._buffers[name] = before.to(after.device, torch.float32)
        return self
