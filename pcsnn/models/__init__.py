"""Network definitions whose state dicts load the field's published weights, with any activation.

Every constructor takes `activation`, a factory without arguments that is called once per place where the network
activates, e.g. `lambda: pcsnn.nn.QCFS(8)`. Activations of the published networks have no parameters, so the keys of
their state dicts stay as published. All networks trace with torch.fx.
"""

from pcsnn.models.bert import BertEncoder, minilm_l6
from pcsnn.models.cifar_resnet import cifar_resnet20, cifar_resnet32, cifar_resnet44, cifar_resnet56
from pcsnn.models.detection import retinanet_resnet50_fpn, retinanet_small
from pcsnn.models.linear_transformer import linear_transformer_small
from pcsnn.models.mobilenet import mobilenet_small, mobilenet_v2
from pcsnn.models.resnet import resnet18, resnet34, resnet50, resnet101
from pcsnn.models.segmentation import (
    deeplabv3_resnet50,
    deeplabv3_resnet101,
    deeplabv3_small,
    fcn_resnet50,
    fcn_resnet101,
    fcn_small,
)
from pcsnn.models.vgg import vgg16, vgg16_bn, vgg_small
from pcsnn.models.video import r3d_18, r3d_small

__all__ = [
    "BertEncoder",
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_small",
    "fcn_resnet50",
    "fcn_resnet101",
    "fcn_small",
    "linear_transformer_small",
    "minilm_l6",
    "mobilenet_small",
    "mobilenet_v2",
    "r3d_18",
    "r3d_small",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "retinanet_resnet50_fpn",
    "retinanet_small",
    "vgg16",
    "vgg16_bn",
    "vgg_small",
]
