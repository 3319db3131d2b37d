"""Networks from and to other software (SpikingJelly, the published QCFS code, NIR), and back to training."""

from pcsnn.exchange.c.write import to_c
from pcsnn.exchange.nir.read import read_nir
from pcsnn.exchange.nir.stepwise import SerialGraph
from pcsnn.exchange.nir.write import to_nir
from pcsnn.exchange.onnx.read import read_onnx
from pcsnn.exchange.onnx.write import to_onnx
from pcsnn.exchange.qcfs import load_qcfs_checkpoint, qcfs_state_dict
from pcsnn.exchange.spikingjelly import read_spikingjelly, replace_if_nodes
from pcsnn.exchange.training import to_qcfs

__all__ = [
    "SerialGraph",
    "load_qcfs_checkpoint",
    "qcfs_state_dict",
    "read_nir",
    "read_onnx",
    "read_spikingjelly",
    "replace_if_nodes",
    "to_c",
    "to_nir",
    "to_onnx",
    "to_qcfs",
]
